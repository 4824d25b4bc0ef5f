"""The numbers of records: a record that a run repeats unchanged keeps its number.

A run that was planned after record N looks only at records with higher numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import polars as pl
import sqlalchemy as sa

from batchlic.chunker.exclusion import LicenseState
from batchlic.ledger.packing import PackedRecords, Place, read_content, read_identifiers
from batchlic.ledger.schema import IDENTIFIERS, RECORD_COLUMNS, STATES
from batchlic.ledger.tables import records

_UNCHANGED = (*IDENTIFIERS, "state", "at")
"""Columns in which a repeated record equals the earlier one: no request left since, and no more is known."""

_IS_RETRACTION = pl.col("state").is_null()
_IS_UNASSIGNED = pl.col("state") == LicenseState.UNASSIGNED.name.lower()


class NumberedRecords(NamedTuple):
    """Packed records with the number that they had before; None where they are new."""

    number: int | None
    packed: PackedRecords


def keep_numbers(
    connection: sa.Connection, run: int, recorded: Iterable[PackedRecords]
) -> Iterator[NumberedRecords]:
    """Compare what a run records with its earlier records, which are still in the database.

    Adds retractions: devices that the run recorded as unassigned before, and no longer does.
    """
    earlier = _earlier_numbers(connection, run)
    for packed in recorded:
        yield from _compare(connection, packed, earlier.pop(packed.place, []))
    for place, numbers in earlier.items():
        nothing = PackedRecords.pack(pl.DataFrame(schema=RECORD_COLUMNS), place)
        yield from _compare(connection, nothing, numbers)


def _earlier_numbers(connection: sa.Connection, run: int) -> dict[Place, list[int]]:
    columns = [records.c[name] for name in Place._fields]
    numbers = defaultdict[Place, list[int]](list)
    for number, *place in connection.execute(sa.select(records.c.id, *columns).where(records.c.run == run)):
        numbers[Place(*place)].append(number)
    return numbers


def _compare(
    connection: sa.Connection, packed: PackedRecords, numbers: Sequence[int]
) -> Iterator[NumberedRecords]:
    """Split the records of one place by the number that they had; `numbers` are those of the place."""
    if not numbers:
        yield NumberedRecords(None, packed)
        return
    earlier = _earlier_records(connection, numbers)
    repeated = packed.unpack().join(
        earlier.unique(_UNCHANGED), on=_UNCHANGED, how="left", nulls_equal=True, maintain_order="left"
    )
    rows = pl.concat([repeated, _retractions(earlier, packed)], how="diagonal")
    for (number,), part in rows.partition_by("number", as_dict=True, maintain_order=True).items():
        is_all = part.height == packed.devices == rows.height
        yield NumberedRecords(number, packed if is_all else PackedRecords.pack(part, packed.place))


def _earlier_records(connection: sa.Connection, numbers: Sequence[int]) -> pl.DataFrame:
    """The records of those numbers (columns: _UNCHANGED and `number`)."""
    query = sa.select(records.c.id, records.c.content).where(records.c.id.in_(numbers)).order_by(records.c.id)
    return pl.concat(
        read_content(content, _UNCHANGED).with_columns(pl.lit(number).alias("number"))
        for number, content in connection.execute(query)
    )


def _retractions(earlier: pl.DataFrame, packed: PackedRecords) -> pl.DataFrame:
    """A retraction of each unassign that is no longer recorded; earlier retractions keep their number."""
    recorded = read_identifiers(packed.content)
    return (
        earlier.filter(_IS_RETRACTION | _IS_UNASSIGNED)
        .join(recorded, on=IDENTIFIERS, how="anti", nulls_equal=True)
        .with_columns(
            pl.when(_IS_RETRACTION).then("number").alias("number"), pl.lit(None, STATES).alias("state")
        )
    )
