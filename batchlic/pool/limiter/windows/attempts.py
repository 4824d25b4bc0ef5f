"""When to try again, while nothing is let in."""

from batchlic.pool.limiter.samples import Sample, Samples


class Attempts:
    """Moments to try again, ever more rarely the longer it takes."""

    def __init__(self, samples: Samples, first_s: float) -> None:
        self.since = samples.now
        self.in_vain = 0
        self._samples = samples
        self.step = first_s
        self._next = samples.now + first_s

    def wait(self) -> float:
        """Seconds until the next attempt."""
        return self._next - self._samples.now

    def on_sent(self) -> None:
        """The next attempt leaves when this one has failed, or after another step."""
        self._next = self._samples.now + self.step

    def refused(self, sample: Sample) -> None:
        """The latest attempt came too early."""
        if sample.sent_at >= self.since:
            waited = self._samples.now - self.since
            self.in_vain += 1
            self.step = max(self.step, min(0.25, 0.1 + 0.01 * waited) * waited)
            self._next = self._samples.now + self.step
