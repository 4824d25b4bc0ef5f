"""One run from start to end: plan, submit, write down what became of it."""

import hashlib
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
from structlog.typing import FilteringBoundLogger

from batchlic.carrier.auth import Credentials
from batchlic.carrier.catalogue import Licence
from batchlic.carrier.client import open_client
from batchlic.chunker import Plan, read_batches, write_plan
from batchlic.errors import (
    BatchlicError,
    CredentialsRejected,
    ExitCode,
    RunFolderError,
    StoppedEarly,
    UsageError,
)
from batchlic.job import Job
from batchlic.journal import Ending, Journal, RunIdentity
from batchlic.logs import RunLog
from batchlic.pool.delivery import Pool
from batchlic.pool.pace import Pace, PaceChange
from batchlic.pool.remaining import Delivery, remaining
from batchlic.pool.retry import RetryPolicy
from batchlic.progress import Reporter, Tally
from batchlic.runfolder import RunFolder
from batchlic.writer.audit import write_audit
from batchlic.writer.results import write_results
from batchlic.writer.summary import (
    Source,
    Summary,
    count_requests,
    count_statuses,
    exit_code_of,
    read_summary,
    write_summary,
)


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


def plan_only(job: Job, folder: RunFolder) -> Plan:
    """Write plan.parquet and rejects.parquet, and nothing else; no network."""
    folder.make()
    with folder.locked():
        _refuse_used(folder)
        return _plan(job, folder)


def start(
    job: Job, folder: RunFolder, target: Target, *, run_id: str, ask: Callable[[str], None] | None = None
) -> Summary:
    """Plan and submit. Raises UsageError or RefusedToStart before anything is sent.

    `ask` may raise RefusedToStart when it is told what is about to be done.
    """
    folder.make()
    with folder.locked():
        _refuse_used(folder)
        plan = _plan(job, folder)
        job.require_consent(group.sku_number for group in plan.groups)
        if ask is not None:
            ask(_question(job, plan, target))
        identity = _identify(job, folder, target, plan, run_id)
        with _closing(Journal.create(folder.journal, identity, created_at=_now())) as journal:
            return _submit_and_write(job, folder, target, journal)


def resume(folder: RunFolder, target: Target) -> Summary:
    """Go on with a run where its journal ends; a finished run is left as it is."""
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path}: there is no such run folder")
    with folder.locked(), _closing(Journal.open(folder.journal)) as journal:
        job = Job.model_validate(journal.identity.job)
        _refuse_changed(folder, target, journal)
        if _is_finished(folder, journal):
            return read_summary(folder.summary)
        return _submit_and_write(job, folder, target, journal)


def status(folder: RunFolder) -> Summary:
    """How a run stands now, from plan and journal; nothing is written, a run at work is not disturbed."""
    with _closing(Journal.open(folder.journal)) as journal, folder.scratch() as results:
        _refuse_changed_plan(folder, journal)
        write_results(results, plan=folder.plan, journal=journal)
        endings = journal.endings()
        return _summarise(journal, count_statuses(results), endings, _last_exit(endings))


# -- planning -------------------------------------------------------------------------------------------


def _plan(job: Job, folder: RunFolder) -> Plan:
    return write_plan(
        job.inventory.files, job.read_options(), batch_size=job.limits.batch_size, folder=folder.path
    )


def _question(job: Job, plan: Plan, target: Target) -> str:
    groups = ", ".join(f"{g.devices:,} x {g.sku_number} on account {g.account_name}" for g in plan.groups)
    return f"{job.action.capitalize()} {groups or 'nothing'} at {target.name}?"


def _identify(job: Job, folder: RunFolder, target: Target, plan: Plan, run_id: str) -> RunIdentity:
    return RunIdentity(
        run_id=run_id,
        action=job.request_action,
        carrier=target.name,
        job=job.model_dump(mode="json"),
        plan_sha256=_sha256(folder),
        sources=[(source.name, source.rows) for source in plan.sources],
        rows_read=plan.rows_read,
        rejected=dict(plan.rejected),
        planned=plan.planned,
        batches=plan.batches,
        notes=list(plan.notes),
    )


def _refuse_used(folder: RunFolder) -> None:
    if folder.journal.exists():
        raise UsageError(
            f"{folder.path}: holds a run already: go on with `batchlic resume {folder.path}`, "
            "or name another folder with --run-dir"
        )


def _refuse_changed(folder: RunFolder, target: Target, journal: Journal) -> None:
    if target.name != journal.identity.carrier:
        raise UsageError(f"{folder.path}: this run talks to {journal.identity.carrier}, not to {target.name}")
    _refuse_changed_plan(folder, journal)


def _refuse_changed_plan(folder: RunFolder, journal: Journal) -> None:
    if not folder.plan.is_file() or _sha256(folder) != journal.identity.plan_sha256:
        raise RunFolderError(
            f"{folder.plan}: missing or changed since the run began; restore it, the journal counts on it"
        )


def _is_finished(folder: RunFolder, journal: Journal) -> bool:
    finished = {ExitCode.OK, ExitCode.INCOMPLETE}
    return _last_exit(journal.endings()) in finished and folder.summary.is_file()


# -- submitting -----------------------------------------------------------------------------------------


def _submit_and_write(job: Job, folder: RunFolder, target: Target, journal: Journal) -> Summary:
    started_at = _now()
    run_id = journal.identity.run_id
    stopped: BatchlicError | None = None
    with RunLog(folder.log, secrets=target.secrets) as log:
        logger = log.logger(run_id=run_id)
        logger.info("begun", carrier=target.name, planned=journal.identity.planned)
        try:
            anyio.run(_submit, job, folder, target, journal, logger, backend_options={"use_uvloop": True})
        except (CredentialsRejected, StoppedEarly) as error:
            stopped = error
            logger.error("stopped", reason=str(error))
        write_results(folder.results, plan=folder.plan, journal=journal)
        write_audit(folder.audit, journal=journal)
        statuses = count_statuses(folder.results)
        exit_code = stopped.exit_code if stopped else _exit_code(job, journal, statuses)
        ending = Ending(started_at, _now(), exit_code)
        journal.end(ending)
        summary = _summarise(journal, statuses, journal.endings(), exit_code, stopped)
        write_summary(folder.summary, summary)
        logger.info("ended", exit_code=int(exit_code), statuses=statuses)
    return summary


async def _submit(
    job: Job, folder: RunFolder, target: Target, journal: Journal, logger: FilteringBoundLogger
) -> None:
    limits = job.limits
    pace = Pace(
        max_concurrency=limits.max_concurrency,
        max_rate=limits.max_rate,
        fixed_rate=limits.fixed_rate,
        on_change=lambda change: _log_pace(logger, change),
    )
    accepted, failed = journal.settled()
    tally = Tally(journal.identity.planned, Counter(accepted=accepted, failed=failed))
    reporter = Reporter(tally, pace, logger)
    resendable = _resendable(job)
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
            stopped = await _delivered(pool, remaining(batches, journal, resendable))
            tasks.cancel_scope.cancel()
        await client.logout()
    if stopped is not None:
        raise stopped


async def _delivered(pool: Pool, deliveries: Iterator[Delivery]) -> BatchlicError | None:
    """Deliver, and hand back what stopped the pool: raised, a task group would wrap it."""
    try:
        await pool.deliver(deliveries)
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


def _resendable(job: Job) -> frozenset[str]:
    """SKUs whose requests may be repeated when in doubt: never a Lifetime one (promise D)."""
    flexible = (sku for sku, licence in job.skus.items() if licence is Licence.FLEXIBLE)
    return frozenset(flexible) if job.limits.resend_in_doubt else frozenset()


def _log_pace(logger: FilteringBoundLogger, change: PaceChange) -> None:
    logger.info("pace", rate=change.rate, concurrency=change.concurrency, reason=change.reason)


# -- writing down ---------------------------------------------------------------------------------------


def _exit_code(job: Job, journal: Journal, statuses: dict[str, int]) -> ExitCode:
    rejected = sum(journal.identity.rejected.values())
    return exit_code_of(statuses, rejected=rejected, max_rejects=job.limits.max_rejects)


def _summarise(
    journal: Journal,
    statuses: dict[str, int],
    endings: list[Ending],
    exit_code: int | None,
    stopped: BatchlicError | None = None,
) -> Summary:
    identity = journal.identity
    seconds = sum(ending.ended_at - ending.started_at for ending in endings) / 1e6
    settled = sum(statuses.get(name, 0) for name in ("accepted", "confirmed", "failed"))
    return Summary(
        run_id=identity.run_id,
        job=identity.job["name"],
        action=identity.action,
        carrier=identity.carrier,
        sources=[Source(name, rows) for name, rows in identity.sources],
        rows_read=identity.rows_read,
        rejected=identity.rejected,
        planned=identity.planned,
        statuses=statuses,
        batches=identity.batches,
        requests=count_requests(journal),
        started_at=_iso(journal.created_at),
        finished_at=_iso(endings[-1].ended_at) if endings else None,
        devices_per_second=round(settled / seconds, 1) if seconds else None,
        exit_code=exit_code,
        stopped_because=str(stopped) if stopped else None,
        notes=identity.notes,
    )


def _last_exit(endings: list[Ending]) -> int | None:
    return endings[-1].exit_code if endings else None


@contextmanager
def _closing(journal: Journal) -> Iterator[Journal]:
    try:
        yield journal
    finally:
        journal.close()


def _sha256(folder: RunFolder) -> str:
    with folder.plan.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> int:
    return time.time_ns() // 1000


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds")
