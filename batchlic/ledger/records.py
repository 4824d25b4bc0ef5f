"""Makes ledger records: from the device states of a run, from an import, from a list of licensed devices."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus, Step, read_excluded
from batchlic.chunker.exclusion import LicenseState
from batchlic.ledger.schema import RECORD_COLUMNS, RECORDS_PER_FRAME, SCOPE, STATES
from batchlic.reader.scans import scan_parquet
from batchlic.reader.validation.rules import iccid_number, imei_number
from batchlic.writer.migrations import EXECUTED, MIGRATION_COLUMNS, STEP_STATUSES

IMPORTED = "imported"
"""The status of a device that a list says is licensed; no run of batchlic knows more of it."""

RECORDED = (*EXECUTED, DeviceStatus.IN_DOUBT.value, IMPORTED)
"""Statuses that make a record. A device that failed is as it was before, and so is one that was not sent."""

_REVERSE = {Action.ASSIGN: Action.UNASSIGN, Action.UNASSIGN: Action.ASSIGN}

_IS_RECORDED = pl.col("status").is_in(RECORDED) & (
    pl.col("x_request_id").is_not_null() | (pl.col("status") == IMPORTED)
)

_IDENTIFIERS = (
    imei_number(pl.col("imei")).alias("imei_number"),
    iccid_number(pl.col("iccid")).alias("iccid_number"),
)


def ledger_records(states: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The records (columns: SCOPE and RECORD_COLUMNS) of a run's devices, in frames for `Ledger.record`.

    `states` have the columns of results.parquet or of a ledger export; those of a migration may be missing.
    Devices that no request carried are left out. The same RECORDS_PER_FRAME devices make one frame, whatever
    frames they come in and whatever is recorded of them; a frame may be empty.
    """
    for pieces in _regroup(map(_select_needed, states), RECORDS_PER_FRAME):
        yield pl.concat(map(_records, pieces))


def recordable_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Those of the device states that make a record; `action` and `status` are what is recorded.

    A migrated device makes two, one under each SKU. Each names its request if the device state does. Rows
    with a `state` are records already, from a ledger export: all of them count.
    """
    columns = rows.collect_schema()
    if "state" in columns:
        return rows
    if "from_sku" not in columns:
        return rows.filter(_IS_RECORDED)
    migrations = rows.filter(pl.col("from_sku").is_not_null())
    return pl.concat(
        [
            rows.filter(pl.col("from_sku").is_null(), _IS_RECORDED),
            *(_rows_of_sku(migrations, side) for side in _sides_of_migration()),
        ]
    )


def list_states(plan: Path) -> Iterator[pl.DataFrame]:
    """Device states that say of each device of a plan that a list has it as licensed."""
    texts = {"action": Action.ASSIGN.value, "status": IMPORTED, "x_request_id": None, "request_id": None}
    columns = [pl.lit(value, pl.String).alias(name) for name, value in texts.items()]
    no_request = pl.lit(None, RECORD_COLUMNS["at"]).alias("last_attempt_at")
    yield from read_states(scan_parquet(plan).with_columns(*columns, no_request))


def excluded_pairs(plan: Path) -> Iterator[pl.DataFrame]:
    """Both identifiers (columns: IDENTIFIERS) of the devices that are in no batch of a plan."""
    for excluded in read_excluded(plan):
        yield excluded.select(_IDENTIFIERS).drop_nulls()


def read_states(rows: pl.LazyFrame, *, only: pl.Expr | None = None) -> Iterator[pl.DataFrame]:
    """The device states in a file, RECORDS_PER_FRAME at a time; `only` picks some of them."""
    needed = [name for name in _NEEDED if name in rows.collect_schema()]
    for states in slices_of(rows):
        yield (states if only is None else states.filter(only)).select(needed).collect()


def slices_of(rows: pl.LazyFrame) -> Iterator[pl.LazyFrame]:
    """The rows, RECORDS_PER_FRAME at a time."""
    for start in range(0, rows.select(pl.len()).collect().item(), RECORDS_PER_FRAME):
        yield rows.slice(start, RECORDS_PER_FRAME)


# -- frames ---------------------------------------------------------------------------------------------


_NEEDED = ("imei", "iccid", *SCOPE, *list(RECORD_COLUMNS)[2:-1], "last_attempt_at", *MIGRATION_COLUMNS)


def _select_needed(states: pl.DataFrame) -> pl.DataFrame:
    return states.select(name for name in _NEEDED if name in states.columns)


def _regroup(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[list[pl.DataFrame]]:
    """The same rows in the same order, in pieces; each list holds `rows` rows, the last one what is left."""
    pieces: list[pl.DataFrame] = []
    missing = rows
    for frame in frames:
        start = 0
        while frame.height - start >= missing:
            yield [*pieces, frame.slice(start, missing)]
            pieces, start, missing = [], start + missing, rows
        if start < frame.height:
            pieces.append(frame.slice(start))
            missing -= frame.height - start
    if pieces:
        yield pieces


def _records(states: pl.DataFrame) -> pl.DataFrame:
    rows = recordable_rows(states.lazy().rename({"last_attempt_at": "at"}))
    return rows.select(*SCOPE, *_IDENTIFIERS, _state(), *list(RECORD_COLUMNS)[3:]).collect()


def _state() -> pl.Expr:
    state = (
        pl.when(pl.col("status") == DeviceStatus.IN_DOUBT.value)
        .then(pl.lit(LicenseState.IN_DOUBT.name.lower()))
        .when(pl.col("action") == Action.ASSIGN.value)
        .then(pl.lit(LicenseState.ASSIGNED.name.lower()))
        .otherwise(pl.lit(LicenseState.UNASSIGNED.name.lower()))
    )
    return state.cast(STATES).alias("state")


# -- migrations -----------------------------------------------------------------------------------------


class _Side(NamedTuple):
    """One SKU of a migration: the step that changes its license, and when another step counts instead.

    `is_restored`: the restoring step undid the step. `is_kept`: the device still has this license, because
    only the other step was executed.
    """

    sku: pl.Expr
    step: Step
    is_restored: pl.Expr
    is_kept: pl.Expr
    action: Action


def _sides_of_migration() -> tuple[_Side, _Side]:
    """The SKU to leave and the SKU to get.

    The restoring step undoes the step that did not fail. Where neither failed, the second step took effect
    after the first one was undone; `step` names the second step, or the restoring one. A device that has the
    new license and still has the old one counts as assigned of both, even if the ledger did not know of the
    old one.
    """
    unassign, assign, restore = (pl.col(name) for name in STEP_STATUSES.values())
    is_undone = restore.is_in(RECORDED)
    both_executed = unassign.is_in(EXECUTED) & assign.is_in(EXECUTED)
    is_second = {step: pl.col("step").is_in([step, Step.RESTORE]) for step in STEP_STATUSES}
    failed = DeviceStatus.FAILED.value
    old_restored = _is_true(is_undone & ((assign == failed) | (both_executed & is_second[Step.ASSIGN])))
    new_restored = _is_true(is_undone & ((unassign == failed) | (both_executed & is_second[Step.UNASSIGN])))
    old_kept = _is_true(assign.is_in(EXECUTED)) & ~new_restored & ~_is_true(unassign.is_in(RECORDED))
    return (
        _Side(pl.col("from_sku"), Step.UNASSIGN, old_restored, old_kept, Action.UNASSIGN),
        _Side(pl.col("sku_number"), Step.ASSIGN, new_restored, pl.lit(value=False), Action.ASSIGN),
    )


def _rows_of_sku(migrations: pl.LazyFrame, side: _Side) -> pl.LazyFrame:
    """The device states of a migration as those of a run that changed the license of one SKU."""
    assign, restore = STEP_STATUSES[Step.ASSIGN], STEP_STATUSES[Step.RESTORE]
    is_by_step = ~side.is_restored & ~side.is_kept
    status = pl.when(side.is_restored).then(restore).when(side.is_kept).then(assign)
    names_request = (pl.col("step") == side.step) & is_by_step
    return migrations.with_columns(
        side.sku.alias("sku_number"),
        status.otherwise(pl.col(STEP_STATUSES[side.step])).alias("status"),
        pl.when(is_by_step)
        .then(pl.lit(side.action))
        .otherwise(pl.lit(_REVERSE[side.action]))
        .alias("action"),
        *(pl.when(names_request).then(name).alias(name) for name in ("x_request_id", "request_id")),
    ).filter(pl.col("status").is_in(RECORDED))


def _is_true(condition: pl.Expr) -> pl.Expr:
    return condition.fill_null(value=False)
