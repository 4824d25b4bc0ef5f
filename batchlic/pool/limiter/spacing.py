"""Requests spread evenly in time, by the generic cell rate algorithm in its virtual scheduling variant.

https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
"""

import math

_TOLERANCE_S = 0.005
_MOST_AT_ONCE = 3
"""Lateness that may be caught up, since timers of event loops fire late: so many seconds and requests."""
_PAUSE_S = 0.1
"""Seconds after which nothing was late: there was a pause, and nothing is caught up."""


class Spacing:
    """At most `rate` starts a second; `rate` may be infinite, and a change of it holds for the next start."""

    __slots__ = ("_latest", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._latest = -math.inf

    def delay(self, now: float) -> float:
        """Seconds until the next start is due."""
        return max(0.0, self._latest + 1.0 / self.rate - now)

    def take(self, now: float, held_until: float = -math.inf) -> None:
        """Count one start at `now`; if something else held it, only the time after that is lateness."""
        tolerance = min(_TOLERANCE_S, (_MOST_AT_ONCE - 1) / self.rate)
        due = max(self._latest + 1.0 / self.rate, min(held_until, now))
        self._latest = max(due, now - tolerance) if now - due <= _PAUSE_S else now
