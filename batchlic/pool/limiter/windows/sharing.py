"""Whether others use a quota, too, which shows in a quota that is now less and now more."""

import math

_CONTENTION_PERIODS = 30
"""Periods for which a change of the quota is remembered."""


class Sharing:
    """Changes of a quota: one may be a new limit, but two within some periods show that others use it."""

    def __init__(self) -> None:
        self.is_shared = False
        """Whether a change that nothing else explains has shown it."""
        self._suspicious_until = self._contended_until = -math.inf

    def is_contended(self, now: float) -> bool:
        """Whether others were let in instead, of late."""
        return now < self._contended_until

    def changed(self, now: float, period: float, *, is_clear: bool) -> bool:
        """The quota is not what it was. Returns whether others use it; `is_clear`: only that explains it."""
        until = now + _CONTENTION_PERIODS * period
        happens_again = now < self._suspicious_until
        if happens_again:
            self._contended_until = until
            self.is_shared |= is_clear
        self._suspicious_until = until
        return happens_again
