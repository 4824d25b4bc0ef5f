"""results.parquet: the plan, with what became of each of its devices."""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from batchlic.chunker import read_excluded, read_whole_batches
from batchlic.journal import Event, Journal, RunIdentity, Standing
from batchlic.journal.steps import Step
from batchlic.writer.migrations import OF_MOVES, STEP_STATUSES, migrated
from batchlic.writer.outcomes import DeviceOutcome, outcomes_of_batches
from batchlic.writer.schemas import OUTCOMES, RESULTS, Schema
from batchlic.writer.tables import write_table

_OUTCOME: Schema = {
    name: pl.Int64() if isinstance(RESULTS[name], pl.Datetime) else RESULTS[name]
    for name in DeviceOutcome._fields
    if name in RESULTS
} | {"is_awaited": pl.Boolean()}
"""The columns that the history decides, times still as the journal has them: microseconds since 1970."""

DOUBTED_EARLIER = (
    "in doubt since an earlier run, so not sent: resume or settle that; `batchlic ledger show` names it"
)

HOLDS_BOTH = (
    "holds both licenses since an earlier run, by the ledger, so nothing was sent: go on with that run by "
    "`batchlic resume` if it was stopped, or else `batchlic unassign` takes the old one"
)
_WHY_HELD = {Standing.IN_DOUBT.value: DOUBTED_EARLIER, Standing.FAILED.value: HOLDS_BOTH}

_NO_MOVE = [pl.lit(None, RESULTS[name]).alias(name) for name in OF_MOVES]

History: TypeAlias = Callable[..., Iterator[Event]]
"""`Journal.history` or `Journal.attempts`: the events of `batches`, batch by batch."""

_BATCH: Schema = {"batch_id": pl.UInt32()}
_OFFSET: Schema = {"offset": pl.Int64()}


def read_outcomes(path: Path) -> pl.LazyFrame:
    """What callbacks told of a run (columns: schemas.OUTCOMES); nothing where there is no such file."""
    if not path.exists():
        return pl.LazyFrame(schema=OUTCOMES)
    return pl.scan_parquet(path, schema=OUTCOMES, missing_columns="insert")


def write_results(path: Path, *, plan: Path, journal: Journal, outcomes: Path) -> None:
    """Write results.parquet: one row for each row of `plan`, in its order (columns: schemas.RESULTS).

    `outcomes` is what callbacks told (columns: schemas.OUTCOMES), where there is such a file: it counts more
    than what the journal tells of the same devices.
    """
    identity, told = journal.identity, read_outcomes(outcomes)
    frames = (
        _row(devices, batches, journal.history, identity, told).select(
            pl.col(name).cast(kind) for name, kind in RESULTS.items()
        )
        for devices, batches in _devices(plan)
    )
    write_table(path, RESULTS, frames)


def requested_rows(plan: Path, identity: RunIdentity, history: History) -> Iterator[pl.DataFrame]:
    """Each row of `plan`, of a migration once for each of its steps, with what became of it by `history`.

    Columns: those of the plan and of DeviceOutcome, times as Int64 in microseconds since 1970, null where
    nothing was sent; `offset` (Int64), its place in its batch, which has so many devices: `batch_size`;
    `plan_row` (UInt32), its place in the plan, both from 0; `step`, null but in a migration; `number`, that
    of the batch, or of its step, in the journal.
    """
    for devices, batches in _devices(plan):
        for step in STEP_STATUSES if identity.to_sku else (None,):
            before = 0 if step is None else step.number(0, identity.batches)
            yield _of_step(devices, batches, history, identity, step).with_columns(
                pl.len().over("batch_id").alias("batch_size"),
                pl.lit(None if step is None else step.word, pl.String).alias("step"),
                (pl.col("batch_id") + before).alias("number"),
            )


def _devices(plan: Path) -> Iterator[tuple[pl.DataFrame, range]]:
    """The rows of `plan` in its order, with `offset` and `plan_row`, and the batches that they are of."""
    start = 0
    for rows in chain(read_whole_batches(plan), read_excluded(plan)):
        numbers = rows["batch_id"].drop_nulls()
        devices = rows.with_columns(
            pl.int_range(pl.len()).over("batch_id").alias("offset"),
            pl.int_range(start, start + rows.height, dtype=pl.UInt32).alias("plan_row"),
        )
        yield devices, range(numbers[0], numbers[-1] + 1) if len(numbers) else range(0)
        start += rows.height


def _row(
    devices: pl.DataFrame, batches: range, history: History, identity: RunIdentity, told: pl.LazyFrame
) -> pl.DataFrame:
    """The rows of results.parquet about some devices, times as in the journal."""
    first, last = devices["plan_row"][0], devices["plan_row"][-1]
    said = told.filter(pl.col("plan_row").is_between(first, last)).collect()
    whose = devices.with_columns(run_id=pl.lit(identity.run_id), action=pl.lit(identity.job_action))
    if identity.to_sku is None:
        outcome = _corrected(_of_step(whose, batches, history, identity, None), said)
        return _shown(outcome.with_columns(_NO_MOVE))
    steps = []
    for step in Step:
        answered = _of_step(devices, batches, history, identity, step)
        corrected = _corrected(answered, said.filter(step=step.word))
        names = [pl.col(name).alias(f"{name}_{step.word}") for name in _OUTCOME]
        steps += [corrected.select(names), answered.select(pl.col("status").alias(f"answered_{step.word}"))]
    together = pl.concat([whose, *steps], how="horizontal")
    return _shown(migrated(together, identity.to_sku, identity.restorable))


def _of_step(
    devices: pl.DataFrame, batches: range, history: History, identity: RunIdentity, step: Step | None
) -> pl.DataFrame:
    """The devices with what one step made of them, or the only one."""
    if step is None:
        return _join(devices, history(batches=batches))
    numbers = step.numbers(batches, identity.batches)
    return _join(devices, history(batches=numbers), before=step.number(0, identity.batches))


def _corrected(devices: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """The devices as `said` tells of them (columns: schemas.OUTCOMES), where it does."""
    if said.is_empty():
        return devices
    said = said.drop("step").with_columns(pl.col("settled_at").dt.epoch("us"))
    return devices.join(said, on="plan_row", how="left", suffix="_told", maintain_order="left").with_columns(
        pl.when(pl.col("status_told").is_not_null()).then(f"{name}_told").otherwise(name).alias(name)
        for name in said.columns
        if name != "plan_row"
    )


def _shown(devices: pl.DataFrame) -> pl.DataFrame:
    """Devices as they are shown: those that nothing was sent for have a status, too."""
    why_held = pl.col("held").replace_strict(_WHY_HELD, default=None, return_dtype=pl.String)
    return devices.with_columns(
        pl.coalesce("held", "status", pl.lit(Standing.PENDING.value)).alias("status"),
        pl.col("attempts").fill_null(0),
        pl.coalesce("error_message", why_held).alias("error_message"),
    )


def _join(devices: pl.DataFrame, history: Iterator[Event], *, before: int = 0) -> pl.DataFrame:
    """The devices with what their history made of them (columns _OUTCOME), null where there is none.

    The numbers of the history are those of the batches and `before`.
    """
    of_batches: list[tuple[Any, ...]] = []
    of_devices: list[tuple[Any, ...]] = []
    for number, offset, outcome in outcomes_of_batches(history):
        batch_id = number - before
        if offset is None:
            of_batches.append((batch_id, *outcome))
        else:
            of_devices.append((batch_id, offset, *outcome))
    joined = devices.join(
        pl.DataFrame(of_batches, schema=_BATCH | _OUTCOME, orient="row"),
        on="batch_id",
        how="left",
        maintain_order="left",
    )
    if of_devices:
        split = pl.DataFrame(of_devices, schema=_BATCH | _OFFSET | _OUTCOME, orient="row")
        joined = joined.update(split, on=["batch_id", "offset"], how="left")
    return joined
