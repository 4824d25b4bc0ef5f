"""What the answers so far tell of the carrier: round trip, runs of refusals, what a refusal costs."""

import math
from collections import deque
from dataclasses import dataclass
from itertools import dropwhile, takewhile

_SHORTEST = 1e-4
"""Seconds; clocks of simulations stand still."""
_SMOOTHING = 0.1
"""Weight of a new round trip, about that of RFC 6298."""
_FEW = 3
"""Refusals in a row, at least, that show more than bad luck."""
_LONGEST_PATIENCE_S = 60.0
_LONGEST_LOG = 100_000
_BURSTS = 8


@dataclass(slots=True, eq=False)
class Stretch:
    """Requests since `opened`, when the carrier let one in after it had refused everything.

    `after_refusals` is false for the first stretch, which began when the run did.
    """

    opened: float
    after_refusals: bool = False
    sent: int = 0
    refused: int = 0

    @property
    def admitted(self) -> int:
        """Requests let in, as far as is known."""
        return self.sent - self.refused


@dataclass(slots=True, eq=False)
class Flight:
    """One request: when it left, how many were then in flight, itself included, and its stretch."""

    sent_at: float
    company: int
    stretch: Stretch


class Observed:
    """Measurements over all requests; times in seconds on the event loop's clock."""

    def __init__(self, now: float, max_concurrency: int) -> None:
        self.now = now
        """The moment of the latest event."""
        self.max_concurrency = max_concurrency
        self.round_trip = 0.0
        """Of delivered requests, until there was one of a refused one; 0 at first."""
        self.stretch = Stretch(now)
        self.refused_in_a_row = 0
        """Refusals since the latest request known to have been let in."""
        self.refused_since = now
        """When the first of these left."""
        self.refused_at = -math.inf
        """When the latest that was refused left."""
        self.pause = 0.0
        """How long the latest refusal told everyone to wait."""
        self._log: deque[Flight] = deque(maxlen=_LONGEST_LOG)
        """Requests let in or in flight, in the order in which they left."""
        self._refusals: deque[float] = deque(maxlen=_LONGEST_LOG)
        """When requests left that were refused, in the order of the refusals."""
        self._flying: set[Flight] = set()
        self.has_delivered = False
        """Whether the round trip is that of a delivered request, and not of a refused one."""
        self._latest_delivered = now
        self.bursts: deque[tuple[float, float]] = deque(maxlen=_BURSTS)
        """The latest times from the end of a pause that everyone was told to the next refusal."""
        self.resumed_at = now
        """When the latest pause ends that everyone was told."""

    @property
    def in_flight(self) -> int:
        """Requests that have left and are not answered yet."""
        return len(self._flying)

    def takes_off(self) -> Flight:
        """Count one request that leaves."""
        self.stretch.sent += 1
        flight = Flight(self.now, len(self._flying) + 1, self.stretch)
        self._flying.add(flight)
        self._log.append(flight)
        return flight

    def lands(self, flight: Flight) -> None:
        """Count one request that is in flight no more."""
        self._flying.discard(flight)

    def forget(self, flight: Flight) -> None:
        """A request was not let in, or never left."""
        later = []
        while self._log and (last := self._log.pop()) is not flight:
            later.append(last)
        self._log.extend(reversed(later))

    def left_at(self, back: int) -> float:
        """When the request that was let in so many requests ago left; minus infinity if there was none."""
        return self._log[-back].sent_at if back <= len(self._log) else -math.inf

    def left_since(self, moment: float) -> int:
        """Requests let in that left from a moment on, as far as the log goes back."""
        return sum(1 for _ in takewhile(lambda flight: flight.sent_at >= moment, reversed(self._log)))

    def let_in_during(self, burst: tuple[float, float]) -> list[float]:
        """When each request left that was let in during a burst, and last the refused one."""
        first, last = burst
        late = dropwhile(lambda flight: flight.sent_at >= last, reversed(self._log))
        of_burst = takewhile(lambda flight: flight.sent_at >= first, late)
        return [*reversed([flight.sent_at for flight in of_burst]), last]

    def refused_from(self, moment: float) -> int:
        """Requests refused that left from a moment on."""
        return sum(1 for _ in takewhile(lambda sent_at: sent_at >= moment, reversed(self._refusals)))

    def left_between(self, first: float, last: float) -> int:
        """The same up to another moment, included."""
        return self.left_since(first) - self.left_since(math.nextafter(last, math.inf))

    def delivered(self, flight: Flight) -> None:
        """Count one that got a definite answer."""
        took = max(_SHORTEST, self.now - flight.sent_at)
        self.round_trip += (_SMOOTHING if self.has_delivered else 1.0) * (took - self.round_trip)
        self.has_delivered = True
        self._latest_delivered = max(self._latest_delivered, flight.sent_at)
        if flight.sent_at > self.refused_since:
            self.refused_in_a_row = 0

    def throttled(self, flight: Flight, pause: float) -> None:
        """Count one that was refused; everyone pauses for `pause` seconds, if at all."""
        if pause and flight.sent_at >= self.resumed_at:
            self.bursts.append((self.resumed_at, flight.sent_at))
            self.resumed_at = self.now + pause
        self.round_trip = self.round_trip or max(_SHORTEST, self.now - flight.sent_at)
        self.pause = pause
        self.refused_at = max(self.refused_at, flight.sent_at)
        self._refusals.append(flight.sent_at)
        flight.stretch.refused += 1
        self.forget(flight)
        if flight.sent_at > self._latest_delivered:
            earlier = self.refused_since if self.refused_in_a_row else flight.sent_at
            self.refused_since = min(earlier, flight.sent_at)
            self.refused_in_a_row += 1

    @property
    def refusals_are_costly(self) -> bool:
        """Whether a refusal stops everyone for much longer than it takes to learn of it."""
        return self.pause > 4 * self.round_trip

    @property
    def patience(self) -> float:
        """Seconds to leave out what may be refused, where a refusal stops everyone."""
        return min(50 * self.pause, _LONGEST_PATIENCE_S + self.pause)

    @property
    def all_is_refused(self) -> bool:
        """Whether a request let in since the first of the refusals would have been answered by now.

        Where a refusal stops everyone that can't be known.
        """
        if not self.refused_in_a_row or self.refusals_are_costly:
            return False
        waited = self.now - self.refused_since > 1.2 * self.round_trip
        return not self._flying or (waited and self.refused_in_a_row >= _FEW)

    def open_stretch(self, stretch: Stretch) -> None:
        """Begin anew: the carrier lets requests in again."""
        self.stretch = stretch
        self.refused_in_a_row = 0
