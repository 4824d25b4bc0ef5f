"""The common form of all formats: blocks of text cells, their columns named by role."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeAlias

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.inputs.frames import frame_of
from batchlic.reader.roles import Role

SHORT = "short"
LONG = "long"
"""Optional columns of a block (Boolean): the row has fewer cells than the header, or more and they matter."""
SHIFTED = "shifted"
"""Optional column of a block (Boolean): the row has more cells than the header, so cells may be shifted."""
WHOLE = "whole"
"""Optional column of a block (String): all cells, one a line, of a row with fewer or more cells than the
header, or without an identifier; null or empty for other rows."""
SHORTEST = 14
"""Characters below which a cell holds no identifier."""

NO_VALUE = "#FORMULA"
"""Begins the text of a formula whose value the workbook does not have."""

Block: TypeAlias = Callable[[], pl.DataFrame]
"""Parses consecutive rows, on any thread, to a frame of String columns named by role, or by `kept_cell`."""


@dataclass(slots=True)
class Ending:
    """How a text ends: known after its last block. A text that was cut off rarely ends with a newline.

    `is_short`: its last line has fewer cells than the header. `notes`: what was found on the way, for the
    operator.
    """

    has_newline: bool = True
    is_short: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One input, which can be read once.

    `roles`: the roles that have a column, or a constant. `headers`: the headers of the columns by role; empty
    if the file has no header that its rows could repeat. `constants`: the cell of a role that is the same for
    all rows. `notes`: facts for the operator about how the inventory is read. `ending`: how a text ends.
    `kept`: the names of the columns to keep that it has. `available`: the names of all its columns. Both may
    grow until the last block.
    `places`: the names of its folders, archives, file and sheet. `is_query`: whether the rows are those of a
    query.
    """

    name: str
    roles: Set[Role]
    headers: Mapping[Role, str]
    blocks: Callable[[], Iterator[Block]]
    constants: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    ending: Ending = field(default_factory=Ending)
    kept: Collection[str] = ()
    available: Collection[str] = ()
    places: Sequence[str] = ()
    is_query: bool = False


def is_too_short(cell: pl.Expr) -> pl.Expr:
    """Whether a cell (String) is null, or too short for an identifier (Boolean)."""
    return (cell.str.len_bytes() < SHORTEST).fill_null(value=True)


def block_of(
    rows: Sequence[Sequence[str | None]],
    columns: Sequence[str],
    are_long: Sequence[bool],
    are_shifted: Sequence[bool],
    wholes: Sequence[str | None],
) -> Block:
    """A block of rows that are already parsed, with their cells in the order of `columns`."""
    frame = pl.DataFrame(rows, schema=dict.fromkeys(map(str, columns), pl.String), orient="row")
    frame = frame.with_columns(
        pl.Series(LONG, are_long, pl.Boolean),
        pl.Series(SHIFTED, are_shifted, pl.Boolean),
        pl.Series(WHOLE, wholes, pl.String),
    )
    return lambda: frame


def empty(name: str, where: str = "") -> Inventory:
    """An input with neither header nor rows; `where` says which part of the file was read."""
    notes = [f"{name}: there are no rows{where}"] if where else []
    return Inventory(name=name, roles=set(), headers={}, blocks=lambda: iter(()), notes=notes)


def no_rows(inventory: Inventory) -> str:
    """That an inventory has no rows, in words."""
    if inventory.is_query:
        return "the query returns no rows"
    return f"the {'frame' if frame_of(inventory.name) else 'file'} has no rows"


def no_rows_error(inventory: Inventory) -> InventoryError:
    """The error for an inventory without rows."""
    is_file = not inventory.is_query and frame_of(inventory.name) is None
    if not is_file:
        advice = f"{no_rows(inventory)}. Check the query"
    elif inventory.roles:
        advice = "the file has a header and no rows. Check the export"
    else:
        advice = "the file is empty. Check the export"
    return InventoryError(
        f"{inventory.name}: {advice}. If it is right that there are no rows, give "
        f"--allow-empty, or set allow_empty = true in the job's [inventory]"
        f"{''.join(f'; note: {note}' for note in inventory.notes)}"
    )
