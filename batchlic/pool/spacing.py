"""Requests spread evenly in time, by the generic cell rate algorithm in its virtual scheduling variant.

https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
"""

_TOLERANCE = 0.005
"""Seconds of lateness that may be caught up, since timers of event loops fire late."""


class Spacing:
    """At most `rate` starts a second; `rate` may be changed at any time, and may be infinite."""

    __slots__ = ("_due", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._due = 0.0

    def delay(self, now: float) -> float:
        """Seconds until the next start is due."""
        return max(0.0, self._due - now)

    def take(self, now: float) -> None:
        """Count one start at `now`."""
        self._due = max(self._due, now - _TOLERANCE) + 1.0 / self.rate
