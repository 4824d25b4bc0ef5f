"""Rolls back a run: a new run takes back the licenses that the first run assigned."""

import shlex
from contextlib import closing
from dataclasses import replace
from enum import StrEnum

import polars as pl

from batchlic.aliases import shown
from batchlic.carrier.catalog import Action, LicenseType
from batchlic.chunker import DeviceStatus
from batchlic.chunker.rollback import write_rollback_plan
from batchlic.errors import RefusedToStart, UsageError
from batchlic.events import EventStream
from batchlic.figures import counted
from batchlic.job import Job
from batchlic.journal import RunIdentity
from batchlic.objectstore.copies import claim
from batchlic.runs.asking import Ask
from batchlic.runs.descriptors import connections_for
from batchlic.runs.finalize import now
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import (
    job_of,
    refuse_changed_plan,
    refuse_other_carrier,
    refuse_used,
    refuse_without_profile,
)
from batchlic.runs.kept import kept_of
from batchlic.runs.ledger_sync import ledger_sync
from batchlic.runs.related import ROLLBACK_FOLDER
from batchlic.runs.run import begin, continue_run
from batchlic.runs.run_events import run_started
from batchlic.runs.signals import finishing
from batchlic.runs.staging import recovered_journal
from batchlic.runs.states import state_frames_of, states_of
from batchlic.runs.target import Target
from batchlic.writer.migrations import EXECUTED
from batchlic.writer.summary import Summary


class By(StrEnum):
    """How requests name the licenses to take back."""

    REQUEST = "request"
    """Each accepted request by its X-Request-ID, without a body."""
    DEVICE = "device"
    """The accepted devices, in a body like that of assign."""


def rollback(
    folder: RunFolder,
    by: By,
    target: Target,
    *,
    run_id: str,
    ask: Ask | None = None,
    events: EventStream | None = None,
) -> Summary:
    """Take back the licenses that the run in `folder` assigned, or continue such a rollback.

    The folder of the new run is `rollback-by-request` or `rollback-by-device` in the folder of the first run.
    Devices in doubt stay unchanged, and Lifetime devices are rejected as `irrevocable`. A migration is rolled
    back by device: the moved devices move back. Raises UsageError if the run unassigned licenses, or if it is
    already rolled back in the other way. Raises RefusedToStart if there is nothing to take back.
    """
    events = events or EventStream()
    connections_for(1)  # raises if there are too few descriptors
    with folder.locked(), closing(recovered_journal(folder)) as journal:
        _refuse_unsuited(folder, by, journal.identity)
        refuse_other_carrier(folder, target.name, journal.identity)
        refuse_without_profile(folder, target, journal.identity)
        refuse_changed_plan(folder, journal.identity)
        back = _folder_of(folder, by)
        if back.journal.exists():
            with finishing(), back.locked(), closing(recovered_journal(back)) as back_journal:
                return continue_run(job_of(back_journal.identity), back, target, back_journal, events)
        job = _job(folder, journal.identity)
        notes = _preflight(states_of(folder, journal), job, by)
        named = folder.named_store
        with back.made(named.store if named else None), back.locked():
            refuse_used(back)
            events.emit(run_started(job, back, target.name, run_id))
            kept = kept_of(folder, journal.identity)
            plan = write_rollback_plan(
                lambda: state_frames_of(folder, journal, kept),
                back.path,
                source=shown(str(folder.path)),
                lifetime_skus=_lifetime_skus(job),
                by_request=by is By.REQUEST,
                kept=kept.columns,
            )
            if ask is not None:
                ask(f"Take back {counted(plan.planned, 'license')} of {folder.path} at {target.name}?")
            with ledger_sync(job, target.name, locked=(folder, back)) as ledger:
                ledger.catch_up()
                claim(back.path)
                ledger.register(run_id, back, begun_at=now())
            return begin(job, back, target, replace(plan, notes=notes), events, run_id=run_id)


def _folder_of(folder: RunFolder, by: By) -> RunFolder:
    return RunFolder(folder.path / f"{ROLLBACK_FOLDER}{by}")


def _refuse_unsuited(folder: RunFolder, by: By, identity: RunIdentity) -> None:
    if identity.is_sync:
        raise UsageError(
            f"{folder.path}: a sync can't be rolled back. To return to an earlier state, sync the inventory "
            "of that time: batchlic sync INVENTORY"
        )
    if identity.job_action == Action.UNASSIGN:
        raise UsageError(
            f"{folder.path}: this run unassigned licenses; only assign and migrate runs can be rolled back"
        )
    if identity.to_sku and by is not By.DEVICE:
        raise UsageError(f"{folder.path}: a migration can be rolled back only by device: add --by device")
    for other in By:
        earlier = _folder_of(folder, other)
        if other is not by and earlier.journal.exists():
            raise UsageError(
                f"{folder.path}: already rolled back by {other}, in {earlier.path}. To unassign the rest: "
                f"batchlic unassign {shlex.quote(str(earlier.results))}"
            )


def _job(folder: RunFolder, identity: RunIdentity) -> Job:
    job = job_of(identity)
    inventory = job.inventory.model_copy(update={"files": [str(folder.plan)], "query": None, "columns": {}})
    # Not every carrier calls back when a request is undone.
    limits = job.limits.model_copy(update={"require_confirmation": False})
    changes = {"name": None, "inventory": inventory, "limits": limits, "notify": None}
    if identity.to_sku is None:
        return job.model_copy(update={**changes, "action": Action.UNASSIGN.value})
    swapped = {"from_sku": job.license.to_sku, "to_sku": job.license.from_sku}
    return job.model_copy(update={**changes, "license": job.license.model_copy(update=swapped)})


def _preflight(rows: pl.LazyFrame, job: Job, by: By) -> tuple[str, ...]:
    """Notes about devices that are not rolled back. Raises RefusedToStart if no license can be taken back."""
    accepted, flexible = (
        rows.filter(_ACCEPTED),
        rows.filter(_ACCEPTED & ~pl.col("sku_number").is_in(_lifetime_skus(job))),
    )
    doubtful = rows.filter(pl.col("status") == DeviceStatus.IN_DOUBT.value)
    n_accepted, n_flexible, n_doubtful = (
        frame.item() for frame in pl.collect_all([t.select(pl.len()) for t in (accepted, flexible, doubtful)])
    )
    if not n_flexible:
        why = "a Lifetime license can't be taken back" if n_accepted else "the run has no accepted device"
        raise RefusedToStart(f"nothing to roll back: {why}")
    if not n_doubtful:
        return ()
    sharing = accepted.join(doubtful, on="x_request_id", how="semi").select(pl.len()).collect().item()
    if by is By.REQUEST and sharing:
        devices = f"{counted(sharing, 'accepted device')} {'shares' if sharing == 1 else 'share'}"
        raise RefusedToStart(
            f"{devices} a request with devices in doubt, and a request can only be "
            "undone as a whole. Settle the devices in doubt first, or use --by device"
        )
    left = f"{counted(n_doubtful, 'device')} in doubt {'is' if n_doubtful == 1 else 'are'} not rolled back"
    return (f"{left}. Settle what is in doubt, then unassign the devices that are licensed",)


_ACCEPTED = pl.col("status").is_in(EXECUTED)


def _lifetime_skus(job: Job) -> list[str]:
    return [sku for sku, license in job.skus.items() if license is LicenseType.LIFETIME]
