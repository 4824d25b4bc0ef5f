"""Since when a window is open, and when the next one will be."""

import math

from batchlic.pool.limiter.samples import Sample

_QUESTIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of a period after which a question is asked: has a window opened?"""
LATE_S = 0.005
"""Seconds by which timers of event loops may be late, and requests overtake each other."""


class Cycle:
    """The present window: since when it is open, when the next one will be, and how much of it is used.

    A period may be too long without a refusal, so it is asked in the first cycle whether the next window has
    opened already, and later by how much an opening was noticed too late, halving what that may be.
    """

    def __init__(self, opened: float, period: float, used: int, late: float) -> None:
        self.period = period
        self.opened = opened
        self.used = used
        """Requests let in since then, as far as is known."""
        self.is_confirmed = False
        """Whether a window has opened when it was expected."""
        self.late = late
        self._before = opened
        self._is_by_plan = False
        self._questions: list[float] = []

    def is_over(self, moment: float) -> bool:
        """Whether the next window is expected to be open."""
        return moment >= self.opened + self.period

    def begin(self, opened: float, used: int, *, by_plan: bool) -> None:
        """A window has opened, or is thought to."""
        self._before, self.opened, self._is_by_plan = self.opened, opened, by_plan
        self.used = used

    def admitted(self, sample: Sample) -> None:
        """A request was let in, and so confirms that its window was open."""
        self.is_confirmed |= self._is_by_plan and sample.sent_at >= self.opened

    def has_not_begun(self) -> None:
        """The window that was to open by plan is not open yet."""
        if self._is_by_plan:
            self.opened, self._is_by_plan = self._before, False

    def ask(self) -> None:
        """Plan the questions of this cycle."""
        if not self.is_confirmed:
            self._questions = [self.opened + share * self.period for share in _QUESTIONS]
        elif self.late > 2 * LATE_S:
            self.late /= 2
            self._questions = [self.opened + self.period - self.late]
        else:
            self._questions = []

    def ask_earlier(self, by_s: float) -> None:
        """Plan to ask whether the next window opens that much earlier."""
        self._questions = [self.opened + self.period - by_s]

    def ask_nothing(self) -> None:
        """Drop the questions of this cycle."""
        self._questions = []

    def question_due(self, now: float) -> float:
        """Seconds until the next question; of those that were missed only the latest is asked."""
        while len(self._questions) > 1 and self._questions[1] < now:
            self._questions.pop(0)
        return self._questions[0] - now if self._questions else math.inf

    def asked(self) -> None:
        """The question that was due is asked, unless it was dropped since then."""
        del self._questions[:1]
