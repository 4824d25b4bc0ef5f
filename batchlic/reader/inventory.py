"""The common form of all formats: blocks of text cells, their columns named by role."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader import columns
from batchlic.reader.options import IDENTIFIERS, ReadOptions, Role

SHORT = "short"
"""Optional column of a block (Boolean): the row has fewer cells than the header."""

Block: TypeAlias = Callable[[], pl.DataFrame]
"""Parses consecutive rows, on any thread, to a frame of String columns named by role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One input, which can be read once.

    `headers`: the headers of the columns found, by role; empty if the file has no header. `notes`: facts for
    the operator about how the inventory is read.
    """

    name: str
    headers: Mapping[Role, str]
    blocks: Callable[[], Iterator[Block]]
    notes: tuple[str, ...] = ()


def columns_of(
    name: str, headers: Sequence[str], options: ReadOptions, sample: Sequence[Sequence[str]] = ()
) -> dict[Role, int]:
    """Position of the column for each role. Raises InventoryError if the position is unclear.

    `sample`: rows by which the error suggests a column.
    """
    found = columns.by_header(name, headers, options.columns)
    if not any(role in found for role in IDENTIFIERS):
        raise columns.no_identifier_error(name, headers, sample)
    return found


def block_of(rows: Sequence[Sequence[str | None]], roles: Sequence[Role]) -> Block:
    """A block of rows that are already parsed, with their cells in the order of `roles`."""
    frame = pl.DataFrame(rows, schema=dict.fromkeys(map(str, roles), pl.String), orient="row")
    return lambda: frame


class EmptyInventory(InventoryError):
    """An inventory has no rows, and `allow_empty` does not allow that."""


def empty_error(name: str, what: str = "the file is empty", notes: Sequence[str] = ()) -> EmptyInventory:
    """The error for an input without rows; `notes` are those of its inventory."""
    return EmptyInventory(
        f"{name}: {what}. Check the export. If it is right that there are no rows, give --allow-empty, or "
        f"set allow_empty = true in the job's [inventory]{''.join(f'; note: {note}' for note in notes)}"
    )
