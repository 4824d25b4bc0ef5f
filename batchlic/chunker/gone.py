"""Finds the devices that a sync removes: licensed according to the ledger, and gone from the inventory.

A device keeps its license if anything is unclear. A device is gone only if none of its identifiers is in the
inventory, under any account and SKU, in a rejected row or a damaged cell included. The check digit of an IMEI
does not matter, and neither does one that an ICCID lacks in the inventory or in the ledger. Identifiers that
the ledger has seen together belong to one device. A device is licensed only if its record is the newest one
of all its identifiers.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from batchlic.chunker.exclusion import LicenseState
from batchlic.reader.devices import PENDING, DeviceRows
from batchlic.reader.fleet import PLAN_ORDER, Fleet
from batchlic.reader.validation.duplicates import IDENTIFIERS
from batchlic.reader.validation.possible import Intervals, iccid_key, possible_identifiers
from batchlic.reader.validation.rules import iccid_without_last_digit

REMOVABLE = PENDING
"""The mark of a device that is to lose its license."""
LEFT_ALONE, IRREVOCABLE, DOUBTFUL, MAYBE_REJECTED = 1, 2, 3, 4
"""The marks of others: not gone, or not licensed; gone with a Lifetime license; gone and in doubt; licensed,
and in no row of the inventory but perhaps in rejected ones."""

_IN_A_ROW, _IN_REJECTED_ROWS = 1, 2
"""Where the inventory has a device that is not gone; perhaps, in the rejected rows."""


class KnownDevices(Protocol):
    """The devices that earlier runs recorded."""

    def devices(self, targets: Sequence[tuple[str, str]]) -> Iterator[pl.DataFrame]:
        """All records of devices under some accounts and SKUs, the oldest first.

        Columns: `rank` (UInt32), the position in `targets`; IDENTIFIERS (Int64), null where not known;
        `state` (UInt8), a LicenseState.
        """


@dataclass(frozen=True, slots=True)
class GoneDevices:
    """The devices of the ledger under `targets`, marked; each count has one number for each target."""

    targets: Sequence[tuple[str, str]]
    rows: DeviceRows
    licensed: Sequence[int]
    removable: Sequence[int]
    irrevocable: Sequence[int]
    doubtful: Sequence[int]
    maybe_rejected: Sequence[int]

    def sorted(self, mark: int) -> Iterator[pl.DataFrame]:
        """The rows with this mark, by target, IMEI and ICCID (columns DEVICES, `mark`, `rank`)."""
        order = pl.col("target_code").cast(pl.Int128) * 2**64 + PLAN_ORDER
        for rows in self.rows.sorted(order, [mark]):
            yield rows.with_columns(rank="target_code")


def find_gone(
    fleet: Fleet,
    known: KnownDevices | None,
    targets: Sequence[tuple[str, str]],
    lifetime_skus: Collection[str],
    scratch: Path,
) -> GoneDevices:
    """Find the devices under `targets` that the inventories of `fleet` do not have."""
    rows = _recorded(known, targets, scratch)
    _mark_superseded(rows)
    licensed = _count(rows, PENDING, targets, state=LicenseState.ASSIGNED)
    present = _with_same_devices(rows, _present(rows, fleet))
    _mark(rows, _with_rejected(rows, fleet, present), lifetime_skus, targets)
    marks = (REMOVABLE, IRREVOCABLE, DOUBTFUL, MAYBE_REJECTED)
    return GoneDevices(targets, rows, licensed, *(_count(rows, mark, targets) for mark in marks))


def _recorded(known: KnownDevices | None, targets: Sequence[tuple[str, str]], scratch: Path) -> DeviceRows:
    """All records, the oldest first; `target_code` is the position in `targets`."""
    rows = DeviceRows(scratch, name="recorded", more={"state": pl.UInt8()})
    for frame in known.devices(targets) if known is not None else ():
        identified = frame.filter(pl.any_horizontal(pl.col(IDENTIFIERS).is_not_null()))
        ordinal = pl.int_range(rows.height, rows.height + pl.len(), dtype=pl.UInt32).alias("ordinal")
        rows.append(identified.select(ordinal, *IDENTIFIERS, pl.col("rank").alias("target_code"), "state"))
    return rows


def _mark_superseded(rows: DeviceRows) -> None:
    """Leave alone each record of which an identifier has a newer record under the same account and SKU."""
    for identifier in IDENTIFIERS:
        for key_range in rows.ranges(pl.col(identifier)):
            records = rows.select(key_range, "ordinal", "target_code", identifier)
            is_newest = pl.struct("target_code", identifier).is_last_distinct()
            rows.mark(records.filter(~is_newest)["ordinal"], LEFT_ALONE)


def _present(rows: DeviceRows, fleet: Fleet) -> pl.Series:
    """Where the inventories have an identifier of each record (UInt8, by ordinal), rejected rows aside."""
    present = pl.zeros(rows.height, dtype=pl.UInt8, eager=True)
    imei = (pl.col("imei_number") // 10).alias("imei")  # without its check digit
    for key_range in rows.ranges(imei):
        given = fleet.devices.select(key_range, imei)["imei"]
        records = rows.select(key_range, "ordinal", imei)
        found = records.filter(pl.col("imei").is_in(given.implode()))
        present = present.scatter(found["ordinal"], _IN_A_ROW)
    iccid = pl.col("iccid_number").alias("iccid")
    for key_range in rows.ranges(iccid_key(iccid) // 100):  # the same for all lengths of an ICCID
        given = fleet.devices.select(key_range, iccid)["iccid"]
        records = rows.select(key_range, "ordinal", iccid)
        is_given = records["iccid"].is_in(given.implode())
        others = _of_another_length(records.filter(~is_given), given)
        found_here = [records["ordinal"].filter(is_given), others]
        present = present.scatter(pl.concat(found_here), _IN_A_ROW)
    return present


def _of_another_length(records: pl.DataFrame, given: pl.Series) -> pl.Series:
    """The ordinals of the records whose ICCID is a given one with its last digit, or without it.

    Only the given ICCIDs that matter are searched for: nearly all of millions do not.
    """
    records = records.with_columns(shorter=iccid_without_last_digit(pl.col("iccid")))
    given_shorter = given.to_frame("iccid").select(iccid_without_last_digit(pl.col("iccid"))).to_series()
    longer = given_shorter.filter(given_shorter.is_in(records["iccid"].implode()))
    shorter = given.filter(given.is_in(records["shorter"].implode()))
    is_same = pl.col("iccid").is_in(longer.implode()) | pl.col("shorter").is_in(shorter.implode())
    return records.filter(is_same)["ordinal"]


def _with_rejected(rows: DeviceRows, fleet: Fleet, present: pl.Series) -> pl.Series:
    """`present`, with the devices that the cells of rejected rows may stand for."""
    possible = possible_identifiers(fleet.invalid_cells())
    keys: tuple[tuple[pl.Expr, Intervals], ...] = (
        (pl.col("imei_number"), possible.imeis),
        (iccid_key(pl.col("iccid_number")), possible.iccids),
    )
    is_named = pl.zeros(rows.height, dtype=pl.UInt8, eager=True)
    for frame in rows.frames():
        for key, intervals in keys:
            keyed = frame.select("ordinal", key.alias("key")).drop_nulls()
            found = keyed["ordinal"].filter(intervals.contain(keyed["key"]))
            is_named = is_named.scatter(found, 1)
    ordinals = ((is_named == 1) & (present == 0)).arg_true()
    if ordinals.is_empty():
        return present
    return _with_same_devices(rows, present.scatter(ordinals, _IN_REJECTED_ROWS), where=_IN_REJECTED_ROWS)


def _with_same_devices(rows: DeviceRows, present: pl.Series, *, where: int = _IN_A_ROW) -> pl.Series:
    """Give `where` to all records that share an identifier with one that has it, or through others."""
    is_growing = True
    while is_growing:
        is_growing = False
        for identifier in IDENTIFIERS:
            for key_range in rows.ranges(pl.col(identifier)):
                records = rows.select(key_range, "ordinal", identifier)
                given = present.gather(records["ordinal"])
                values = records[identifier].filter(given == where)
                more = records.filter(given == 0).filter(pl.col(identifier).is_in(values.implode()))
                if more.height:
                    present = present.scatter(more["ordinal"], where)
                    is_growing = True
    return present


def _mark(
    rows: DeviceRows,
    present: pl.Series,
    lifetime_skus: Collection[str],
    targets: Sequence[tuple[str, str]],
) -> None:
    """Mark the records that are not superseded."""
    lifetime = [rank for rank, (_, sku) in enumerate(targets) if sku in lifetime_skus]
    is_lifetime = pl.col("target_code").is_in(lifetime)
    is_assigned = pl.col("state") == LicenseState.ASSIGNED
    is_in_doubt = pl.col("state") == LicenseState.IN_DOUBT
    marks = (
        (is_assigned & (pl.col("present") == _IN_REJECTED_ROWS), MAYBE_REJECTED),
        (pl.col("present") > 0, LEFT_ALONE),
        (is_assigned & is_lifetime, IRREVOCABLE),
        (is_assigned, REMOVABLE),
        (is_in_doubt & ~is_lifetime, DOUBTFUL),
    )
    first = pl.coalesce(
        *(pl.when(holds).then(pl.lit(mark, pl.UInt8)) for holds, mark in marks), pl.lit(LEFT_ALONE, pl.UInt8)
    )
    for frame in rows.frames():
        newest = frame.filter(rows.marks(frame["ordinal"]) == PENDING)
        marked = newest.with_columns(present=present.gather(newest["ordinal"])).select("ordinal", mark=first)
        rows.mark(marked["ordinal"], marked["mark"])


def _count(
    rows: DeviceRows, mark: int, targets: Sequence[tuple[str, str]], *, state: LicenseState | None = None
) -> list[int]:
    """The number of records with a mark (and a state) for each target."""
    counts: Counter[int] = Counter()
    for frame in rows.frames():
        found = frame.filter(rows.marks(frame["ordinal"]) == mark)
        if state is not None:
            found = found.filter(pl.col("state") == state)
        counts.update(dict(found["target_code"].value_counts().iter_rows()))
    return [counts[rank] for rank in range(len(targets))]
