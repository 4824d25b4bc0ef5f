"""How many requests in flight are worth it, for a carrier that answers more slowly the more it has to do.

Incremental steps on the curve of throughput over concurrency: Heiss and Wagner, "Adaptive
Load Control in Transaction Processing Systems" (VLDB 1991).
"""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.samples import Sample, Samples

_SLOWER = 2.0
_SLOWER_S = 0.05
"""Round trips so many times as long as the shortest, and so many seconds longer, are a sign of load.

Less is as likely to be our own: a client that is busy answers itself late.
"""
_WORTH, _COST = 0.05, 0.02
"""Shares of throughput that twice as many in flight must bring, and that half as many may cost."""
_FIRST_REST, _LONGEST_REST = 4, 64
"""Rounds between two steps, doubling while they are in vain."""
_BUSY = 0.9
"""Share of what is allowed that is in flight where concurrency is the limit."""


class Latency(Hypothesis):
    """Halves the requests in flight where that costs no throughput, doubles them where that brings some.

    A round is two answers for each request that may be in flight, after one for each to settle; only requests
    that left as the last ones allowed count, so nothing is learned where something else is the limit.
    """

    def __init__(self, samples: Samples, most: int) -> None:
        super().__init__(samples)
        self._most = self._settled = self._tried = most
        self._throughput = 0.0
        self._shortest_s = math.inf
        self._rest = _FIRST_REST
        self._rounds_left = 1
        self._goes_up = False
        self._since = self._measured_from = samples.now
        self._count = 0

    def set_most(self, most: int) -> None:
        """Change the number in flight that is never exceeded."""
        if most != self._most:
            self._most = self._settled = self._tried = most
            self._begin()

    def calls(self) -> int:
        """See Estimator."""
        return self._tried

    def _on_admitted(self, sample: Sample) -> None:
        samples = self._samples
        self._shortest_s = min(self._shortest_s, samples.now - sample.sent_at)
        if sample.sent_at < self._since or sample.in_flight < _BUSY * self._tried:
            return
        self._count += 1
        if self._count == self._tried:
            self._measured_from = samples.now
        if self._count >= 3 * self._tried and samples.now > self._measured_from:
            self._end(2 * self._tried / (samples.now - self._measured_from))
            self._begin()

    def _on_refused(self, sample: Sample) -> None:  # noqa: ARG002 - what is the limit now is not the carrier's speed
        self._tried = self._settled
        self._begin()

    def _begin(self) -> None:
        self._since = self._measured_from = self._samples.now
        self._count = 0

    def _end(self, throughput: float) -> None:
        """A round is over: judge the step that it tried, or take one."""
        if self._tried != self._settled:
            gain = throughput / self._throughput - 1
            if gain > (_WORTH if self._goes_up else -_COST):
                self._settled, self._throughput, self._rest = self._tried, throughput, _FIRST_REST
                self._rounds_left = 0
            else:
                self._tried = self._settled
                self._goes_up = not self._goes_up
                self._rest = min(2 * self._rest, _LONGEST_REST)
                self._rounds_left = self._rest
            return
        self._throughput = throughput
        self._rounds_left -= 1
        if self._rounds_left > 0:
            return
        round_trip = self._samples.round_trip
        is_loaded = round_trip > max(_SLOWER * self._shortest_s, self._shortest_s + _SLOWER_S)
        self._goes_up = self._settled < self._most and (self._goes_up or not is_loaded)
        if self._goes_up or (is_loaded and self._settled > 1):
            self._tried = min(self._most, 2 * self._settled if self._goes_up else self._settled // 2)
