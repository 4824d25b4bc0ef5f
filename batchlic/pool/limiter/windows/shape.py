"""Whether a window is fixed or sliding."""

import math

from batchlic.pool.limiter.samples import Sample, Samples
from batchlic.pool.limiter.windows.cycle import LATE_S, Cycle

_USED_AT_LEAST = 0.5
"""Share of its quota that a window lets in at least if it is fixed, as supposed."""
_TWICE_WITHIN = 0.9
"""Share of a period within which a fixed window never opens twice."""


class Shape:
    """Fixed, sliding, or not known yet. A window is taken for a fixed one on trial."""

    def __init__(self, *, is_sliding: bool = False) -> None:
        self.is_fixed: bool | None = False if is_sliding else None
        self.is_sliding = is_sliding
        """Whether it was taken for a fixed one, wrongly."""
        self.opens_anytime = False
        """Whether it has opened twice within its length."""
        self.counts_from = -math.inf
        """The moment since which requests count: that at which a fixed window opened."""
        self._before_trial: tuple[float, float] | None = None
        """Period and `counts_from` to go back to if the trial fails."""
        self._shut_at = -math.inf
        """When the latest request left that was refused before one was let in."""

    def suppose_fixed(self, cycle: Cycle, period: float, opened: float) -> None:
        """Take it for a fixed window that opened at that moment, until that is refuted."""
        self._before_trial = cycle.period, self.counts_from
        self.is_fixed, cycle.period, self.counts_from = True, period, opened

    def fails_trial(self, cycle: Cycle, quota: int) -> bool:
        """Whether a refusal within the quota refutes the trial; then all is as it was before."""
        if self._before_trial is None or cycle.used >= _USED_AT_LEAST * quota:
            return False
        cycle.period, self.counts_from = self._before_trial
        self._before_trial, self.is_fixed, self.is_sliding = None, False, True
        return True

    def end_trial(self) -> None:
        """A window was used up, so the trial is over: the window is fixed."""
        self._before_trial = None

    def opened(self, moment: float) -> None:
        """A window has opened: a fixed one counts from then on."""
        if self.is_fixed:
            self.counts_from = moment

    def probe_refused(self) -> None:
        """One more than the quota was refused: of unknown shape, it counts as a sliding window."""
        self.is_fixed = bool(self.is_fixed)

    def forget(self) -> None:
        """Others use it, so what refuted a fixed window may have been they."""
        if not self.is_fixed and not self.is_sliding:
            self.is_fixed = None

    def compare(self, sample: Sample, samples: Samples, cycle: Cycle) -> None:
        """Learn from a request that was let in: a fixed window does not open twice within its length."""
        if sample.sent_at <= samples.refused_at + LATE_S or samples.refused_at <= self._shut_at:
            return
        if sample.sent_at < self._shut_at + _TWICE_WITHIN * cycle.period:
            self.opens_anytime, self.is_fixed, self.is_sliding = True, False, True
            self._before_trial = None
            cycle.ask_nothing()
        self._shut_at = samples.refused_at
