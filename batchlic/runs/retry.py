"""Retries a run: a new run sends the devices that failed again, with the options of the first run."""

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus
from batchlic.chunker.exclusion import LicenseState
from batchlic.errors import RefusedToStart, UsageError
from batchlic.events import EventStream
from batchlic.figures import counted
from batchlic.job import Canary, Job, make_job
from batchlic.journal import JournalQueries, RunIdentity
from batchlic.reader import Role
from batchlic.reader.scans import scan_parquet
from batchlic.reader.validation.rules import iccid_number, imei_number
from batchlic.runs.asking import Ask
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import (
    inspected,
    job_of,
    refuse_changed_plan,
    refuse_other_carrier,
    refuse_used,
    refuse_without_profile,
)
from batchlic.runs.kept import kept_of
from batchlic.runs.ledger_sync import recorded_since, with_ledger
from batchlic.runs.related import is_rollback
from batchlic.runs.run import Retried, start
from batchlic.runs.states import states_of
from batchlic.runs.target import Target
from batchlic.writer.export import Format, device_rows, write_export
from batchlic.writer.migrations import EXECUTED
from batchlic.writer.summary import Summary

_COLUMNS = {Role.IMEI: "imei", Role.ICCID: "iccid", Role.ACCOUNT: "account_name", Role.SKU: "sku_number"}
"""The columns of the new run's inventory, which is an export of the first run."""

_KEY = ["imei", "iccid", "account_name"]

_HINTS = {
    DeviceStatus.IN_DOUBT: "a device in doubt may have its license: settle it (batchlic settle {run})",
    DeviceStatus.PENDING: "a pending device is sent by the run itself: batchlic resume {run}",
    DeviceStatus.ACCEPTED: "only failed devices are retried; callbacks decide about accepted ones",
    DeviceStatus.CONFIRMED: "only failed devices are retried",
    DeviceStatus.SKIPPED: "only failed devices are retried; skipped ones have their license",
}


def refuse_other_status(where: str, folder: RunFolder) -> None:
    """Raise UsageError unless `where` is `status=failed`; it says what to do with other devices."""
    key, _, value = where.partition("=")
    if key.strip() != "status" or not value:
        raise UsageError(f"--where {where}: give status=failed, and choose among errors with --code")
    if value.strip() == DeviceStatus.FAILED:
        return
    if value.strip() == "rejected":
        raise UsageError(
            f"--where {where}: rejected rows were never planned: correct them "
            f"(batchlic export {folder.argument} --what rejects), and run the corrected file"
        )
    try:
        hint = _HINTS[DeviceStatus(value.strip())].format(run=folder.argument)
    except ValueError:
        hint = f"there is no such status; known: {', '.join(DeviceStatus)}"
    raise UsageError(f"--where {where}: {hint}")


def retry(
    folder: RunFolder,
    target: Target,
    to: RunFolder,
    *,
    run_id: str,
    codes: Collection[str] = (),
    consent_lifetime: bool = False,
    allow_new_ledger: bool = False,
    canary: Mapping[str, Any] | None = None,
    ask: Ask | None = None,
    events: EventStream | None = None,
) -> Summary:
    """Send the failed devices of the run in `folder` again, as a new run in `to`.

    With `codes`, only devices whose error has one of these codes. The new run has the options of the first
    one, except for consents and the `canary` (keys of a job's table), which are given again, and guards of
    the number of rows. Devices that an earlier retry of the run has planned are left to that retry. Of a
    migration, only devices are sent that have exactly their old license.

    Raises RefusedToStart if a session of the run is at work or no device is left to retry, UsageError for a
    rollback or an unknown code, and what `start` raises.
    """
    if to.journal.exists():
        refuse_used(to)
    named = folder.named_store
    with to.made(named.store if named else None):
        try:
            with folder.quiet(), inspected(folder) as journal:
                identity = journal.identity
                _refuse_unsuited(folder, target, identity)
                devices, notes = _devices(folder, target, journal, codes)
                kept = identity.kept_columns
                write_export(device_rows(devices, kept=kept), Format.PARQUET, to.retried)
            job = _job(identity, to, consent_lifetime=consent_lifetime, allow_new=allow_new_ledger)
            job = make_job(job.model_dump(mode="json"), {"canary": canary or {}}, where="options")
            return start(
                job,
                to,
                target,
                run_id=run_id,
                ask=ask,
                events=events,
                retried=Retried(identity.run_id, notes),
            )
        except BaseException:
            if not to.journal.exists():
                to.retried.unlink(missing_ok=True)
            raise


def _refuse_unsuited(folder: RunFolder, target: Target, identity: RunIdentity) -> None:
    if is_rollback(folder):
        raise UsageError(
            f"{folder.path}: a rollback is not retried. To take back the licenses that are left: "
            f"batchlic export {folder.argument} --what failed --to failed.csv, then "
            "batchlic unassign failed.csv"
        )
    if job_of(identity).sync is not None:  # the failed devices alone would be an inventory without the rest
        raise UsageError(f"{folder.path}: a sync is not retried. Run it again: it sends what is missing")
    refuse_other_carrier(folder, target.name, identity)
    refuse_without_profile(folder, target, identity)
    refuse_changed_plan(folder, identity)


def _devices(
    folder: RunFolder, target: Target, journal: JournalQueries, codes: Collection[str]
) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    """The devices to retry (columns: DEVICE_STATES), and notes. Raises RefusedToStart if there are none."""
    identity = journal.identity
    failed = states_of(folder, journal, kept_of(folder, journal.identity)).filter(
        pl.col("status") == DeviceStatus.FAILED.value
    )
    found: dict[str | None, int] = dict(
        failed.group_by("error_code").len().sort("error_code").collect(engine="streaming").iter_rows()
    )
    if not found:
        raise RefusedToStart(f"{folder.path}: nothing to retry: no device failed")
    if unknown := sorted(set(codes) - {code for code in found if code}):
        known = ", ".join(f"{code or 'none'} ({counted(n, 'device')})" for code, n in found.items())
        raise UsageError(f"--code {unknown[0]}: no device failed with this code; the codes are: {known}")
    chosen = failed.filter(pl.col("error_code").is_in(list(codes))) if codes else failed
    n_sent = _count(chosen)
    notes = []
    for leave_out in (_without_old_license, _in_earlier_retries, _changed_since):
        chosen, reason = leave_out(folder, target, identity, chosen)
        before, n_sent = n_sent, _count(chosen) if reason else n_sent
        left_out = f"{counted(before - n_sent, 'failed device')} {reason}"
        if not n_sent:
            raise RefusedToStart(f"{folder.path}: nothing to retry: {left_out}")
        if n_sent < before:
            notes.append(f"left out: {left_out}")
    total = counted(sum(found.values()), "failed device")
    return chosen, (f"sends {n_sent:,} of the {total} of run {identity.run_id} again", *notes)


# Each of these returns the devices to retry, and why it leaves out the others; "" if it leaves out none.


def _without_old_license(
    _folder: RunFolder, _target: Target, identity: RunIdentity, devices: pl.LazyFrame
) -> tuple[pl.LazyFrame, str]:
    """Of a migration, only devices are sent that have exactly their old license."""
    if identity.to_sku is None:
        return devices, ""
    return devices.filter(_HAS_ONLY_ITS_OLD_LICENSE), (
        "of this migration without exactly the old license: error_message in results.parquet says what each "
        "one holds. Assign or unassign that license"
    )


def _in_earlier_retries(
    folder: RunFolder, _target: Target, identity: RunIdentity, devices: pl.LazyFrame
) -> tuple[pl.LazyFrame, str]:
    """Devices that an earlier retry of the run has planned are left to that retry."""
    earlier = [beside for beside in folder.beside() if _retries(beside, identity.run_id)]
    for other in earlier:
        planned = scan_parquet(other.plan).select(_KEY)
        devices = devices.join(planned, on=_KEY, how="anti", nulls_equal=True)
    places = ", ".join(str(other.path) for other in earlier)
    return devices, f"in earlier retries: {places}" if earlier else ""


def _changed_since(
    folder: RunFolder, target: Target, identity: RunIdentity, devices: pl.LazyFrame
) -> tuple[pl.LazyFrame, str]:
    """A retry does not undo what a later run has done.

    Of an assign run, devices with a license remain: the retry skips them by the ledger. So does a migration.
    """
    if identity.to_sku is not None:
        return devices, ""
    numbers = [
        imei_number(pl.col("imei")).alias("imei_number"),
        iccid_number(pl.col("iccid")).alias("iccid_number"),
    ]
    rows = devices.select(*_KEY, "sku_number", *numbers).collect(engine="streaming")
    job = with_ledger(job_of(identity), folder, identity)
    changed = recorded_since(job, target.name, identity, rows)
    if identity.action is Action.ASSIGN:
        changed = changed.filter(state=LicenseState.UNASSIGNED.name.lower())
    if changed.is_empty():
        return devices, ""
    left = devices.join(changed.lazy().select(_KEY).unique(), on=_KEY, how="anti", nulls_equal=True)
    return left, "whose license a later run has changed"


def _retries(folder: RunFolder, run_id: str) -> bool:
    identity, _ = folder.journal.identity()
    return identity.retry_of == run_id and folder.plan.is_file()


def _count(devices: pl.LazyFrame) -> int:
    return int(devices.select(pl.len()).collect(engine="streaming").item())


def _is_done(step: str) -> pl.Expr:
    return pl.col(f"{step}_status").is_in(EXECUTED).fill_null(value=False)


_HAS_ONLY_ITS_OLD_LICENSE = (
    pl.when(_is_done("restore"))
    .then(_is_done("unassign") != _is_done("assign"))
    .otherwise(~_is_done("unassign") & ~_is_done("assign"))
)
"""Neither step was executed, or one was, and has been undone: `migrations.RULES`."""


def _job(identity: RunIdentity, to: RunFolder, *, consent_lifetime: bool, allow_new: bool) -> Job:
    job = job_of(identity)
    inventory = {
        "files": [str(to.retried)],
        "query": None,
        "columns": _COLUMNS,
        "keep": identity.kept_columns,
        "format_profile": None,
        "sheet": None,
        "allow_empty": False,
        "min_rows": None,
        "max_change": None,
    }
    tables = {
        "inventory": job.inventory.model_copy(update=inventory),
        "license": job.license.model_copy(update={"consent_lifetime": consent_lifetime}),
        "ledger": job.ledger.model_copy(update={"allow_new": allow_new}),
        "canary": Canary(),
    }
    return job.model_copy(update=tables)
