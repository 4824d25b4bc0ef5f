"""Reads inventories in spreadsheets (XLSX, XLSB, XLS, ODS): the first visible sheet, or the one named."""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import chain, islice, repeat
from operator import itemgetter
from pathlib import Path
from typing import IO, TypeAlias, cast

import polars as pl
from python_calamine import (
    CalamineError,
    CalamineSheet,
    CalamineWorkbook,
    SheetTypeEnum,
    SheetVisibleEnum,
)

from batchlic.errors import InventoryError
from batchlic.reader.columns import layout
from batchlic.reader.formats.workbooks.rewriting import plain_copy
from batchlic.reader.formats.workbooks.tables import Range, refuse_replaced
from batchlic.reader.inputs import streams
from batchlic.reader.inventory import NO_VALUE, SHORTEST, WHOLE, Block, Ending, Inventory, empty
from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import IDENTIFIERS

BLOCK_ROWS = 20_000
SAMPLE = 200
"""Rows in which the header is found."""
EXACT = 2**53
"""Spreadsheets store numbers as double floats: larger ones have lost digits, mostly after the 15th."""

_WHOLE_AT = -1
"""The position of the cell for WHOLE."""

Cells: TypeAlias = Sequence[object]
_Row: TypeAlias = tuple[int, Cells]
"""A row that is not blank, after its number in the sheet, from 0."""


def inventory(source: streams.Opened, options: ReadOptions) -> Inventory:
    """Open a workbook. Raises InventoryError if it is damaged or locked, or lacks the named sheet."""
    with _readable(source.name):
        stored = streams.in_a_file(source)
        file, tables, hidden_by_sheet, has_dates = plain_copy(stored, source.files)
        for table_name, table in tables.items():
            if table.extent.is_too_large:
                raise table.extent.error(source.name, table_name)
        book = source.files.enter_context(CalamineWorkbook.from_filelike(file))
        sheet = _sheet(source.name, book, options.sheet)
    rows = _rows(source.name, sheet)
    where = f" in the sheet {sheet.name!r}{_others(book, sheet.name, '; the other sheets are {}: --sheet')}"
    sample = list(islice(rows, SAMPLE))
    if not sample:
        return empty(source.name, where)
    refuse_replaced(source.name, sheet.name, sample[0][1][0])
    records = [[_text(cell) for cell in cells] for _, cells in sample]
    found = layout.find(source.name, records, options, where)
    positions = found.columns.positions
    ranges = tables[sheet.name].merged if sheet.name in tables else sheet.merged_cell_ranges or []
    at_once = [_WHOLE_AT, *found.cells.values()]
    dated: Iterator[_Row] = iter(())
    if has_dates and found.kept:
        at_once = [_WHOLE_AT, *positions.values()]
        dated_sheet = _with_dates(source, stored, sheet.name)
        dated = islice(_rows(source.name, dated_sheet), found.first_row, None)
        merged_dates = _MergedCells(ranges, list(found.kept.values()))
    merged = _MergedCells(ranges, at_once)
    names = [WHOLE, *found.cells]
    ending = Ending()
    hidden = hidden_by_sheet.get(sheet.name, frozenset())

    def blocks() -> Iterator[Block]:
        data = _checked(source.name, chain(sample[found.first_row :], rows), found)
        hidden_rows = 0
        while block := merged.picked(islice(data, BLOCK_ROWS)):
            hidden_rows += sum(number in hidden for number, _ in block)
            columns = merged.filled(block)
            if has_dates and found.kept:
                columns += merged_dates.filled(merged_dates.picked(islice(dated, len(block))))
            yield partial(_frame, dict(zip(names, columns, strict=True)), 1 + len(positions))
        if hidden_rows:
            ending.notes.append(_hidden_note(source.name, sheet.name, hidden_rows))

    unread = _others(book, sheet.name, f"only the sheet {sheet.name!r} is read, not {{}}")
    return Inventory(
        name=source.name,
        roles=positions.keys(),
        headers=found.headers_by_role,
        blocks=blocks,
        ending=ending,
        notes=(*([f"{source.name}: {unread}"] if unread and not options.sheet else []), *found.notes),
        kept=found.kept,
        available=found.available,
        places=(sheet.name,),
    )


def _hidden_note(name: str, sheet: str, rows: int) -> str:
    are_hidden = "1 row is hidden" if rows == 1 else f"{rows:,} rows are hidden"
    return (
        f"{name}: {are_hidden} in the sheet {sheet!r}, by a filter or by hand, and read like the others: to "
        "leave hidden rows out, delete them, or copy the visible ones to another sheet"
    )


def _checked(name: str, rows: Iterator[_Row], found: layout.Layout) -> Iterator[_Row]:
    """The rows, each with a last cell for WHOLE.

    Raises InventoryError if one of them is a header with other columns.
    """
    identifiers = [found.cells[role] for role in IDENTIFIERS if role in found.cells]
    at = found.repeated_at
    header = found.header_line[at] if at >= 0 else None
    for number, cells in rows:
        if header is not None and cells[at] == header:
            found.refuse_other_header(name, list(map(_text, cells)))
        yield number, [*cells, "" if _may_be_device(cells, identifiers) else "\n".join(map(_text, cells))]


def _may_be_device(cells: Cells, identifiers: Sequence[int]) -> bool:
    """Whether a cell may hold an identifier."""
    for at in identifiers:
        cell = cells[at]
        if not isinstance(cell, str) or len(cell) >= SHORTEST:
            return True
    return False


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raise InventoryError if the workbook is damaged."""
    try:
        yield
    except (CalamineError, OSError, ValueError, LookupError, struct.error, *streams.DAMAGED) as error:
        raise InventoryError(f"{name}: the workbook is damaged or locked: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of calamine, whose module can't be imported
            raise
        raise InventoryError(f"{name}: the workbook is damaged: {error}") from None


def _with_dates(source: streams.Opened, stored: Path | IO[bytes], sheet: str) -> CalamineSheet:
    """The sheet again, with dates as dates: they are numbers in the sheet that identifiers are read from."""
    with _readable(source.name):
        file = plain_copy(stored, source.files, shows_dates=True).file
        book = source.files.enter_context(CalamineWorkbook.from_filelike(file))
        return book.get_sheet_by_name(sheet)


def _sheet(name: str, book: CalamineWorkbook, wanted: str | None) -> CalamineSheet:
    if wanted is None:
        sheets = [sheet for sheet in book.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
        visible = [sheet for sheet in sheets if sheet.visible == SheetVisibleEnum.Visible]
        if not sheets:
            raise InventoryError(f"{name}: the workbook has no sheet with cells")
        return book.get_sheet_by_name((visible or sheets)[0].name)
    if wanted not in book.sheet_names:
        listed = ", ".join(map(repr, book.sheet_names))
        raise InventoryError(f"{name}: there is no sheet {wanted!r}; its sheets are {listed}")
    return book.get_sheet_by_name(wanted)


def _others(book: CalamineWorkbook, read: str, template: str) -> str:
    """The template with the names of the other sheets; empty if there are none."""
    others = [
        f"{sheet.name!r}{'' if sheet.visible == SheetVisibleEnum.Visible else ' (hidden)'}"
        for sheet in book.sheets_metadata
        if sheet.name != read
    ]
    return template.format(", ".join(others)) if others else ""


def _rows(name: str, sheet: CalamineSheet) -> Iterator[_Row]:
    """The rows without those of empty cells, which count as blank lines.

    Empty columns before the first one with cells are cells, too: calamine leaves them out.
    """
    rows = cast("Iterator[Cells]", sheet.iter_rows())
    left = [""] * (sheet.start[1] if sheet.start else 0)
    number = -1
    try:
        for number, cells in enumerate(rows):
            if any(cells) or any(cell != "" for cell in cells):
                yield number, [*left, *cells] if left else cells
    except (OverflowError, ValueError) as error:  # a date that Python does not have
        raise InventoryError(
            f"{name}: row {number + 2} of the sheet {sheet.name!r} has a cell that can't be read "
            f"({error}): format it as a number or text, or save the workbook as XLSX"
        ) from None


class _MergedCells:
    """Gives the value of merged cells, which only the first of them has, to all of them.

    `columns`: the columns that are read, and then those of the first cells.
    """

    def __init__(self, ranges: Sequence[Range], positions: Sequence[int]) -> None:
        self._positions = positions
        self._ranges = [
            (rows, columns)
            for (top, first), (bottom, last) in ranges
            if (rows := range(top, bottom + 1))
            and (columns := range(first, last + 1))
            and any(position in columns for position in positions)
        ]
        self.columns = [*positions, *sorted({columns.start for _, columns in self._ranges} - {*positions})]
        self._values: dict[int, object] = {}

    def picked(self, rows: Iterable[_Row]) -> list[_Row]:
        """The rows with the cells of `columns` only."""
        cells_of = itemgetter(*self.columns, 0)  # a tuple, also of one column
        return [(number, cells_of(cells)) for number, cells in rows]

    def filled(self, rows: Sequence[_Row]) -> list[list[object]]:
        """The cells of each column that is read. Rows have the cells of `columns`; they come in order."""
        columns = [[cells[at] for _, cells in rows] for at in range(len(self._positions))]
        numbers = [number for number, _ in rows] if self._ranges else []
        for number, (merged_rows, merged_columns) in enumerate(self._ranges):
            first, end = bisect_left(numbers, merged_rows.start), bisect_left(numbers, merged_rows.stop)
            if first < end and numbers[first] == merged_rows.start:
                self._values[number] = rows[first][1][self.columns.index(merged_columns.start)]
            for column, position in zip(columns, self._positions, strict=True):
                if position not in merged_columns:
                    continue
                for at in range(first, end):
                    if column[at] == "":
                        column[at] = self._values.get(number, "")
        return columns


def _frame(columns: Mapping[str, Sequence[object]], roles: int) -> pl.DataFrame:
    """The cells as text; empty ones are empty text. After the columns of `roles` come those to keep."""
    texts = chain(repeat(_text, roles), repeat(_unchanged))
    return pl.DataFrame(
        [_series(name, cells, text) for (name, cells), text in zip(columns.items(), texts, strict=False)]
    )


def _series(name: str, cells: Sequence[object], text: Callable[[object], str]) -> pl.Series:
    if text is _text:
        with suppress(TypeError):  # unless not all are text
            return pl.Series(name, cells, dtype=pl.String)
    return pl.Series(name, list(map(text, cells)), dtype=pl.String)


def _text(cell: object) -> str:
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        if abs(cell) > EXACT:
            return f"{cell:.11E}"
        return str(int(cell)) if cell == int(cell) else str(cell)
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _unchanged(cell: object) -> str:
    """A cell to keep as text: a number with all its digits, and nothing for a formula without a value."""
    if isinstance(cell, float):
        return str(int(cell)) if abs(cell) <= EXACT and cell == int(cell) else str(cell)
    if isinstance(cell, timedelta):
        minutes, seconds = divmod(cell // timedelta(seconds=1), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    return "" if isinstance(cell, str) and cell.startswith(f"{NO_VALUE} =") else _text(cell)
