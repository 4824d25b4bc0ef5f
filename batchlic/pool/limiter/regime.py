"""A regime bounds the requests that may leave, until the answers show the carrier's limit to be another."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from batchlic.pool.limiter.observed import Flight, Observed


@dataclass(frozen=True, slots=True)
class NoLimit:
    """None is known; so many requests in flight went through, or are to begin with."""

    concurrency: int = 10
    """RFC 6928."""


@dataclass(frozen=True, slots=True)
class Cap:
    """A number of requests in flight."""

    calls: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests/s; in `probe_s` seconds without a refusal it is doubled, by default as suits the rate.

    `is_no_window` where waiting for a window to open has been tried.
    """

    per_s: float
    probe_s: float | None = None
    is_no_window: bool = False


@dataclass(frozen=True, slots=True)
class Shut:
    """Nothing is let in at present; `rate` is the limit where that is known not to be a window's."""

    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A quota for each period of so many seconds; when one opened is known to `late` seconds.

    `includes_in_flight` where the quota counts requests in flight, some of which may be refused yet.
    """

    quota: int
    period: float
    late: float = 0.0
    includes_in_flight: bool = False


Found = NoLimit | Cap | Rate | Shut | Window
"""What the limit is, as far as the answers show."""


class Regime(ABC):
    """Bounds on the next requests, as long as the answers bear them out."""

    reason = "no limit known"

    def __init__(self, seen: Observed) -> None:
        self._seen = seen

    def rate(self) -> float:
        """Requests/s that may start."""
        return math.inf

    def concurrency(self) -> int:
        """Requests that may be in flight."""
        return self._seen.max_concurrency

    def wait(self) -> float:
        """Seconds until the next request may start, whatever rate and concurrency allow."""
        return 0.0

    def left(self, flight: Flight) -> None:  # noqa: B027 - most have nothing to learn from it
        """Learn that a request leaves."""

    def lost(self, flight: Flight) -> None:  # noqa: B027 - most have nothing to learn from it
        """Learn that a request got no definite answer."""

    @abstractmethod
    def delivered(self, flight: Flight) -> Found | None:
        """Learn that a request was let in; what was found if it calls for another regime."""

    @abstractmethod
    def throttled(self, flight: Flight) -> Found | None:
        """Learn that a request was refused; what was found if it calls for another regime."""
