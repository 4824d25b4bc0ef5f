"""Nothing is let in: when that is over, and what it was."""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Finding, NoLimit, Rate, Reopened, Shut, Window
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.windows.attempts import Attempts
from batchlic.pool.limiter.windows.periods import configured, is_window

_EDGE_S = 0.002
"""Least seconds between two requests from which a rate is taken."""
_LONG_SILENCE_S = 2.0
"""Seconds of silence after which it may be the silence that the carrier wanted, and no window opened."""
_TOO_LONG = 20.0
"""Requests that a known rate would have let in meanwhile, so that it is no rate but a window."""
_SHORTER = 0.87
"""Share of the measured length that a window has at least: refused requests that count keep it shut."""
_OUTAGE_S = 60.0
"""Seconds after which nothing let in from the start is no low limit but something that has passed."""


class Closed(Hypothesis):
    """Nothing is let in: one request at a time, ever more rarely, finds out when that is over.

    `rate` is what is known not to be a window's.
    """

    def __init__(self, samples: Samples, rate: float | None = None) -> None:
        super().__init__(samples)
        self._rate = rate
        self._attempts = Attempts(samples, max(samples.round_trip / 2, 0.02) if rate is None else 0.25 / rate)

    def calls(self) -> int:
        """See Estimator."""
        return 1

    def wait(self) -> float:
        """See Estimator."""
        return self._attempts.wait()

    def found(self) -> Finding:
        """See Estimator."""
        return Shut(self._rate)

    def on_sent(self, sample: Sample) -> None:  # noqa: ARG002 - when, not which
        """See Estimator."""
        self._attempts.on_sent()

    def _on_refused(self, sample: Sample) -> Finding | None:
        self._attempts.refused(sample)
        return None

    def _on_admitted(self, sample: Sample) -> Finding | None:
        if sample.sent_at < self._attempts.since:
            return None
        if self._rate is None:
            spaced = None if self._was_silent(sample) else self._by_the_second(sample) or self._as_spaced()
            return spaced or self._as_window(sample)
        if self._rate * (sample.sent_at - self._attempts.since) > _TOO_LONG and not self._was_silent(sample):
            return NoLimit()
        shown = 1 / max(sample.sent_at - self._samples.left_at(2), _EDGE_S)
        return Rate(max(shown, self._rate * 0.93**self._attempts.in_vain), is_no_window=True)

    def _was_silent(self, sample: Sample) -> bool:
        """Whether nothing was sent for so long before it that this may be why it was let in."""
        return sample.sent_at - self._samples.refused_at > _LONG_SILENCE_S

    def _by_the_second(self, sample: Sample) -> Rate | None:
        """Only one was let in before all was refused: there may be no burst. This one shows the distance."""
        samples = self._samples
        previous, refused_at = samples.before(sample), samples.refused_at
        if previous is None or previous.ending is not Ending.ADMITTED:
            return None
        if previous.sent_at > refused_at or samples.left_since(samples.opened_at) > 2:
            return None
        too_short = refused_at - previous.sent_at
        refused_per_s = 1 / too_short if too_short else math.inf
        return Rate(1 / (sample.sent_at - previous.sent_at), refused_per_s=refused_per_s, is_spaced=True)

    def _as_window(self, sample: Sample) -> Finding:
        samples = self._samples
        elapsed = sample.sent_at - samples.opened_at
        quota = max(1, samples.left_since(samples.opened_at) - 1)
        waited = sample.sent_at - samples.refused_since
        late = self._attempts.step
        most = elapsed + late if samples.has_reopened else math.inf  # the first one may have begun before
        period = configured(elapsed, least=min(elapsed - late, _SHORTER * elapsed), most=most)
        window = Window(quota, period, late)
        if self._was_silent(sample):
            silence = sample.sent_at - samples.refused_at
            return Reopened(window, took_s=elapsed - waited, shut_s=waited, silence_s=silence)
        if is_window(quota, elapsed, samples.round_trip) and waited > 0.1 * elapsed:
            return window
        if samples.has_reopened or waited < _OUTAGE_S:
            return Rate(quota / elapsed, is_no_window=True)
        return NoLimit()
