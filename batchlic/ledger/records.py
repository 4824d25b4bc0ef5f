"""What a run tells the ledger: its results, as far as they say what the carrier did."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from batchlic.carrier.catalogue import Action
from batchlic.chunker import DeviceStatus, Step
from batchlic.ledger.ledger import RECORD_COLUMNS, RECORDS_PER_FRAME, SCOPE, STATES
from batchlic.chunker.exclusion import LicenseState
from batchlic.reader.rules import iccid_number, imei_number
from batchlic.writer.migrations import EXECUTED, STEP_STATUSES

IMPORTED = "imported"
TOLD = (DeviceStatus.ACCEPTED.value, "confirmed", DeviceStatus.IN_DOUBT.value, IMPORTED)
"""Statuses that say something: a device that failed is as it was, one not sent as well."""

_REVERSE = {Action.ASSIGN: Action.UNASSIGN, Action.UNASSIGN: Action.ASSIGN}

_IS_WORD = pl.col("status").is_in(TOLD) & (
    pl.col("x_request_id").is_not_null() | (pl.col("status") == IMPORTED)
)

_NUMBERS = (
    imei_number(pl.col("imei")).alias("imei_number"),
    iccid_number(pl.col("iccid")).alias("iccid_number"),
)


def records_of_results(results: Path) -> Iterator[pl.DataFrame]:
    """The words in a results.parquet, about devices that this run has sent a request for.

    A migrated device has two: one about the SKU that it left, one about the SKU that it got.
    """
    yield from ledger_records(pl.scan_parquet(results).with_columns(at="last_attempt_at"))


def pairs_of_results(results: Path) -> Iterator[pl.DataFrame]:
    """Identifiers (ledger.IDENTIFIERS) that a results.parquet gives together, of devices not sent."""
    rows = pl.scan_parquet(results).filter(pl.col("batch_id").is_null())
    for start in range(0, rows.select(pl.len()).collect().item(), RECORDS_PER_FRAME):
        yield rows.slice(start, RECORDS_PER_FRAME).select(*_NUMBERS).drop_nulls().collect()


def records_of_plan(plan: Path) -> Iterator[pl.DataFrame]:
    """A word for each device of a plan: that it is known, from outside, to be assigned."""
    said = {"action": Action.ASSIGN.value, "status": IMPORTED, "x_request_id": None, "request_id": None}
    columns = [pl.lit(value, pl.String).alias(name) for name, value in said.items()]
    yield from ledger_records(
        pl.scan_parquet(plan).with_columns(*columns, at=pl.lit(None, RECORD_COLUMNS["at"]))
    )


def ledger_records(rows: pl.LazyFrame, *, only: pl.Expr | None = None) -> Iterator[pl.DataFrame]:
    """Words (ledger.SCOPE and ledger.WORDS) of rows with the columns of results.parquet, and `at`.

    A device that no request was sent for is none of the run's business. The same rows are in the same frame,
    though it is empty.
    """
    columns = [*SCOPE, *_NUMBERS, _state().alias("state"), *list(RECORD_COLUMNS)[3:]]
    for start in range(0, rows.select(pl.len()).collect().item(), RECORDS_PER_FRAME):
        some = recordable_rows(rows.slice(start, RECORDS_PER_FRAME))
        yield (some if only is None else some.filter(only)).select(columns).collect()


def recordable_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The rows, of those of results.parquet, that say something: of a migrated device two, one for each SKU.

    What was undone counts as what undid it: the restoring step is about the SKU of the step before it. A
    device that has the new license and has not given up the old one is assigned of both, known before or not.
    A request is named where the row of the migration names it.
    """
    if "from_sku" not in rows.collect_schema():
        return rows.filter(_IS_WORD)
    unassign, assign, restore = (pl.col(name) for name in STEP_STATUSES.values())
    is_undone, failed = restore.is_in(TOLD).fill_null(value=False), DeviceStatus.FAILED.value
    came_late = unassign.is_in(EXECUTED) & assign.is_in(
        EXECUTED
    )  # the second step, after the first was undone
    is_last = {step: pl.col("step").is_in([step, Step.RESTORE]) for step in STEP_STATUSES}
    given_back = is_undone & ((assign == failed) | (came_late & is_last[Step.ASSIGN])).fill_null(value=False)
    taken_back = is_undone & ((unassign == failed) | (came_late & is_last[Step.UNASSIGN])).fill_null(
        value=False
    )
    keeps = (
        assign.is_in(EXECUTED).fill_null(value=False)
        & ~taken_back
        & (unassign.is_null() | ~unassign.is_in(TOLD))
    )
    moves = rows.filter(pl.col("from_sku").is_not_null())
    sides = (
        (pl.col("from_sku"), Step.UNASSIGN, unassign, given_back, keeps, Action.UNASSIGN),
        (pl.col("sku_number"), Step.ASSIGN, assign, taken_back, pl.lit(value=False), Action.ASSIGN),
    )
    told = (
        moves.with_columns(
            sku.alias("sku_number"),
            pl.when(undone).then(restore).when(kept).then(assign).otherwise(status).alias("status"),
            pl.when(undone | kept).then(pl.lit(_REVERSE[action])).otherwise(pl.lit(action)).alias("action"),
            *(
                pl.when((pl.col("step") == step) & ~undone & ~kept).then(name).alias(name)
                for name in ("x_request_id", "request_id")
            ),
        )
        for sku, step, status, undone, kept, action in sides
    )
    is_said = pl.col("status").is_in(TOLD)
    return pl.concat(
        [rows.filter(pl.col("from_sku").is_null(), _IS_WORD), *(side.filter(is_said) for side in told)]
    )


def _state() -> pl.Expr:
    state = (
        pl.when(pl.col("status") == DeviceStatus.IN_DOUBT.value)
        .then(pl.lit(LicenseState.IN_DOUBT.name.lower()))
        .when(pl.col("action") == Action.ASSIGN.value)
        .then(pl.lit(LicenseState.ASSIGNED.name.lower()))
        .otherwise(pl.lit(LicenseState.UNASSIGNED.name.lower()))
    )
    return state.cast(STATES)
