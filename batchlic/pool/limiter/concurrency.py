"""A limit on the requests in flight."""

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Calls, Finding, Rate, Shut
from batchlic.pool.limiter.samples import Sample, Samples

_SOON = 150
"""Requests let in until a number in flight is refused that went through."""
_REFUTATIONS = 4
"""Refusals of a number in flight that had gone through, after which the limit is another one."""


class Concurrency(Hypothesis):
    """A number of requests in flight that goes through; now and then one more, then twice as many more.

    What is let in and then refused again and again is no cap: a bucket had some left.
    """

    def __init__(self, samples: Samples, cap: int) -> None:
        super().__init__(samples)
        self._cap = cap
        self._more = 0
        self._next_more = 1
        self._more_at = samples.now + 2 * samples.round_trip + samples.patience
        self._changed_at = samples.now
        self._refuted = self._let_in = 0

    def rate(self) -> float:
        """See Estimator."""
        return 1.25 * self.calls() / self._samples.round_trip

    def calls(self) -> int:
        """See Estimator."""
        return min(self._cap + self._more, self._samples.max_in_flight)

    def found(self) -> Finding:
        """See Estimator."""
        return Calls(self._cap)

    def on_sent(self, sample: Sample) -> None:
        """See Estimator."""
        if not self._more and sample.in_flight >= self._cap and sample.sent_at >= self._more_at:
            self._more, self._changed_at = self._next_more, sample.sent_at

    def _on_admitted(self, sample: Sample) -> Finding | None:
        if self._more and sample.sent_at > self._changed_at and sample.in_flight >= self.calls():
            self._cap, self._more = self.calls(), 0
            self._next_more = min(2 * self._next_more, self._samples.max_in_flight)
            self._more_at = self._samples.now
        self._let_in += 1
        return None

    def _on_refused(self, sample: Sample) -> Finding | None:
        samples = self._samples
        if (other := self._other_limit()) is not None:
            return other
        if sample.sent_at <= self._changed_at:
            return None
        self._changed_at = samples.now
        if not samples.is_limit_on_calls(self._cap):
            return self._as_rate()
        if self._more:
            self._more, self._next_more = 0, 1
            self._more_at = samples.now + 0.5 + 100 * samples.round_trip / self._cap + samples.patience
            return None
        self._refuted = self._refuted + 1 if self._let_in < _SOON else 1
        self._let_in = 0
        self._cap = max(1, self._cap - max(1, self._cap // 8))
        if self._refuted < (1 if samples.refusals_are_costly else _REFUTATIONS):
            return None
        return self._as_rate()

    def _other_limit(self) -> Finding | None:
        """What is refused where requests in flight are not the limit."""
        samples = self._samples
        if samples.all_is_refused:
            return Shut()
        return None if samples.refusals_are_costly else self._as_spaced()

    def _as_rate(self) -> Rate:
        samples = self._samples
        elapsed = samples.now - samples.opened_at
        so_far = samples.left_since(samples.opened_at) / elapsed if elapsed > 20 * samples.round_trip else 0.0
        return Rate(max(so_far, self._cap / samples.round_trip / 2))
