"""The carrier's pace: one controller, shared by all workers, lets the next request start (promise J)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import anyio

from batchlic.carrier.hints import Quota
from batchlic.pool.spacing import Spacing

_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 60.0


class SignalKind(Enum):
    """What the end of a request says about the carrier's load."""

    DELIVERED = "delivered"
    """Any definite answer but 429."""
    THROTTLED = "throttled"
    """429: too many requests."""
    LOST = "lost"
    """Time-out, reset, unavailable, 5xx: nothing is known but that the carrier is not well."""


@dataclass(frozen=True, slots=True)
class Signal:
    """How a request ended; `retry_after_s` is in seconds from now."""

    kind: SignalKind
    retry_after_s: float | None = None
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class PaceChange:
    """One change of pace worth a line of log: `at` on the event loop's clock, `rate` in requests/s."""

    at: float
    rate: float
    concurrency: int
    reason: str


class Turn:
    """The right to send one request, held from `Pace.wait_turn` until `finished` or `abandon`."""

    __slots__ = ("_pace", "held", "sent_at")

    def __init__(self, pace: "Pace", now: float) -> None:
        self._pace = pace
        self.held = True
        self.sent_at = now

    def started(self) -> None:
        """Mark the moment at which the request really leaves; without it the turn's own moment counts."""
        self.sent_at = anyio.current_time()

    def abandon(self) -> None:
        """Give the slot back without having learnt anything; after `finished` this does nothing."""
        if self.held:
            self.held = False
            self._pace._give_back()  # noqa: SLF001  # a turn is a part of its pace


class Pace:
    """Spaces requests, bounds those in flight and pauses all workers when the carrier says so.

    At most `max_concurrency` requests are in flight, at most `max_rate` start a second; `fixed_rate` pins
    the rate instead of finding it. `on_change` is called at each change of pace that a person would want
    to read about.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        max_rate: float | None = None,
        fixed_rate: float | None = None,
        on_change: Callable[[PaceChange], None] | None = None,
    ) -> None:
        self._max_concurrency = max_concurrency
        self._spacing = Spacing(min(fixed_rate or math.inf, max_rate or math.inf))
        self._on_change = on_change
        self._in_flight = 0
        self._resume_at = -math.inf
        self._backoff = _FIRST_BACKOFF
        self._head_of_line = anyio.Lock(fast_acquire=True)
        self._changed = anyio.Event()

    @property
    def rate(self) -> float:
        """Requests/s now allowed; infinite where only the concurrency binds."""
        return self._spacing.rate

    @property
    def concurrency(self) -> int:
        """Requests now allowed in flight."""
        return self._max_concurrency

    async def wait_turn(self) -> Turn:
        """Wait until one more request may start, first come first served; its slot is then taken."""
        async with self._head_of_line:
            while (delay := self._delay(anyio.current_time())) > 0:
                self._changed = anyio.Event()
                with anyio.move_on_after(delay):
                    await self._changed.wait()
            now = anyio.current_time()
            self._spacing.take(now)
            self._in_flight += 1
            return Turn(self, now)

    def finished(self, turn: Turn, signal: Signal) -> None:
        """Give the slot of `turn` back and learn from how its request ended."""
        turn.abandon()
        if signal.kind is SignalKind.THROTTLED:
            self._pause(anyio.current_time(), turn, signal)
        elif signal.kind is SignalKind.DELIVERED:
            self._backoff = _FIRST_BACKOFF

    def _delay(self, now: float) -> float:
        if self._in_flight >= self._max_concurrency:
            return math.inf
        return max(self._resume_at - now, self._spacing.delay(now))

    def _pause(self, now: float, turn: Turn, signal: Signal) -> None:
        pause = signal.retry_after_s
        if pause is None:
            if turn.sent_at < self._resume_at:
                return
            pause = self._backoff
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)
        if now + pause > self._resume_at:
            self._resume_at = now + pause
            self._report(now, f"throttled: pause of {pause:.1f} s")

    def _give_back(self) -> None:
        self._in_flight -= 1
        self._changed.set()

    def _report(self, now: float, reason: str) -> None:
        if self._on_change is not None:
            self._on_change(PaceChange(now, self.rate, self.concurrency, reason))
