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
from batchlic.pool.limiter.windows.attempts import Attempts

_FIRST_ATTEMPT, _FIRST_ATTEMPT_S = 0.02, 0.5
"""Share of a window, and seconds, at most, after which a request asks whether the next one is open."""
_OF_BURST = 0.8
"""Share that is used of the burst that was let in beyond a rate."""
_TOO_EARLY = 0.05
"""Share of a window in which the next one hardly ever opens. A request that is let in so soon after a refusal
refutes the window, and one beyond the quota so soon after the first request."""
_LONGEST_SHUT = 1.5
"""Windows without any request let in, after which this is something else."""


class Recalled(Hypothesis):
    """Starts with what is known: a rate at once, after the burst that may come before it.

    A number in flight is reached by slow start. Of a window, it is not known when one opens, nor what other
    runs have used of it: slow start goes on until the quota is used up, or one is refused. Then one request
    at a time asks for the next window.
    """

    def __init__(self, samples: Samples, limit: Limit) -> None:
        super().__init__(samples)
        self._limit = limit
        self._start = SlowStart(samples, NoLimit().calls)
        self._left = self._at_once()
        self._attempts: Attempts | None = None
        self._began_at = math.inf

    def rate(self) -> float:
        """See Estimator."""
        if isinstance(self._limit, Rate) and self._left <= 0:
            return self._limit.per_s
        return self._start.rate()

    def calls(self) -> int:
        """See Estimator."""
        if self._keeps_to_rate:
            return self._samples.max_in_flight
        calls = 1 if self._attempts else self._start.calls()
        return min(calls, self._limit.calls) if isinstance(self._limit, Calls) else calls

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
        if isinstance(limit, Window) and self._attempts:
            return self._opened(limit, self._attempts, sample)
        is_reached = isinstance(limit, Calls) and self._start.calls() >= limit.calls
        return limit if is_reached or self._keeps_to_rate else self._start.on_sample(sample)

    def _opened(self, limit: Window, attempts: Attempts, sample: Sample) -> Finding | None:
        """One more was let in after the quota was used up, or after a refusal."""
        if sample.sent_at <= attempts.since:
            return None
        took = sample.sent_at - (attempts.since if self._left else self._began_at)
        if took < _TOO_EARLY * limit.period:
            return NoLimit()
        if not self._left and not attempts.in_vain:  # it may have opened at any moment since then
            return Window(limit.quota, limit.period, late=took)
        return Window(limit.quota, limit.period, late=attempts.step, is_recalled=True)

    def _on_refused(self, sample: Sample) -> Finding | None:
        if isinstance(self._limit, Window):
            return self._not_open(self._limit, sample)
        if isinstance(self._limit, Rate) and self._samples.has_admitted:
            return self._limit
        return self._start.on_sample(sample) or NoLimit()  # as if nothing were known

    def _not_open(self, limit: Window, sample: Sample) -> Finding | None:
        """The window is used up, by this run or by others."""
        if self._attempts is None:
            self._ask(limit)
        elif sample.sent_at > self._attempts.since:
            self._attempts.refused(sample)
            if self._samples.now - self._attempts.since > _LONGEST_SHUT * limit.period:
                return Shut()
        return None

    @property
    def _keeps_to_rate(self) -> bool:
        return isinstance(self._limit, Rate) and self._left <= 0

    def _at_once(self) -> int:
        """Requests that may leave before the limit binds."""
        match self._limit:
            case Window(quota):
                return quota
            case Rate(burst=burst):
                return int(_OF_BURST * burst)
        return 0

    def _ask(self, limit: Window) -> None:
        """Ask for the next window, at first at once: more may be let in than is known."""
        self._attempts = Attempts(self._samples, min(_FIRST_ATTEMPT * limit.period, _FIRST_ATTEMPT_S))
