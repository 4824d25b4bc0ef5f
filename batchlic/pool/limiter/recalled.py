"""A limit that is known before the first request, from an earlier run: a hint.

Only the first requests rely on it. Then the estimator that suits it goes on, measures, and so drops it where
it is wrong. That estimator needs a round trip, and for a window the moment at which one opens: these come
first.
"""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Calls, Finding, Limit, NoLimit, Rate, Shut, Window
from batchlic.pool.limiter.samples import Sample, Samples
from batchlic.pool.limiter.slow_start import SlowStart
from batchlic.pool.limiter.windowed import Attempts

_FIRST_ATTEMPT, _FIRST_ATTEMPT_S = 0.02, 0.5
"""Share of a window, and seconds, at most, after which a request asks whether the next one is open."""
_TOO_EARLY = 0.05
"""Share of a window in which the next one hardly ever opens. A request that is let in so soon after a refusal
refutes the window, and one beyond the quota so soon after the first request."""
_LONGEST_SHUT = 1.5
"""Windows without any request let in, after which this is something else."""


class Recalled(Hypothesis):
    """Starts with what is known.

    Of a window, it is not known when one opens, nor what other runs have used of it. So this is slow start
    until the quota is used up, or one is refused. Then one request at a time asks for the next window.
    """

    def __init__(self, samples: Samples, limit: Limit) -> None:
        super().__init__(samples)
        self._limit = limit
        self._start = SlowStart(samples, limit.calls if isinstance(limit, Calls) else NoLimit().calls)
        self._left = limit.quota if isinstance(limit, Window) else 0
        self._attempts: Attempts | None = None
        self._began_at = math.inf

    def rate(self) -> float:
        """See Estimator."""
        return self._limit.per_s if isinstance(self._limit, Rate) else self._start.rate()

    def calls(self) -> int:
        """See Estimator."""
        if isinstance(self._limit, Rate):
            return self._samples.max_in_flight
        return 1 if self._attempts else self._start.calls()

    def wait(self) -> float:
        """See Estimator."""
        return self._attempts.wait() if self._attempts else 0.0

    def found(self) -> Finding:
        """See Estimator."""
        return Shut() if self._attempts else self._limit

    def on_sent(self, sample: Sample) -> None:
        """See Estimator."""
        self._began_at = min(self._began_at, sample.sent_at)
        if self._attempts:
            self._attempts.on_sent()
            return
        self._left -= 1
        if isinstance(self._limit, Window) and not self._left:
            self._ask(self._limit)

    def _on_admitted(self, sample: Sample) -> Finding | None:
        limit = self._limit
        if not isinstance(limit, Window):
            return limit
        if self._attempts is None:
            return self._start.on_sample(sample)
        if sample.sent_at <= self._attempts.since:
            return None
        took = sample.sent_at - (self._attempts.since if self._left else self._began_at)
        if took < _TOO_EARLY * limit.period:
            return NoLimit()
        if not self._left and not self._attempts.in_vain:  # it may have opened at any moment since then
            return Window(limit.quota, limit.period, late=took)
        return Window(limit.quota, limit.period, late=self._attempts.step, is_recalled=True)

    def _on_refused(self, sample: Sample) -> Finding | None:
        if not isinstance(self._limit, Window):  # before anything was let in: as if nothing were known
            return self._start.on_sample(sample) or NoLimit()
        if self._attempts is None:
            self._ask(self._limit)
        elif sample.sent_at > self._attempts.since:
            self._attempts.refused(sample)
            if self._samples.now - self._attempts.since > _LONGEST_SHUT * self._limit.period:
                return Shut()
        return None

    def _ask(self, limit: Window) -> None:
        """Ask for the next window, at first at once: more may be let in than is known."""
        self._attempts = Attempts(self._samples, min(_FIRST_ATTEMPT * limit.period, _FIRST_ATTEMPT_S))
