"""The common form of all formats: blocks of text cells, their columns named by role."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeAlias

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.roles import Role

SHORT = "short"
"""Optional column of a block (Boolean): the row has fewer cells than the header."""

Block: TypeAlias = Callable[[], pl.DataFrame]
"""Parses consecutive rows, on any thread, to a frame of String columns named by role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One input, which can be read once.

    `roles`: the roles that have a column, or a constant. `headers`: the headers of the columns by role; empty
    if the file has no header that its rows could repeat. `constants`: the cell of a role that is the same for
    all rows. `notes`: facts for the operator about how the inventory is read.
    """

    name: str
    roles: Set[Role]
    headers: Mapping[Role, str]
    blocks: Callable[[], Iterator[Block]]
    constants: Mapping[Role, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def block_of(rows: Sequence[Sequence[str | None]], roles: Sequence[Role]) -> Block:
    """A block of rows that are already parsed, with their cells in the order of `roles`."""
    frame = pl.DataFrame(rows, schema=dict.fromkeys(map(str, roles), pl.String), orient="row")
    return lambda: frame


def empty_error(name: str, where: str = "") -> InventoryError:
    """The error for an input with neither header nor rows; `where` says which part of the file was read."""
    return InventoryError(f"{name}: the file is empty: there are no rows{where}")
