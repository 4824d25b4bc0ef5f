"""Device rows to a plan: plan.parquet, whose batches are contiguous ranges of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING

from batchlic.atomic import replacing, scratch_in
from batchlic.chunker.batch import ROWS_PER_READ
from batchlic.reader import ReadOptions, Source

if TYPE_CHECKING:
    import polars as pl
    from polars._typing import PolarsDataType

    from batchlic.reader.known import Known


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanGroup:
    """The part of a plan that goes under one SKU of one account, in devices and batches."""

    account_name: str
    sku_number: str
    devices: int
    batches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `write_plan` found and wrote; `rows_read` is the sum of `rejected` and `planned` (promise A).

    `planned` is the sum of `held`, by status, and of the devices in `groups`.
    """

    sources: tuple[Source, ...]
    rows_read: int
    rejected: Mapping[str, int]
    planned: int
    held: Mapping[str, int]
    batches: int
    groups: tuple[PlanGroup, ...]
    notes: tuple[str, ...]


def write_plan(
    inventories: Sequence[str],
    options: ReadOptions,
    *,
    batch_size: int,
    folder: Path,
    known: Known | None = None,
) -> Plan:
    """Read the inventories; write plan.parquet and rejects.parquet into `folder`, each whole or not at all.

    plan.parquet: `batch_id` (UInt32, ascending from 1), `source` (the inventory's name as given), `row`
    (UInt64, its 1-based data row), `imei`, `iccid` (String, null where absent), `account_name`, `sku_number`;
    sorted by account, SKU, IMEI and ICCID (nulls last); a batch is a contiguous range of at most
    `batch_size` rows of one account and SKU. `held` is null there. Rows that, by what is `known`, are not to
    be sent come after all batches, with a null `batch_id` and the status that they have for it as `held`. All
    depends on inventories, options and what is known alone (promise I).
    rejects.parquet: `source`, `row`, `reason`, `message`, and `imei`, `iccid`, `account_name`, `sku_number`
    as they stood in the file.

    Raises InventoryError where an inventory can't be read, UsageError where the options contradict it.
    """
    from batchlic.reader.fleet import Fleet  # noqa: PLC0415 - brings polars
    from batchlic.reader.known import HELD, Fate  # noqa: PLC0415
    from batchlic.reader.sources import expanded  # noqa: PLC0415

    with scratch_in(folder) as scratch:
        fleet = Fleet(options, scratch)
        for name in expanded(inventories):
            fleet.add(name)
        fleet.reject_duplicates()
        if known is not None:
            fleet.hold(known)
        groups = tuple(
            PlanGroup(**asdict(target), devices=devices, batches=-(-devices // batch_size))
            for target, devices in fleet.targets().items()
        )
        with replacing(folder / "plan.parquet") as path:
            devices = [fleet.devices(Fate.SENT), *([fleet.devices(*HELD)] if fleet.held else [])]
            _sink_plan(chain.from_iterable(devices), groups, batch_size, path)
        with replacing(folder / "rejects.parquet") as path:
            fleet.rejects().sink_parquet(path)
    return Plan(
        sources=tuple(fleet.sources),
        rows_read=fleet.rows_read,
        rejected=dict(sorted(fleet.rejected.items())),
        planned=sum(group.devices for group in groups) + fleet.held.total(),
        held=dict(sorted(fleet.held.items())),
        batches=sum(group.batches for group in groups),
        groups=tuple(group for group in groups if group.devices),
        notes=tuple(fleet.notes),
    )


def cut_plan(plan: Plan, fits: Sequence[int], *, batch_size: int, folder: Path) -> Plan:
    """Leave the first `fits[i]` devices of each group i in plan.parquet; the others go to rejects.parquet.

    Their reason is `no_license`. Batches are numbered anew, so the result depends on plan and `fits` alone;
    what is held stays held.
    """
    import polars as pl  # noqa: PLC0415

    rows = pl.scan_parquet(folder / "plan.parquet")
    rejects = pl.scan_parquet(folder / "rejects.parquet")
    kept, cut, groups = [], [], []
    start = dropped = 0
    for group, fit in zip(plan.groups, fits, strict=True):
        kept.append(rows.slice(start, fit).with_columns(pl.col("batch_id") - pl.lit(dropped, pl.UInt32)))
        cut.append(rows.slice(start + fit, group.devices - fit))
        groups.append(replace(group, devices=fit, batches=-(-fit // batch_size)))
        start += group.devices
        dropped += group.batches - groups[-1].batches
    kept.append(rows.slice(start))
    said = {"reason": pl.lit("no_license"), "message": pl.lit("no license is left for this device")}
    without = pl.concat(cut).with_columns(**said).select(rejects.collect_schema().names())
    with replacing(folder / "rejects.parquet") as path:
        pl.concat([rejects, without]).sink_parquet(path)
    with replacing(folder / "plan.parquet") as path:
        pl.concat(kept).sink_parquet(path, compression_level=1, row_group_size=ROWS_PER_READ)
    without_license = sum(group.devices for group in plan.groups) - sum(fits)
    return replace(
        plan,
        rejected=dict(sorted({**plan.rejected, "no_license": without_license}.items())),
        planned=plan.planned - without_license,
        batches=sum(group.batches for group in groups),
        groups=tuple(group for group in groups if group.devices),
    )


def _sink_plan(
    devices: Iterator[pl.DataFrame], groups: Sequence[PlanGroup], batch_size: int, path: Path
) -> None:
    """Number the batches of sorted devices, turn identifiers into text, and write the rows as they come."""
    import polars as pl  # noqa: PLC0415

    from batchlic.reader.rules import iccid_digits, imei_digits  # noqa: PLC0415
    from batchlic.reader.spool import streamed  # noqa: PLC0415

    rank = pl.col("rank")
    group_starts = pl.lit(pl.Series(accumulate((group.devices for group in groups), initial=0))).gather(rank)
    batch_starts = pl.lit(pl.Series(accumulate((group.batches for group in groups), initial=1))).gather(rank)
    of_group = {
        column: pl.lit(pl.Series([getattr(group, column) for group in groups], dtype=pl.String)).gather(rank)
        for column in ("account_name", "sku_number")
    }

    def numbered() -> Iterator[pl.DataFrame]:
        start = 0
        for frame in devices:
            place = pl.int_range(start, start + frame.height, dtype=pl.Int64) - group_starts
            batch_id = pl.when(pl.col("held").is_null()).then(batch_starts + place // batch_size)
            yield frame.select(
                batch_id.cast(pl.UInt32).alias("batch_id"), "source", "row", *_NUMBERS, "held", **of_group
            )
            start += frame.height

    columns: dict[str, PolarsDataType] = {"batch_id": pl.UInt32, "source": pl.String, "row": pl.UInt32}
    columns |= {**dict.fromkeys(_NUMBERS, pl.Int64), **dict.fromkeys(("held", *of_group), pl.String)}

    streamed(numbered(), columns).select(
        "batch_id",
        "source",
        pl.col("row").cast(pl.UInt64),
        imei_digits(pl.col("imei_number")).alias("imei"),
        iccid_digits(pl.col("iccid_number")).alias("iccid"),
        *of_group,
        "held",
    ).sink_parquet(path, compression_level=1, row_group_size=ROWS_PER_READ)


_NUMBERS = ("imei_number", "iccid_number")
