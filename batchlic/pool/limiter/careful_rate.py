"""A limit on the rate where each refusal stops everyone: the fewer refusals, the better.

The limit lies between the rate that surely flows and the one that was refused. How soon the latter is tried
again depends on the price of a refusal, which is the pause, and on what there is to win: the gap.
"""

import math

from batchlic.pool.limiter.bursts import least_rates
from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Finding, NoLimit, Rate
from batchlic.pool.limiter.samples import Sample, Samples

_PRICE = 12.0
"""Pauses that pass before the refused rate is tried again, if it is e times the one that surely flows.

The wider the gap, the fewer pass.
"""
_HOLD = 6.0
"""The same at the least gap."""
_GAP = 0.1
"""Least gap between the two rates, as a logarithm: limits rise."""
_UNKNOWN = 30.0
"""How many times as high as what surely flows the limit may be, where nothing else is known."""
_NARROW = 1.1
"""Factor by which a refused rate is lowered once refusals no longer stop everyone."""
_LAG = 3.0
"""Round trips that pass for each e-fold, so that a refusal is known in time; and one request more."""
_SURE = 0.97
"""Share of a refused rate that may be taken for what surely flows."""
_FALL = 1 / 3
"""Share of a refused rate that is tried at least, where the limit has fallen."""
_DOUBT = 1.0
"""Requests that show too little: one of a few may be refused because of others."""
_RISE, _STEEP = 5.0, 2.0
"""Factor and exponent of the growth beyond the refused rate: slow at first, to make sure; then ever faster,
to find a limit that has risen."""
_MOST = 20.0
"""Most e-folds of growth, against overflow."""
_LATE_S = 0.005
"""Seconds by which timers of event loops may be late."""


class CarefulRate(Hypothesis):
    """Grows exponentially from the rate that surely flows to the one that was refused, and then beyond."""

    def __init__(self, samples: Samples, found: Rate) -> None:
        super().__init__(samples)
        self._is_no_window = found.is_no_window
        self._refused_until = samples.now
        self._refused_rate = 0.0
        self._grows_since = self._left_at = samples.now
        self._begin(found.per_s, min(found.refused_per_s, _UNKNOWN * found.per_s))

    def rate(self) -> float:
        """See Estimator."""
        elapsed = (self._left_at - self._grows_since) / self._climb_s
        grown = elapsed if elapsed < 1 else 1 + (_RISE * (elapsed - 1)) ** _STEEP
        return self._surely * math.exp(min(self._gap * grown, _MOST))

    def found(self) -> Finding:
        """See Estimator."""
        at_most = self._surely * math.exp(self._gap)
        return Rate(self._surely, is_no_window=self._is_no_window, refused_per_s=at_most)

    def on_sent(self, sample: Sample) -> None:
        """See Estimator; what was never used says nothing about what is allowed (RFC 7661)."""
        idle = sample.sent_at - self._left_at
        if idle > 2 / self.rate() + _LATE_S:
            self._grows_since += idle
        self._left_at = sample.sent_at

    def _on_admitted(self, sample: Sample) -> Finding | None:  # noqa: ARG002 - the rate counts, not which
        samples = self._samples
        if not self._is_no_window and (spaced := self._as_spaced()):
            return spaced
        is_beyond = self.rate() > 2 * samples.max_in_flight / samples.round_trip
        return NoLimit(samples.max_in_flight) if is_beyond else None

    def _on_refused(self, sample: Sample) -> Finding | None:
        samples = self._samples
        if not samples.refusals_are_costly:
            return Rate(self.rate() / _NARROW)
        if sample.sent_at > self._refused_until:
            self._refused_until, self._refused_rate = samples.now, self.rate()
        bursts = samples.bursts()
        least = least_rates(bursts, samples.pause)
        surely = max(least)
        at_most = self._refused_rate or _UNKNOWN * surely
        if surely >= _SURE * at_most:
            surely = min(max(least[-1], _FALL * at_most), _SURE * at_most)
        self._begin(surely, at_most * (1 + _DOUBT / max(1, len(bursts[-1]) - 1)))
        return None

    def _begin(self, surely: float, at_most: float) -> None:
        samples = self._samples
        surely = max(surely, 1 / samples.pause)  # after each pause, one may always start
        at_most = max(at_most, surely)
        gap = math.log(at_most / surely)
        self._surely, self._gap = surely, max(gap, _GAP)
        lag = self._gap * (_LAG * samples.round_trip + 1 / surely)
        self._climb_s = max((_PRICE if gap > _GAP else _HOLD) * samples.pause / self._gap, lag)
        self._grows_since = self._left_at = samples.now
