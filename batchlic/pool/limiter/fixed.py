"""A rate that a person has set."""

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Finding
from batchlic.pool.limiter.samples import Sample, Samples

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 60.0
"""Seconds of the first pause, and of the longest: each refusal after a pause doubles the next one."""


class Fixed(Hypothesis):
    """A rate set by a person: refusals that name no time pause everyone, ever longer while they go on."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self._resume_at = samples.now
        self._pause_s = _FIRST_PAUSE_S

    def wait(self) -> float:
        """See Estimator."""
        return self._resume_at - self._samples.now

    def _on_admitted(self, sample: Sample) -> Finding | None:
        if sample.sent_at >= self._resume_at:
            self._pause_s = _FIRST_PAUSE_S
        return None

    def _on_refused(self, sample: Sample) -> Finding | None:
        if sample.sent_at >= self._resume_at:
            self._resume_at = self._samples.now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return None
