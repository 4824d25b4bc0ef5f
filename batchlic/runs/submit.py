"""What one session does: it sends what is left of the plan, and writes the run's files."""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias

import anyio

from batchlic.carrier.client import Carrier, open_client
from batchlic.chunker import PlanGroup
from batchlic.errors import BatchlicError, ExitCode, StoppedEarly
from batchlic.events import EventStream, Phase, SessionEnded, SessionStarted, Stopped, Warned
from batchlic.job import Job, as_share
from batchlic.journal import Journal
from batchlic.logs import RunLog
from batchlic.monitoring.run_log import LogWriter
from batchlic.objectstore.copies import save
from batchlic.pool.delivery import LanePlan, Pool
from batchlic.pool.limiter.evidence import Learned
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import Limiters, Scope
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.sender import Sender
from batchlic.runs.canary import Gate, NotConfirmed, gate_of
from batchlic.runs.descriptors import connections_for, fewer_connections_note
from batchlic.runs.finalize import finalize, is_bug, now
from batchlic.runs.folder import RunFolder
from batchlic.runs.lanes import Lanes
from batchlic.runs.learned import Memory
from batchlic.runs.live_limits import LimitedHere, LiveLimits
from batchlic.runs.migrate import migration_of, reserve_licenses
from batchlic.runs.observation import Observation, limit_changed, parts_in_doubt, tally_of
from batchlic.runs.patience import OnWait, warn
from batchlic.runs.preflight import compare_counts, refuse_new_ledger
from batchlic.runs.screen import screen, tell
from batchlic.runs.shared_limits import SharedLimits
from batchlic.runs.signals import (
    Interrupted,
    asked,
    raise_if_asked,
    run_in_loop,
    unless_asked,
)
from batchlic.runs.target import Target
from batchlic.writer.summary import Summary

LOOK_INTERVAL_S = 0.1
"""Seconds between two looks whether another session may take over."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session of a run, which is to send what is left of the plan."""

    job: Job
    folder: RunFolder
    target: Target
    journal: Journal
    events: EventStream
    ready_at: float
    """The carrier gets no login before this time of `time.monotonic`."""
    unrecorded: Sequence[PlanGroup]
    """Groups of which the ledger has no record, if their license counts are not checked yet."""
    notes: list[str] = field(default_factory=list)
    """What the sending adds to the summary."""

    async def check_ledger(self, client: Carrier) -> None:
        """Raise RefusedToStart if the carrier has licenses that a new ledger does not know."""
        if self.unrecorded:
            ledger = self.job.ledger.path
            self.notes.extend(await refuse_new_ledger(client, self.unrecorded, ledger, warn(self.events)))


Send: TypeAlias = Callable[[Session], Awaitable[None]]
"""Sends what is left of a plan: in this process (`send_here`), or in several (batchlic.cluster). Raises what
stopped the sending."""


class Watched(Protocol):
    """Whatever has an effect on a pool while it delivers."""

    async def watch(self) -> None:
        """Watch until cancelled."""


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
    send: Send | None = None,
) -> Summary:
    """Send what is left of the plan unless the run is `stopped` already, and write the run's files.

    `ready_at` and `unrecorded` are those of a Session. `send` does the sending; by default, this process.
    After an unexpected error, the files are written, too; then BatchlicError is raised.
    """
    began = time.monotonic()
    session = Session(
        job=job,
        folder=folder,
        target=target,
        journal=journal,
        events=events,
        ready_at=ready_at,
        unrecorded=unrecorded,
    )
    identity = journal.identity
    save(folder.path)
    with RunLog(folder.log, secrets=target.secrets, people=screen()) as log:
        logger = log.logger(run_id=identity.run_id)
        with events.attached("run.log", LogWriter(logger)):
            events.emit(
                SessionStarted(carrier=target.name, planned=identity.planned, notes=tuple(identity.notes))
            )
            try:
                _raise_if_stopped(stopped)
                if identity.batches:
                    with events.phase(Phase.SENDING):
                        run_in_loop(partial(send or send_here, session), use_uvloop=True)
            except BatchlicError as error:
                is_too_early = stopped is None and isinstance(error, NotConfirmed)  # for callbacks
                stopped = error
                events.emit(Warned(message=str(error)) if is_too_early else Stopped(reason=str(error)))
            except Exception as error:
                stopped = _unexpected(error, folder, target)
                logger.exception("unexpected error")
            journal.check_held()  # otherwise the files are those of another session
            with events.phase(Phase.FINALIZING):
                summary = finalize(job, folder, journal, began=began, stopped=stopped, notes=session.notes)
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


def with_few_connections(job: Job, events: EventStream, notes: list[str]) -> Job:
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


def _unexpected(error: Exception, folder: RunFolder, target: Target) -> BatchlicError:
    """The error for a bug. Its text names only a type: the text of the bug's error may hold a secret."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return BatchlicError(
        f"unexpected error ({type(error).__name__}): {folder.log} has the details. What was sent is "
        f"recorded; continue with {folder.resuming(target.name)}"
    )


async def send_here(session: Session) -> None:
    """Send what is left of the plan from this process. Raises what stopped the pool."""
    folder, target, journal = session.folder, session.target, session.journal
    events, notes = session.events, session.notes
    job = with_few_connections(session.job, events, notes)
    memory = Memory(job, target.name, folder.plan, events)
    sharing = SharedLimits(job.store.url, target, events)
    limiters = limiters_of(job, events, start_from=memory.recall(), sharing=sharing)
    lanes = Lanes(job, folder, journal)
    login_delay_s = obey_waits(job, journal, limiters, lanes, events, ready_at=session.ready_at)
    in_doubt = parts_in_doubt(journal)
    observation = Observation(
        tally_of(journal, in_doubt), limiters, events, host=target.host, in_doubt=in_doubt
    )
    async with open_client(
        target.base_url, target.credentials, max_connections=job.limits.max_concurrency
    ) as client:
        client.remember(journal.owners_of_request_ids())
        sending = Sending(
            job=job,
            folder=folder,
            journal=journal,
            client=client,
            lanes=lanes,
            limiters=limiters,
            observation=observation,
            live=LiveLimits(folder, job.limits, LimitedHere(limiters), events),
            login_delay_s=login_delay_s,
            sharing=sharing,
        )

        check_ledger = partial(session.check_ledger, client)
        if journal.identity.to_sku:
            stopped = await sending.migrate(events, before=check_ledger)
        else:
            stopped = await sending.send_phases(notes, before=check_ledger)
        memory.keep(limiters.learned)
        notes += observation.warnings
        if stopped is None and not journal.identity.to_sku:  # a migration counts licenses before it sends
            notes += await counts_after(client, folder, journal, warn(events))
        await client.logout()
    if stopped is not None:
        raise stopped


@dataclass(frozen=True, kw_only=True)
class Sending:
    """The parts of a session that sends."""

    job: Job
    folder: RunFolder
    journal: Journal
    client: Carrier
    lanes: Lanes
    limiters: Limiters
    observation: Observation
    live: Watched
    login_delay_s: float
    """Seconds before the first login."""
    sharing: SharedLimits | None = None
    """The limits that other processes share; None for a session that only logs in."""

    async def log_in(self, *, before: Callable[[], Awaitable[None]]) -> BatchlicError | None:
        """Log in, and call `before`, but send nothing; returns what stopped the pool."""
        return await self._deliver(self._pool(login_delay_s=self.login_delay_s), (), before=before)

    async def migrate(
        self,
        events: EventStream,
        *,
        before: Callable[[], Awaitable[None]],
        batches: range | None = None,
    ) -> BatchlicError | None:
        """Send what is left of a migration, or of those of its batches; returns what stopped the pool.

        `batches` must be all that their accounts have, because the licenses of an account are counted.
        """
        pool = self._pool(login_delay_s=self.login_delay_s)
        migration = migration_of(
            self.job,
            self.journal,
            self.folder,
            on_accepted=pool.refusals.accepted,
            on_end=self.observation.tally.moved,
        )

        async def prepare() -> None:
            await before()
            await reserve_licenses(
                self.client, self.job, self.folder.plan, migration, events, batches=batches
            )

        return await self._deliver(pool, self.lanes.of_migration(migration, batches), before=prepare)

    async def send_phases(
        self, notes: list[str], *, before: Callable[[], Awaitable[None]]
    ) -> BatchlicError | None:
        """Send what is left of each phase of the plan; returns what stopped the pool, or forbids a phase.

        A note tells how a canary came out.
        """
        gate = gate_of(self.job.canary, self.folder, self.journal)
        stopped: BatchlicError | None = None
        for number, batches in enumerate(self.lanes.phases()):
            stopped = await self.send_batches(batches, before=None if number else before)
            if stopped is None and gate is not None and number == 0:
                stopped = judged(gate, notes)
            if stopped is not None:  # the second phase counts on the first one
                break
        return stopped

    async def send_batches(
        self, batches: range, *, before: Callable[[], Awaitable[None]] | None
    ) -> BatchlicError | None:
        """Send what is left of some batches of one phase; returns what stopped the pool.

        `before` is called after the first login of the session; without it, there was one already.
        """
        pool = self._pool(login_delay_s=0.0 if before is None else self.login_delay_s)
        lanes = self.lanes.of_phase(batches, on_accepted=pool.refusals.accepted)
        return await self._deliver(pool, lanes, before=before)

    def _pool(self, *, login_delay_s: float) -> Pool:
        limits = self.job.limits
        sender = Sender(
            client=self.client,
            journal=self.journal,
            limiters=self.limiters,
            policy=RetryPolicy(
                resendable=self.job.resendable_skus,
                give_up_after=limits.give_up_after,
                trusts_duplicates=limits.trust_duplicates,
                on_unreachable=self.observation.unreachable,
            ),
            observer=self.observation,
            login_delay_s=login_delay_s,
        )
        return Pool(sender, workers=limits.max_concurrency, on_gave_up=self.observation.gave_up)

    async def _deliver(
        self,
        pool: Pool,
        lanes: Iterable[LanePlan],
        *,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> BatchlicError | None:
        """Deliver while signals are heard.

        Returns what stopped the pool: a task group would wrap it if it were raised.
        """
        stopped: BatchlicError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_on_signal, pool)
            tasks.start_soon(_abort_when_lost, pool, self.journal)
            tasks.start_soon(self.observation.measure)
            tasks.start_soon(self.live.watch)
            if self.sharing is not None:
                tasks.start_soon(self.sharing.keep, self.limiters)
            try:
                await pool.deliver_lanes(lanes, before=before)
            except BatchlicError as error:
                stopped = error
            tasks.cancel_scope.cancel()
        self.observation.count()
        return stopped


def obey_waits(
    job: Job, journal: Journal, limiters: Limiters, lanes: Lanes, events: EventStream, *, ready_at: float
) -> float:
    """Obey what the carrier asked before this session sends; returns the seconds before the first login."""
    if not _hold_accounts(journal, limiters, lanes):
        obey_earlier_retry_after(journal, limiters, job.limits.give_up_after)
    login_delay_s = delay_login(ready_at - time.monotonic(), limiters, job.limits.give_up_after)
    if login_delay_s:
        message = "the carrier asks batchlic to wait before the next login"
        events.emit(Warned(message=message, details={"wait_s": round(login_delay_s, 1)}))
    if journal.has_implausible_wait:
        message = "the carrier asked an earlier session to wait a day or more: this one tries again"
        events.emit(Warned(message=message))
    return login_delay_s


def judged(gate: Gate, notes: list[str]) -> StoppedEarly | None:
    """Why the devices after the canary are not sent; None, and a note, if they are."""
    objection = gate.objection()
    if objection is None:
        notes.append(gate.note())
    return objection


async def counts_after(client: Carrier, folder: RunFolder, journal: Journal, on_wait: OnWait) -> list[str]:
    """Notes about the license counts after the run. A signal ends the question, not the run."""
    try:
        return await unless_asked(partial(compare_counts, client, folder, journal, on_wait))
    except Interrupted as interrupted:
        return [f"license counts after the run are unknown: {interrupted}"]


def limiters_of(
    job: Job,
    events: EventStream,
    *,
    start_from: Mapping[Scope, Learned],
    sharing: SharedLimits | None = None,
) -> Limiters:
    """The limiters of a session, with the limits of the job; `start_from`: what earlier runs have learned."""
    limits = job.limits

    def new(scope: Scope, learned: Learned | None, slots: anyio.CapacityLimiter | None) -> Limiter:
        return Limiter(
            max_concurrency=limits.max_concurrency,
            max_rate=limits.max_rate,
            fixed_rate=limits.fixed_rate,
            headroom=as_share(limits.headroom),
            start_from=learned or start_from.get(scope),
            on_change=lambda change: events.emit(limit_changed(change, scope)),
            slots=slots,
            time_slots=sharing.time_slots(scope) if sharing is not None else None,
        )

    is_by_account = limits.scope == "account"
    return Limiters(new, max_concurrency=limits.max_concurrency, is_by_account=is_by_account)


def obey_earlier_retry_after(journal: Journal, limiters: Limiters, give_up_after: float) -> None:
    """Keep obeying a `Retry-After` that an earlier session received, if it is plausible (promise J).

    Raises StoppedEarly where the wait is longer than `give_up_after` seconds.
    """
    wait = journal.remaining_wait_s(now())
    if wait > give_up_after:
        raise StoppedEarly(f"the carrier asked batchlic to wait {wait:.0f} s more; resume the run after that")
    if wait > 0:
        limiters.hold(wait)


def _hold_accounts(journal: Journal, limiters: Limiters, lanes: Lanes) -> bool:
    """The same for each account that has a limiter; false if it is not known whose the wait is.

    An account whose wait is too long gives up when its first request is due.
    """
    waits = lanes.earlier_waits(journal.remaining_wait_s(now()), now()) if limiters.is_by_account else {}
    for account, wait in waits.items():
        limiters.hold(wait, account)
    return bool(waits)


def delay_login(wait: float, limiters: Limiters, give_up_after: float) -> float:
    """Seconds before the first login, after the carrier asked to wait so long in the preflight (promise J).

    Raises StoppedEarly where the wait is longer than `give_up_after` seconds.
    """
    if wait > give_up_after:
        raise StoppedEarly(f"the carrier asks batchlic to wait {wait:.0f} s; resume the run after that")
    if wait <= 0:
        return 0.0
    limiters.hold(wait)
    return wait


async def _stop_on_signal(pool: Pool) -> None:
    pool.stop(f"stopped by {await asked()}")
    tell("\nFinishing the requests in flight. Press Ctrl-C again to stop at once.")
    await asked(2)
    pool.abort()


async def _abort_when_lost(pool: Pool, journal: Journal) -> None:
    """Cut off the requests in flight when another session may take over (promise K).

    Some of them may not have left yet, because they wait for a connection.
    """
    while True:
        try:
            journal.check_held()
        except StoppedEarly as lost:
            pool.fail(lost)
            pool.abort()
            return
        await anyio.sleep(LOOK_INTERVAL_S)
