"""outcomes.parquet: the outcomes that callbacks reported for the devices of a run."""

from pathlib import Path

import polars as pl

from batchlic.reader.streaming import UTC, Schema
from batchlic.writer.tables import write_table

OUTCOMES: Schema = {
    "plan_row": pl.UInt32(),
    "step": pl.String(),
    "status": pl.String(),
    "request_id": pl.String(),
    "error_code": pl.String(),
    "error_message": pl.String(),
    "settled_at": UTC,
}
"""outcomes.parquet: one row per device that a callback reported; in a migration, one row per step.

`plan_row` counts the plan's rows from 0; `step` is null in runs that are not migrations.
"""


def write_outcomes(path: Path, outcomes: pl.LazyFrame) -> None:
    """Write outcomes.parquet (columns: OUTCOMES), whole or not at all."""
    write_table(path, outcomes.select(*OUTCOMES))


def read_outcomes(path: Path) -> pl.LazyFrame:
    """The outcomes of a run's callbacks (columns: OUTCOMES); no rows if the file does not exist."""
    if not path.exists():
        return pl.LazyFrame(schema=OUTCOMES)
    return pl.scan_parquet(path, schema=OUTCOMES, missing_columns="insert")
