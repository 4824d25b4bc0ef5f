"""How many requests in flight are worth it, for a carrier that answers more slowly the more it has to do.

Incremental steps on the curve of throughput over concurrency, towards its knee: Heiss and Wagner, "Adaptive
Load Control in Transaction Processing Systems" (VLDB 1991).
"""

from batchlic.pool.limiter.observed import Flight, Observed

_SLOWER = 2.0
_SLOWER_S = 0.05
"""Round trips so many times as long as the shortest, and so many seconds longer, are a sign of load.

Less is as likely to be our own: a client that is busy answers itself late.
"""
_WORTH, _COST = 0.05, 0.02
"""Shares of throughput that twice as many in flight must bring, and that half as many may cost."""
_FIRST_REST, _LONGEST_REST = 4, 64
"""Rounds between two steps, doubling while they are in vain."""


class Knee:
    """Sets `seen.max_concurrency`: halved where that costs no throughput, doubled where that brings some.

    A round is two deliveries for each request that may be in flight, after one for each to settle; only
    requests that left as the last ones allowed count, so nothing is learnt where something else is the limit.
    """

    def __init__(self, seen: Observed) -> None:
        self._seen = seen
        self._most = seen.max_concurrency
        self._settled = self._most
        self._throughput = 0.0
        self._shortest = float("inf")
        self._rest = _FIRST_REST
        self._rounds_left = 1
        self._goes_up = False
        self._since = self._measured_from = seen.now
        self._count = 0

    def delivered(self, flight: Flight) -> bool:
        """Count one delivered request; whether that settled on another number in flight."""
        seen = self._seen
        self._shortest = min(self._shortest, seen.now - flight.sent_at)
        if flight.sent_at < self._since or flight.company < 0.9 * seen.max_concurrency:
            return False
        self._count += 1
        if self._count == seen.max_concurrency:
            self._measured_from = seen.now
        if self._count < 3 * seen.max_concurrency or seen.now <= self._measured_from:
            return False
        before = self._settled
        self._end(2 * seen.max_concurrency / (seen.now - self._measured_from))
        self._begin()
        return self._settled != before

    def throttled(self) -> None:
        """A refused request: what is the limit now is not the carrier's speed."""
        self._seen.max_concurrency = self._settled
        self._begin()

    def _begin(self) -> None:
        self._since = self._measured_from = self._seen.now
        self._count = 0

    def _end(self, throughput: float) -> None:
        """A round is over: judge the step that it tried, or take one."""
        seen = self._seen
        if seen.max_concurrency != self._settled:
            gain = throughput / self._throughput - 1
            if gain > (_WORTH if self._goes_up else -_COST):
                self._settled, self._throughput, self._rest = seen.max_concurrency, throughput, _FIRST_REST
                self._rounds_left = 0
            else:
                seen.max_concurrency = self._settled
                self._goes_up = not self._goes_up
                self._rest = min(2 * self._rest, _LONGEST_REST)
                self._rounds_left = self._rest
            return
        self._throughput = throughput
        self._rounds_left -= 1
        if self._rounds_left > 0:
            return
        is_loaded = seen.round_trip > max(_SLOWER * self._shortest, self._shortest + _SLOWER_S)
        self._goes_up = self._settled < self._most and (self._goes_up or not is_loaded)
        if self._goes_up or (is_loaded and self._settled > 1):
            step = 2 * self._settled if self._goes_up else self._settled // 2
            seen.max_concurrency = min(self._most, step)
