"""The plan of a rollback: the devices for which a run's requests were accepted, in new batches."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import polars as pl

from batchlic.chunker.groups import PlanGroup
from batchlic.chunker.kept import write_kept_file
from batchlic.chunker.plan import Plan
from batchlic.chunker.schema import PLAN, REJECTS, UNDOES, write_plan_file, write_rejects_file
from batchlic.chunker.status import DeviceStatus
from batchlic.reader import Source
from batchlic.reader.scans import scan_parquet
from batchlic.reader.streaming import Schema, lazy_frame
from batchlic.reader.validation.reasons import Reason

Frames: TypeAlias = Callable[[], Iterator[pl.DataFrame]]
"""Makes new frames at each call."""


def write_rollback_plan(
    frames: Frames,
    folder: Path,
    *,
    source: str,
    lifetime_skus: Collection[str],
    by_request: bool,
    kept: Sequence[str] = (),
) -> Plan:
    """Write plan.parquet and rejects.parquet of a rollback into `folder`, each whole or not at all.

    `frames` makes the device states of the run that is rolled back, in frames of whole batches, in the order
    of its plan. Columns: `batch_id`, `status`, `x_request_id`, those of schema.REJECTS except `reason` and
    `message`, and those `kept`, which go into kept.parquet and rejects.parquet; other columns are ignored.

    Accepted and confirmed devices are planned; those under `lifetime_skus` are rejected as `irrevocable`. All
    other devices are in neither file. With `by_request`, a batch is one accepted request, which the column
    `undoes` names. Otherwise, a batch is the accepted devices of one batch of the run. `source` names the run
    in the Plan.
    """
    lifetime = sorted(lifetime_skus)
    schema = PLAN | UNDOES if by_request else PLAN
    kept_schema: Schema = dict.fromkeys(kept, pl.String())
    write_plan_file(folder, lazy_frame(lambda: _batches(frames, lifetime, schema), schema))
    if kept:
        all_columns = schema | kept_schema
        rows = lazy_frame(lambda: _batches(frames, lifetime, all_columns), all_columns)
        write_kept_file(folder, rows.select(kept))
    rejects = REJECTS | kept_schema
    write_rejects_file(folder, lazy_frame(lambda: _irrevocable(frames, lifetime, rejects), rejects))
    groups = _groups(folder / "plan.parquet")
    planned = sum(group.devices for group in groups)
    rejected = scan_parquet(folder / "rejects.parquet").select(pl.len()).collect().item()
    return Plan(
        sources=(Source(source, planned + rejected),),
        rows_read=planned + rejected,
        rejected={Reason.IRREVOCABLE.value: rejected} if rejected else {},
        planned=planned,
        excluded={},
        batches=sum(group.batches for group in groups),
        groups=groups,
        notes=(),
        kept=tuple(kept),
    )


def _batches(frames: Frames, lifetime_skus: Collection[str], schema: Schema) -> Iterator[pl.DataFrame]:
    """The planned rows (columns of `schema`), their batches numbered from 1."""
    key = "x_request_id" if "undoes" in schema else "batch_id"
    last_batch = 0
    for frame in frames():
        rows = frame.filter(_IS_ACCEPTED & ~pl.col("sku_number").is_in(lifetime_skus))
        if rows.is_empty():
            continue
        rows = rows.sort("batch_id", key, maintain_order=True).with_columns(
            batch_id=(pl.col(key).rle_id() + last_batch + 1).cast(pl.UInt32),
            undoes="x_request_id",
            held=pl.lit(None, pl.String),
        )
        last_batch = rows["batch_id"][-1]
        yield rows.select(*schema)


def _irrevocable(frames: Frames, lifetime_skus: Collection[str], schema: Schema) -> Iterator[pl.DataFrame]:
    """The rejected rows (columns of `schema`)."""
    for frame in frames():
        rows = frame.filter(_IS_ACCEPTED & pl.col("sku_number").is_in(lifetime_skus))
        yield rows.with_columns(
            reason=pl.lit(Reason.IRREVOCABLE.value),
            message=pl.lit("a Lifetime license can't be taken back"),
        ).select(*schema)


def _groups(plan: Path) -> tuple[PlanGroup, ...]:
    """The groups of a plan that excludes no device, in its order."""
    groups = (
        scan_parquet(plan)
        .group_by("account_name", "sku_number")
        .agg(
            devices=pl.len(),
            batches=pl.col("batch_id").n_unique(),
            first_batch=pl.col("batch_id").min(),
        )
        .sort("first_batch")
        .drop("first_batch")
        .collect(engine="streaming")
    )
    return tuple(PlanGroup(**group) for group in groups.iter_rows(named=True))


_IS_ACCEPTED = pl.col("status").is_in([DeviceStatus.ACCEPTED.value, DeviceStatus.CONFIRMED.value])
