"""A run from start to end: plan, preflight, submit, finalize."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus, Fit, Plan, PlanGroup, write_plan
from batchlic.chunker.sync import SyncRules
from batchlic.errors import ExitCode, RefusedToStart, UsageError
from batchlic.events import EventStream, Phase
from batchlic.job import Job, StoreUse
from batchlic.journal import SANDBOX, Journal, PlanApproval
from batchlic.ledger import Snapshot
from batchlic.objectstore.copies import claim
from batchlic.runs.approval import refuse_unapproved
from batchlic.runs.asking import Ask, ask_about_licenses
from batchlic.runs.canary import gate_of
from batchlic.runs.descriptors import connections_for
from batchlic.runs.estimate import Estimate, describe_licenses, describe_time, estimate
from batchlic.runs.finalize import final_summary, is_finished, now
from batchlic.runs.folder import RunFolder, missing_folder
from batchlic.runs.guards import Guards, guards_of
from batchlic.runs.identity import (
    identify,
    inspected,
    job_of,
    refuse_changed_plan,
    refuse_other_carrier,
    refuse_other_job,
    refuse_used,
    refuse_without_profile,
)
from batchlic.runs.kept import note_on_other_columns, refuse_own_names
from batchlic.runs.ledger_sync import ledger_sync, with_ledger
from batchlic.runs.plan_record import PlanRecord
from batchlic.runs.preflight import (
    NOT_ASKED,
    Findings,
    RunListener,
    ask_carrier,
    fit_to_licenses,
    one_for_each_target,
    planned_groups,
    refuse_too_few,
    still_to_free,
    still_to_license,
)
from batchlic.runs.run_events import plan_ready, run_started
from batchlic.runs.signals import finishing, raise_if_asked
from batchlic.runs.staging import recovered_journal, remove_report
from batchlic.runs.submit import Send, submit
from batchlic.runs.sync import is_short, sync_rules
from batchlic.runs.target import Target
from batchlic.writer.summary import Summary, exit_code_of


@dataclass(frozen=True, slots=True)
class Retried:
    """A run whose failed devices a new run sends again; `notes` says which of them."""

    run_id: str
    notes: tuple[str, ...]


def new_run_id() -> str:
    """A unique name for a run: the time it began, and 32 random bits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def plan_only(
    job: Job,
    folder: RunFolder,
    guards: Guards,
    known: Snapshot | None = None,
    *,
    fit: Fit | None = None,
    sync: SyncRules | None = None,
    then: Callable[[Plan], None] = lambda _: None,
) -> Plan:
    """Write plan.parquet and rejects.parquet, and nothing else, without network.

    `fit` is that of `write_plan`. `sync` are the rules of a sync; by default, those of the job. `then` is
    called while the folder is still locked. Raises what `start` raises before it asks the carrier, except for
    a missing consent.
    """
    with folder.made(job.store.url), folder.locked():
        refuse_used(folder)
        plan = _plan(job, folder, guards, known, fit=fit, sync=sync)
        then(plan)
        return plan


def dry_run(job: Job, folder: RunFolder, guards: Guards, known: Snapshot | None = None) -> Plan:
    """The plan that `start` would make in `folder`, without leaving a file."""
    if folder.journal.exists():
        with inspected(folder) as journal:
            refuse_other_job(folder, job, journal.identity)
    else:
        refuse_used(folder)
    without_store = job.model_copy(update={"store": StoreUse()})
    with TemporaryDirectory(prefix="batchlic-") as scratch:
        return plan_only(without_store, RunFolder(Path(scratch)), guards, known)


def expected_exit_code(job: Job, plan: Plan) -> ExitCode:
    """The exit code of a run of this plan, if the carrier accepts and confirms every request."""
    excluded = {DeviceStatus(status): devices for status, devices in plan.excluded.items()}
    accepted = {DeviceStatus.ACCEPTED: plan.planned - sum(excluded.values())}
    rejected = sum(plan.rejected.values())
    return exit_code_of(accepted | excluded, rejected=rejected, max_rejects=job.limits.max_rejects)


def start(
    job: Job,
    folder: RunFolder,
    target: Target,
    *,
    run_id: str,
    ask: Ask | None = None,
    listener: RunListener | None = None,
    events: EventStream | None = None,
    retried: Retried | None = None,
    send: Send | None = None,
) -> Summary:
    """Plan and submit, or continue the run in `folder` if it is the same one. A plan is made only once.

    Raises UsageError or RefusedToStart before anything is sent. `ask` gets the question to confirm, and may
    raise RefusedToStart. `listener` is one that this process started: it is registered with a sandbox here;
    with a real carrier it was registered before. `events` tells subscribers what happens. `retried` is the
    run whose devices are sent again. `send` is that of `submit`.
    """
    events = events or EventStream()
    connections_for(job.limits.max_concurrency)  # raises if there are too few descriptors
    with folder.job_lock(job.name, job.store.url), folder.made(job.store.url), folder.locked():
        if folder.journal.exists():
            with finishing(), closing(recovered_journal(folder)) as journal:
                refuse_other_job(folder, job, journal.identity)
                notes = note_on_other_columns(job, journal.identity)
                job = with_ledger(job, folder, journal.identity)
                if job_of(journal.identity).canary.confirmed:
                    job = job.with_canary(confirmed=True)
                summary = continue_run(job, folder, target, journal, events, send=send)
                return msgspec.structs.replace(summary, notes=[*summary.notes, *notes])
        refuse_used(folder)
        refuse_unapproved(job, folder)
        events.emit(run_started(job, folder, target.name, run_id))
        job = with_ledger(job, folder)
        with ledger_sync(job, target.name, locked=(folder,), is_new=True) as ledger:
            known = ledger.snapshot()
            found, is_rehearsal = NOT_ASKED, target.name == SANDBOX
            unrecorded: list[PlanGroup] = []

            def fit(groups: Sequence[PlanGroup]) -> list[int]:
                nonlocal found, unrecorded
                to_license = [group for group in groups if group.action is not Action.UNASSIGN]
                job.require_consent(group.sku_number for group in to_license)
                unrecorded = ledger.unrecorded(to_license)
                own = listener if is_rehearsal else None
                asked = one_for_each_target([*groups, *unrecorded])
                with events.phase(Phase.PREFLIGHT):
                    found = ask_carrier(target, asked, listeners=not is_rehearsal, listener=own)
                return fit_to_licenses(job, groups, found.counts, unrecorded=unrecorded, ask=ask)

            with events.phase(Phase.PLANNING):
                rules = sync_rules(job, lambda group: is_short(group, found.counts))
                plan = _plan(job, folder, guards_of(job, folder, target.name), known, fit=fit, sync=rules)
            expected = estimate(job, folder, target.name, plan.groups, found.counts)
            if ask is not None and found.stopped is None:
                question = question_of(job, plan, target, expected)
                ask_about_licenses(ask, question, assigned_skus(job, plan), job.skus)
            number = known.last_number if known else None
            claim(folder.path)
            ledger.register(run_id, folder, begun_at=now(), planned_after=number)
        return begin(
            job,
            folder,
            target,
            plan,
            events,
            run_id=run_id,
            found=found,
            unrecorded=unrecorded,
            retried=retried,
            notes=notes_on_estimate(expected, target.name),
            send=send,
        )


def begin(
    job: Job,
    folder: RunFolder,
    target: Target,
    plan: Plan,
    events: EventStream,
    *,
    run_id: str,
    found: Findings = NOT_ASKED,
    unrecorded: Sequence[PlanGroup] = (),
    retried: Retried | None = None,
    record: PlanRecord | None = None,
    approval: PlanApproval | msgspec.UnsetType = msgspec.UNSET,
    notes: Sequence[str] = (),
    send: Send | None = None,
) -> Summary:
    """Make the journal of a new run, which is registered in the ledger, and submit its plan.

    The caller has locked the folder. `unrecorded` are the groups of which the ledger has no record. `record`
    is that of a plan that was reviewed, and `approval` who approved it. `notes` go into the identity.
    """
    inputs = None if record is None else record.inputs
    identity = msgspec.structs.replace(
        identify(job, folder, target.name, plan, run_id=run_id, inputs=inputs),
        notes=[*(retried.notes if retried else ()), *plan.notes, *found.notes, *notes],
        licenses=found.counts,
        profile=target.profile,
        retry_of=retried.run_id if retried else None,
        approval=approval,
    )
    if record is not None and identity.plan_sha256 != record.plan_sha256:
        raise RefusedToStart(f"{folder.plan}: changed a moment ago; nothing was sent")
    events.emit(plan_ready(identity))
    with finishing(), closing(folder.journal.create(identity, created_at=now())) as journal:
        return submit(
            job,
            folder,
            target,
            journal,
            events,
            stopped=found.stopped,
            ready_at=found.ready_at,
            unrecorded=found.unanswered(unrecorded),
            send=send,
        )


def resume(
    folder: RunFolder,
    target: Target,
    *,
    allow_new_ledger: bool = False,
    canary_failures: int | None = None,
    canary_confirmed: bool | None = None,
    events: EventStream | None = None,
    send: Send | None = None,
) -> Summary:
    """Continue a run from the end of its journal. A finished run stays as it is.

    `canary_failures` are the devices of the canary that may fail. `canary_confirmed` says whether callbacks
    must have reported its outcomes. For None, the run has the rule that it began with. Raises UsageError if
    `canary_failures` is given for a run without a canary.
    """
    events = events or EventStream()
    if not folder.path.is_dir():
        raise missing_folder(folder.path)
    connections_for(1)  # raises if there are too few descriptors
    with finishing(), folder.locked(), closing(recovered_journal(folder)) as journal:
        job = job_of(journal.identity)
        if allow_new_ledger:
            ledger = job.ledger.model_copy(update={"allow_new": True})
            job = job.model_copy(update={"ledger": ledger})
        if canary_failures is not None:
            if job.canary.devices is None:
                raise UsageError(f"{folder.path}: --canary-failures: this run has no canary")
            job = job.with_canary(failures=canary_failures)
        if canary_confirmed is not None:
            job = job.with_canary(confirmed=canary_confirmed)
        named = folder.named_store
        with folder.job_lock(job.name, named.store if named else None):
            return continue_run(job, folder, target, journal, events, send=send)


def continue_run(
    job: Job,
    folder: RunFolder,
    target: Target,
    journal: Journal,
    events: EventStream,
    *,
    send: Send | None = None,
) -> Summary:
    """Submit what is left of a run, if anything. The caller has locked the folder."""
    identity = journal.identity
    events.emit(run_started(job, folder, identity.carrier, identity.run_id, is_resumed=True))
    events.emit(plan_ready(identity))
    refuse_other_carrier(folder, target.name, journal.identity)
    refuse_without_profile(folder, target, journal.identity)
    refuse_changed_plan(folder, journal.identity)
    if is_finished(journal):
        return final_summary(job, folder, journal)
    gate = gate_of(job.canary, folder, journal)
    if gate is not None and not gate.is_open_to_requests(job) and (objection := gate.objection()):
        remove_report(folder)
        return submit(job, folder, target, journal, events, stopped=objection)
    needed = still_to_license(job, folder.plan, journal)
    with events.phase(Phase.PREFLIGHT):
        found = ask_carrier(target, needed, listeners=False)
    if not job.limits.allow_partial:
        refuse_too_few(needed, found.counts, still_to_free(job, folder.plan, journal))
    with ledger_sync(job, target.name, locked=(folder,)) as ledger:
        claim(folder.path)
        ledger.register_resumed(folder, journal)
        unrecorded: list[PlanGroup] = []
        if next(journal.attempts(), None) is None:  # nothing was sent: perhaps the ledger was not checked
            groups = [group for group in planned_groups(folder.plan) if group.action is not Action.UNASSIGN]
            unrecorded = ledger.unrecorded(groups, run_id=journal.identity.run_id)
    remove_report(folder)
    return submit(
        job,
        folder,
        target,
        journal,
        events,
        stopped=found.stopped,
        ready_at=found.ready_at,
        unrecorded=unrecorded,
        send=send,
    )


# -- planning -------------------------------------------------------------------------------------------


def _plan(
    job: Job,
    folder: RunFolder,
    guards: Guards,
    known: Snapshot | None,
    *,
    fit: Fit | None = None,
    sync: SyncRules | None = None,
) -> Plan:
    refuse_own_names(job)

    def check(rows_read: int, devices: int) -> None:
        raise_if_asked()
        guards.check(rows_read, devices)

    plan = write_plan(
        job.inventory.files,
        job.read_options(),
        batch_size=job.limits.batch_size,
        folder=folder.path,
        known_licenses=known,
        check=check,
        fit=fit,
        sync=sync or sync_rules(job),
        canary=None if job.canary.devices is None else job.canary.size,
    )
    folder.plan_record.unlink(missing_ok=True)  # it describes the plan that was there before
    plan = replace(plan, notes=(*plan.notes, *guards.notes))
    if job.license.to_sku is None:
        return plan
    aim = f"from {job.license.from_sku} to {job.license.to_sku}, by two requests a batch"
    return replace(plan, notes=(*plan.notes, aim))


def assigned_skus(job: Job, plan: Plan) -> set[str]:
    """The SKUs of which devices of the plan get a license."""
    if job.action == "unassign" or not plan.groups:
        return set()
    if job.license.to_sku:
        return {job.license.to_sku}
    return {group.sku_number for group in plan.groups if group.action is not Action.UNASSIGN}


def question_of(job: Job, plan: Plan, target: Target, expected: Estimate) -> str:
    """The question before a plan is sent, after what it will need."""
    groups = ", ".join(
        f"{f'{g.action} ' if g.action else ''}{g.devices:,} x {g.sku_number} on account {g.account_name}"
        for g in plan.groups
    )
    aim = f" to {job.license.to_sku}" if job.license.to_sku else ""
    needs = "; ".join([describe_time(expected), *describe_licenses(expected)])
    action = "Sync:" if job.sync is not None else job.action.capitalize()
    question = f"{action} {groups or 'nothing'}{aim} at {target.name}?"
    return f"Expected: {needs}. {question}" if plan.groups else question


def notes_on_estimate(expected: Estimate, carrier: str) -> list[str]:
    """A note about the time to expect, if it is known. Of a sandbox, it says nothing about the carrier."""
    is_known = expected.requests and expected.seconds is not None and carrier != SANDBOX
    return [f"expected: {describe_time(expected)}"] if is_known else []
