"""The read model of a run: the state of every planned device, from plan, journal and callback outcomes.

Results, status, verify, settle, rollback, ledger and export read this model. It is computed frame by frame
(promise H), and only results.parquet stores it.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus, Step, read_excluded, read_whole_batches
from batchlic.journal import JournalQueries, RunIdentity
from batchlic.reader.scans import scan_parquet
from batchlic.reader.streaming import UTC, Column, Schema, lazy_frame, schema_of
from batchlic.writer.kept import NOTHING_KEPT, Kept
from batchlic.writer.migrations import MIGRATION_COLUMNS, STEP_STATUSES, migrated
from batchlic.writer.outcomes import DeviceOutcome, batch_outcomes

RESULT_COLUMNS = {
    "run_id": Column(pl.String(), "The run."),
    "source": Column(pl.String(), "The inventory."),
    "row": Column(pl.UInt64(), "The 1-based data row in the inventory."),
    "imei": Column(pl.String(), "Normalized IMEI; null if the row has none."),
    "iccid": Column(pl.String(), "Normalized ICCID; null if the row has none."),
    "account_name": Column(pl.String(), "Account."),
    "sku_number": Column(pl.String(), "SKU; in a migration the SKU that the device gets."),
    "action": Column(
        pl.String(),
        "`assign`, `unassign` or `migrate`; in a sync that of the device, null for a device that the "
        "sync leaves without a license.",
    ),
    "batch_id": Column(pl.UInt32(), "Batch of the plan, from 1; null for a device in no batch."),
    "x_request_id": Column(
        pl.String(),
        "`X-Request-ID` of the request that decided the status; null before anything was sent.",
    ),
    "request_id": Column(pl.String(), "The carrier's id of that request, if the carrier accepted it."),
    "status": Column(pl.String(), "How the device stands: see the table of statuses."),
    "http_status": Column(
        pl.UInt16(),
        "HTTP status of the answer that decided the device's status; null without an answer.",
    ),
    "error_code": Column(pl.String(), "The carrier's code, without the service name."),
    "error_message": Column(pl.String(), "The carrier's message, or what is wrong in batchlic's words."),
    "attempts": Column(pl.UInt32(), "Number of requests that carried this device."),
    "first_attempt_at": Column(UTC, "When the first of these requests was sent."),
    "last_attempt_at": Column(UTC, "When the last of these requests was sent."),
    "settled_at": Column(UTC, "When the outcome became known; null before that."),
    "settled_by": Column(
        pl.String(),
        "The user who settled the device, or `a callback`; null if an answer decided the status.",
    ),
    "from_sku": Column(
        pl.String(),
        "Migration: the SKU that the device leaves. This column and the next four are null in other runs.",
    ),
    "step": Column(
        pl.String(),
        "Migration: the step whose request decided the status, or is still to be answered: `unassign`, "
        "`assign` or `restore`.",
    ),
    "unassign_status": Column(pl.String(), "Migration: status of this step; null if it was not sent."),
    "assign_status": Column(pl.String(), "Migration: status of this step; null if it was not sent."),
    "restore_status": Column(pl.String(), "Migration: status of this step; null if it was not sent."),
}
"""The columns of results.parquet, explained."""

RESULTS = schema_of(RESULT_COLUMNS)
"""results.parquet: one row per planned device. docs/reference/files.md explains each column."""

DEVICE_STATES: Schema = RESULTS | {
    "plan_row": pl.UInt32(),
    "offset": pl.Int64(),
    "batch_size": pl.UInt32(),
    "awaits_resend": pl.Boolean(),
    "is_refused": pl.Boolean(),
}
"""The columns of results.parquet, and five more: the device's row in the plan and its place in its batch,
both from 0; the number of devices in that batch; and `awaits_resend` and `is_refused` of its outcome, in a
migration that of `step`."""

_OUTCOME: Schema = {
    name: pl.Int64() if isinstance(RESULTS[name], pl.Datetime) else RESULTS[name]
    for name in DeviceOutcome._fields
    if name in RESULTS
} | {"awaits_resend": pl.Boolean(), "is_refused": pl.Boolean()}
"""The columns whose values come from the history. Times are microseconds since 1970, as in the journal."""

REQUEST_STATES: Schema = {
    "plan_row": pl.UInt32(),
    "batch_id": pl.UInt32(),
    "step": pl.String(),
    "offset": pl.Int64(),
    "batch_size": pl.UInt32(),
    **{name: RESULTS[name] for name in ("imei", "iccid", "account_name")},
    **{name: _OUTCOME[name] for name in ("request_id", "status", "first_attempt_at", "last_attempt_at")},
    "settled_by": RESULTS["settled_by"],
}
"""The state of one request for a device. `step` is null in runs that are not migrations; times are as in the
journal."""

_WHOLE_BATCH: Schema = {"batch_id": pl.UInt32(), "step": pl.String()}
_ONE_DEVICE: Schema = _WHOLE_BATCH | {"offset": pl.Int64()}

_WHY_EXCLUDED = {
    DeviceStatus.IN_DOUBT.value: "in doubt since an earlier run, so not sent: resume or settle that run; "
    "`batchlic ledger show` names it",
    DeviceStatus.FAILED.value: "holds both licenses since an earlier run, according to the ledger; not sent. "
    "If that run was stopped, `batchlic resume` it; otherwise `batchlic unassign` takes the old license",
}


def device_states(
    plan: Path, journal: JournalQueries, outcomes: pl.LazyFrame, kept: Kept = NOTHING_KEPT
) -> pl.LazyFrame:
    """One row per device of `plan`, in the same order (columns: DEVICE_STATES, then those of `kept`).

    `outcomes` are the successes and failures of callbacks (columns: callback_outcomes.OUTCOMES), which
    override the answers in the journal. The journal must stay open until the query is collected.
    """
    return lazy_frame(lambda: state_frames(plan, journal, outcomes, kept), DEVICE_STATES | kept.schema)


def state_frames(
    plan: Path, journal: JournalQueries, outcomes: pl.LazyFrame, kept: Kept = NOTHING_KEPT
) -> Iterator[pl.DataFrame]:
    """The rows of `device_states` in frames of whole batches."""
    identity = journal.identity
    for devices, batches in _planned_devices(plan):
        answered = _answered(devices, batches, journal, identity, with_settlements=True)
        first, last = devices["plan_row"][0], devices["plan_row"][-1]
        reported = outcomes.filter(pl.col("plan_row").is_between(first, last)).collect()
        states = _migrated(answered, reported, identity) if identity.to_sku else _single(answered, reported)
        action = pl.col("action") if identity.is_sync else pl.lit(identity.job_action)
        named = states.with_columns(run_id=pl.lit(identity.run_id), action=action)
        whole = _with_excluded(named, is_sync=identity.is_sync)
        rows = whole.select(pl.col(name).cast(kind) for name, kind in DEVICE_STATES.items())
        yield rows.hstack(kept.rows(first, rows.height)) if kept.columns else rows


def request_states(
    plan: Path, journal: JournalQueries, *, with_settlements: bool = False
) -> Iterator[pl.DataFrame]:
    """Each request for each device (columns: REQUEST_STATES), by the carrier's answers without callbacks.

    A migration has up to three requests per device, one per step. `status` is null if nothing was sent.
    """
    identity = journal.identity
    for devices, batches in _planned_devices(plan):
        answered = _answered(devices, batches, journal, identity, with_settlements=with_settlements)
        for step in STEP_STATUSES if identity.to_sku else (None,):
            named = answered[step].with_columns(step=pl.lit(step, pl.String))
            yield named.select(pl.col(name).cast(kind) for name, kind in REQUEST_STATES.items())


def request_totals(
    plan: Path, journal: JournalQueries, action: Action | None = None
) -> dict[tuple[str, str], dict[DeviceStatus, int]]:
    """Devices accepted, failed and in doubt for each account and SKU, by the carrier's answers.

    `action` picks the batches of a sync that do so. Pending devices are left out, because no request for them
    was executed. Migrations are not supported.
    """
    history = journal.attempts(batches=range(1, journal.identity.batches + 1))
    rows = [
        (found.batch_id, found.offset is None, found.outcome.status)
        for found in batch_outcomes(history)
        if found.outcome.status != DeviceStatus.PENDING
    ]
    kinds = {"batch_id": pl.UInt32, "is_whole": pl.Boolean, "status": pl.String}
    outcomes = pl.DataFrame(rows, kinds, orient="row").lazy()
    target = ("account_name", "sku_number")
    rows_of_plan = scan_parquet(plan)
    if action is not None:
        rows_of_plan = rows_of_plan.filter(pl.col("action") == action.value)
    batches = rows_of_plan.group_by("batch_id", *target).agg(pl.len().alias("size"))
    devices = pl.when("is_whole").then("size").otherwise(1).sum()
    sums = outcomes.join(batches, on="batch_id").group_by(*target, "status").agg(devices.alias("devices"))
    totals: dict[tuple[str, str], dict[DeviceStatus, int]] = {}
    for account, sku, status, count in sums.collect().iter_rows():
        totals.setdefault((account, sku), {})[DeviceStatus(status)] = count
    return totals


def _planned_devices(plan: Path) -> Iterator[tuple[pl.DataFrame, range]]:
    """The rows of `plan` in frames of whole batches, with their places; and the ids of the batches."""
    start = 0
    for rows in chain(read_whole_batches(plan), read_excluded(plan)):
        if "held" not in rows.columns:  # plans of early versions excluded nothing
            rows = rows.with_columns(pl.lit(None, pl.String).alias("held"))  # noqa: PLW2901
        batch_ids = rows["batch_id"].drop_nulls()
        devices = rows.with_columns(
            pl.int_range(pl.len()).over("batch_id").alias("offset"),
            pl.len().over("batch_id").alias("batch_size"),
            pl.int_range(start, start + rows.height, dtype=pl.UInt32).alias("plan_row"),
        )
        yield devices, range(batch_ids[0], batch_ids[-1] + 1) if len(batch_ids) else range(0)
        start += rows.height


def _answered(
    devices: pl.DataFrame,
    batches: range,
    journal: JournalQueries,
    identity: RunIdentity,
    *,
    with_settlements: bool,
) -> Mapping[Step | None, pl.DataFrame]:
    """For each step, the devices with their outcome (columns: _OUTCOME); null if nothing was sent."""
    read = journal.history if with_settlements else journal.attempts
    whole: list[tuple[Any, ...]] = []
    single: list[tuple[Any, ...]] = []
    for batch_id, step, offset, outcome in batch_outcomes(read(batches=batches) if batches else ()):
        if offset is None:
            whole.append((batch_id, step, *outcome))
        else:
            single.append((batch_id, step, offset, *outcome))
    of_batches = pl.DataFrame(whole, schema=_WHOLE_BATCH | _OUTCOME, orient="row")
    of_devices = pl.DataFrame(single, schema=_ONE_DEVICE | _OUTCOME, orient="row")
    if not identity.to_sku:
        return {None: _join(devices, of_batches.drop("step"), of_devices.drop("step"))}
    return {
        step: _join(
            devices,
            of_batches.filter(pl.col("step") == step.value).drop("step"),
            of_devices.filter(pl.col("step") == step.value).drop("step"),
        )
        for step in Step
    }


def _join(devices: pl.DataFrame, of_batches: pl.DataFrame, of_devices: pl.DataFrame) -> pl.DataFrame:
    joined = devices.join(of_batches, on="batch_id", how="left", maintain_order="left")
    if of_devices.is_empty():
        return joined
    return joined.update(of_devices, on=["batch_id", "offset"], how="left")


def _single(answered: Mapping[Step | None, pl.DataFrame], reported: pl.DataFrame) -> pl.DataFrame:
    """The devices of a run with one request per device."""
    empty = [pl.lit(None, RESULTS[name]).alias(name) for name in MIGRATION_COLUMNS]
    return _corrected(answered[None], reported).with_columns(empty)


def _migrated(
    answered: Mapping[Step | None, pl.DataFrame], reported: pl.DataFrame, identity: RunIdentity
) -> pl.DataFrame:
    """The devices of a migration: one row per device, from the outcomes of its steps."""
    columns = []
    for step in Step:
        corrected = _corrected(answered[step], reported.filter(pl.col("step") == step.value))
        columns.append(corrected.select(pl.col(name).alias(f"{name}_{step}") for name in _OUTCOME))
        columns.append(answered[step].select(pl.col("status").alias(f"answered_{step}")))
    devices = answered[Step.UNASSIGN].drop(_OUTCOME)
    return migrated(
        pl.concat([devices, *columns], how="horizontal"), identity.to_sku or "", identity.restorable
    )


def _corrected(devices: pl.DataFrame, reported: pl.DataFrame) -> pl.DataFrame:
    """The devices, with the outcomes that callbacks reported instead of the carrier's answers."""
    if reported.is_empty():
        return devices
    reported = reported.drop("step", "reported").with_columns(pl.col("settled_at").dt.epoch("us"))
    joined = devices.join(reported, on="plan_row", how="left", suffix="_reported", maintain_order="left")
    is_reported = pl.col("status_reported").is_not_null()
    return joined.with_columns(
        pl.when(is_reported).then(f"{name}_reported").otherwise(name).alias(name)
        for name in reported.columns
        if name != "plan_row"
    )


def _with_excluded(devices: pl.DataFrame, *, is_sync: bool) -> pl.DataFrame:
    """The devices, with a status for those that were not sent, too."""
    reason = pl.col("held").replace_strict(_WHY_EXCLUDED, default=None, return_dtype=pl.String)
    if is_sync:
        reason = pl.coalesce(_why_left_alone(), reason)
    return devices.with_columns(
        pl.coalesce("held", "status", pl.lit(DeviceStatus.PENDING.value)).alias("status"),
        pl.col("attempts").fill_null(0),
        pl.col("awaits_resend", "is_refused").fill_null(value=False),
        pl.coalesce("error_message", reason).alias("error_message"),
    )


def _why_left_alone() -> pl.Expr:
    """Why a sync does nothing with a device that is not licensed as it should be; null for other devices."""
    is_skipped = pl.col("held") == DeviceStatus.SKIPPED.value
    return (
        pl.when(is_skipped & pl.col("action").is_null())
        .then(pl.lit("has no license, according to the ledger: the job assigns none"))
        .when(is_skipped & (pl.col("action") == Action.UNASSIGN.value))
        .then(pl.lit("gone from the inventory, but a Lifetime license can't be taken back"))
    )
