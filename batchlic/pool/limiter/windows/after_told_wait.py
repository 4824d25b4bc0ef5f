"""The first refusal told everyone to wait for long: until a window opens, or as a penalty."""

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Finding, NoLimit, Rate, ToldToWait, Window
from batchlic.pool.limiter.samples import Sample, Samples
from batchlic.pool.limiter.windows.periods import is_window, renewed

_SLOWER = 1.25
"""Times as long as before that each request takes: a bucket that let so many in then lets them in now."""
_SPREAD = 0.1
"""Share of the window that all of them take, at least."""
_FEW = 3
"""Requests that a bucket lets in at most after it has told how long one takes, rounded up."""
_MOST = 0.8
"""Share of the told window after which more may be let in because the next one is open."""
_PENALTY_S = 1.5
"""Seconds by which two told waits differ at most, rounded, if both are the same penalty."""


class AfterToldWait(Hypothesis):
    """Sends as many as were let in before the wait, and more, all of them later than before.

    A window refuses the one beyond its quota, which costs nothing: the window is used up. A bucket lets in
    few, because it has told how long one takes. A penalty is as long as before, even if it is told later.
    """

    def __init__(self, samples: Samples, found: ToldToWait) -> None:
        super().__init__(samples)
        self._found = found
        self._began_at = self._ends_s = self._each_s = 0.0
        self._due: list[float] = []
        """When requests may leave, in seconds after the first one."""
        self._late_s = 0.0
        """Seconds by which they leave later, because there was nothing to send."""
        self._sent = 0

    def wait(self) -> float:
        """See Estimator."""
        if not self._sent:
            return 0.0
        if self._sent < len(self._due):
            return self._began_at + self._late_s + self._due[self._sent] - self._samples.now
        return self._samples.left_at(1) + self._gap_s - self._samples.now

    def shut(self) -> float:
        """See Estimator."""
        return 0.0

    def found(self) -> Finding:
        """See Estimator."""
        return self._found

    def on_sent(self, sample: Sample) -> None:
        """See Estimator."""
        if not self._sent:
            self._begin(sample)
        self._late_s += max(0.0, -self.wait())  # nothing that is late is caught up
        self._sent += 1

    def _begin(self, sample: Sample) -> None:
        """The wait is over, and everyone has been answered."""
        samples = self._samples
        burst = samples.latest_burst
        took = burst[-1] - burst[0]
        self._began_at, self._ends_s = sample.sent_at, took + self._found.wait_s
        self._each_s = max(_SPREAD * self._ends_s, _SLOWER * samples.round_trip) / len(burst)
        self._due = [
            max(_SLOWER * (left_at - burst[0]), number * self._each_s) for number, left_at in enumerate(burst)
        ]

    @property
    def _gap_s(self) -> float:
        """Seconds between two requests beyond the quota: ever fewer, for there may be no limit any more."""
        return self._each_s * len(self._due) / max(self._sent, 1)

    @property
    def _quota(self) -> int:
        """Requests that were let in before the wait."""
        return max(1, len(self._due) - 1)

    def _on_admitted(self, sample: Sample) -> Finding | None:
        samples = self._samples
        if not self._sent or sample.sent_at < self._began_at:
            return None
        if len(self._due) == 1:  # nothing was let in before, so nothing is known of a limit
            return NoLimit(1)
        is_fast = self._gap_s < samples.round_trip / (2 * samples.max_in_flight)
        if is_fast and samples.left_between(self._began_at, sample.sent_at) > len(self._due):
            return NoLimit(samples.max_in_flight)
        if sample.sent_at - self._began_at <= _MOST * self._ends_s:
            return None
        return Rate(self._flowed(samples.left_between(self._began_at, sample.sent_at), sample))

    def _on_refused(self, sample: Sample) -> Finding | None:
        samples = self._samples
        if not self._sent or sample.sent_at < self._began_at:
            return None
        let_in = samples.left_between(self._began_at, sample.sent_at)
        if let_in > self._quota and abs(sample.told_s - self._found.wait_s) < _PENALTY_S:
            return Rate(self._flowed(let_in, sample), is_no_window=True)
        if let_in < min(_FEW + 1, self._quota):
            return Rate(max(1, let_in) / self._ends_s)
        ends_s = sample.sent_at - self._began_at + sample.told_s
        period = renewed(self._ends_s, ends_s, is_exact=samples.is_exact)
        if is_window(let_in, period, samples.round_trip):
            return Window(let_in, period, opened_at=self._began_at)
        return Rate(let_in / period, is_no_window=True, is_spaced=let_in == 1)

    def _flowed(self, let_in: int, sample: Sample) -> float:
        """Requests/s: at least that at which the quota was let in, and what has flowed in since."""
        flowed = (let_in - self._quota) / max(sample.sent_at - self._began_at, self._each_s)
        return max(self._quota / self._ends_s, flowed)
