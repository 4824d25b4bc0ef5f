"""Something is let in after a long silence: a window has opened, or the silence is why."""

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Finding, Rate, Reopened
from batchlic.pool.limiter.samples import Sample, Samples
from batchlic.pool.limiter.windows.periods import is_window

_SLOWER = 1.25
"""Times as long as before that the quota takes: a bucket that let so many in then lets them in now."""
_FIRST = 0.1
"""The same as a share of the time in which the next window cannot open."""
_IN_TIME = 0.8
"""Share of the time in which the next window cannot open that sending one more than the quota may take."""


class AfterSilence(Hypothesis):
    """Sends as many as were let in at first, and one more, at a slower pace.

    A window refuses the last one. If it is let in, there is no window, and each refusal costs the silence.
    """

    def __init__(self, samples: Samples, found: Reopened) -> None:
        super().__init__(samples)
        self._window, self._silence_s = found.window, found.silence_s
        self._opened = samples.opened_at
        self._let_in = 1
        self._least_s = _IN_TIME * (found.shut_s - found.silence_s)
        """Seconds for which a window has stayed shut at least."""
        slowly = max(_SLOWER * found.took_s, _FIRST * self._least_s, _SLOWER * samples.round_trip)
        self._rate = (found.window.quota + 1) / min(slowly, max(self._least_s, samples.round_trip))

    def rate(self) -> float:
        """See Estimator."""
        return self._rate

    def found(self) -> Finding:
        """See Estimator."""
        return self._window

    def _on_admitted(self, sample: Sample) -> Finding | None:
        elapsed = sample.sent_at - self._opened
        if elapsed > self._least_s:
            return self._as_window()
        self._let_in += elapsed > 0
        if self._let_in <= self._window.quota:
            return None
        return Rate(self._let_in / elapsed, is_no_window=True, pause_s=self._silence_s)

    def _on_refused(self, sample: Sample) -> Finding | None:
        return self._as_window() if sample.sent_at >= self._opened else None

    def _as_window(self) -> Finding:
        window = self._window
        if is_window(window.quota, window.period, self._samples.round_trip):
            return window
        return Rate(window.quota / window.period, is_no_window=True)
