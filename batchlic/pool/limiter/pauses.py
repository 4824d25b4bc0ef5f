"""Pauses that a person asks for. They are no fault of the carrier."""

import math


class Pauses:
    """When nothing was to be sent because a person said so; times in seconds on the limiter's clock."""

    def __init__(self) -> None:
        self._pauses: list[tuple[float, float]] = []

    @property
    def is_on(self) -> bool:
        """Whether nothing is to be sent now."""
        return bool(self._pauses) and self._pauses[-1][1] == math.inf

    def begin(self, now: float) -> None:
        """Send nothing from now on."""
        if not self.is_on:
            self._pauses.append((now, math.inf))

    def end(self, now: float) -> None:
        """Send again."""
        if self.is_on:
            self._pauses[-1] = (self._pauses[-1][0], now)

    def between(self, since: float, now: float) -> float:
        """Seconds between two moments during which nothing was to be sent."""
        return sum(max(0.0, min(end, now) - max(begin, since)) for begin, end in self._pauses)
