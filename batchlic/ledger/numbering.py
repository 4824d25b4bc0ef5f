"""The numbers of records: a record that a run repeats unchanged keeps its number.

A run that was planned after record N looks only at records with higher numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import polars as pl

from batchlic.chunker.exclusion import LicenseState
from batchlic.ledger.catalog import Block, Catalog
from batchlic.ledger.packing import PackedRecords, Place, read_content, read_identifiers
from batchlic.ledger.schema import IDENTIFIERS, RECORD_COLUMNS, STATES

_UNCHANGED = (*IDENTIFIERS, "state", "at")
"""Columns in which a repeated record equals the earlier one: no request left since, and no more is known."""

_IS_RETRACTION = pl.col("state").is_null()
_IS_UNASSIGNED = pl.col("state") == LicenseState.UNASSIGNED.name.lower()


class NumberedRecords(NamedTuple):
    """Packed records with the number that they had before; None where they are new."""

    number: int | None
    packed: PackedRecords


def keep_numbers(catalog: Catalog, run: int, recorded: Iterable[PackedRecords]) -> Iterator[NumberedRecords]:
    """Compare what a run records with its earlier records, which are still in the catalog.

    Adds retractions: devices that the run recorded as unassigned before, and no longer does.
    """
    earlier = _earlier_blocks(catalog, run)
    for packed in recorded:
        yield from _compare(catalog, packed, earlier.pop(packed.place, []))
    for place, blocks in earlier.items():
        nothing = PackedRecords.pack(pl.DataFrame(schema=RECORD_COLUMNS), place)
        yield from _compare(catalog, nothing, blocks)


def _earlier_blocks(catalog: Catalog, run: int) -> dict[Place, list[Block]]:
    blocks = defaultdict[Place, list[Block]](list)
    for block in catalog.blocks.values():
        if block.run == run:
            blocks[block.place].append(block)
    return blocks


def _compare(catalog: Catalog, packed: PackedRecords, blocks: Sequence[Block]) -> Iterator[NumberedRecords]:
    """Split the records of one place by their earlier numbers; `blocks` are the earlier ones of the place."""
    if not blocks:
        yield NumberedRecords(None, packed)
        return
    earlier = pl.concat(
        read_content(catalog.content(block), _UNCHANGED).with_columns(number=block.number) for block in blocks
    )
    repeated = packed.unpack().join(
        earlier.unique(_UNCHANGED), on=_UNCHANGED, how="left", nulls_equal=True, maintain_order="left"
    )
    rows = pl.concat([repeated, _retractions(earlier, packed)], how="diagonal")
    for (number,), part in rows.partition_by("number", as_dict=True, maintain_order=True).items():
        is_all = part.height == packed.devices == rows.height
        yield NumberedRecords(number, packed if is_all else PackedRecords.pack(part, packed.place))


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
