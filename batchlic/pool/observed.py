"""What the answers so far tell of the carrier: round trip, runs of refusals, what a refusal costs."""

from dataclasses import dataclass

_SHORTEST = 1e-4
"""Seconds; clocks of simulations stand still."""
_SMOOTHING = 0.1
"""Weight of a new round trip, about that of RFC 6298."""


@dataclass(slots=True, eq=False)
class Stretch:
    """Requests since `opened`, when the carrier let one in after it had refused everything.

    `after_refusals` is false for the first stretch, which began when the run did.
    """

    opened: float
    after_refusals: bool = False
    sent: int = 0
    delivered: int = 0
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
        self.in_flight = 0
        self.round_trip = 0.0
        """Of delivered requests; 0 until there was one."""
        self.stretch = Stretch(now)
        self.refused_in_a_row = 0
        """Refusals since the latest request known to have been let in."""
        self.refused_since = now
        """When the first of these left."""
        self.pause = 0.0
        """How long the latest refusal told everyone to wait."""
        self._latest_delivered = now

    def takes_off(self) -> Flight:
        """Count one request that leaves."""
        self.in_flight += 1
        self.stretch.sent += 1
        return Flight(self.now, self.in_flight, self.stretch)

    def delivered(self, flight: Flight) -> None:
        """Count one that got a definite answer."""
        took = max(_SHORTEST, self.now - flight.sent_at)
        self.round_trip += (_SMOOTHING if self.round_trip else 1.0) * (took - self.round_trip)
        self._latest_delivered = max(self._latest_delivered, flight.sent_at)
        flight.stretch.delivered += 1
        if flight.sent_at > self.refused_since:
            self.refused_in_a_row = 0

    def throttled(self, flight: Flight, pause: float) -> None:
        """Count one that was refused; everyone pauses for `pause` seconds, if at all."""
        self.round_trip = self.round_trip or max(_SHORTEST, self.now - flight.sent_at)
        self.pause = pause
        flight.stretch.refused += 1
        if flight.sent_at > self._latest_delivered:
            earlier = self.refused_since if self.refused_in_a_row else flight.sent_at
            self.refused_since = min(earlier, flight.sent_at)
            self.refused_in_a_row += 1

    @property
    def refusals_are_costly(self) -> bool:
        """Whether a refusal stops everyone for much longer than it takes to learn of it."""
        return self.pause > 4 * self.round_trip

    @property
    def all_is_refused(self) -> bool:
        """Whether a request let in since the first of the refusals would have been answered by now."""
        waited = self.in_flight == 0 or self.now - self.refused_since > 1.2 * self.round_trip
        return self.refused_in_a_row > 0 and waited

    def open_stretch(self, stretch: Stretch) -> None:
        """Begin anew: the carrier lets requests in again."""
        self.stretch = stretch
        self.refused_in_a_row = 0
