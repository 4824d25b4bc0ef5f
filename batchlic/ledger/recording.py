"""Puts the records of a run in the place of its earlier ones, within the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import polars as pl
import sqlalchemy as sa

from batchlic.ledger.numbering import keep_numbers
from batchlic.ledger.packing import PACKED_COLUMNS, PackedRecords, read_identifiers
from batchlic.ledger.pairing import complete, complete_apart, matching_pairs
from batchlic.ledger.tables import records, runs


def replace_records(
    connection: sa.Connection,
    run: int,
    recorded: Sequence[PackedRecords],
    pairs: Callable[[], Iterable[pl.DataFrame]],
) -> None:
    """Replace all records of the run with that `runs.id`. The caller holds the write lock.

    Records that have only one identifier are completed where another run of the same carrier gives both. The
    other way round, the run's records and `pairs` complete those of other runs.
    """
    completed = _complete_from_others(connection, run, recorded)
    _complete_others(connection, run, completed, pairs)
    _replace(connection, run, completed)


def _complete_from_others(
    connection: sa.Connection, run: int, recorded: Sequence[PackedRecords]
) -> list[PackedRecords]:
    """The run's records with identifiers from those of other runs; the newest other run counts."""
    if not any(packed.unpaired for packed in recorded):
        return list(recorded)
    contents = (
        sa.select(records.c.content)
        .join_from(records, runs)
        .where(_is_of_other_run(run), records.c.unpaired < records.c.devices)
        .order_by(runs.c.begun_at.desc(), records.c.id.desc())
    )
    pairs = matching_pairs(recorded, map(read_identifiers, connection.scalars(contents)))
    return [complete(packed, pairs) for packed in recorded]


def _complete_others(
    connection: sa.Connection,
    run: int,
    recorded: Sequence[PackedRecords],
    pairs: Callable[[], Iterable[pl.DataFrame]],
) -> None:
    """Complete the records of other runs.

    A completed record gets a new number, because it is new to runs that knew the device by the other
    identifier. It is not new to the run that completed it.
    """
    query = (
        sa.select(records.c.id, records.c.run, *PACKED_COLUMNS)
        .join_from(records, runs)
        .where(_is_of_other_run(run), records.c.unpaired > 0)
    )
    unpaired = [
        (number, other_run, PackedRecords(*columns))
        for number, other_run, *columns in connection.execute(query)
    ]
    if not unpaired:
        return
    own_pairs = (read_identifiers(packed.content) for packed in recorded)
    matching = matching_pairs((packed for _, _, packed in unpaired), chain(own_pairs, pairs()))
    for number, other_run, packed in unpaired:
        unchanged, completed = complete_apart(packed, matching)
        if completed is None:
            continue
        connection.execute(records.delete().where(records.c.id == number))
        if unchanged is not None:
            _insert(connection, unchanged, number=number, run=other_run)
        _insert(connection, completed, run=other_run, completed_by=run)


def _replace(connection: sa.Connection, run: int, recorded: Sequence[PackedRecords]) -> None:
    """Replace the run's records; what it repeats keeps its number and by whom it was completed."""
    numbered = list(keep_numbers(connection, run, recorded))
    own = sa.select(records.c.id, records.c.completed_by).where(records.c.run == run)
    completed_by = {row.id: row.completed_by for row in connection.execute(own)}
    connection.execute(records.delete().where(records.c.run == run))
    for number, packed in numbered:
        earlier = None if number is None else completed_by.get(number)
        _insert(connection, packed, number=number, run=run, completed_by=earlier)


def _insert(
    connection: sa.Connection,
    packed: PackedRecords,
    *,
    run: int,
    number: int | None = None,
    completed_by: int | None = None,
) -> None:
    """Insert records; without `number` they get the next one."""
    row = {"id": number, "run": run, "completed_by": completed_by, **packed._asdict()}
    connection.execute(records.insert(), row)


def _is_of_other_run(run: int) -> sa.ColumnElement[bool]:
    """Whether records are those of another run against the same carrier."""
    carrier = sa.select(runs.c.carrier).where(runs.c.id == run).scalar_subquery()
    return (runs.c.carrier == carrier) & (records.c.run != run)
