"""Reads inventories in JSON: one object per line, or one array of objects. Numbers keep all their digits."""

import io
import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain, islice

import msgspec
import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.delimited import BLOCK_BYTES
from batchlic.reader.inventory import Block, Inventory, block_of, columns_of, empty_error
from batchlic.reader.options import ReadOptions, Role
from batchlic.reader.streams import CHUNK_BYTES, Opened

SAMPLE = 100
"""Rows whose keys are the header."""
BLOCK_ROWS = 20_000

_LINE = msgspec.json.Decoder(dict[str, object], float_hook=str)
_ITEM = json.JSONDecoder(parse_float=str, parse_constant=str)


def of_lines(source: Opened, options: ReadOptions) -> Inventory:
    """Open newline-delimited JSON (NDJSON, JSON Lines)."""
    complete = source.head.rpartition(b"\n")[0] or source.head
    sample = _parsed(source.name, complete.split(b"\n")[:SAMPLE], 1)
    keys = _keys(source.name, sample, options)

    def blocks() -> Iterator[Block]:
        first_line = 1
        while lines := source.stream.readlines(BLOCK_BYTES):
            yield partial(_frame, source.name, lines, first_line, keys)
            first_line += len(lines)

    return Inventory(name=source.name, headers={}, blocks=blocks)


def of_array(source: Opened, options: ReadOptions) -> Inventory:
    """Open one JSON array of objects. Only a part of the array is in memory at a time."""
    items = _items(source.name, io.TextIOWrapper(source.stream, "utf-8", errors="replace"))
    sample = list(islice(items, SAMPLE))
    if not sample:
        raise empty_error(source.name)
    keys = _keys(source.name, sample, options)

    def blocks() -> Iterator[Block]:
        rows = chain(sample, items)
        while block := list(islice(rows, BLOCK_ROWS)):
            yield block_of([_cells(row, keys) for row in block], tuple(keys))

    return Inventory(name=source.name, headers={}, blocks=blocks)


def _keys(name: str, sample: list[dict[str, object]], options: ReadOptions) -> dict[Role, str]:
    headers = list(dict.fromkeys(key for row in sample for key in row))
    positions = columns_of(name, headers, options)
    return {role: headers[position] for role, position in positions.items()}


def _frame(name: str, lines: list[bytes], first_line: int, keys: Mapping[Role, str]) -> pl.DataFrame:
    return block_of([_cells(row, keys) for row in _parsed(name, lines, first_line)], tuple(keys))()


def _parsed(name: str, lines: list[bytes], first_line: int) -> list[dict[str, object]]:
    rows = []
    for number, line in enumerate(lines, start=first_line):
        if line.strip():
            try:
                rows.append(_LINE.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise _not_an_object_error(name, f"line {number}", error) from None
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
                raise _not_an_object_error(name, f"the text after item {number}", error) from None
            buffer += more
            continue
        if not isinstance(item, dict):
            raise _not_an_object_error(
                name, f"item {number + 1}", TypeError(f"it is {json.dumps(item)[:40]}")
            )
        yield item
        number += 1
        buffer = buffer[end:]


def _not_an_object_error(name: str, where: str, error: Exception) -> InventoryError:
    return InventoryError(
        f"{name}: {where} is not a JSON object ({error}); an inventory has one object per device: one per "
        f"line, or all in one array"
    )


def _cells(item: Mapping[str, object], keys: Mapping[Role, str]) -> list[str | None]:
    return [_text(item.get(key)) for key in keys.values()]


def _text(value: object) -> str | None:
    """A value as text. Half a surrogate pair becomes `?`: JSON allows it, and UTF-8 does not."""
    return None if value is None else str(value).encode("utf-8", "replace").decode()
