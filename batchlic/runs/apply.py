"""Plans that are reviewed before they are sent: `plan` writes one, `apply` sends exactly that one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from msgspec import UNSET

from batchlic.carrier.catalog import Action
from batchlic.chunker import Plan, PlanGroup
from batchlic.errors import InventoryError, RefusedToStart, UsageError
from batchlic.events import EventStream, Phase
from batchlic.job import Job
from batchlic.journal import SANDBOX, LicenseCount
from batchlic.ledger import Snapshot
from batchlic.objectstore.addresses import is_remote
from batchlic.objectstore.copies import claim
from batchlic.reader.inputs.sources import expanded
from batchlic.runs.approval import (
    find_approval,
    group_id,
    notes_on_approval,
    share_with_approvers,
)
from batchlic.runs.asking import Ask, ask_about_licenses
from batchlic.runs.descriptors import connections_for
from batchlic.runs.estimate import Estimate, estimate
from batchlic.runs.finalize import now
from batchlic.runs.folder import RunFolder
from batchlic.runs.guards import guards_of
from batchlic.runs.identity import inspected, job_of, refuse_used
from batchlic.runs.ledger_sync import LedgerSync, ledger_sync, newest_number, with_ledger
from batchlic.runs.plan_record import (
    PlanRecord,
    inventory_changes,
    read_plan_record,
    refuse_changed_files,
    write_plan_record,
)
from batchlic.runs.preflight import (
    Findings,
    RunListener,
    ask_carrier,
    confirm_new_ledger,
    devices_that_fit,
    fit_to_licenses,
    one_for_each_target,
)
from batchlic.runs.run import assigned_skus, begin, notes_on_estimate, plan_only, question_of, resume
from batchlic.runs.run_events import run_started
from batchlic.runs.submit import Send
from batchlic.runs.sync import is_short, sync_rules
from batchlic.runs.target import Target
from batchlic.writer.summary import Summary


def plan_for_review(
    job: Job,
    folder: RunFolder,
    carrier: str,
    known: Snapshot | None,
    *,
    target: Target | None = None,
) -> tuple[Plan, Estimate]:
    """Write the plan of a job, and plan.json, so that `apply` can send it later.

    `target` is given if the carrier is to be asked for its license counts: a plan that needs more is refused,
    or cut down, as the run would be. Raises as `plan_only` does; UsageError if the group of the approvers
    can't be used; and with `target` what `batchlic.runs.run.start` raises about licenses and credentials.
    """
    group_id(job.approval.group)  # raises before the inventories are read
    planned_at = now()
    files = _files(job)
    ledger_number = known.last_number if known else newest_number(job, folder, carrier)

    counts: list[LicenseCount] = []

    def fit(groups: Sequence[PlanGroup]) -> Sequence[int]:
        if target is None:
            return [group.devices for group in groups]
        to_sku = job.license.to_sku
        new = [replace(group, sku_number=to_sku) for group in groups] if to_sku else []
        found = ask_carrier(target, one_for_each_target([*groups, *new]), listeners=False)
        if (problem := found.stopped or found.unreachable) is not None:
            raise problem
        counts.extend(found.counts)
        return fit_to_licenses(job, groups, counts)

    def record(plan: Plan) -> None:
        write_plan_record(
            with_ledger(job, folder),
            folder,
            plan,
            carrier,
            planned_at=planned_at,
            ledger_number=ledger_number,
            licenses=counts,
        )
        if _files(job) != files:  # plan.json has the SHA-256 of what is there now
            folder.plan_record.unlink()
            raise InventoryError("an inventory has changed while it was planned: plan again")
        share_with_approvers(job, folder)

    rules = sync_rules(job, lambda group: is_short(group, counts))
    guards = guards_of(job, folder, carrier)
    plan = plan_only(job, folder, guards, known, fit=fit, sync=rules, then=record)
    return plan, estimate(job, folder, carrier, plan.groups, counts)


def _files(job: Job) -> dict[Path, tuple[int, int, int]]:
    """The inventories that are files here; of each, what changes when the file does."""
    names = expanded(job.inventory.files).names
    paths = [Path(name) for name in names if isinstance(name, str) and not is_remote(name)]
    found = {path: path.stat() for path in paths if path.is_file()}
    return {path: (status.st_ino, status.st_size, status.st_mtime_ns) for path, status in found.items()}


def job_to_apply(folder: RunFolder) -> Job:
    """The job of the plan or of the run in a folder. Raises RunFolderError if there is neither."""
    if folder.journal.exists():
        with inspected(folder) as journal:
            return job_of(journal.identity)
    return read_plan_record(folder)[0].planned_job


def apply(
    folder: RunFolder,
    target: Target,
    *,
    run_id: str,
    ask: Ask | None = None,
    listener: RunListener | None = None,
    waits: bool = False,
    events: EventStream | None = None,
    send: Send | None = None,
) -> Summary:
    """Send the plan in `folder`, byte for byte as it was reviewed, or continue its run.

    Raises RefusedToStart if the plan was changed, lacks the approval that its job requires, or is out of
    date: if an inventory has changed, if the ledger has new records about its devices, or if licenses are too
    few. `waits`: the caller waits for callbacks, and so does the canary of the plan. `ask`, `listener`,
    `events` and `send` are those of `batchlic.runs.run.start`.
    """
    if folder.journal.exists():
        return resume(folder, target, canary_confirmed=waits or None, events=events, send=send)
    events = events or EventStream()
    job = job_to_apply(folder)
    connections_for(job.limits.max_concurrency)  # raises if there are too few descriptors
    with folder.job_lock(job.name, job.store.url), folder.locked():
        refuse_used(folder)
        record, record_sha256 = read_plan_record(folder)
        job = record.planned_job.with_canary(confirmed=True) if waits else record.planned_job
        if record.carrier != target.name:
            raise UsageError(f"{folder.path}: this plan is for {record.carrier}, not for {target.name}")
        refuse_changed_files(folder, record)
        approval = find_approval(folder, record, record_sha256) if job.approval.required else UNSET
        to_license = [group for group in record.plan.groups if group.action is not Action.UNASSIGN]
        job.require_consent(group.sku_number for group in to_license)
        events.emit(run_started(job, folder, target.name, run_id))
        changes, notes = inventory_changes(record)
        with ledger_sync(job, target.name, locked=(folder,), is_new=True) as ledger:
            _refuse_stale(folder, [*changes, *_ledger_changes(ledger, folder, record)])
            unrecorded = ledger.unrecorded(to_license)
            with events.phase(Phase.PREFLIGHT):
                found = _ask_carrier(target, record, unrecorded, listener)
            _refuse_stale(folder, _missing_licenses(job, record, found))
            confirm_new_ledger(unrecorded, found.counts, job.ledger.path, ask)
            expected = estimate(job, folder, target.name, record.plan.groups, found.counts)
            if ask is not None and found.stopped is None:
                question = question_of(job, record.plan, target, expected)
                ask_about_licenses(ask, question, assigned_skus(job, record.plan), job.skus)
            notes += notes_on_estimate(expected, target.name)
            claim(folder.path)
            ledger.register(run_id, folder, begun_at=now(), planned_after=record.ledger_number)
        if approval is not UNSET:
            notes += notes_on_approval(approval, folder)
        return begin(
            job,
            folder,
            target,
            record.plan,
            events,
            run_id=run_id,
            found=found,
            unrecorded=unrecorded,
            record=record,
            approval=approval,
            notes=notes,
            send=send,
        )


def _refuse_stale(folder: RunFolder, changes: Sequence[str]) -> None:
    if changes:
        raise RefusedToStart(
            f"{folder.path}: the plan is out of date, and nothing was sent: {'; '.join(changes)}. Plan "
            "again, and review the new plan"
        )


def _ask_carrier(
    target: Target, record: PlanRecord, unrecorded: Sequence[PlanGroup], listener: RunListener | None
) -> Findings:
    asked = one_for_each_target([*record.plan.groups, *unrecorded])
    is_rehearsal = target.name == SANDBOX
    own = listener if is_rehearsal else None
    return ask_carrier(target, asked, listeners=not is_rehearsal, listener=own)


def _ledger_changes(ledger: LedgerSync, folder: RunFolder, record: PlanRecord) -> list[str]:
    """What the ledger has learned about devices of the plan since it was made, in words."""
    if ledger.ledger is None:
        gone = record.ledger_number > 0
        return [f"its ledger {record.planned_job.ledger.path} is gone: restore it"] if gone else []
    ledger.catch_up()
    if ledger.ledger.last_number < record.ledger_number:
        return [f"the ledger {ledger.ledger.place} is an older one than the plan was made with"]
    return ledger.changes_since(folder, record.ledger_number)


def _missing_licenses(job: Job, record: PlanRecord, found: Findings) -> list[str]:
    """Groups of the plan for which too few licenses are left when their turn comes, in words."""
    if job.request_action is not Action.ASSIGN:
        return []
    then, left = (
        {(one.account_name, one.sku_number): one.available for one in counts if one.available is not None}
        for counts in (record.licenses, found.counts)
    )
    freed: dict[tuple[str, str], int] = {}
    short: dict[tuple[str, str], str] = {}
    for group in record.plan.groups:
        key = group.account_name, group.sku_number
        if group.action is Action.UNASSIGN:
            freed[key] = group.devices
            if key in short:
                back = f"{group.devices:,} back"
                short[key] += f", before it takes {back}: `batchlic plan --licenses` takes them back first"
        elif devices_that_fit([group], found.counts, freed) != [group.devices]:
            was = f", {then[key]:,} when it was planned" if key in then else ""
            back = f" (and {freed[key]:,} of gone devices)" if key in freed else ""
            short[key] = (
                f"account {group.account_name} has {max(0, left[key]):,} licenses of {group.sku_number} "
                f"left{was}{back}, and the plan needs {group.devices:,}"
            )
    return list(short.values())
