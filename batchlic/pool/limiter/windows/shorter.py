"""Whether a window is shorter than told: a wait in whole seconds says little about a window of a second."""

import math

from batchlic.pool.limiter.windows.periods import TOLD_LATE_S, is_usual

_SHORTEST = 1 / 4
"""Share of a length that is enough below which none is tried that may be too short."""
_PRECISE = 1.42
"""Factor between a length that is too short and one that is enough at which the search ends."""
_PRECISE_IF_USUAL = 2.0
"""The same where the one that is enough is a length that carriers configure."""
_TOLD, _TRIED = 2, 5
"""Windows in a row that let their quota in before a shorter length is tried: after the told one, and after
one that was tried, since a fixed window that is longer lets some in by chance."""
_SURE = 20
"""The same after which it is not the length that was wrong."""


class Shorter:
    """Tries ever shorter lengths, by bisection; each one that is too short costs a told wait."""

    def __init__(self, period: float, *, is_on: bool) -> None:
        self._is_on = is_on
        self._told = self._longer = self._enough = period
        self._too_short = max(0.0, period - TOLD_LATE_S)
        self._in_a_row = 0
        """Windows of the present length that let their quota in since one did not."""

    def fits(self, period: float) -> float:
        """A window of this length let its quota in; returns the length to go on with, in seconds."""
        self._in_a_row += 1
        if not self._is_on or self._in_a_row != (_TOLD if period >= self._told else _TRIED):
            return period
        self._longer, self._enough = self._enough, period
        if self._enough <= (_PRECISE_IF_USUAL if is_usual(period) else _PRECISE) * self._too_short:
            return period
        self._in_a_row = 0
        return math.sqrt(max(self._too_short, _SHORTEST * self._enough) * self._enough)

    def fails(self, period: float) -> float | None:
        """A window of this length did not open; returns the length to go on with, None if that is not why.

        One that opened several times before was open by chance: it is longer by about that share.
        """
        in_a_row, self._in_a_row = self._in_a_row, 0
        if not self._is_on or not self._too_short < period < self._told or in_a_row >= _SURE:
            return None
        self._too_short = period
        at_most = self._enough if period < self._enough else self._longer
        return min(at_most, period * (1 + 1 / in_a_row)) if in_a_row else at_most
