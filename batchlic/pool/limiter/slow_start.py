"""No limit is known yet: slow start (RFC 5681, section 3.1)."""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Calls, Finding, NoLimit, Rate, Shut, ToldToWait, Window
from batchlic.pool.limiter.samples import Sample, Samples
from batchlic.pool.limiter.windows.periods import enclosing

_LONG_S = 2.5
"""Seconds of a told wait that is worth to be understood, and hardly longer because of rounding."""
_ROUNDS = 3
"""Times as many let in as are in flight that show a quota, rather than a limit on calls."""


class SlowStart(Hypothesis):
    """Twice the requests in flight with each round trip, spread over it, until one is refused."""

    def __init__(self, samples: Samples, concurrency: int) -> None:
        super().__init__(samples)
        self._concurrency = min(concurrency, samples.max_in_flight)
        self._most_in_flight = 0

    def rate(self) -> float:
        """See Estimator."""
        if not self._samples.round_trip or self._concurrency >= self._samples.max_in_flight:
            return math.inf
        return 2 * self._concurrency / self._samples.round_trip

    def calls(self) -> int:
        """See Estimator."""
        return min(self._concurrency, self._samples.max_in_flight)

    def _on_admitted(self, sample: Sample) -> Finding | None:
        self._most_in_flight = max(self._most_in_flight, sample.in_flight)
        if spaced := self._as_spaced():
            return spaced
        if 2 * sample.in_flight > self._concurrency:
            self._concurrency = min(self._concurrency + 1, self._samples.max_in_flight)
        return None

    def _on_refused(self, sample: Sample) -> Finding | None:
        samples = self._samples
        if samples.all_is_refused:
            return Shut()
        if samples.refusals_are_costly:
            return self._shown_at_a_cost(sample)
        if not samples.has_admitted:
            self._concurrency = max(1, samples.in_flight)
            return None
        if sample.in_flight > 1 and samples.is_limit_on_calls(sample.in_flight - 1):
            return Calls(sample.in_flight - 1)
        return Rate(max(1, sample.in_flight - 1) / samples.round_trip)

    def _shown_at_a_cost(self, sample: Sample) -> Finding:
        """What the first refusal shows, where each one stops everyone."""
        samples = self._samples
        burst = samples.latest_burst
        is_long = burst[-1] - burst[0] > samples.pause  # a window would hardly end so soon after that
        if sample.told_s >= _LONG_S and not is_long:
            return ToldToWait(sample.told_s)
        if not samples.has_admitted:
            return Rate(1 / samples.pause)
        took, let_in = samples.now - burst[0], samples.left_since(burst[0])
        period = enclosing(took, samples.pause, is_exact=samples.is_exact)
        if let_in > _ROUNDS * sample.in_flight and took <= period and not is_long:
            return Window(let_in, period)
        if max(self._most_in_flight, NoLimit().calls) < sample.in_flight:
            return Calls(sample.in_flight - 1)
        return Rate(max(len(burst) - 1, 1) / (samples.pause + took))
