"""outcomes.parquet: what callbacks reported of a run's devices, and what could not be judged."""

from pathlib import Path

import msgspec
import polars as pl

from batchlic.figures import TIME_IN_FILES
from batchlic.reader.streaming import UTC, Column, schema_of
from batchlic.writer.tables import read_table, write_table

OUTCOME_COLUMNS = {
    "plan_row": Column(
        pl.UInt32(),
        "Row of plan.parquet, from 0; null for a message that could not be judged.",
    ),
    "step": Column(pl.String(), "Migration: `unassign`, `assign` or `restore`; null in other runs."),
    "status": Column(pl.String(), "`confirmed` or `failed`; null where nothing is settled."),
    "reported": Column(
        pl.String(),
        "Where nothing is settled: `on hold`, `canceled`, an unknown status, or why the message could "
        "not be judged.",
    ),
    "request_id": Column(
        pl.String(),
        "`requestId` of the request; that of the message if the message could not be judged, or proves "
        "a lost request.",
    ),
    "error_code": Column(pl.String(), "The carrier's code, without the service name; null if confirmed."),
    "error_message": Column(pl.String(), "The carrier's message; null if confirmed."),
    "settled_at": Column(UTC, "When the message arrived."),
}
"""The columns of outcomes.parquet, explained."""

OUTCOMES = schema_of(OUTCOME_COLUMNS)
"""What callbacks reported of a run; `plan_row` counts the plan's rows from 0.

- Outcomes: one row per device that succeeded or failed; in a migration, one row per step, with `step`.
- Undecided: one row per device, or step, for which something else was `reported`. `status` is null.
- Unjudged: one row per message with a requestId of the run that is about no known device. `plan_row` is null,
  and `reported` says why.
"""

_IS_OUTCOME = pl.col("status").is_not_null()
_IS_OF_DEVICE = pl.col("plan_row").is_not_null()


class UnjudgedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message with a requestId of the run that is about no known device.

    `received_at` is ISO 8601 in UTC.
    """

    received_at: str
    request_id: str
    reason: str
    error_code: str | None
    error_message: str | None


def write_reports(path: Path, reports: pl.LazyFrame) -> None:
    """Write outcomes.parquet (columns: OUTCOMES), whole or not at all."""
    write_table(path, reports.select(*OUTCOMES))


def read_reports(path: Path) -> pl.LazyFrame:
    """Everything that a run's callbacks reported (columns: OUTCOMES); no rows if the file does not exist."""
    if not path.exists():
        return pl.LazyFrame(schema=OUTCOMES)
    return read_table(path, OUTCOMES)


def read_outcomes(path: Path) -> pl.LazyFrame:
    """The successes and failures that a run's callbacks reported (columns: OUTCOMES)."""
    return outcomes_of(read_reports(path))


def outcomes_of(reports: pl.LazyFrame) -> pl.LazyFrame:
    """The successes and failures."""
    return reports.filter(_IS_OUTCOME)


def undecided_of(reports: pl.LazyFrame) -> pl.LazyFrame:
    """What else was reported of devices."""
    return reports.filter(~_IS_OUTCOME & _IS_OF_DEVICE)


def unjudged_of(reports: pl.LazyFrame) -> pl.LazyFrame:
    """The messages that are about no known device."""
    return reports.filter(~_IS_OF_DEVICE)


def count_undecided(reports: pl.LazyFrame) -> dict[str, int]:
    """Devices by what was reported of them instead of a success or failure, most devices first."""
    devices = undecided_of(reports).group_by("reported").agg(pl.col("plan_row").n_unique())
    return dict(devices.sort("plan_row", "reported", descending=[True, False]).collect().iter_rows())


def unjudged_messages(reports: pl.LazyFrame) -> list[UnjudgedMessage]:
    """The messages that are about no known device, in order of their time."""
    found = unjudged_of(reports).select(
        pl.col("settled_at").dt.to_string(TIME_IN_FILES).alias("received_at"),
        "request_id",
        pl.col("reported").alias("reason"),
        "error_code",
        "error_message",
    )
    return [UnjudgedMessage(**row) for row in found.collect().iter_rows(named=True)]
