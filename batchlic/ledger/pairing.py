"""Completes records that have only one identifier of a device, from pairs that are known elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from batchlic.ledger.packing import PackedRecords, read_identifiers
from batchlic.ledger.schema import IDENTIFIERS


class Completion(NamedTuple):
    """What completion makes of packed records; None where no such record is left."""

    unchanged: PackedRecords | None
    completed: PackedRecords | None


def matching_pairs(unpaired: Iterable[PackedRecords], pairs: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Those of `pairs` (columns: IDENTIFIERS) that share an identifier with an unpaired record, in order."""
    identifiers = pl.concat(read_identifiers(packed.content) for packed in unpaired if packed.unpaired)
    single = {
        key: identifiers.filter(pl.col(other).is_null())[key].drop_nulls().sort()
        for key, other in (IDENTIFIERS, IDENTIFIERS[::-1])
    }
    matching = [pl.DataFrame(schema=dict.fromkeys(IDENTIFIERS, pl.Int64))]
    for frame in pairs:
        complete = frame.drop_nulls()
        if not complete.is_empty():
            matches = [_is_among(complete[key], single[key]) for key in IDENTIFIERS]
            matching.append(complete.filter(matches[0] | matches[1]))
    return pl.concat(matching)


def complete(packed: PackedRecords, pairs: pl.DataFrame) -> PackedRecords:
    """The records with the identifiers that they lack and `pairs` give; the first pair of a device counts."""
    if not packed.unpaired or pairs.is_empty():
        return packed
    rows = packed.unpack()
    for key, missing in (IDENTIFIERS, IDENTIFIERS[::-1]):
        partners = pairs.unique(key, keep="first", maintain_order=True).rename({missing: "partner"})
        rows = rows.join(partners, on=key, how="left", maintain_order="left")
        rows = rows.with_columns(pl.coalesce(missing, "partner").alias(missing)).drop("partner")
    return PackedRecords.pack(rows, packed.place)


def complete_apart(packed: PackedRecords, pairs: pl.DataFrame) -> Completion:
    """The records that `pairs` complete, and apart from them the others."""
    completed = complete(packed, pairs)
    if completed.unpaired == packed.unpaired:
        return Completion(packed, None)
    rows = completed.unpack()
    is_new = _is_paired(rows) & ~_is_paired(packed.unpack())
    return Completion(
        unchanged=_packed_if_any(rows.filter(~is_new), packed),
        completed=_packed_if_any(rows.filter(is_new), packed),
    )


def _packed_if_any(rows: pl.DataFrame, like: PackedRecords) -> PackedRecords | None:
    return None if rows.is_empty() else PackedRecords.pack(rows, like.place)


def _is_paired(rows: pl.DataFrame) -> pl.Series:
    return rows.select(pl.all_horizontal(pl.col(IDENTIFIERS).is_not_null())).to_series()


def _is_among(values: pl.Series, ascending: pl.Series) -> pl.Series:
    """Whether each value is among `ascending`, by binary search: a hash table for each frame takes longer."""
    if ascending.is_empty():
        return pl.zeros(len(values), dtype=pl.Boolean, eager=True)
    places = ascending.search_sorted(values).clip(0, len(ascending) - 1)
    return ascending.gather(places) == values
