"""Opens an inventory. The content of the file decides its format; the name does not."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from batchlic.errors import InventoryError
from batchlic.reader import delimited, jsontext, streams, typed, workbook
from batchlic.reader.inventory import Inventory, empty_error
from batchlic.reader.options import ReadOptions

_ARROW = b"ARROW1"
_PARQUET = b"PAR1"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Start of an XLS file, and of an XLSX file with a password."""


@contextmanager
def open_inventory(name: str, options: ReadOptions) -> Iterator[Inventory]:
    """Open an inventory and find its columns; its files are closed when the block ends.

    Raises InventoryError if the inventory is missing, empty or in an unknown format, if no column is usable,
    or if two columns fit one role.
    """
    with ExitStack() as files:
        yield _opened(name, options, files)


def _opened(name: str, options: ReadOptions, files: ExitStack) -> Inventory:
    if streams.is_remote(name) and (stored := typed.from_store(name, options)):
        return stored
    source = streams.opened(name, files)
    if source.head.startswith((_PARQUET, _ARROW)):
        return typed.from_file(source, options)
    if source.head.startswith(_OLE) or streams.is_workbook(source.head):
        return workbook.inventory(source, options)
    text = streams.in_utf8(source)
    start = text.head.lstrip()
    if not start:
        raise empty_error(name)
    if b"\0" in text.head:
        raise InventoryError(
            f"{name}: unknown format; an inventory is CSV (or TSV and the like), parquet, Arrow IPC, NDJSON, "
            f"a JSON array, XLSX, XLS or ODS, plain or compressed with gzip, zstd, bz2, xz or zip"
        )
    if start.startswith(b"{"):
        return jsontext.of_lines(text, options)
    if start.startswith(b"[") and start[1:].lstrip()[:1] in {b"{", b"]"}:
        return jsontext.of_array(text, options)
    return delimited.inventory(text, options)
