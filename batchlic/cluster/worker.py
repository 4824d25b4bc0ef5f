"""What a worker does with a shard: it runs the ordinary pool on its batches, under a lease of its own."""

import math
import os
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
import msgspec

from batchlic.carrier.client import open_client
from batchlic.cluster.messages import ShardEnd, ShardEvent, ShardTask, Told
from batchlic.database import leases, postgresql
from batchlic.database.leases import Lease
from batchlic.database.postgresql import Store
from batchlic.errors import (
    BatchlicError,
    CredentialsRejected,
    ExitCode,
    RefusedToStart,
    RunFolderError,
    StoppedEarly,
    UsageError,
)
from batchlic.events import EventStream, RunEvent
from batchlic.job import Job
from batchlic.journal import Journal, RunIdentity, StorePlace
from batchlic.objectstore.addresses import is_remote
from batchlic.objectstore.copies import local_run
from batchlic.pool.limiter.limiters import Limiters
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of
from batchlic.runs.lanes import Lanes
from batchlic.runs.live_limits import Bounds, LimitedHere, share_of
from batchlic.runs.observation import Observation, Tally
from batchlic.runs.process import this_process
from batchlic.runs.screen import no_screen
from batchlic.runs.shared_limits import SharedLimits
from batchlic.runs.signals import StopRequests, run_in_loop
from batchlic.runs.submit import Sending, limiters_of, obey_waits, with_few_connections
from batchlic.runs.target import Target
from batchlic.settings import load_settings
from batchlic.targets import open_target, sandbox_target

Tell: TypeAlias = Callable[[Told], None]

LOOK_INTERVAL_S = 0.1
"""Seconds between two looks of a shard for a request to stop, or for other limits."""
_AGAIN_S = 0.2
"""Seconds between two attempts to take the lease of a shard whose worker is gone."""

_bounds: dict[str, Bounds] = {}
"""The limits that somebody gave to the runs of which this process sends shards, by their sessions."""


def send_shard(encoded: bytes, tell: Tell) -> bytes:
    """Send what is left of a shard (a ShardTask), and return its ShardEnd. Both are encoded as JSON."""
    task = msgspec.json.decode(encoded, type=ShardTask)
    notes: list[str] = []
    try:
        _send(task, tell, notes)
        end = ShardEnd(notes=notes)
    except BatchlicError as error:
        end = ShardEnd(exit_code=error.exit_code, reason=f"{error} (worker on {_here()})", notes=notes)
    except Exception as error:  # noqa: BLE001 - its text may hold a secret, and must not leave this process
        reason = f"unexpected error on {_here()}: {type(error).__name__} at {_place_of(error)}"
        end = ShardEnd(exit_code=ExitCode.BUG, reason=reason, notes=notes)
    return msgspec.json.encode(end)


def change_bounds(session: str, encoded: bytes) -> None:
    """Let the shards of a run in this process have other limits (a Bounds, as JSON)."""
    _bounds[session] = msgspec.json.decode(encoded, type=Bounds)


def _send(task: ShardTask, tell: Tell, notes: list[str]) -> None:
    settings = load_settings(task.profile)
    place = StorePlace(task.store, task.key, task.folder)
    identity, _ = place.identity()
    _refuse_other_plan(_folder_of(task), identity)
    if task.bounds is not None:
        _bounds.setdefault(task.session, task.bounds)
    with ExitStack() as opened:
        if task.sandbox is None:
            _refuse_other_carrier(task, settings.base_url)
            target = opened.enter_context(open_target(None, settings))
        else:
            target = sandbox_target(task.sandbox)
        lease = opened.enter_context(_held(task))
        journal = opened.enter_context(closing(place.open_held([lease], seqs=task.seqs)))
        shard = _Shard(task, target, journal, lease)
        with no_screen(), shard.stops.obeyed(), closing(shard.stops):
            shard.send(tell, notes)


class _Shard:
    """A shard at work."""

    def __init__(self, task: ShardTask, target: Target, journal: Journal, lease: Lease) -> None:
        self.stops = StopRequests()
        self._task = task
        self._job = _with_share(Job.model_validate(task.job), task)
        self._folder = _folder_of(task)
        self._target = target
        self._journal = journal
        self._lease = lease

    def send(self, tell: Tell, notes: list[str]) -> None:
        """Send what is left; adds to `notes`. Raises what stopped the sending."""
        events = EventStream()
        tell_ready = partial(tell, Told(number=self._task.number, is_ready=True))

        def pass_on(event: RunEvent) -> None:
            if isinstance(event, ShardEvent):
                tell(Told(number=self._task.number, event=event))

        with events.attached("coordinator", pass_on):
            run_in_loop(partial(self._deliver, events, tell_ready, notes), use_uvloop=True)

    async def _deliver(self, events: EventStream, tell_ready: Callable[[], None], notes: list[str]) -> None:
        job = with_few_connections(self._job, events, notes)
        sharing = SharedLimits(self._task.store, self._target, events)
        limiters = limiters_of(job, events, start_from={}, sharing=sharing)
        lanes = Lanes(job, self._folder, self._journal)
        obey_waits(job, self._journal, limiters, lanes, events, ready_at=-math.inf)
        observation = Observation(Tally(0), limiters, events, host=self._target.host)
        async with open_client(
            self._target.base_url,
            self._target.credentials,
            max_connections=job.limits.max_concurrency,
            around_login=partial(_only_login, self._task, self._lease.store),
        ) as client:
            client.remember(self._journal.owners_of_request_ids())
            sending = Sending(
                job=job,
                folder=self._folder,
                journal=self._journal,
                client=client,
                lanes=lanes,
                limiters=limiters,
                observation=observation,
                live=_Watch(self._task, self._lease, self.stops, limiters),
                login_delay_s=0.0,
                sharing=sharing,
            )

            async def before() -> None:
                tell_ready()

            batches = self._task.batches
            if self._journal.identity.to_sku is None:
                stopped = await sending.send_batches(batches, before=before)
            else:
                stopped = await sending.migrate(events, before=before, batches=batches)
            notes += observation.warnings
            await client.logout()
        self._lease.check()
        if stopped is not None:
            raise stopped


class _Watch:
    """Passes on to a shard that it shall stop, or that it has other limits."""

    def __init__(self, task: ShardTask, lease: Lease, stops: StopRequests, limiters: Limiters) -> None:
        self._task = task
        self._lease = lease
        self._stops = stops
        self._limited = LimitedHere(limiters, rate_sharers=task.rate_sharers, sharers=task.sharers)
        self._in_force: Bounds | None = None

    async def watch(self) -> None:
        """Look until cancelled."""
        is_asked = False
        while True:
            if self._lease.stop_requested and not is_asked:
                is_asked = True
                self._stops.ask("its coordinator")
            if (bounds := _bounds.get(self._task.session)) is not None and bounds != self._in_force:
                self._in_force = bounds
                self._limited.change(bounds)
            await anyio.sleep(LOOK_INTERVAL_S)


def _with_share(job: Job, task: ShardTask) -> Job:
    """The job with the shard's share of its limits."""
    limits = job.limits
    share = {
        "max_concurrency": share_of(limits.max_concurrency, task.sharers),
        "max_rate": limits.max_rate and limits.max_rate / task.rate_sharers,
        "fixed_rate": limits.fixed_rate and limits.fixed_rate / task.rate_sharers,
    }
    return job.model_copy(update={"limits": limits.model_copy(update=share)})


@contextmanager
def _held(task: ShardTask) -> Iterator[Lease]:
    """Hold the shard. Waits for the lease of another worker that had it and is gone.

    Raises LeaseLost if the coordinator is gone.
    """
    store = postgresql.open_store(task.store)
    with ExitStack() as held:
        while True:
            with suppress(RefusedToStart):
                lease = held.enter_context(_below_run(task, store, f"shard:{task.number}"))
                break
            time.sleep(_AGAIN_S)
        yield lease


@asynccontextmanager
async def _only_login(task: ShardTask, store: Store) -> AsyncIterator[None]:
    """Let one shard of the run at a time log in, and none after a rejected login (promise G).

    The carrier locks a login after five failures, and the tokens of all workers can end at once. Raises
    StoppedEarly if the session is to stop, and LeaseLost.
    """
    held = ExitStack()
    lease: Lease | None = None
    try:
        while lease is None:
            with suppress(RefusedToStart):
                lease = await anyio.to_thread.run_sync(held.enter_context, _below_run(task, store, "login"))
            await anyio.sleep(0 if lease else _AGAIN_S)
        if lease.stop_requested:
            raise StoppedEarly(f"{task.folder}: the session stops, so shard {task.number} does not log in")
        yield
    except CredentialsRejected:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(leases.request_stop_below, store, task.run_key)
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(held.close)


def _below_run(task: ShardTask, store: Store, name: str) -> AbstractContextManager[Lease]:
    """Hold a key below that of the run, as long as the coordinator holds the run."""
    return leases.held(
        store,
        f"{task.run_key}/{name}",
        what=f"{task.folder}, {name}",
        holder=str(this_process()),
        lease_s=task.lease_s,
        above=(task.run_key, task.epoch),
    )


def _folder_of(task: ShardTask) -> RunFolder:
    """The run folder, or of one in an object store a copy that has what a shard needs of it."""
    if not is_remote(task.folder):
        return RunFolder(Path(task.folder))
    needed = {folder_file.name for folder_file in (RunFolder(Path()).plan, RunFolder(Path()).outcomes)}
    return RunFolder(local_run(task.folder, needed.__contains__))


def _refuse_other_plan(folder: RunFolder, identity: RunIdentity) -> None:
    """Raise RunFolderError unless this worker can read the plan of the run."""
    advice = (
        f"{folder.plan}: this worker can't read the plan of the run: workers on other machines need the run "
        "folder at the same path, on a file system that they share, or in an object store"
    )
    try:
        found = folder.plan.stat()
    except OSError as error:
        raise RunFolderError(f"{advice} ({error.strerror})") from None
    if _sha256_of(folder.plan, found.st_mtime_ns, found.st_size) != identity.plan_sha256:
        raise RunFolderError(f"{advice} (another file is there)")


@cache
def _sha256_of(path: Path, _modified_ns: int, _size: int) -> str:
    return sha256_of(path)


def _refuse_other_carrier(task: ShardTask, base_url: str) -> None:
    if base_url != task.carrier:
        raise UsageError(
            f"the run sends to {task.carrier}, and BATCHLIC_BASE_URL of this worker is {base_url}: give all "
            "workers the settings of the coordinator"
        )


def _here() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"


def _place_of(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
