"""How the carrier's limit is found: each regime suits one kind of limit and, refuted, names its successor.

A 429 says that there is a limit, not of which kind. What tells the kinds apart is what happens next:

    SlowStart ──▶ Capped     requests beyond a number in flight are refused, others never: a cap on calls
        │           │ others are refused too
        │           ▼
        │         Paced      some are refused, some are let in: a rate, as of a token bucket
        │           │ nothing is let in any more
        │           ▼
        ├──────▶ Waiting     until something is: a window has opened. The second time, its length is known
        │           │
        │           ▼
        └──────▶ Windowed    a quota for each window, fixed or sliding; also where Retry-After says so

The literature: slow start (RFC 5681). The limit is the rate at which requests are let in, measured over
the times at which they left and gently probed, as BBR does with bandwidth, rather than guessed from
refusals (Cardwell et al. 2016, https://queue.acm.org/detail.cfm?id=3022184). The probing has the shape of
CUBIC (RFC 9438): flat near the limit, steep away from it. It takes nearly the same time at every rate, so
of several processes the faster is refused more often, which evens them out (Chiu and Jain 1989).
"""

import math
from abc import ABC, abstractmethod

from batchlic.pool.observed import Flight, Observed, Stretch

_INITIAL_CONCURRENCY = 10
"""RFC 6928."""
_DIP = 0.02
"""Share of the rate that is given up after a refusal."""
_GONE = 0.6
"""Share of the probing time after which a limit not met again is gone: growth becomes exponential."""
_BURST = 5.0
"""How much faster than its average a quota is used, so that the last window is done early."""
_EDGE_S = 0.002
"""Seconds by which a window is entered late, so as not to be early."""
_USUAL_WINDOWS_S = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 60.0


class Regime(ABC):
    """Bounds on the next requests, as long as the answers bear them out."""

    reason = "no limit known"

    def __init__(self, seen: Observed) -> None:
        self._seen = seen

    def rate(self) -> float:
        """Requests/s that may start."""
        return math.inf

    def concurrency(self) -> int:
        """Requests that may be in flight."""
        return self._seen.max_concurrency

    def wait(self) -> float:
        """Seconds until the next request may start, whatever rate and concurrency allow."""
        return 0.0

    def left(self, flight: Flight) -> None:  # noqa: B027 - most have nothing to learn from it
        """Learn that a request leaves."""

    @abstractmethod
    def delivered(self, flight: Flight) -> "Regime":
        """Learn that a request was let in; the regime from now on."""

    @abstractmethod
    def throttled(self, flight: Flight) -> "Regime":
        """Learn that a request was refused; the regime from now on."""


class Pinned(Regime):
    """A rate set by a person: refusals that name no time pause everyone, ever longer while they go on."""

    reason = "fixed rate"

    def __init__(self, seen: Observed) -> None:
        super().__init__(seen)
        self._resume_at = seen.now
        self._pause_s = _FIRST_PAUSE_S

    def wait(self) -> float:
        """See Regime."""
        return self._resume_at - self._seen.now

    def delivered(self, flight: Flight) -> Regime:
        """See Regime."""
        if flight.sent_at >= self._resume_at:
            self._pause_s = _FIRST_PAUSE_S
        return self

    def throttled(self, flight: Flight) -> Regime:
        """See Regime."""
        if flight.sent_at >= self._resume_at:
            self._resume_at = self._seen.now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return self


class SlowStart(Regime):
    """Twice the requests in flight with each round trip, spread over it, until one is refused."""

    def __init__(self, seen: Observed, concurrency: int = _INITIAL_CONCURRENCY) -> None:
        super().__init__(seen)
        self._concurrency = min(concurrency, seen.max_concurrency)

    def rate(self) -> float:
        """See Regime."""
        if not self._seen.round_trip or self._concurrency == self._seen.max_concurrency:
            return math.inf
        return 2 * self._concurrency / self._seen.round_trip

    def concurrency(self) -> int:
        """See Regime."""
        return self._concurrency

    def delivered(self, flight: Flight) -> Regime:
        """See Regime."""
        if flight.company > 1 or self._concurrency == 1:
            self._concurrency = min(self._concurrency + 1, self._seen.max_concurrency)
        return self

    def throttled(self, flight: Flight) -> Regime:
        """See Regime."""
        seen = self._seen
        if seen.refusals_are_costly:
            return Windowed.told(seen)
        if seen.all_is_refused:
            return Waiting(seen)
        if flight.company > 1:
            return Capped(seen, flight.company - 1)
        return Paced(seen, 1 / seen.round_trip)


class Capped(Regime):
    """A number of requests in flight that goes through; now and then one more, then twice as many more."""

    def __init__(self, seen: Observed, cap: int) -> None:
        super().__init__(seen)
        self.reason = f"throttled with {cap + 1} in flight"
        self._cap = cap
        self._more = 0
        self._next_more = 1
        self._more_at = seen.now + 2 * seen.round_trip
        self._changed_at = seen.now
        self._refuted = 0

    def rate(self) -> float:
        """See Regime."""
        return 1.25 * self.concurrency() / self._seen.round_trip

    def concurrency(self) -> int:
        """See Regime."""
        return min(self._cap + self._more, self._seen.max_concurrency)

    def left(self, flight: Flight) -> None:
        """See Regime."""
        if not self._more and flight.company >= self._cap and flight.sent_at >= self._more_at:
            self._more, self._changed_at = self._next_more, flight.sent_at

    def delivered(self, flight: Flight) -> Regime:
        """See Regime."""
        if self._more and flight.sent_at > self._changed_at and flight.company >= self.concurrency():
            self._cap, self._more = self.concurrency(), 0
            self._next_more *= 2
            self._more_at, self._refuted = self._seen.now, 0
        return self

    def throttled(self, flight: Flight) -> Regime:
        """See Regime."""
        seen = self._seen
        if seen.refusals_are_costly:
            return Windowed.told(seen)
        if seen.all_is_refused:
            return Waiting(seen)
        if flight.sent_at <= self._changed_at:
            return self
        self._changed_at = seen.now
        if self._more:
            self._more, self._next_more, self._refuted = 0, 1, 0
            self._more_at = seen.now + 0.5 + 100 * seen.round_trip / self._cap
            return self
        self._refuted += 1
        self._cap = max(1, self._cap - max(1, self._cap // 8))
        if self._refuted < 4:
            return self
        elapsed = seen.now - seen.stretch.opened
        so_far = seen.stretch.admitted / elapsed if elapsed > 20 * seen.round_trip else 0.0
        return Paced(seen, max(so_far, self._cap / seen.round_trip / 2))


class Paced(Regime):
    """The rate at which requests were let in since the last refusal, with CUBIC's probing around it."""

    def __init__(
        self, seen: Observed, rate: float, *, probe_s: float | None = None, is_no_window: bool = False
    ) -> None:
        super().__init__(seen)
        self._is_no_window = is_no_window
        self._peak = rate
        self._probe_s = probe_s or self._probing_time()
        self._since = self._latest = seen.now
        self._admitted = 0
        self._most_company = 0
        self._refused_above = 0
        self.reason = f"throttled: {rate:.3g}/s were let in"

    def rate(self) -> float:
        """See Regime."""
        seen = self._seen
        elapsed = min((seen.now - self._since) / self._probe_s, 3.0) - _DIP ** (1 / 3)
        growth = 1 + elapsed**3 if elapsed < _GONE else (1 + _GONE**3) * math.exp(4 * (elapsed - _GONE))
        rate = self._peak * growth
        if seen.refused_in_a_row > 2:
            return max(rate * 0.8 ** (seen.refused_in_a_row - 2), min(rate, 2 / seen.round_trip))
        return rate

    def delivered(self, flight: Flight) -> Regime:
        """See Regime."""
        if flight.sent_at > self._since:
            self._admitted += 1
            self._latest = max(self._latest, flight.sent_at)
            self._most_company = max(self._most_company, flight.company)
        seen = self._seen
        if self.rate() > 2 * seen.max_concurrency / seen.round_trip:
            return SlowStart(seen, seen.max_concurrency)
        return self

    def throttled(self, flight: Flight) -> Regime:
        """See Regime."""
        seen = self._seen
        is_measured = self._admitted >= 10
        if not seen.refusals_are_costly and seen.all_is_refused:
            known = self._measured() if is_measured else 0.95 * self._peak
            return Waiting(seen, known if self._is_no_window else None)
        if flight.sent_at <= self._since or not is_measured:
            return self
        self._refused_above = self._refused_above + 1 if flight.company > self._most_company else 0
        if self._refused_above == 3:
            return Capped(seen, flight.company - 1)
        self._probe_around(self._measured())
        return self

    def _measured(self) -> float:
        """Requests/s let in since the last refusal; if the limit has risen, it lies above that."""
        measured = self._admitted / (self._latest - self._since)
        present = self.rate()
        return math.sqrt(measured * present) if present > 1.1 * self._peak else measured

    def _probe_around(self, rate: float) -> None:
        if abs(rate - self._peak) > 0.1 * self._peak:
            self.reason = f"throttled: {rate:.3g}/s were let in"
        self._peak = rate * (0.9 if self._seen.refusals_are_costly else 1.0)
        self._probe_s = self._probing_time()
        self._since = self._latest = self._seen.now
        self._admitted = self._most_company = 0

    def _probing_time(self) -> float:
        """Seconds in which the rate doubles if nothing is refused."""
        return 0.5 + 45 / self._peak + 4 * self._seen.round_trip + 30 * self._seen.pause


class Waiting(Regime):
    """Nothing is let in: one request at a time, ever more rarely, finds out when that is over."""

    def __init__(self, seen: Observed, rate: float | None = None) -> None:
        super().__init__(seen)
        self._rate = rate
        self._attempts = Attempts(seen, seen.round_trip / 2)
        self.reason = f"nothing is let in any more, after {seen.stretch.admitted} requests"

    def concurrency(self) -> int:
        """See Regime."""
        return 1

    def wait(self) -> float:
        """See Regime."""
        return self._attempts.wait()

    def delivered(self, flight: Flight) -> Regime:
        """See Regime."""
        if flight.sent_at < self._attempts.since:
            return self
        seen, last = self._seen, self._seen.stretch
        seen.open_stretch(Stretch(seen.now, after_refusals=True, sent=1, delivered=1))
        if self._rate is not None:
            return Paced(seen, self._rate, is_no_window=True)
        if not last.after_refusals:
            return SlowStart(seen)
        period, quota = seen.now - last.opened, max(1, last.admitted - 1)
        if period < 8 * seen.round_trip or quota < 5:
            return Paced(seen, quota / period, is_no_window=True)
        return Windowed(seen, quota, _configured(period))

    def throttled(self, flight: Flight) -> Regime:
        """See Regime."""
        self._attempts.refused(flight)
        return self


class Attempts:
    """Moments to try again, each wait a little longer than the one before."""

    def __init__(self, seen: Observed, first_s: float) -> None:
        self.since = seen.now
        self._seen = seen
        self._step = first_s
        self._next = seen.now + first_s

    def wait(self) -> float:
        """Seconds until the next attempt."""
        return self._next - self._seen.now

    def refused(self, flight: Flight) -> None:
        """The latest attempt came too early."""
        if flight.sent_at >= self.since:
            self._step *= 1.06
            self._next = self._seen.now + self._step


class Windowed(Regime):
    """A quota for each window: used early, then nothing until the next; now and then a little more."""

    def __init__(self, seen: Observed, quota: int, period: float) -> None:
        super().__init__(seen)
        self._quota = quota
        self._period = period
        self._more = 0
        self._windows_until_more = 1
        self._used_up = False
        self._too_early: Attempts | None = None
        self._refused_early = False
        self._contradictions = 0
        self.reason = self._describe()

    @classmethod
    def told(cls, seen: Observed) -> "Windowed":
        """By a refusal that said when to come again: taken for the end of a window until that is refuted."""
        period = _configured(seen.pause)
        seen.stretch.opened = seen.now + seen.pause - period
        regime = cls(seen, max(1, seen.stretch.admitted), period)
        regime._used_up = True
        return regime

    def rate(self) -> float:
        """See Regime."""
        return _BURST * self._quota / self._period

    def concurrency(self) -> int:
        """See Regime."""
        return 1 if self._too_early else self._seen.max_concurrency

    def wait(self) -> float:
        """See Regime."""
        seen, stretch = self._seen, self._seen.stretch
        ends = stretch.opened + self._period
        if seen.now >= ends + _EDGE_S:
            self._enter(ends if seen.now - ends < 0.01 * (1 + self._period) else seen.now)
            return 0.0
        if self._too_early:
            return self._too_early.wait()
        used = self._used_up or stretch.admitted >= self._quota + self._more
        if used and (self._used_up or self._windows_until_more > 0):
            return ends + _EDGE_S - seen.now
        if used and seen.in_flight:
            return math.inf
        if used:
            self._more = max(1, 4 * self._more)
        return 0.0

    def delivered(self, flight: Flight) -> Regime:
        """See Regime."""
        if self._too_early and flight.sent_at >= self._too_early.since:
            now, stretch = self._seen.now, self._seen.stretch
            waited = now - self._too_early.since
            if stretch.admitted <= 2:
                stretch.opened = now
            elif waited < self._period / 4:
                stretch.opened += waited
            else:
                self._enter(now)
            self._too_early = None
        return self

    def throttled(self, flight: Flight) -> Regime:
        """See Regime."""
        seen, stretch = self._seen, self._seen.stretch
        if flight.stretch is not stretch or self._used_up:
            return self
        if self._too_early:
            self._too_early.refused(flight)
        elif self._more:
            self._used_up = True
        elif seen.refused_in_a_row >= 2 or seen.refusals_are_costly:
            return self._refused_within_quota()
        return self

    def _refused_within_quota(self) -> Regime:
        """Nearly all of it was let in, or the window has not opened yet, or this is no window."""
        seen, stretch = self._seen, self._seen.stretch
        if stretch.admitted >= (0.4 if seen.refusals_are_costly else 0.9) * self._quota:
            self._used_up = True
            return self
        self._refused_early = stretch.admitted > 2
        self._contradictions += self._refused_early
        if self._contradictions > (0 if seen.refusals_are_costly else 3):
            return Paced(seen, self._quota / self._period, probe_s=2.0, is_no_window=True)
        self._too_early = Attempts(seen, 0.01 * self._period)
        return self

    def _enter(self, opened: float) -> None:
        """Begin the next window, with what the last one taught."""
        seen, stretch = self._seen, self._seen.stretch
        refused = self._too_early is not None or (self._used_up and stretch.refused > 0)
        if stretch.admitted and (self._more or refused):
            self._quota = stretch.admitted
            self.reason = self._describe()
        if self._more or (self._used_up and refused and stretch.after_refusals):
            self._windows_until_more = int(max(100 / self._quota, 50 * seen.pause / self._period))
        elif refused:
            self._windows_until_more = 0
        else:
            self._windows_until_more -= 1
        if not self._refused_early:
            self._contradictions = 0
        self._more, self._used_up, self._refused_early, self._too_early = 0, False, False, None
        seen.open_stretch(Stretch(opened, after_refusals=True))

    def _describe(self) -> str:
        return f"quota of {self._quota} in {self._period:.3g} s"


def _configured(period: float) -> float:
    """The window that was probably configured; one of no usual length is tried a little early."""
    usual = min(_USUAL_WINDOWS_S, key=lambda usual: abs(math.log(usual / period)))
    return usual if abs(usual - period) < 0.3 * usual else 0.94 * period
