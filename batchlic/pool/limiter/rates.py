"""Limits on the rate, or on the requests in flight: found by more and more, kept by measuring.

Slow start (RFC 5681). The limit is the rate at which requests are let in, measured over the times at which
they left and gently probed, as BBR does with bandwidth, rather than guessed from refusals (Cardwell et al.
2016, https://queue.acm.org/detail.cfm?id=3022184). The probing has the shape of CUBIC (RFC 9438): flat near
the limit, steep away from it. It takes not much longer at low rates than at high ones, so of several
processes the faster is refused more often, which evens them out (Chiu and Jain 1989).
"""

import math
from dataclasses import replace

from batchlic.pool.limiter.bursts import shown_by_bursts
from batchlic.pool.limiter.observed import Flight, Observed
from batchlic.pool.limiter.regime import Cap, Found, NoLimit, Rate, Regime, Shut, Window
from batchlic.pool.limiter.windows import enclosing

_DIP = 0.02
"""Share of the rate that is given up after a refusal."""
_COSTLY_DIP = 0.1
"""The same where a refusal stops everyone."""
_GONE = 0.6
"""Share of the probing time after which a limit not met again is gone: growth becomes exponential."""
_FIRST_PROBE_S = 2.0
"""Seconds in which a rate doubles that is hardly known, where refusals are costly."""
_MEASURABLE = 10
"""Requests let in from which on their rate is a measurement."""
_ESTABLISHED = 5
"""Measurements after which it is known that this is no window."""
_LATE_S = 0.005
"""Seconds by which timers of event loops may be late."""
_SOON = 150
"""Requests let in until a number in flight is refused that went through."""
_SHORTEST_GAP, _LONGEST_GAP = 2, 4
"""Requests that are left out after refusals in a row, so that a late one is not refused for being late."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 60.0


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

    def delivered(self, flight: Flight) -> Found | None:
        """See Regime."""
        if flight.sent_at >= self._resume_at:
            self._pause_s = _FIRST_PAUSE_S
        return None

    def throttled(self, flight: Flight) -> Found | None:
        """See Regime."""
        if flight.sent_at >= self._resume_at:
            self._resume_at = self._seen.now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return None


class SlowStart(Regime):
    """Twice the requests in flight with each round trip, spread over it, until one is refused."""

    def __init__(self, seen: Observed, concurrency: int) -> None:
        super().__init__(seen)
        self._concurrency = min(concurrency, seen.max_concurrency)

    def rate(self) -> float:
        """See Regime."""
        if not self._seen.round_trip or self._concurrency >= self._seen.max_concurrency:
            return math.inf
        return 2 * self._concurrency / self._seen.round_trip

    def concurrency(self) -> int:
        """See Regime."""
        return min(self._concurrency, self._seen.max_concurrency)

    def delivered(self, flight: Flight) -> Found | None:
        """See Regime."""
        if 2 * flight.company > self._concurrency:
            self._concurrency = min(self._concurrency + 1, self._seen.max_concurrency)
        return None

    def throttled(self, flight: Flight) -> Found | None:
        """See Regime."""
        seen = self._seen
        if seen.all_is_refused:
            return Shut()
        if not seen.has_delivered:
            self._concurrency = max(1, seen.in_flight)
            return None
        if seen.refusals_are_costly and seen.stretch.admitted > 3 * flight.company:
            period = enclosing(seen.pause)
            if seen.now - seen.stretch.opened <= period:
                return Window(seen.stretch.admitted, period, includes_in_flight=True)
        if flight.company > 1:
            return Cap(flight.company - 1)
        return Rate(1 / seen.round_trip)


class Capped(Regime):
    """A number of requests in flight that goes through; now and then one more, then twice as many more.

    What is let in and then refused again and again is no cap: a bucket had some left.
    """

    def __init__(self, seen: Observed, cap: int) -> None:
        super().__init__(seen)
        self.reason = f"throttled with {cap + 1} in flight"
        self._cap = cap
        self._more = 0
        self._next_more = 1
        self._more_at = seen.now + 2 * seen.round_trip + seen.patience
        self._changed_at = seen.now
        self._refuted = self._let_in = 0

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

    def delivered(self, flight: Flight) -> Found | None:
        """See Regime."""
        if self._more and flight.sent_at > self._changed_at and flight.company >= self.concurrency():
            self._cap, self._more = self.concurrency(), 0
            self._next_more = min(2 * self._next_more, self._seen.max_concurrency)
            self._more_at = self._seen.now
        self._let_in += 1
        return None

    def throttled(self, flight: Flight) -> Found | None:
        """See Regime."""
        seen = self._seen
        if seen.all_is_refused:
            return Shut()
        if flight.sent_at <= self._changed_at:
            return None
        self._changed_at = seen.now
        if self._more:
            self._more, self._next_more = 0, 1
            self._more_at = seen.now + 0.5 + 100 * seen.round_trip / self._cap + seen.patience
            return None
        self._refuted = self._refuted + 1 if self._let_in < _SOON else 1
        self._let_in = 0
        self._cap = max(1, self._cap - max(1, self._cap // 8))
        if self._refuted < (1 if seen.refusals_are_costly else 4):
            return None
        if found := shown_by_bursts(seen):
            return found
        elapsed = seen.now - seen.stretch.opened
        so_far = seen.stretch.admitted / elapsed if elapsed > 20 * seen.round_trip else 0.0
        probe_s = _FIRST_PROBE_S if seen.refusals_are_costly else None
        return Rate(max(so_far, self._cap / seen.round_trip / 2), probe_s)


class Paced(Regime):
    """The rate at which requests were let in since the last refusal, with CUBIC's probing around it.

    After a refusal there is a gap, twice as long with each one more in a row, so that a bucket refills.
    """

    def __init__(self, seen: Observed, found: Rate) -> None:
        super().__init__(seen)
        self._is_no_window = found.is_no_window
        self._peak = found.per_s
        self._probe_s = found.probe_s or self._probing_time()
        self._since = self._latest = self._grows_since = self._left_at = seen.now
        self._admitted = 0
        self._most_company = 0
        self._refused_above = 0
        self._measurements = 0
        self._resume_at = seen.now
        self._gap_s = 0.0
        self.reason = f"throttled: {found.per_s:.3g}/s were let in"

    def rate(self) -> float:
        """See Regime."""
        elapsed = min((self._left_at - self._grows_since) / self._probe_s, 3.0) - _DIP ** (1 / 3)
        growth = 1 + elapsed**3 if elapsed < _GONE else (1 + _GONE**3) * math.exp(6 * (elapsed - _GONE))
        return self._peak * growth

    def wait(self) -> float:
        """See Regime."""
        return self._resume_at - self._seen.now

    def left(self, flight: Flight) -> None:
        """See Regime; what was never used says nothing about what is allowed (RFC 7661)."""
        gap = flight.sent_at - self._left_at
        if gap > 2 / self.rate() + _LATE_S:
            self._grows_since += gap
        self._left_at = flight.sent_at

    def delivered(self, flight: Flight) -> Found | None:
        """See Regime."""
        if flight.sent_at > self._since:
            self._admitted += 1
            self._latest = max(self._latest, flight.sent_at)
            self._most_company = max(self._most_company, flight.company)
        if flight.sent_at >= self._resume_at:
            self._gap_s = 0.0
        seen = self._seen
        if self.rate() > 2 * seen.max_concurrency / seen.round_trip:
            return NoLimit(seen.max_concurrency)
        return None

    def throttled(self, flight: Flight) -> Found | None:
        """See Regime."""
        seen = self._seen
        is_measured = self._admitted >= _MEASURABLE
        if seen.all_is_refused:
            known = self._measured() if is_measured else (1 - _DIP) * self._peak
            return Shut(known if self._is_no_window or self._measurements >= _ESTABLISHED else None)
        if flight.sent_at >= self._resume_at:
            self._gap_s = min(max(2 * self._gap_s, _SHORTEST_GAP / self._peak), _LONGEST_GAP / self._peak)
            self._resume_at = seen.now + self._gap_s
        if flight.sent_at <= self._since:
            return None
        if seen.refusals_are_costly:
            return self._shown_at_a_cost(flight)
        if not is_measured:
            return None
        self._refused_above = self._refused_above + 1 if flight.company > self._most_company else 0
        if self._refused_above == 3:
            return Cap(flight.company - 1)
        self._probe_around(Rate(self._measured()))
        return None

    def _shown_at_a_cost(self, flight: Flight) -> Window | None:
        """What a refusal shows that stops everyone.

        The limit is at least what was let in on average, the waiting included, and at most the present rate.
        """
        found, present = shown_by_bursts(self._seen), self.rate()
        if isinstance(found, Window) and not self._is_no_window:
            return found
        least = min(self._admitted / (flight.sent_at - self._since), present)
        likely = (1 - _COSTLY_DIP) * math.sqrt(least * present) or present / 2
        if not isinstance(found, Rate):
            is_known = self._admitted >= _MEASURABLE
            found = Rate(likely, None if is_known else max(_FIRST_PROBE_S, _MEASURABLE / likely))
        self._probe_around(replace(found, per_s=max(found.per_s, likely)))
        return None

    def _measured(self) -> float:
        """Requests/s let in since the last refusal; if the limit has risen, it lies above that."""
        measured = self._admitted / (self._latest - self._since)
        present = self.rate()
        return math.sqrt(measured * present) if present > 1.1 * self._peak else measured

    def _probe_around(self, found: Rate) -> None:
        if abs(found.per_s - self._peak) > 0.1 * self._peak:
            self.reason = f"throttled: {found.per_s:.3g}/s were let in"
        self._peak = found.per_s
        self._probe_s = found.probe_s or self._probing_time()
        self._measurements += 1
        self._since = self._latest = self._grows_since = self._left_at = self._seen.now
        self._admitted = self._most_company = 0

    def _probing_time(self) -> float:
        """Seconds in which the rate doubles if nothing is refused."""
        seen = self._seen
        return 0.3 + 6.4 / math.sqrt(self._peak) + 4 * seen.round_trip + 0.6 * seen.patience
