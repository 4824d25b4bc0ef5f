"""What is found in the parts of a workbook: the size of each sheet, and merged cells.

calamine fills all gaps between the cells of a sheet, so that one stray cell can exhaust memory.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from batchlic.errors import InventoryError

MAX_CELLS = 1 << 25
"""Cells of the smallest rectangle around the cells of a sheet: about 1 GB in calamine."""
MAX_ROWS = 1 << 20

_TOO_LARGE = "#TOO-LARGE "
"""Begins the text of the only cell in the sheet that stands for one that is too large."""


@dataclass(slots=True)
class Extent:
    """The rows and columns of a sheet with cells in them."""

    rows: int = 0
    columns: int = 0

    def add(self, rows: int, columns: int) -> None:
        """Include the cell in this row and column, from 1."""
        self.rows, self.columns = max(self.rows, rows), max(self.columns, columns)

    @property
    def is_too_large(self) -> bool:
        """Whether calamine would need too much memory."""
        return self.rows * self.columns > MAX_CELLS

    @property
    def text(self) -> str:
        """The text of the cell that stands for a sheet that is too large."""
        return f"{_TOO_LARGE}{_cell_name(self.rows, self.columns)}"

    def error(self, name: str, sheet: str) -> InventoryError:
        """The error for a sheet that is too large."""
        return _error(name, sheet, _cell_name(self.rows, self.columns))


Range: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""Row and column of the first and of the last of merged cells, from 0."""


@dataclass(slots=True)
class Table:
    """A sheet: the size of its part with cells, its merged cells if calamine does not tell them, and its
    hidden rows, from 0."""

    extent: Extent = field(default_factory=Extent)
    merged: list[Range] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)


def refuse_replaced(name: str, sheet: str, cell: object) -> None:
    """Raise InventoryError if the first cell of a sheet shows that the sheet is too large."""
    if isinstance(cell, str) and cell.startswith(_TOO_LARGE):
        raise _error(name, sheet, cell.removeprefix(_TOO_LARGE))


def _error(name: str, sheet: str, corner: str) -> InventoryError:
    return InventoryError(
        f"{name}: the cells of the sheet {sheet!r} reach to {corner}, which is too far to be read: delete "
        f"the columns and rows after the list, or save the sheet as CSV"
    )


def column_number(letters: bytes) -> int:
    """The number of a column from 1: `A` is 1, `XFD` is 16,384."""
    number = 0
    for letter in letters:
        number = 26 * number + letter - 64
    return number


def _cell_name(row: int, column: int) -> str:
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return f"{letters}{row}"
