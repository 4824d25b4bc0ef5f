"""What every format is turned into: blocks of text cells, their columns named by role."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader import columns
from batchlic.reader.options import IDENTIFIERS, ReadOptions, Role

SHORT = "short"
"""Column of a block (Boolean, where present): the row ends before the header does."""

Block: TypeAlias = Callable[[], pl.DataFrame]
"""Consecutive rows, not yet parsed: call it, on any thread, for a frame of String columns named by role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One input, ready to be read once, to the end.

    `headers`: what the columns found are called, by role, where the file says. `notes`: what a person should
    know of how it is read.
    """

    name: str
    headers: Mapping[Role, str]
    blocks: Callable[[], Iterator[Block]]
    notes: tuple[str, ...] = ()


def columns_of(
    name: str, headers: Sequence[str], options: ReadOptions, sample: Sequence[Sequence[str]] = ()
) -> dict[Role, int]:
    """Positions of the columns that matter. Raises InventoryError where no one can tell.

    `sample` are some of the rows, to suggest a column from.
    """
    found = columns.by_header(name, headers, options.columns)
    if not any(role in found for role in IDENTIFIERS):
        raise columns.no_identifier(name, headers, sample)
    return found


def block_of(rows: Sequence[Sequence[str | None]], roles: Sequence[Role]) -> Block:
    """Rows that are parsed already, cells in the order of `roles`."""
    frame = pl.DataFrame(rows, schema=dict.fromkeys(map(str, roles), pl.String), orient="row")
    return lambda: frame


def empty(name: str) -> InventoryError:
    """The error for an input without any row."""
    return InventoryError(f"{name}: the file is empty: it has no rows")
