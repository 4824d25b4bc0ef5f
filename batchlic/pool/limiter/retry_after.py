"""What the carrier says about the next request: `Retry-After`, and quotas that are used up (promise J)."""

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.samples import Ending, Sample, Samples

_LONGER = 1.25
"""Times as long as told that everyone waits, once more for each time that the told wait proves too short."""
_LONGEST = 4.0
"""Times as long as told that everyone waits at most."""
_FORGETS = 0.5
"""Share of the excess that is left after each pause that was long enough."""


class RetryAfter(Hypothesis):
    """Everyone waits until the latest moment that the carrier has named.

    A wait that proves too short is lengthened, and what worked is remembered for a while. A refusal that
    names no wait counts like one that names the pause that was learned (0 as long as none is known).

    A quota is believed until it proves false: only one request can be the last of a quota. One more that is
    let in and says the same shows that the quota is not a window's (a bucket's, say). Then it is of no use.
    """

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self._resume_at = self._used_up_until = samples.now
        self._believes_quota = True
        self._longer = 1.0
        self._is_proven = True
        self.learned_s = 0.0
        """Seconds of silence that the carrier wants after a refusal that names none."""

    @property
    def resume_at(self) -> float:
        """When requests may start again, on the limiter's clock."""
        return max(self._resume_at, self._used_up_until)

    def hold(self, until: float) -> None:
        """Let nobody start before a moment."""
        self._resume_at = max(self._resume_at, until)

    def learn(self, pause_s: float) -> None:
        """Take a pause after each refusal that names none."""
        self.learned_s = pause_s

    def wait(self) -> float:
        """See Estimator."""
        return max(0.0, self.resume_at - self._samples.now)

    def on_sample(self, sample: Sample) -> None:
        """See Estimator; sets the wait of the sample to that which everyone keeps."""
        now = self._samples.now
        if sample.ending is Ending.REFUSED:
            self._lengthen(sample)
        elif sample.ending is Ending.ADMITTED and sample.sent_at >= self._resume_at and not self._is_proven:
            self._is_proven = True
            self._longer = 1 + _FORGETS * (self._longer - 1)
        if sample.retry_after_s:
            self.hold(now + sample.retry_after_s)
        self._believe(sample)

    def _lengthen(self, sample: Sample) -> None:
        told = sample.retry_after_s or self.learned_s
        if told and sample.sent_at >= self._resume_at:
            if not self._is_proven:
                self._longer = min(_LONGER * self._longer, _LONGEST)
            self._is_proven = False
        sample.retry_after_s = told * self._longer

    def _believe(self, sample: Sample) -> None:
        now, quota = self._samples.now, sample.quota
        if quota is None or quota.remaining != 0 or not self._believes_quota:
            return
        if sample.ending is Ending.ADMITTED and now < self._used_up_until:
            self._believes_quota = False
            self._used_up_until = now
        else:
            self._used_up_until = max(self._used_up_until, now + (quota.reset_s or 0.0))
