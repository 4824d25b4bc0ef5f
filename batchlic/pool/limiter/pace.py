"""The carrier's pace: one controller, shared by all workers, lets the next request start (promise J)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import anyio

from batchlic.carrier.rate_limits import Quota
from batchlic.pool.limiter.knee import Knee
from batchlic.pool.limiter.observed import Flight, Observed
from batchlic.pool.limiter.rates import Pinned
from batchlic.pool.limiter.regime import NoLimit, Regime
from batchlic.pool.limiter.regimes import regime_for
from batchlic.pool.limiter.spacing import Spacing

_CLOCK_S = 1e-6
"""Seconds that are as good as now: less than a clock tells apart."""


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
    """The right to send one request, held from `Pace.wait_turn` until `Pace.finished` or `abandon`."""

    __slots__ = ("_pace", "flight", "held")

    def __init__(self, pace: "Pace", flight: Flight) -> None:
        self._pace = pace
        self.flight = flight
        self.held = True

    def started(self) -> bool:
        """Mark the moment at which the request really leaves; without it the turn's own moment counts.

        False if it may not leave any more, since everyone has been told to wait meanwhile.
        """
        self.flight.sent_at = anyio.current_time()
        return not self._pace.is_paused

    def abandon(self) -> None:
        """Give the slot back, as if nothing had been sent; does nothing after `Pace.finished`."""
        if self.held:
            self._pace.take_back(self.flight)
        self._pace.give_back(self)


class Pace:
    """Finds the carrier's limit by itself and keeps all workers at it together.

    At most `max_concurrency` requests are in flight and at most `max_rate` start a second; `fixed_rate` pins
    the rate instead of finding it. `Retry-After` is obeyed by everyone. `on_change` is called at each
    change of pace that a person would want to read about.
    """

    def __init__(
        self,
        *,
        max_concurrency: int,
        max_rate: float | None = None,
        fixed_rate: float | None = None,
        on_change: Callable[[PaceChange], None] | None = None,
    ) -> None:
        now = anyio.current_time()
        self._max_rate = min(max_rate or math.inf, fixed_rate or math.inf)
        self._on_change = on_change
        self._seen = Observed(now, max_concurrency)
        self._regime: Regime = regime_for(NoLimit(), self._seen) if fixed_rate is None else Pinned(self._seen)
        self._knee = Knee(self._seen)
        self._spacing = Spacing(self._max_rate)
        self._resume_at = self._used_up_until = now
        self._believes_quota = True
        self._reported = self._regime.reason
        self._head_of_line = anyio.Lock(fast_acquire=True)
        self._changed = anyio.Event()

    @property
    def rate(self) -> float:
        """Requests/s now allowed; infinite where only the concurrency binds."""
        return min(self._regime.rate(), self._max_rate)

    @property
    def concurrency(self) -> int:
        """Requests now allowed in flight."""
        return self._regime.concurrency()

    @property
    def in_flight(self) -> int:
        """Requests that have started and not ended."""
        return self._seen.in_flight

    @property
    def is_paused(self) -> bool:
        """Whether the carrier has told everyone to wait."""
        return max(self._resume_at, self._used_up_until) - anyio.current_time() > _CLOCK_S

    def hold(self, seconds: float) -> None:
        """Let nobody start for so long: the carrier has told an earlier session of the run to wait."""
        self._resume_at = max(self._resume_at, anyio.current_time() + seconds)

    async def wait_turn(self) -> Turn:
        """Wait until one more request may start, first come first served; its slot is then taken."""
        async with self._head_of_line:
            while (delay := self._delay()) > _CLOCK_S:
                self._changed = anyio.Event()
                with anyio.move_on_after(delay):
                    await self._changed.wait()
            flight = self._seen.takes_off()
            self._spacing.take(flight.sent_at)
            self._regime.left(flight)
            return Turn(self, flight)

    def finished(self, turn: Turn, signal: Signal) -> None:
        """Give the slot of `turn` back and learn from how its request ended."""
        if not turn.held:
            return
        seen = self._seen
        seen.now = anyio.current_time()
        self.give_back(turn)
        self._pause(signal)
        if signal.kind is SignalKind.DELIVERED:
            seen.delivered(turn.flight)
            if self._knee.delivered(turn.flight):
                self._report(f"{seen.max_concurrency} in flight deliver as much as twice as many")
            found = self._regime.delivered(turn.flight)
        elif signal.kind is SignalKind.THROTTLED:
            self._knee.throttled()
            seen.throttled(turn.flight, signal.retry_after_s or 0.0)
            found = self._regime.throttled(turn.flight)
        else:
            self._regime.lost(turn.flight)
            found = None
        if found is not None:
            self._regime = regime_for(found, seen)
        self._report(self._regime.reason)

    def take_back(self, flight: Flight) -> None:
        """Forget a request that never left."""
        flight.stretch.sent -= 1
        self._seen.forget(flight)
        self._regime.lost(flight)

    def give_back(self, turn: Turn) -> None:
        """Free the slot of `turn`, once."""
        if turn.held:
            turn.held = False
            self._seen.lands(turn.flight)
            self._changed.set()

    def _delay(self) -> float:
        now = self._seen.now = anyio.current_time()
        if (resume_at := max(self._resume_at, self._used_up_until)) > now:
            return resume_at - now
        if self._seen.in_flight >= self._regime.concurrency():
            return math.inf
        wait = self._regime.wait()
        self._spacing.rate = self.rate
        return max(wait, self._spacing.delay(now))

    def _pause(self, signal: Signal) -> None:
        """Obey `Retry-After`, or a quota that is used up."""
        now = self._seen.now
        self._heed(signal)
        pause = signal.retry_after_s or 0.0
        if now + pause > self._resume_at:
            if self._resume_at <= now < now + pause:
                self._report(f"everyone waits {pause:.3g} s: the carrier says so")
            self._resume_at = now + pause
            if pause and signal.kind is not SignalKind.THROTTLED:
                self._seen.resumed_at = self._resume_at  # no burst goes through a pause

    def _heed(self, signal: Signal) -> None:
        """Wait for the next window where a quota is said to be used up.

        Only one request can be the last of a quota: one more that is let in and says the same shows that the
        quota is not a window's (a bucket's, say), and then it is of no use.
        """
        now, quota = self._seen.now, signal.quota
        if quota is None or quota.remaining != 0 or not self._believes_quota:
            return
        if signal.kind is SignalKind.DELIVERED and now < self._used_up_until:
            self._believes_quota = False
            self._used_up_until = now
        else:
            self._used_up_until = max(self._used_up_until, now + (quota.reset_s or 0.0))

    def _report(self, reason: str) -> None:
        if self._on_change is not None and reason != self._reported:
            self._reported = reason
            self._on_change(PaceChange(self._seen.now, self.rate, self.concurrency, reason))
