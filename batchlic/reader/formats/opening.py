"""Opens inventories. The content of a file decides its format; the name does not."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePath

from batchlic.errors import InventoryError
from batchlic.objectstore.addresses import is_remote
from batchlic.reader.columns.partitions import with_folders
from batchlic.reader.formats import delimited, foreign, json_text, typed
from batchlic.reader.formats.arrow_stream import CONTINUATION
from batchlic.reader.formats.workbooks import reading as workbooks
from batchlic.reader.inputs import encodings, streams, unpacking
from batchlic.reader.inputs.addresses import Download
from batchlic.reader.inventory import Inventory, empty
from batchlic.reader.options import ReadOptions

FORMATS = (
    "CSV (or TSV and the like), parquet, Arrow IPC, NDJSON, JSON, XLSX, XLSB, XLS or ODS, plain, compressed "
    "with gzip, zstd, bz2 or xz, or in a zip or tar archive"
)

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Start of an XLS file, and of an XLSX file with a password."""

_TEXT_CONTROLS = frozenset(b"\0\t\n\v\f\r\x1a\x1b\x1c\x1d\x1e\x1f")
MAX_CONTROLS = 8
"""Control characters at the start of a text, at least: damaged cells may have some."""


def inventories(name: str | Download, options: ReadOptions, files: ExitStack) -> Iterator[Inventory]:
    """Open an input, and find the columns of each inventory in it: one, or several in an archive.

    Each inventory is to be read before the next one. `files` closes them. Raises InventoryError if the input
    is missing, empty or in an unknown format, if no column is usable, or if two columns fit one role.
    """
    if isinstance(name, str) and is_remote(name) and (stored := typed.from_store(name, options)):
        yield with_folders(_placed(stored), options)
        return
    for source in unpacking.opened(name, files):
        inventory = _inventory(source, options)
        whole = replace(inventory, notes=[*source.notes, *inventory.notes])
        yield with_folders(_placed(whole, source.inside), options, source.inside)


def _placed(inventory: Inventory, inside: str = "") -> Inventory:
    """The inventory with all `places`; `inside` is its path in archives."""
    parts = (*PurePath(inventory.name).parts, *PurePath(inside).parts)
    return replace(inventory, places=(*parts, *inventory.places))


def _inventory(source: streams.Opened, options: ReadOptions) -> Inventory:
    if source.head.startswith((typed.PARQUET, typed.ARROW)):
        return typed.from_file(source, options)
    if source.head.startswith(CONTINUATION):
        return typed.from_stream(source, options)
    if source.head.startswith((_OLE, *unpacking.ZIP)):
        return workbooks.inventory(source, options)
    if advice := foreign.advice_for_bytes(source.head):
        raise InventoryError(f"{source.name}: {advice}")
    return _of_text(encodings.in_utf8(source), options)


def _of_text(text: streams.Opened, options: ReadOptions) -> Inventory:
    start = text.head.lstrip(b" \t\r\n\v\f\x1e")
    if not start and len(text.head) < streams.HEAD_BYTES:
        return empty(text.name)
    controls = sum(byte < 0x20 and byte not in _TEXT_CONTROLS for byte in text.head[:4096])
    if controls > max(MAX_CONTROLS, len(text.head[:4096]) // 50):
        raise InventoryError(f"{text.name}: unknown format; an inventory is {FORMATS}")
    if advice := foreign.advice_for_markup(start):
        raise InventoryError(f"{text.name}: {advice}")
    try:
        if json_text.is_json(start):
            return json_text.inventory(text, options)
        return delimited.inventory(text, options)
    except InventoryError:
        if advice := foreign.advice_for_text(start):
            raise InventoryError(f"{text.name}: {advice}") from None
        raise
