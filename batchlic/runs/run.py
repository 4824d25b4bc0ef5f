"""A run from start to end: plan, preflight, submit, finalize."""

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import anyio
import msgspec
import polars as pl

from batchlic.carrier.client import open_client
from batchlic.chunker import DeviceStatus, Fit, Plan, PlanGroup, write_plan
from batchlic.errors import RunFolderError
from batchlic.job import Job
from batchlic.journal import SANDBOX, Journal
from batchlic.ledger import Snapshot
from batchlic.runs.finalize import final_summary, is_finished, now, summarize
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import (
    identify,
    job_of,
    open_journal,
    refuse_changed_plan,
    refuse_other_carrier,
    refuse_other_job,
    refuse_used,
)
from batchlic.runs.ledger_sync import ledger_sync, with_ledger
from batchlic.runs.preflight import (
    NOT_ASKED,
    Findings,
    RunListener,
    fit_to_licenses,
    preflight,
    refuse_too_few,
    register,
    still_to_license,
)
from batchlic.runs.staging import recovered_journal
from batchlic.runs.states import state_frames_of
from batchlic.runs.submit import submit
from batchlic.runs.target import Target
from batchlic.writer.device_states import DEVICE_STATES
from batchlic.writer.in_doubt import StatusReport, doubts_in
from batchlic.writer.summary import Summary


def new_run_id() -> str:
    """A name that no other run has: when it began, and 32 random bits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def plan_only(job: Job, folder: RunFolder, known: Snapshot | None = None) -> Plan:
    """Write plan.parquet and rejects.parquet, and nothing else; no network."""
    folder.make()
    with folder.locked():
        refuse_used(folder)
        return _plan(job, folder, known)


def start(
    job: Job,
    folder: RunFolder,
    target: Target,
    *,
    run_id: str,
    ask: Callable[[str], None] | None = None,
    listener: RunListener | None = None,
) -> Summary:
    """Plan and submit, or go on with the run in `folder` if it is this one; a plan is made only once.

    Raises UsageError or RefusedToStart before anything is sent; `ask` may raise RefusedToStart when it is
    told what is about to be done. `listener` is one that this process has brought up: an embedded sandbox is
    told to call it, a real carrier has been told before.
    """
    with folder.job_lock(job.name):
        folder.make()
        with folder.locked():
            if folder.journal.exists():
                with closing(recovered_journal(folder)) as journal:
                    refuse_other_job(folder, job, journal.identity)
                    return go_on(with_ledger(job, folder, journal.identity), folder, target, journal)
            refuse_used(folder)
            job = with_ledger(job, folder)
            with ledger_sync(job, target.name, holding=(folder,), is_new=True) as ledger:
                known = ledger.snapshot()
                found = NOT_ASKED

                def fit(groups: Sequence[PlanGroup]) -> list[int]:
                    nonlocal found
                    job.require_consent(group.sku_number for group in groups)
                    found = anyio.run(_preflight, target, groups, listener)
                    return fit_to_licenses(job, groups, found.counts)

                plan = _plan(job, folder, known, fit)
                if ask is not None:
                    ask(_question(job, plan, target))
                ledger.register(run_id, folder, begun_at=now(), planned_with=known)
            return begin(job, folder, target, plan, run_id=run_id, found=found)


def begin(
    job: Job, folder: RunFolder, target: Target, plan: Plan, *, run_id: str, found: Findings = NOT_ASKED
) -> Summary:
    """Make the journal of a new run, which the ledger knows of, and submit its plan.

    The caller holds the folder.
    """
    identity = msgspec.structs.replace(
        identify(job, folder, target.name, plan, run_id),
        notes=[*plan.notes, *found.notes],
        licenses=found.counts,
    )
    with closing(Journal.create(folder.journal, identity, created_at=now())) as journal:
        return submit(job, folder, target, journal, stopped=found.stopped)


def resume(folder: RunFolder, target: Target) -> Summary:
    """Continue a run from the end of its journal. A finished run stays as it is."""
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path}: there is no such run folder")
    with folder.locked(), closing(recovered_journal(folder)) as journal:
        job = job_of(journal.identity)
        with folder.job_lock(job.name):
            return go_on(job, folder, target, journal)


def go_on(job: Job, folder: RunFolder, target: Target, journal: Journal) -> Summary:
    """Submit what is left of a run, if anything is; the caller holds the folder."""
    refuse_other_carrier(folder, target.name, journal.identity)
    refuse_changed_plan(folder, journal.identity)
    if is_finished(journal):
        return final_summary(job, folder, journal)
    needed = still_to_license(job, folder.plan, journal)
    found = anyio.run(_preflight_rest, target, needed)
    if not job.limits.allow_partial:
        refuse_too_few(needed, found.counts)
    with ledger_sync(job, target.name, holding=(folder,)) as ledger:
        ledger.register_resumed(folder, journal)
    return submit(job, folder, target, journal, stopped=found.stopped)


def status(folder: RunFolder) -> StatusReport:
    """How a run stands now, from plan and journal; nothing is written, a run at work is not disturbed."""
    with closing(open_journal(folder)) as journal:
        refuse_changed_plan(folder, journal.identity)
        statuses, in_doubt = _status_in_one_pass(folder, journal)
        doubts = doubts_in(in_doubt.lazy())
        summary = summarize(journal, statuses, journal.session_ends(), journal.final_session_end)
        return StatusReport(**msgspec.structs.asdict(summary), doubts=doubts)


def _status_in_one_pass(folder: RunFolder, journal: Journal) -> tuple[dict[DeviceStatus, int], pl.DataFrame]:
    """Devices by status, and those in doubt: of one moment, though a session may be at work."""
    statuses: Counter[str] = Counter()
    in_doubt = [pl.DataFrame(schema=DEVICE_STATES)]
    for frame in state_frames_of(folder, journal):
        statuses.update(dict(frame["status"].value_counts().iter_rows()))
        in_doubt.append(frame.filter(pl.col("status") == DeviceStatus.IN_DOUBT.value))
    return {DeviceStatus(status): statuses[status] for status in sorted(statuses)}, pl.concat(in_doubt)


# -- planning -------------------------------------------------------------------------------------------


def _plan(job: Job, folder: RunFolder, known: Snapshot | None, fit: Fit | None = None) -> Plan:
    plan = write_plan(
        job.inventory.files,
        job.read_options(),
        batch_size=job.limits.batch_size,
        folder=folder.path,
        known_licenses=known,
        fit=fit,
    )
    if job.license.to_sku is None:
        return plan
    aim = f"from {job.license.from_sku} to {job.license.to_sku}, by two requests a batch"
    return replace(plan, notes=(*plan.notes, aim))


def _question(job: Job, plan: Plan, target: Target) -> str:
    groups = ", ".join(f"{g.devices:,} x {g.sku_number} on account {g.account_name}" for g in plan.groups)
    aim = f" to {job.license.to_sku}" if job.license.to_sku else ""
    return f"{job.action.capitalize()} {groups or 'nothing'}{aim} at {target.name}?"


# -- asking first ---------------------------------------------------------------------------------------


async def _preflight(target: Target, groups: Sequence[PlanGroup], listener: RunListener | None) -> Findings:
    if not groups:
        return NOT_ASKED
    is_rehearsal = target.name == SANDBOX
    async with open_client(target.base_url, target.credentials) as client:
        if is_rehearsal and listener is not None:
            await register(client, (group.account_name for group in groups), listener)
        found = await preflight(client, groups, listeners=not is_rehearsal)
        await client.logout()
    return found


async def _preflight_rest(target: Target, groups: Sequence[PlanGroup]) -> Findings:
    if not groups:
        return NOT_ASKED
    async with open_client(target.base_url, target.credentials) as client:
        found = await preflight(client, groups, listeners=False)
        await client.logout()
    return found
