"""Reads inventories in spreadsheets (XLSX, XLS, ODS): the first sheet, or the one that the job names."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook

from batchlic.errors import InventoryError
from batchlic.reader import streams
from batchlic.reader.inventory import Block, Inventory, block_of, columns_of, empty_error
from batchlic.reader.options import ReadOptions

BLOCK_ROWS = 20_000
EXACT = 2**53
"""Spreadsheets store numbers as double floats: larger ones have lost digits, mostly after the 15th."""


def inventory(source: streams.Opened, options: ReadOptions) -> Inventory:
    """Open a workbook. Raises InventoryError if it is damaged or locked, or lacks the named sheet."""
    try:
        book = CalamineWorkbook.from_object(streams.in_a_file(source))
        sheet = _sheet(source.name, book, options.sheet)
    except (CalamineError, OSError, ValueError) as error:
        raise InventoryError(f"{source.name}: the workbook is damaged or locked: {error}") from None
    rows = _rows(sheet)
    first = next(rows, None)
    if first is None:
        raise empty_error(source.name)
    headers = [cell or "" for cell in first]
    positions = columns_of(source.name, headers, options)

    def blocks() -> Iterator[Block]:
        while block := list(islice(rows, BLOCK_ROWS)):
            cells = [[row[position] for position in positions.values()] for row in block]
            yield block_of(cells, tuple(positions))

    return Inventory(
        name=source.name,
        headers={role: headers[position] for role, position in positions.items()},
        blocks=blocks,
        notes=_other_sheets(source.name, book, sheet.name) if options.sheet is None else (),
    )


def _sheet(name: str, book: CalamineWorkbook, wanted: str | None) -> CalamineSheet:
    if wanted is None:
        return book.get_sheet_by_index(0)
    if wanted not in book.sheet_names:
        listed = ", ".join(map(repr, book.sheet_names))
        raise InventoryError(f"{name}: there is no sheet {wanted!r}; its sheets are {listed}")
    return book.get_sheet_by_name(wanted)


def _other_sheets(name: str, book: CalamineWorkbook, read: str) -> tuple[str, ...]:
    others = [sheet for sheet in book.sheet_names if sheet != read]
    if not others:
        return ()
    return (f"{name}: only the sheet {read!r} is read, not {', '.join(map(repr, others))}",)


def _rows(sheet: CalamineSheet) -> Iterator[list[str | None]]:
    """Rows as text, without rows of empty cells, which count as blank lines."""
    for row in sheet.iter_rows():
        texts = [_text(cell) for cell in cast("Sequence[object]", row)]
        if any(texts):
            yield texts


def _text(cell: object) -> str | None:
    if cell is None or cell == "":
        return None
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        if abs(cell) > EXACT:
            return f"{cell:.11E}"
        return str(int(cell)) if cell == int(cell) else str(cell)
    return str(cell)
