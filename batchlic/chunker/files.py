"""Writes the device rows of a fleet as plan.parquet and rejects.parquet, in bounded memory."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import polars as pl

from batchlic.carrier.catalog import Action
from batchlic.chunker.exclusion import EXCLUDED_MARKS
from batchlic.chunker.groups import Fit, PlanGroup
from batchlic.chunker.kept import KeptInPlan, with_kept
from batchlic.chunker.schema import REJECTS, write_plan_file, write_rejects_file
from batchlic.chunker.status import DeviceStatus
from batchlic.reader.devices import PENDING
from batchlic.reader.fleet import TEXTS_BYTES, Fleet
from batchlic.reader.spool import Spool
from batchlic.reader.streaming import Schema, lazy_frame
from batchlic.reader.targets import Target
from batchlic.reader.validation.reasons import Reason
from batchlic.reader.validation.rules import iccid_digits, imei_digits

TARGET: Schema = {"account_name": pl.String(), "sku_number": pl.String()}
_DEVICES: Schema = {
    "source": pl.String(),
    "row": pl.UInt32(),
    "imei_number": pl.Int64(),
    "iccid_number": pl.Int64(),
    **TARGET,
    "ordinal": pl.UInt32(),
}
"""A device row for either file, its identifiers still as integers; one of the ledger has no `ordinal`."""
PLANNED: Schema = {"batch_id": pl.UInt32(), **_DEVICES, "held": pl.String()}
NOT_EXCLUDED = pl.lit(None, pl.String).alias("held")


@dataclass(frozen=True, slots=True)
class PlanLayout:
    """Which device rows are planned, and in which batch, by `rank` (of the target) and `place` in the group.

    `found` and `planned` are the groups of all targets in the order of the plan, before and after fitting.
    `first_batches` has the number of the first batch of each group.
    """

    batch_size: int
    found: Sequence[PlanGroup]
    planned: Sequence[PlanGroup]
    first_batches: Sequence[int]

    @classmethod
    def of(
        cls,
        row_counts: Mapping[Target, int],
        batch_size: int,
        fit: Fit | None = None,
        *,
        action: Action | None = None,
    ) -> "PlanLayout":
        """The layout for these groups. `fit`, if given, decides how many devices of each are planned."""
        found = [_group(target, devices, batch_size, action) for target, devices in row_counts.items()]
        if fit is None:
            return cls._in_order(batch_size, found, found)
        groups = [group for group in found if group.devices]
        fitted = dict(zip(groups, fit(groups), strict=True))
        if any(not 0 <= devices <= group.devices for group, devices in fitted.items()):
            sizes = [group.devices for group in groups]
            raise ValueError(f"groups of {sizes} devices were fitted to {list(fitted.values())} devices")
        devices_by_target = {
            target: fitted.get(group, 0) for target, group in zip(row_counts, found, strict=True)
        }
        planned = [
            _group(target, devices, batch_size, action) for target, devices in devices_by_target.items()
        ]
        return cls._in_order(batch_size, found, planned)

    @classmethod
    def _in_order(
        cls, batch_size: int, found: Sequence[PlanGroup], planned: Sequence[PlanGroup]
    ) -> "PlanLayout":
        first_batches = accumulate((group.batches for group in planned), initial=1)
        return cls(batch_size, found, planned, list(first_batches)[:-1])

    @property
    def unlicensed(self) -> int:
        """The number of devices for which no license is left."""
        return sum(group.devices for group in self.found) - sum(group.devices for group in self.planned)

    def place(self, start: int, height: int) -> pl.Expr:
        """`place`, from 0, of `height` sorted rows that follow `start` others."""
        group_starts = accumulate((group.devices for group in self.found), initial=0)
        place = pl.int_range(start, start + height, dtype=pl.Int64) - by_rank(list(group_starts))
        return place.alias("place")

    def is_planned(self) -> pl.Expr:
        """Whether a row is among those of its group that are planned."""
        return pl.col("place") < by_rank([group.devices for group in self.planned])

    def batch_id(self) -> pl.Expr:
        """The batch (UInt32) of a planned row."""
        batch_id = by_rank(list(self.first_batches)) + pl.col("place") // self.batch_size
        return batch_id.cast(pl.UInt32).alias("batch_id")

    def target(self) -> list[pl.Expr]:
        """The account and SKU of a row."""
        return [
            by_rank([getattr(group, column) for group in self.found], dtype).alias(column)
            for column, dtype in TARGET.items()
        ]


def write_files(
    fleet: Fleet, layout: PlanLayout, excluded: Collection[DeviceStatus], *, folder: Path, scratch: Path
) -> None:
    """Write plan.parquet, then rejects.parquet; `excluded` are the statuses of excluded devices."""
    unlicensed = unlicensed_spool(scratch)
    kept = KeptInPlan(fleet.kept, scratch)

    def frames() -> Iterator[pl.DataFrame]:
        rows = chain(pending_rows(fleet, layout, unlicensed), excluded_rows(fleet, layout, excluded))
        return kept.noted(rows)

    write_plan_file(folder, as_planned(lazy_frame(frames, PLANNED)))
    kept.write(folder)
    write_rejects(fleet, unlicensed if layout.unlicensed else None, folder)


def as_planned(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Rows (columns PLANNED, perhaps more) with the columns of plan.parquet."""
    more = [name for name in rows.collect_schema() if name not in PLANNED]
    return rows.select("batch_id", *_device_columns(), "held", *more)


def write_rejects(fleet: Fleet, unlicensed: Spool | None, folder: Path) -> None:
    """Write rejects.parquet; the rows for which no license is left come last."""
    rejects = [fleet.rejects().select("ordinal", *_reject_columns())]
    if unlicensed is not None:
        rejects.append(_unlicensed_rejects(unlicensed))
    write_rejects_file(folder, with_kept(pl.concat(rejects), fleet.kept))


def unlicensed_spool(scratch: Path) -> Spool:
    """Where the rows go for which no license is left."""
    return Spool(scratch / "unlicensed", _DEVICES, TEXTS_BYTES)


def pending_rows(
    fleet: Fleet, layout: PlanLayout, unlicensed: Spool, *, ranks: Collection[int] | None = None
) -> Iterator[pl.DataFrame]:
    """The rows to send (columns PLANNED), of some groups only if `ranks` are given.

    Rows for which no license is left go to `unlicensed`.
    """
    for rows in planned_rows(fleet, layout, unlicensed, ranks=ranks):
        yield rows.select(layout.batch_id(), *_DEVICES, NOT_EXCLUDED)


def planned_rows(
    fleet: Fleet, layout: PlanLayout, unlicensed: Spool | None, *, ranks: Collection[int] | None = None
) -> Iterator[pl.DataFrame]:
    """The same rows with `rank` and `place`, without a batch. `unlicensed` is None if it has its rows."""
    start = 0
    for frame in fleet.sorted_devices([PENDING]):
        rows = frame.with_columns(layout.place(start, frame.height), *layout.target())
        start += frame.height
        if ranks is not None:
            rows = rows.filter(pl.col("rank").is_in(list(ranks)))
        if layout.unlicensed:
            if unlicensed is not None:
                unlicensed.append(rows.filter(~layout.is_planned()).select(*_DEVICES))
            rows = rows.filter(layout.is_planned())
        yield rows


def excluded_rows(
    fleet: Fleet, layout: PlanLayout, statuses: Collection[DeviceStatus]
) -> Iterator[pl.DataFrame]:
    """The rows that are in no batch (columns PLANNED)."""
    marks = {EXCLUDED_MARKS[status]: status for status in statuses}
    yield from marked_rows(fleet, layout, marks)


def marked_rows(
    fleet: Fleet, layout: PlanLayout, marks: Mapping[int, DeviceStatus]
) -> Iterator[pl.DataFrame]:
    """The rows with these marks (columns PLANNED), in no batch, with the status of their mark."""
    if not marks:
        return
    status_by_mark = {mark: status.value for mark, status in marks.items()}
    no_batch = pl.lit(None, pl.UInt32).alias("batch_id")
    status = pl.col("mark").replace_strict(status_by_mark, return_dtype=pl.String).alias("held")
    for frame in fleet.sorted_devices(list(status_by_mark)):
        yield frame.with_columns(layout.target()).select(no_batch, *_DEVICES, status)


def _unlicensed_rejects(unlicensed: Spool) -> pl.LazyFrame:
    """The rows for which no license is left (`ordinal`, columns REJECTS), in the order of the plan."""
    reason = pl.lit(Reason.NO_LICENSE.value).alias("reason")
    message = pl.lit("no license is left for this device").alias("message")
    return (
        unlicensed.lazy().select("ordinal", *_device_columns(), reason, message).select("ordinal", *REJECTS)
    )


def _device_columns() -> list[str | pl.Expr]:
    return [
        "source",
        pl.col("row").cast(pl.UInt64),
        imei_digits(pl.col("imei_number")).alias("imei"),
        iccid_digits(pl.col("iccid_number")).alias("iccid"),
        *TARGET,
    ]


def _reject_columns() -> list[pl.Expr]:
    names = {"account_name": "account", "sku_number": "sku"}
    return [pl.col(names.get(column, column)).cast(dtype).alias(column) for column, dtype in REJECTS.items()]


def _group(target: Target, devices: int, batch_size: int, action: Action | None) -> PlanGroup:
    return PlanGroup(
        account_name=target.account_name,
        sku_number=target.sku_number,
        devices=devices,
        batches=-(-devices // batch_size),
        action=action,
    )


def by_rank(values: Sequence[object], dtype: pl.DataType | None = None) -> pl.Expr:
    """The value at a row's `rank`."""
    return pl.lit(pl.Series(values, dtype=dtype)).gather(pl.col("rank"))
