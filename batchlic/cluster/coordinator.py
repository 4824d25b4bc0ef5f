"""The coordinator's part of sending: it cuts the plan into shards, which workers send, and watches them.

It logs in before any shard begins, and shards log in one after another: so a wrong login is tried once, and
not by each worker (promise G).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread
import msgspec

from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.client import Carrier, open_client
from batchlic.chunker import phase_ranges, read_accounts
from batchlic.cluster.figures import Figures
from batchlic.cluster.messages import ShardEnd, ShardTask, Told
from batchlic.cluster.shards import Shard, cut
from batchlic.database import leases
from batchlic.database.leases import Lease
from batchlic.database.postgresql import Store
from batchlic.errors import BatchlicError, CredentialsRejected, ExitCode, StoppedEarly
from batchlic.events import EventStream, RateMeasured, Warned
from batchlic.job import Job
from batchlic.journal import SANDBOX
from batchlic.journal.store_record import LEASE_OF_RUN
from batchlic.objectstore.copies import address_of
from batchlic.runs.canary import gate_of
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import without_secrets
from batchlic.runs.lanes import Lanes
from batchlic.runs.live_limits import Bounds, LiveLimits
from batchlic.runs.migrate import migration_of, reserve_licenses
from batchlic.runs.observation import Observation, Tally
from batchlic.runs.patience import warn
from batchlic.runs.screen import tell
from batchlic.runs.signals import asked, unless_asked
from batchlic.runs.submit import Sending, Session, counts_after, judged, limiters_of, obey_waits

SEQS_PER_SHARD = 2**32
"""Numbers for the entries of one shard in one session. So entries of a batch stay in the order of time."""
LOOK_INTERVAL_S = 0.05
"""Seconds between two looks at the shards."""
CANCEL_TIMEOUT_S = 5.0
"""Seconds to wait for a scheduler that does not answer, when the session ends."""
ASK_INTERVAL_S = 1.0
"""Seconds between two requests to stop: a shard may take its lease after one of them."""

_T = TypeVar("_T")


class Task(Protocol):
    """A shard that a worker sends."""

    def done(self) -> bool:
        """Whether it has ended, or is lost."""

    def result(self) -> bytes:
        """Its ShardEnd, as JSON. Raises whatever Dask raises if it is lost."""

    def cancel(self) -> object:
        """Let no worker begin it any more. One that is at work goes on."""


class Workers(Protocol):
    """Processes that send shards. Not for several threads at once."""

    def count(self) -> int:
        """How many shards can be at work at once."""

    def start(self, name: str, encoded: bytes, topic: str) -> Task:
        """Let a worker send a shard (a ShardTask, as JSON). If the worker dies, another one does it again."""

    def listen(self, topic: str, hear: Callable[[str], None]) -> None:
        """Call a function, in another thread, with all that shards tell: each a Told, as JSON."""

    def set_bounds(self, session: str, encoded: bytes) -> None:
        """Tell all workers other limits for a session. Those that can't be reached now don't get them."""


class Coordinator:
    """Sends a run by workers: a `batchlic.runs.submit.Send`."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def __call__(self, session: Session) -> None:
        """Send what is left of the plan. Raises what stopped the sending."""
        shards = _Shards(self._workers, session, Figures(session.journal, session.events))
        try:
            stopped = await self._log_in(shards)
            if stopped is None:
                stopped = await self._send_phases(shards)
        finally:
            await shards.close()
        session.journal.catch_up()
        if stopped is not None:
            raise stopped
        if not session.journal.identity.to_sku:
            session.notes.extend(await _counts_after(session))

    async def _log_in(self, shards: _Shards) -> BatchlicError | None:
        """Check the login, and what a run checks after it, before any worker begins. Sends no batch."""
        session = shards.session
        job, folder, target = session.job, session.folder, session.target
        journal, events = session.journal, session.events
        limiters, lanes = limiters_of(job, events, start_from={}), Lanes(job, folder, journal)
        login_delay_s = obey_waits(job, journal, limiters, lanes, events, ready_at=session.ready_at)
        async with open_client(target.base_url, target.credentials) as client:
            here = Sending(
                job=job,
                folder=folder,
                journal=journal,
                client=client,
                lanes=lanes,
                limiters=limiters,
                observation=Observation(Tally(0), limiters, EventStream(), host=target.host),
                live=shards.live,
                login_delay_s=login_delay_s,
            )

            async def check() -> None:
                await session.check_ledger(client)
                if journal.identity.to_sku:
                    await _check_licenses(client, session)

            stopped = await here.log_in(before=check)
            await client.logout()
        return stopped

    async def _send_phases(self, shards: _Shards) -> BatchlicError | None:
        """Send phase by phase: each ends before the next one begins. The canary is one shard."""
        session = shards.session
        job, folder, journal = session.job, session.folder, session.journal
        gate = gate_of(job.canary, folder, journal)
        is_migration = journal.identity.to_sku is not None
        phases = phase_ranges(folder.plan)
        if is_migration:
            phases = [range(phases[0].start, phases[-1].stop)]
        for number, phase in enumerate(phases):
            is_canary = gate is not None and number == 0
            workers = max(1, await shards.in_thread(self._workers.count))
            accounts = [] if is_canary else _accounts(job, folder, phase)
            of_phase = [Shard(phase)] if is_canary else cut(accounts, workers, may_split=not is_migration)
            at_once = min(workers, len(of_phase), job.limits.max_concurrency)
            stopped = await shards.send(of_phase, at_once=at_once)
            journal.catch_up()
            if stopped is None and gate is not None and is_canary:
                stopped = judged(gate, session.notes)
            if stopped is not None:
                return stopped
        return None


def _accounts(job: Job, folder: RunFolder, batches: range) -> list[tuple[str, range]]:
    """The accounts of these batches, in the order of the plan, with the batches that follow each other."""
    accounts = read_accounts(folder.plan, job.inventory.id_kind, batches, most_at_once=1)
    found = [(account.account, stretch.batches) for account in accounts for stretch in account.stretches]
    return sorted(found, key=lambda one: one[1].start)


async def _counts_after(session: Session) -> list[str]:
    """Notes about the license counts after the run. The first login may have expired."""
    target = session.target
    async with open_client(target.base_url, target.credentials) as client:
        try:
            await unless_asked(client.login)
        except (BatchlicError, CarrierUnreachable) as error:
            return [f"license counts after the run are unknown: {error}"]
        notes = await counts_after(client, session.folder, session.journal, warn(session.events))
        await client.logout()
    return notes


async def _check_licenses(client: Carrier, session: Session) -> None:
    """Refuse a migration with too few licenses before any worker begins."""
    job, folder = session.job, session.folder
    migration = migration_of(job, session.journal, folder, on_accepted=lambda _: None, on_end=lambda *_: None)
    await reserve_licenses(client, job, folder.plan, migration, session.events)


class _Shards:
    """The shards of a session, phase after phase."""

    def __init__(self, workers: Workers, session: Session, figures: Figures) -> None:
        self.session = session
        self.bounds = _Bounds()
        self.live = LiveLimits(session.folder, session.job.limits, self.bounds, session.events)
        self._workers = workers
        self._figures = figures
        self._lease = _lease_of(session.folder)
        self._first_seq = session.journal.next_seq
        self._begun = 0
        self._at_work: dict[int, Task] = {}
        self._starting: set[int] = set()
        self._stopped: BatchlicError | None = None
        self._topic = f"batchlic {self._name}"
        workers.listen(self._topic, self._hear)

    async def send(self, shards: Sequence[Shard], *, at_once: int) -> BatchlicError | None:
        """Send these shards, so many at once; returns why they were stopped, if they were.

        Each shard gets its share of the limits, so there are never more at once, however many workers join.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._stop_on_signal, tasks.cancel_scope)
            tasks.start_soon(self._guarded, self._figures.measure)
            tasks.start_soon(self.live.watch)
            await self._send(deque(shards), at_once)
            tasks.cancel_scope.cancel()
        await self._guarded(self._figures.read)
        return self._stopped

    async def close(self) -> None:
        """Let no shard record anything any more: whatever it does from now on, the files stay right."""
        with anyio.move_on_after(CANCEL_TIMEOUT_S, shield=True):
            await self.in_thread(partial(_cancel, list(self._at_work.values())))
        with anyio.CancelScope(shield=True):
            await self._guarded(partial(self.in_thread, partial(leases.replace_below, *self._place)))

    async def in_thread(self, call: Callable[[], _T]) -> _T:
        """Call a function that waits for others in a thread, so that signals are heard meanwhile.

        Others may never answer: the second signal ends the wait.
        """
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)

    async def _send(self, waiting: deque[Shard], at_once: int) -> None:
        asked_at = -math.inf
        while self._at_work or (waiting and self._stopped is None):
            may_start = waiting and self._stopped is None and not self._starting
            if may_start and len(self._at_work) < min(at_once, await self.in_thread(self._workers.count)):
                self._start(waiting.popleft(), at_once)
            for number in [number for number, future in self._at_work.items() if future.done()]:
                await self._end(number)
            if self._stopped is not None and time.monotonic() - asked_at >= ASK_INTERVAL_S:
                asked_at = time.monotonic()
                await self._guarded(partial(self.in_thread, partial(leases.request_stop_below, *self._place)))
                if not await self.in_thread(self._workers.count):
                    break  # nobody is left who would end the others
            if not self._is_held():
                return
            if (encoded := self.bounds.take_news()) is not None:
                await self.in_thread(partial(self._workers.set_bounds, self._name, encoded))
            await anyio.sleep(LOOK_INTERVAL_S)
        await self._wait_for_lost_shards()

    def _start(self, shard: Shard, at_once: int) -> None:
        number = self._begun
        self._begun += 1
        start = self._first_seq + number * SEQS_PER_SHARD
        task = ShardTask(
            store=self._lease.store.name,
            key=self._lease.key.removeprefix(LEASE_OF_RUN),
            folder=address_of(self.session.folder.path),
            epoch=self._lease.epoch,
            lease_s=self._lease.lease_s,
            number=number,
            first_batch=shard.batches.start,
            end_batch=shard.batches.stop,
            sharers=at_once,
            rate_sharers=min(at_once, shard.parts) if self.session.job.limits.scope == "account" else at_once,
            first_seq=start,
            end_seq=start + SEQS_PER_SHARD,
            carrier=self.session.target.name,
            sandbox=self.session.target.base_url if self.session.target.name == SANDBOX else None,
            profile=self.session.target.profile,
            job=without_secrets(self.session.job).model_dump(mode="json"),
            bounds=self.bounds.in_force,
        )
        self._figures.follow(task.seqs)
        self._starting.add(number)
        name = f"{self._topic} shard {number}"
        self._at_work[number] = self._workers.start(name, msgspec.json.encode(task), self._topic)

    async def _end(self, number: int) -> None:
        """Take note of the end of a shard."""
        future = self._at_work.pop(number)
        self._starting.discard(number)
        self._figures.rates.pop(number, None)
        try:
            end = msgspec.json.decode(await self.in_thread(future.result), type=ShardEnd)
        except Exception as error:  # noqa: BLE001 - whatever happens to Dask, the shard can be sent again
            reason = f"Dask has lost shard {number} of the run ({type(error).__name__}); resume the run"
            self._stop(StoppedEarly(reason))
            return
        notes = self.session.notes
        notes.extend(note for note in end.notes if note not in notes)
        if end.exit_code is not None:
            self._stop(_error_of(end))

    async def _wait_for_lost_shards(self) -> None:
        """Wait for shards that go on although Dask does not know them any more."""
        while self._is_held():
            try:
                if not await self.in_thread(partial(leases.held_below, *self._place)):
                    return
                await self.in_thread(partial(leases.request_stop_below, *self._place))
            except BatchlicError as error:
                self._stop(error)
                return
            await anyio.sleep(LOOK_INTERVAL_S)

    def _is_held(self) -> bool:
        """Whether this session still holds the run. If not, its shards end by themselves."""
        try:
            self.session.journal.check_held()
        except BatchlicError as error:
            self._stopped = error
            return False
        return True

    def _stop(self, error: BatchlicError) -> None:
        """Start no shard any more, and let those at work finish what is in flight.

        Shards that stop because one of them was refused the login can end before that one.
        """
        if self._stopped is None or isinstance(error, CredentialsRejected):
            self._stopped = error

    async def _guarded(self, work: Callable[[], object]) -> None:
        """Await something that needs the store; if that fails, stop."""
        try:
            await work()  # type: ignore[misc]
        except BatchlicError as error:
            self._stop(error)

    async def _stop_on_signal(self, sending: anyio.CancelScope) -> None:
        self._stop(StoppedEarly(f"stopped by {await asked()}; continue with batchlic resume"))
        tell("\nFinishing the requests in flight on all workers. Press Ctrl-C again to stop at once.")
        await asked(2)
        sending.cancel()

    def _hear(self, encoded: str) -> None:
        """Take what a shard tells; in a thread of Dask."""
        told = msgspec.json.decode(encoded, type=Told)
        if told.is_ready:
            self._starting.discard(told.number)
            self.bounds.tell_again()
        if isinstance(told.event, RateMeasured):
            self._figures.rates[told.number] = told.event
        elif isinstance(told.event, Warned):
            details = {**told.event.details, "shard": told.number}
            self.session.events.emit(msgspec.structs.replace(told.event, details=details))
        elif told.event is not None:
            self.session.events.emit(told.event)

    @property
    def _place(self) -> tuple[Store, str]:
        return self._lease.store, self._lease.key

    @property
    def _name(self) -> str:
        return f"{self._lease.key}/{self._lease.epoch}"


class _Bounds:
    """Takes the limits that somebody changes while the run is at work, for the workers."""

    def __init__(self) -> None:
        self.in_force: Bounds | None = None
        self._told: Bounds | None = None

    def change(self, bounds: Bounds) -> None:
        """Have these limits from now on."""
        self.in_force = bounds

    def tell_again(self) -> None:
        """Tell the workers once more: one that takes the place of another does not know the limits."""
        self._told = None

    def take_news(self) -> bytes | None:
        """The limits, encoded as JSON, if the workers do not know them yet."""
        if self.in_force == self._told:
            return None
        self._told = self.in_force
        return msgspec.json.encode(self.in_force)


def _cancel(tasks: Sequence[Task]) -> None:
    for task in tasks:
        with suppress(Exception):  # Dask has lost it already
            task.cancel()


def _lease_of(folder: RunFolder) -> Lease:
    """The lease that this process holds on the run in a folder."""
    named = folder.named_store
    if named is None:
        raise StoppedEarly(
            f"{folder.path}: the journal of this run is a file, so other processes can't send it"
        )
    return named.lease


def _error_of(end: ShardEnd) -> BatchlicError:
    match end.exit_code:
        case ExitCode.CREDENTIALS:
            return CredentialsRejected(end.reason)
        case ExitCode.BUG:
            return BatchlicError(f"{end.reason}. What was sent is recorded; resume the run")
        case _:
            return StoppedEarly(end.reason)
