"""One run from start to end: plan, submit, write down what became of it."""

import secrets
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import anyio
import msgspec
from structlog.typing import FilteringBoundLogger

from batchlic.carrier.auth import Credentials
from batchlic.carrier.client import open_client
from batchlic.chunker import Plan, PlanGroup, read_batches, write_plan
from batchlic.runs.finalize import final_summary, is_finished, now, summarize, finalize
from batchlic.errors import (
    BatchlicError,
    CredentialsRejected,
    RefusedToStart,
    RunFolderError,
    StoppedEarly,
)
from batchlic.runs.identity import (
    identify,
    job_of,
    open_journal,
    refuse_changed_plan,
    refuse_other_carrier,
    refuse_other_job,
    refuse_used,
)
from batchlic.job import Job
from batchlic.journal import SANDBOX, Journal
from batchlic.ledger.ledger import Snapshot
from batchlic.runs.preflight import (
    NOT_ASKED,
    Findings,
    RunListener,
    compare_counts,
    fit_to_licenses,
    preflight,
    refuse_too_few,
    register,
    still_to_license,
)
from batchlic.logs import RunLog
from batchlic.runs.migrate import reserve_licenses, migration_of
from batchlic.runs.ledger_sync import ledger_sync, with_ledger
from batchlic.pool.delivery import Pool
from batchlic.pool.limiter.pace import Pace, PaceChange
from batchlic.pool.remaining import Delivery, remaining
from batchlic.pool.retry import RetryPolicy
from batchlic.runs.progress import Reporter, Tally
from batchlic.runs.folder import RunFolder
from batchlic.runs.staging import recovered_journal
from batchlic.writer.in_doubt import Report, doubts_in
from batchlic.writer.results import write_results
from batchlic.writer.summary import Summary, count_statuses


@dataclass(frozen=True, slots=True)
class Target:
    """The carrier to talk to: `name` is what the run remembers of it, a base URL or `sandbox`."""

    name: str
    base_url: str
    credentials: Credentials
    secrets: tuple[str, ...]


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
            with ledger_sync(job, target.name, holding=(folder,), is_new=True) as past:
                known = past.known()
                plan = _plan(job, folder, known)
                job.require_consent(group.sku_number for group in plan.groups)
                found = anyio.run(_preflight, target, plan, listener)
                plan = fit_to_licenses(job, folder, plan, found.counts)
                if ask is not None:
                    ask(_question(job, plan, target))
                past.register(run_id, folder, begun_at=now(), planned_with=known)
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
        return _submit_and_write(job, folder, target, journal, stopped=found.stopped)


def resume(folder: RunFolder, target: Target) -> Summary:
    """Go on with a run where its journal ends; a finished run is left as it is."""
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
    with ledger_sync(job, target.name, holding=(folder,)) as past:
        past.register_resumed(folder, journal)
    return _submit_and_write(job, folder, target, journal, stopped=found.stopped)


def status(folder: RunFolder) -> Report:
    """How a run stands now, from plan and journal; nothing is written, a run at work is not disturbed."""
    with closing(open_journal(folder)) as journal, folder.scratch() as results:
        refuse_changed_plan(folder, journal.identity)
        write_results(results, plan=folder.plan, journal=journal, outcomes=folder.outcomes)
        summary = summarize(journal, count_statuses(results), journal.session_ends(), journal.final_session_end)
        return Report(**msgspec.structs.asdict(summary), doubts=doubts_in(results))


# -- planning -------------------------------------------------------------------------------------------


def _plan(job: Job, folder: RunFolder, known: Snapshot | None) -> Plan:
    plan = write_plan(
        job.inventory.files,
        job.read_options(),
        batch_size=job.limits.batch_size,
        folder=folder.path,
        known=known,
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


async def _preflight(target: Target, plan: Plan, listener: RunListener | None) -> Findings:
    if not plan.groups:
        return NOT_ASKED
    is_rehearsal = target.name == SANDBOX
    async with open_client(target.base_url, target.credentials) as client:
        if is_rehearsal and listener is not None:
            await register(client, (group.account_name for group in plan.groups), listener)
        found = await preflight(client, plan.groups, listeners=not is_rehearsal)
        await client.logout()
    return found


async def _preflight_rest(target: Target, groups: Sequence[PlanGroup]) -> Findings:
    if not groups:
        return NOT_ASKED
    async with open_client(target.base_url, target.credentials) as client:
        found = await preflight(client, groups, listeners=False)
        await client.logout()
    return found


# -- submitting -----------------------------------------------------------------------------------------


def _submit_and_write(
    job: Job,
    folder: RunFolder,
    target: Target,
    journal: Journal,
    *,
    stopped: BatchlicError | None = None,
) -> Summary:
    """Send what is left of the plan, unless something has `stopped` the run already, and write its files."""
    started_at = now()
    notes: list[str] = []
    with RunLog(folder.log, secrets=target.secrets) as log:
        logger = log.logger(run_id=journal.identity.run_id)
        logger.info("begun", carrier=target.name, planned=journal.identity.planned)
        try:
            if stopped is not None:
                raise stopped
            if journal.identity.batches:
                notes = anyio.run(
                    _submit, job, folder, target, journal, logger, backend_options={"use_uvloop": True}
                )
        except (CredentialsRejected, RefusedToStart, StoppedEarly) as error:
            stopped = error
            logger.error("stopped", reason=str(error))
        summary = finalize(job, folder, journal, started_at=started_at, stopped=stopped, notes=notes)
        logger.info("ended", exit_code=summary.exit_code, statuses=summary.statuses)
    return summary


async def _submit(
    job: Job, folder: RunFolder, target: Target, journal: Journal, logger: FilteringBoundLogger
) -> list[str]:
    """Send what is left of the plan; returns what is to be noted. Raises what stopped the pool."""
    limits = job.limits
    pace = Pace(
        max_concurrency=limits.max_concurrency,
        max_rate=limits.max_rate,
        fixed_rate=limits.fixed_rate,
        on_change=lambda change: _log_pace(logger, change),
    )
    obey_earlier_retry_after(journal, pace, limits.give_up_after)
    accepted, failed = (0, 0) if journal.identity.to_sku else journal.settled()
    tally = Tally(
        journal.identity.planned - sum(journal.identity.excluded.values()),
        Counter(accepted=accepted, failed=failed),
    )
    reporter = Reporter(tally, pace, logger)
    resendable = job.resendable_skus
    async with open_client(
        target.base_url, target.credentials, max_connections=limits.max_concurrency
    ) as client:
        pool = Pool(
            run_id=journal.identity.run_id,
            action=journal.identity.action,
            client=client,
            journal=journal,
            pace=pace,
            policy=RetryPolicy(resendable=resendable, give_up_after=limits.give_up_after),
            observer=reporter,
            workers=limits.max_concurrency,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_on_signal, pool)
            tasks.start_soon(reporter.show)
            batches = read_batches(folder.plan, job.inventory.id_kind)
            if journal.identity.to_sku:
                accepted_earlier = pool.refusals.accepted
                migration = migration_of(
                    job, journal, folder, on_accepted=accepted_earlier, on_end=tally.moved
                )
                preflight = partial(reserve_licenses, client, job, folder.plan, migration, logger)
                stopped = await _delivered(pool, migration.sequences(batches), before=preflight)
            else:
                left = remaining(batches, journal, resendable, on_accepted=pool.refusals.accepted)
                stopped = await _delivered(pool, left)
            tasks.cancel_scope.cancel()
        is_move = journal.identity.to_sku is not None  # its licenses are looked for in its own way
        notes = [] if stopped or is_move else await compare_counts(client, folder.plan, journal)
        await client.logout()
    if stopped is not None:
        raise stopped
    return notes


def obey_earlier_retry_after(journal: Journal, pace: Pace, give_up_after: float) -> None:
    """Go on obeying a `Retry-After` that an earlier sitting heard (promise J)."""
    wait = (journal.retry_not_before - now()) / 1e6
    if wait > give_up_after:
        raise StoppedEarly(f"the carrier has asked to wait {wait:.0f} s more; resume the run later")
    if wait > 0:
        pace.hold(wait)


async def _delivered(
    pool: Pool,
    sequences: Iterable[Iterable[Delivery]],
    *,
    before: Callable[[], Awaitable[None]] | None = None,
) -> BatchlicError | None:
    """Deliver, and hand back what stopped the pool: raised, a task group would wrap it."""
    try:
        await pool.deliver(sequences, before=before)
    except BatchlicError as error:
        return error
    return None


async def _stop_on_signal(pool: Pool) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for number in received:
            if pool.is_stopping:
                pool.abort()
            else:
                pool.stop(f"stopped by {signal.Signals(number).name}")
                print("\nFinishing the requests in flight; again to stop at once.", file=sys.stderr)  # noqa: T201


def _log_pace(logger: FilteringBoundLogger, change: PaceChange) -> None:
    logger.info("pace", rate=change.rate, concurrency=change.concurrency, reason=change.reason)
