"""What happens in a run, as typed events; and the stream that passes them to subscribers.

A run emits its events and knows no subscriber: progress, log, metrics, traces and notifications attach from
outside. Each subscriber has a thread and a queue of its own. One that is slow or fails neither slows nor
stops the run.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from time import time_ns
from typing import Any, TypeAlias

import msgspec

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus, Step
from batchlic.errors import ExitCode
from batchlic.figures import counted

PASS_ON_S = 0.1
"""Seconds from an event to its subscribers, at most, if they are not busy."""
GOODBYE_S = 5.0
"""Seconds that a subscriber gets at the end for events that it has not taken yet."""
CAPACITY = 20_000
"""Events that may wait for one subscriber. Beyond it, new `Frequent` events are left out for it."""


def _now() -> int:
    return time_ns() // 1000


OUTCOMES: tuple[Outcome, ...] = tuple(Outcome)
"""What an attempt may lead to."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Something that happened. `at` is in microseconds since 1970."""

    at: int = msgspec.field(default_factory=_now)


class Frequent(Event, frozen=True, kw_only=True):
    """An event of which a subscriber may miss some, if it is too slow."""


class Phase(StrEnum):
    """A part of a run. A phase may contain others."""

    PLANNING = "planning"
    PREFLIGHT = "preflight"
    SENDING = "sending"
    FINALIZING = "finalizing"
    """Results, audit and summary are written, and the ledger is updated."""
    WAITING = "waiting"
    """For callbacks."""


class RunStarted(Event, frozen=True, kw_only=True, tag=True):
    """A command began to work on a run. `folder` is the run's folder."""

    run_id: str
    job: str
    action: str
    carrier: str
    folder: str
    is_resumed: bool
    """Whether an earlier session has worked on the run."""


class PhaseStarted(Event, frozen=True, kw_only=True, tag=True):
    """A phase began."""

    phase: Phase


class PhaseEnded(Event, frozen=True, kw_only=True, tag=True):
    """A phase ended, whether well or not."""

    phase: Phase


class PlanReady(Event, frozen=True, kw_only=True, tag=True):
    """The plan is known. `rejected` has rows by reason, `excluded` has devices by the ledger's status."""

    rows_read: int
    rejected: Mapping[str, int]
    planned: int
    excluded: Mapping[str, int]
    batches: int
    notes: Sequence[str]


class SessionStarted(Event, frozen=True, kw_only=True, tag=True):
    """A session began to send what is left of the plan."""

    carrier: str
    planned: int
    notes: Sequence[str]


class AttemptEnded(Frequent, frozen=True, kw_only=True, tag=True):
    """One HTTP exchange is over, and its answer is durable.

    `step` is that of a migration. `part` has row ranges within the batch; empty: the whole batch. `is_final`:
    the answer decides the fate of the devices. `started_at` is in microseconds since 1970.
    """

    batch_id: int
    step: Step | None
    part: str
    x_request_id: str
    attempt: int
    action: str
    devices: int
    started_at: int
    duration_ms: float
    outcome: Outcome
    is_final: bool
    http_status: int | None
    error_code: str | None
    error_message: str | None
    request_id: str | None
    retry_after_s: float | None


class DevicesCounted(Frequent, frozen=True, kw_only=True, tag=True):
    """Devices so far, those of earlier sessions included.

    `to_send` is their number without those that the ledger excludes. `statuses` counts those that are
    accepted, failed and in doubt; the others are pending. `throttled_share` is the share of this session's
    requests that were throttled, 0 to 1, and `admitted` is the number of the others.
    """

    to_send: int
    statuses: Mapping[DeviceStatus, int]
    throttled_share: float
    admitted: int = 0


class RateMeasured(Frequent, frozen=True, kw_only=True, tag=True):
    """How fast requests flow; emitted twice a second.

    `requests_per_s` is what the carrier let in over the last seconds. `found` is its limit in words. If each
    account has a limiter, the figures are those of all accounts together.
    """

    requests_per_s: float
    found: str
    in_flight: int
    concurrency: int
    """Requests now allowed in flight."""
    is_paused: bool
    """Whether all workers wait because the carrier asks for it."""
    wait_s: float = 0.0
    """Seconds until the carrier lets requests start again, as far as it is known; 0 if it does now."""


class LimitChanged(Event, frozen=True, kw_only=True, tag=True):
    """The limiter found another limit, or the carrier asked all workers to wait: `found` says it in words.

    `requests_per_s` is None before the carrier let a request in. `account`: the one that the limiter is for,
    or None if there is one for the login. Figures are then those of the account.
    """

    found: str
    requests_per_s: float | None
    concurrency: int
    account: str | None = None


class BoundsChanged(Event, frozen=True, kw_only=True, tag=True):
    """Somebody has changed the limits of the session, from now on.

    `by` is a user of the operating system. `max_rate` is in requests per second, None without a bound.
    """

    by: str
    max_rate: float | None
    max_concurrency: int
    headroom: str
    is_paused: bool


class LicensesCounted(Event, frozen=True, kw_only=True, tag=True):
    """The carrier was asked how many licenses of a SKU are left. None: it does not say."""

    account: str
    sku: str
    available: int | None
    needed: int


class Warned(Event, frozen=True, kw_only=True, tag=True):
    """Something that an operator should know, as a sentence with details by name."""

    message: str
    details: Mapping[str, Any] = {}


class Stopped(Event, frozen=True, kw_only=True, tag=True):
    """The session stops early. What was sent is recorded, and its files are written next."""

    reason: str


class SessionEnded(Event, frozen=True, kw_only=True, tag=True):
    """The session's files are written. `stopped_because`: why it ended early, or None."""

    exit_code: ExitCode
    statuses: Mapping[DeviceStatus, int]
    stopped_because: str | None


class RunEnded(Event, frozen=True, kw_only=True, tag=True):
    """The command that worked on a run is over; the last event.

    `exit_code` is that of the command. `reason` is why the run was refused or stopped early, or None. The
    figures are empty if the run was refused, or if a bug ended it. `is_by_person`: somebody at the terminal
    ended the run, by pressing Ctrl-C or answering no.
    """

    exit_code: int
    reason: str | None
    is_by_person: bool = False
    statuses: Mapping[DeviceStatus, int] = {}
    rows_read: int = 0
    rejected: Mapping[str, int] = {}
    requests: int = 0
    throttled: int = 0
    devices_per_second: float | None = None
    notes: Sequence[str] = ()


RunEvent: TypeAlias = (
    RunStarted
    | PhaseStarted
    | PhaseEnded
    | PlanReady
    | SessionStarted
    | AttemptEnded
    | DevicesCounted
    | RateMeasured
    | LimitChanged
    | BoundsChanged
    | LicensesCounted
    | Warned
    | Stopped
    | SessionEnded
    | RunEnded
)
"""All events."""

Subscriber: TypeAlias = Callable[[RunEvent], None]
"""Takes the events of a run one by one, in a thread of its own. It may be slow, and it may raise."""


class EventStream:
    """Passes events to subscribers. `emit` may be called from any thread, and returns at once."""

    def __init__(self) -> None:
        self._channels: list[_Channel] = []
        self._started: set[str] = set()
        self.problems: list[str] = []
        """What went wrong with subscribers that are detached, as sentences."""

    def emit(self, event: RunEvent) -> None:
        """Tell all subscribers. A run starts once, even if its command begins another session of it."""
        if isinstance(event, RunStarted):
            if event.run_id in self._started:
                return
            self._started.add(event.run_id)
        for channel in self._channels:
            channel.put(event)

    @contextmanager
    def attached(self, name: str, subscriber: Subscriber) -> Iterator[None]:
        """Pass the events of the block to a subscriber; afterward wait for it, but not long.

        `name` is what messages call it.
        """
        channel = _Channel(name, subscriber)
        self._channels = [*self._channels, channel]
        try:
            yield
        finally:
            self._channels = [other for other in self._channels if other is not channel]
            self.problems += channel.close()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Emit the beginning and the end of a phase around a block."""
        self.emit(PhaseStarted(phase=phase))
        try:
            yield
        finally:
            self.emit(PhaseEnded(phase=phase))


class _Channel:
    """The queue and the thread of one subscriber."""

    def __init__(self, name: str, subscriber: Subscriber) -> None:
        self._name = name
        self._subscriber = subscriber
        self._queue: deque[RunEvent] = deque()
        self._left_out = 0
        self._failures: Counter[str] = Counter()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name=f"batchlic {name}", daemon=True)
        self._thread.start()

    def put(self, event: RunEvent) -> None:
        if isinstance(event, Frequent) and len(self._queue) >= CAPACITY:
            self._left_out += 1
        else:
            self._queue.append(event)

    def close(self) -> list[str]:
        """Wait until the subscriber has taken all events, or is too slow; return its problems."""
        self._is_closing.set()
        with suppress(KeyboardInterrupt):  # a person who insists only wants to wait no longer
            self._thread.join(GOODBYE_S)
        problems = []
        if self._thread.is_alive():
            problems.append(f"{self._name}: it is too slow, and has not taken the last events of the run")
        if self._left_out:
            problems.append(f"{self._name}: it is too slow, and missed {counted(self._left_out, 'event')}")
        for kind, times in self._failures.items():
            problems.append(f"{self._name}: {kind} at {counted(times, 'event')}")
        return problems

    def _pass_on(self) -> None:
        is_closing = False
        while not is_closing:
            is_closing = self._is_closing.wait(PASS_ON_S)
            while self._queue:
                self._tell(self._queue.popleft())

    def _tell(self, event: RunEvent) -> None:
        try:
            self._subscriber(event)
        except BaseException as error:  # noqa: BLE001 - none stops a run, not even by sys.exit
            self._failures[type(error).__name__] += 1  # not its text: it may hold a secret (promise F)
