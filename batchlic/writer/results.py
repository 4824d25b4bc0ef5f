"""results.parquet: the plan, with what became of each of its devices."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from batchlic.chunker import read_held, read_whole_batches
from batchlic.journal import Event, Journal, Standing
from batchlic.writer.outcomes import DeviceOutcome, as_row, outcomes_of_batches
from batchlic.writer.schemas import RESULTS, Schema
from batchlic.writer.tables import write_table

_OUTCOME: Schema = {
    name: pl.Int64() if isinstance(RESULTS[name], pl.Datetime) else RESULTS[name]
    for name in DeviceOutcome.__slots__
}
"""The columns that the history decides, times still as the journal has them: microseconds since 1970."""

DOUBTED_EARLIER = (
    "in doubt since an earlier run, so not sent: resume or settle that; `batchlic ledger show` names it"
)

_BATCH: Schema = {"batch_id": pl.UInt32()}
_OFFSET: Schema = {"offset": pl.Int64()}


def write_results(path: Path, *, plan: Path, journal: Journal) -> None:
    """Write results.parquet: one row for each row of `plan`, in its order (columns: schemas.RESULTS)."""
    write_table(path, RESULTS, _frames(plan, journal))


def _frames(plan: Path, journal: Journal) -> Iterator[pl.DataFrame]:
    identity = journal.identity
    for rows in chain(read_whole_batches(plan), read_held(plan)):
        numbers = rows["batch_id"].drop_nulls()
        batches = range(numbers[0], numbers[-1] + 1) if len(numbers) else range(0)
        devices = rows.with_columns(
            pl.lit(identity.run_id).alias("run_id"),
            pl.lit(identity.action.value).alias("action"),
            pl.int_range(pl.len()).over("batch_id").alias("offset"),
        )
        with_outcome = _join(devices, journal.history(batches=batches))
        yield with_outcome.select(pl.col(name).cast(kind) for name, kind in RESULTS.items())


def _join(devices: pl.DataFrame, history: Iterator[Event]) -> pl.DataFrame:
    of_batches: list[tuple[Any, ...]] = []
    of_devices: list[tuple[Any, ...]] = []
    for batch_id, offset, outcome in outcomes_of_batches(history):
        if offset is None:
            of_batches.append((batch_id, *as_row(outcome)))
        else:
            of_devices.append((batch_id, offset, *as_row(outcome)))
    joined = devices.join(
        pl.DataFrame(of_batches, schema=_BATCH | _OUTCOME, orient="row"),
        on="batch_id",
        how="left",
        maintain_order="left",
    )
    if of_devices:
        split = pl.DataFrame(of_devices, schema=_BATCH | _OFFSET | _OUTCOME, orient="row")
        joined = joined.update(split, on=["batch_id", "offset"], how="left")
    doubted_earlier = pl.when(pl.col("held") == Standing.IN_DOUBT.value).then(pl.lit(DOUBTED_EARLIER))
    return joined.with_columns(
        pl.coalesce("status", "held", pl.lit(Standing.PENDING.value)),
        pl.col("attempts").fill_null(0),
        pl.coalesce("error_message", doubted_earlier).alias("error_message"),
    )
