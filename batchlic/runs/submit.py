"""What one session does: it sends what is left of the plan, and writes the run's files."""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import anyio

from batchlic.carrier.client import Carrier, open_client
from batchlic.chunker import PlanGroup, read_batches, read_phases
from batchlic.errors import BatchlicError, ExitCode, StoppedEarly
from batchlic.events import EventStream, Phase, SessionEnded, SessionStarted, Stopped, Warned
from batchlic.job import Job, as_share
from batchlic.journal import Journal
from batchlic.logs import RunLog
from batchlic.monitoring.run_log import LogWriter
from batchlic.pool.delivery import Pool
from batchlic.pool.limiter.evidence import Learned
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.remaining import Delivery, remaining
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.sender import Sender
from batchlic.runs.canary import Gate, NotConfirmed, gate_of
from batchlic.runs.descriptors import connections_for, fewer_connections_note
from batchlic.runs.finalize import finalize, is_bug, now
from batchlic.runs.folder import RunFolder
from batchlic.runs.learned import Memory
from batchlic.runs.live_limits import LiveLimits
from batchlic.runs.migrate import migration_of, reserve_licenses
from batchlic.runs.observation import Observation, limit_changed, parts_in_doubt, tally_of
from batchlic.runs.preflight import compare_counts, refuse_new_ledger
from batchlic.runs.screen import screen, tell
from batchlic.runs.signals import (
    Interrupted,
    asked,
    raise_if_asked,
    run_in_loop,
    stopping_instead,
    unless_asked,
)
from batchlic.runs.target import Target
from batchlic.writer.summary import Summary


def submit(
    job: Job,
    folder: RunFolder,
    target: Target,
    journal: Journal,
    events: EventStream,
    *,
    stopped: BatchlicError | None = None,
    ready_at: float = -math.inf,
    unrecorded: Sequence[PlanGroup] = (),
) -> Summary:
    """Send what is left of the plan unless the run is `stopped` already, and write the run's files.

    The carrier gets no login before `ready_at`, a time of `time.monotonic`. `unrecorded` are groups of which
    the ledger has no record, if their license counts are not checked yet.
    After an unexpected error, the files are written, too; then BatchlicError is raised.
    """
    began = time.monotonic()
    notes: list[str] = []
    identity = journal.identity
    with RunLog(folder.log, secrets=target.secrets, people=screen()) as log:
        logger = log.logger(run_id=identity.run_id)
        with events.attached("run.log", LogWriter(logger)):
            events.emit(
                SessionStarted(carrier=target.name, planned=identity.planned, notes=tuple(identity.notes))
            )
            try:
                _raise_if_stopped(stopped)
                if identity.batches:
                    job = _with_few_connections(job, events, notes)
                    send = partial(
                        _send,
                        job,
                        folder,
                        target,
                        journal,
                        events,
                        ready_at=ready_at,
                        notes=notes,
                        unrecorded=unrecorded,
                    )
                    with events.phase(Phase.SENDING):
                        run_in_loop(send, use_uvloop=True)
            except BatchlicError as error:
                is_too_early = stopped is None and isinstance(error, NotConfirmed)  # for callbacks
                stopped = error
                events.emit(Warned(message=str(error)) if is_too_early else Stopped(reason=str(error)))
            except Exception as error:
                stopped = _unexpected(error, folder)
                logger.exception("unexpected error")
            journal.check_held()  # otherwise the files are those of another session
            with events.phase(Phase.FINALIZING):
                summary = finalize(job, folder, journal, began=began, stopped=stopped, notes=notes)
            events.emit(
                SessionEnded(
                    exit_code=ExitCode(summary.exit_code or 0),
                    statuses=summary.statuses,
                    stopped_because=summary.stopped_because,
                )
            )
    if stopped is not None and is_bug(stopped):
        raise stopped
    return summary


def _with_few_connections(job: Job, events: EventStream, notes: list[str]) -> Job:
    """The job with as many requests in flight as this process can have connections."""
    connections = connections_for(job.limits.max_concurrency)
    if connections == job.limits.max_concurrency:
        return job
    notes.append(fewer_connections_note(connections))
    events.emit(Warned(message=notes[-1]))
    return job.model_copy(update={"limits": job.limits.model_copy(update={"max_concurrency": connections})})


def _raise_if_stopped(stopped: BatchlicError | None) -> None:
    if stopped is not None:
        raise stopped
    raise_if_asked()


def _unexpected(error: Exception, folder: RunFolder) -> BatchlicError:
    """The error for a bug. Its text names only a type: the text of the bug's error may hold a secret."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return BatchlicError(
        f"unexpected error ({type(error).__name__}): {folder.log} has the details. What was sent is "
        f"recorded; continue with batchlic resume {folder.path}"
    )


async def _send(
    job: Job,
    folder: RunFolder,
    target: Target,
    journal: Journal,
    events: EventStream,
    *,
    ready_at: float,
    notes: list[str],
    unrecorded: Sequence[PlanGroup],
) -> None:
    """Send what is left of the plan; adds `notes` for the summary. Raises what stopped the pool."""
    memory = Memory(job, target.name, folder.plan, events)
    limiter = _limiter(job, events, start_from=memory.recall())
    live = LiveLimits(folder, job.limits, limiter, events)
    login_delay_s = _obey_waits(job, journal, limiter, events, ready_at=ready_at)
    in_doubt = parts_in_doubt(journal)
    observation = Observation(
        tally_of(journal, in_doubt), limiter, events, host=target.host, in_doubt=in_doubt
    )
    async with open_client(
        target.base_url, target.credentials, max_connections=job.limits.max_concurrency
    ) as client:
        client.remember(journal.owners_of_request_ids())
        pool_of = partial(_pool, job, journal, client, limiter, observation)

        async def check_ledger() -> None:
            if unrecorded:
                notes.extend(await refuse_new_ledger(client, unrecorded, job.ledger.path))

        if journal.identity.to_sku:
            pool = pool_of(login_delay_s=login_delay_s)
            migration = migration_of(
                job, journal, folder, on_accepted=pool.refusals.accepted, on_end=observation.tally.moved
            )

            async def prepare() -> None:
                await check_ledger()
                await reserve_licenses(client, job, folder.plan, migration, events)

            batches = partial(read_batches, folder.plan, job.inventory.id_kind)
            sequences: Iterable[Iterable[Delivery]] = stopping_instead(migration.sequences(batches))
            stopped = await _deliver(pool, observation, live, sequences, before=prepare)
        else:
            stopped = None
            gate = gate_of(job.canary, folder, journal)
            for number, phase in enumerate(read_phases(folder.plan, job.inventory.id_kind)):
                pool = pool_of(login_delay_s=0.0 if number else login_delay_s)
                left = remaining(phase, journal, job.resendable_skus, on_accepted=pool.refusals.accepted)
                before = None if number else check_ledger
                stopped = await _deliver(pool, observation, live, stopping_instead(left), before=before)
                if stopped is None and gate is not None and number == 0:
                    stopped = _judged(gate, notes)
                if stopped is not None:  # the second phase counts on the first one
                    break
        memory.keep(limiter.learned)
        notes += observation.warnings
        if stopped is None and not journal.identity.to_sku:  # a migration counts licenses before it sends
            notes += await _counts_after(client, folder, journal)
        await client.logout()
    if stopped is not None:
        raise stopped


def _obey_waits(
    job: Job, journal: Journal, limiter: Limiter, events: EventStream, *, ready_at: float
) -> float:
    """Obey what the carrier asked before this session sends; returns the seconds before the first login."""
    obey_earlier_retry_after(journal, limiter, job.limits.give_up_after)
    login_delay_s = delay_login(ready_at - time.monotonic(), limiter, job.limits.give_up_after)
    if login_delay_s:
        message = "the carrier asks batchlic to wait before the next login"
        events.emit(Warned(message=message, details={"wait_s": round(login_delay_s, 1)}))
    if journal.has_implausible_wait:
        message = "the carrier asked an earlier session to wait a day or more: this one tries again"
        events.emit(Warned(message=message))
    return login_delay_s


def _judged(gate: Gate, notes: list[str]) -> StoppedEarly | None:
    """Why the devices after the canary are not sent; None, and a note, if they are."""
    objection = gate.objection()
    if objection is None:
        notes.append(gate.note())
    return objection


async def _counts_after(client: Carrier, folder: RunFolder, journal: Journal) -> list[str]:
    """Notes about the license counts after the run. A signal ends the question, not the run."""
    try:
        return await unless_asked(partial(compare_counts, client, folder, journal))
    except Interrupted as interrupted:
        return [f"license counts after the run are unknown: {interrupted}"]


def _limiter(job: Job, events: EventStream, *, start_from: Learned | None) -> Limiter:
    return Limiter(
        max_concurrency=job.limits.max_concurrency,
        max_rate=job.limits.max_rate,
        fixed_rate=job.limits.fixed_rate,
        headroom=as_share(job.limits.headroom),
        start_from=start_from,
        on_change=lambda change: events.emit(limit_changed(change)),
    )


def _pool(
    job: Job,
    journal: Journal,
    client: Carrier,
    limiter: Limiter,
    observation: Observation,
    *,
    login_delay_s: float,
) -> Pool:
    sender = Sender(
        client=client,
        journal=journal,
        limiter=limiter,
        policy=RetryPolicy(
            resendable=job.resendable_skus,
            give_up_after=job.limits.give_up_after,
            trusts_duplicates=job.limits.trust_duplicates,
            on_unreachable=observation.unreachable,
        ),
        observer=observation,
        login_delay_s=login_delay_s,
    )
    return Pool(sender, workers=job.limits.max_concurrency)


async def _deliver(
    pool: Pool,
    observation: Observation,
    live: LiveLimits,
    sequences: Iterable[Iterable[Delivery]],
    *,
    before: Callable[[], Awaitable[None]] | None = None,
) -> BatchlicError | None:
    """Deliver while signals are heard.

    Returns what stopped the pool: a task group would wrap it if it were raised.
    """
    stopped: BatchlicError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, pool)
        tasks.start_soon(observation.measure)
        tasks.start_soon(live.watch)
        try:
            await pool.deliver(sequences, before=before)
        except BatchlicError as error:
            stopped = error
        tasks.cancel_scope.cancel()
    observation.count()
    return stopped


def obey_earlier_retry_after(journal: Journal, limiter: Limiter, give_up_after: float) -> None:
    """Keep obeying a `Retry-After` that an earlier session received, if it is plausible (promise J).

    Raises StoppedEarly where the wait is longer than `give_up_after` seconds.
    """
    wait = journal.remaining_wait_s(now())
    if wait > give_up_after:
        raise StoppedEarly(f"the carrier asked batchlic to wait {wait:.0f} s more; resume the run after that")
    if wait > 0:
        limiter.hold(wait)


def delay_login(wait: float, limiter: Limiter, give_up_after: float) -> float:
    """Seconds before the first login, after the carrier asked to wait so long in the preflight (promise J).

    Raises StoppedEarly where the wait is longer than `give_up_after` seconds.
    """
    if wait > give_up_after:
        raise StoppedEarly(f"the carrier asks batchlic to wait {wait:.0f} s; resume the run after that")
    if wait <= 0:
        return 0.0
    limiter.hold(wait)
    return wait


async def _stop_on_signal(pool: Pool) -> None:
    pool.stop(f"stopped by {await asked()}")
    tell("\nFinishing the requests in flight. Press Ctrl-C again to stop at once.")
    await asked(2)
    pool.abort()
