"""Inventories as JSON, one object a line or one array of objects; numbers keep the digits as written."""

import io
import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice

import msgspec
import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.delimited import BLOCK_BYTES
from batchlic.reader.inventory import Block, Inventory, block_of, columns_of, empty
from batchlic.reader.options import ReadOptions, Role
from batchlic.reader.streams import CHUNK_BYTES, Opened

SAMPLE = 100
"""Rows whose keys are taken for the header."""
ROWS_AT_ONCE = 20_000

_LINE = msgspec.json.Decoder(dict[str, object], float_hook=str)
_ITEM = json.JSONDecoder(parse_float=str, parse_constant=str)


def of_lines(source: Opened, options: ReadOptions) -> Inventory:
    """Open newline-delimited JSON (NDJSON, JSON Lines)."""
    complete = source.head.rpartition(b"\n")[0] or source.head
    sample = _parsed(source.name, complete.split(b"\n")[:SAMPLE], 1)
    keys = _keys(source.name, sample, options)

    def blocks() -> Iterator[Block]:
        number = 1
        while lines := source.stream.readlines(BLOCK_BYTES):
            yield partial(_cells, source.name, lines, number, keys)
            number += len(lines)

    return Inventory(name=source.name, headers={}, blocks=blocks)


def of_array(source: Opened, options: ReadOptions) -> Inventory:
    """Open one JSON array of objects; it is read as it comes, never whole."""
    items = _items(source.name, io.TextIOWrapper(source.stream, "utf-8", errors="replace"))
    sample = list(islice(items, SAMPLE))
    if not sample:
        raise empty(source.name)
    keys = _keys(source.name, sample, options)

    def blocks() -> Iterator[Block]:
        rows = chain(sample, items)
        while some := list(islice(rows, ROWS_AT_ONCE)):
            yield block_of([_row(row, keys) for row in some], tuple(keys))

    return Inventory(name=source.name, headers={}, blocks=blocks)


def _keys(name: str, sample: list[dict[str, object]], options: ReadOptions) -> dict[Role, str]:
    headers = list(dict.fromkeys(key for row in sample for key in row))
    return {role: headers[at] for role, at in columns_of(name, headers, options).items()}


def _cells(name: str, lines: list[bytes], number: int, keys: Mapping[Role, str]) -> pl.DataFrame:
    return block_of([_row(row, keys) for row in _parsed(name, lines, number)], tuple(keys))()


def _parsed(name: str, lines: list[bytes], number: int) -> list[dict[str, object]]:
    rows = []
    for at, line in enumerate(lines, start=number):
        if line.strip():
            try:
                rows.append(_LINE.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise _not_an_object(name, f"line {at}", error) from None
    return rows


def _items(name: str, text: io.TextIOWrapper) -> Iterator[dict[str, object]]:
    """The objects of a JSON array, one after another."""
    buffer, number = text.read(CHUNK_BYTES).lstrip().removeprefix("["), 0
    while True:
        buffer = buffer.lstrip(" \t\r\n,")
        if buffer.startswith("]"):
            return
        try:
            item, end = _ITEM.raw_decode(buffer)
        except (json.JSONDecodeError, RecursionError) as error:
            if not (more := text.read(CHUNK_BYTES)):
                raise _not_an_object(name, f"after {number} items the array", error) from None
            buffer += more
            continue
        if not isinstance(item, dict):
            raise _not_an_object(name, f"item {number + 1}", TypeError(f"it is {json.dumps(item)[:40]}"))
        yield item
        number += 1
        buffer = buffer[end:]


def _not_an_object(name: str, where: str, error: Exception) -> InventoryError:
    return InventoryError(
        f"{name}: {where} is not a JSON object ({error}); an inventory has one object a device, one a "
        f"line or all in one array"
    )


def _row(item: Mapping[str, object], keys: Mapping[Role, str]) -> list[str | None]:
    return [_text(item.get(key)) for key in keys.values()]


def _text(value: object) -> str | None:
    """A value as text; half a surrogate pair, which JSON may hold and text may not, becomes `?`."""
    return None if value is None else str(value).encode("utf-8", "replace").decode()
