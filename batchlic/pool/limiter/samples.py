"""What the requests so far show: which the carrier let in, how long they took, and what a refusal costs.

Only the limiter writes here; the estimators read.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import dropwhile, islice, takewhile

from batchlic.carrier.rate_limits import Quota

_SHORTEST_S = 1e-4
"""Least round trip; clocks of simulations stand still."""
_SMOOTHING = 0.1
"""Weight of a new round trip, about that of RFC 6298, section 2."""
_TELLING_REFUSALS = 3
"""Refusals in a row, at least, that show more than bad luck."""
_COSTLY_ROUND_TRIPS = 1.0
"""A pause that is longer than so many round trips makes a refusal costly."""
_LOG_LENGTH = 100_000
"""Requests that are remembered."""
_BURSTS = 8
"""Bursts between two pauses that are remembered."""
_FIRST = 10
"""Requests let in or in flight from which on the first ones tell nothing more."""
_TOGETHER = 0.25
"""Round trips within which requests leave together: each of them is written to disk before it leaves."""
_LATEST = 30
"""Refusals that tell a limit on requests in flight from others."""
_FEWER = 2
"""If more than so many times the fewest in flight at a refusal were let in, it is no such limit."""
_FLOW_S = 10.0
"""Time over which the rate that flows is averaged."""


class Ending(Enum):
    """What the end of a request says about the carrier's limit."""

    ADMITTED = "admitted"
    """Any definite answer but 429."""
    REFUSED = "refused"
    """429: too many requests."""
    LOST = "lost"
    """Time-out, reset, unavailable, 5xx, or never sent: nothing is known about the limit."""


@dataclass(slots=True, eq=False)
class Sample:
    """One request: when it left, how many were then in flight, itself included, and how it ended."""

    sent_at: float
    in_flight: int
    was_sent: bool = False
    ending: Ending | None = None
    """None while it is in flight."""
    told_s: float = 0.0
    """Seconds that the answer told everyone to wait."""
    retry_after_s: float = 0.0
    """Seconds for which everyone waits because of it: longer, where the told wait has proved too short."""
    quota: Quota | None = None
    """What headers said of the carrier's quota."""


class Samples:
    """Measurements over all requests; times in seconds on the limiter's clock."""

    def __init__(self, now: float, max_in_flight: int) -> None:
        self.now = self.began_at = now
        """The moment of the latest event, and of the first."""
        self.max_in_flight = max_in_flight
        """Requests in flight that all bounds but the present hypothesis allow."""
        self.round_trip = 0.0
        """Of admitted requests, until there was one of a refused one; 0 at first."""
        self.has_admitted = False
        """Whether the round trip is that of an admitted request, and not of a refused one."""
        self.opened_at = now
        """When the carrier let one in after it had refused everything; at first, when all began."""
        self.has_reopened = False
        self.refused_in_a_row = 0
        """Refusals since the latest request known to have been let in."""
        self.refused_since = now
        """When the first of these left."""
        self.refused_at = -math.inf
        """When the latest that was refused left."""
        self.pause = 0.0
        """How long the latest refusal told everyone to wait."""
        self.is_exact = False
        """Whether that was told in fractions of a second, rather than rounded up."""
        self.resumed_at = now
        """When the latest pause ends that everyone was told."""
        self._bursts: deque[tuple[float, float]] = deque(maxlen=_BURSTS)
        """The latest times from the end of a pause that everyone was told to the next refusal."""
        self._log: deque[Sample] = deque(maxlen=_LOG_LENGTH)
        """Requests let in or in flight, in the order in which they left."""
        self._refusals: deque[tuple[float, int]] = deque(maxlen=_LOG_LENGTH)
        """When requests left that were refused, and how many were in flight, in the order of the refusals."""
        self._unanswered: set[Sample] = set()
        self._answers: deque[float] = deque(maxlen=_LOG_LENGTH)
        """When admitted requests were answered, of late."""
        self._latest_admitted = -math.inf

    @property
    def in_flight(self) -> int:
        """Requests that have left and are not answered yet."""
        return len(self._unanswered)

    @property
    def flow(self) -> float | None:
        """Requests/s let in of late; None until some were."""
        since = max(self.now - _FLOW_S, self.began_at)
        while self._answers and self._answers[0] < since:
            self._answers.popleft()
        return len(self._answers) / (self.now - since) if self.has_admitted and self.now > since else None

    def left_at(self, back: int) -> float:
        """When the request that was let in so many requests ago left; minus infinity if there was none."""
        return self._log[-back].sent_at if back <= len(self._log) else -math.inf

    def left_latest(self) -> Iterator[float]:
        """When the requests left that were let in, the latest first."""
        return (sample.sent_at for sample in reversed(self._log))

    def before(self, sample: Sample) -> Sample | None:
        """The latest request let in, or in flight, that left before one."""
        return next((other for other in reversed(self._log) if other.sent_at < sample.sent_at), None)

    def left_since(self, moment: float) -> int:
        """Requests let in that left from a moment on, as far as the log goes back."""
        return sum(1 for _ in takewhile(lambda sample: sample.sent_at >= moment, reversed(self._log)))

    def left_between(self, first: float, last: float) -> int:
        """The same up to another moment, included."""
        return self.left_since(first) - self.left_since(math.nextafter(last, math.inf))

    def let_in_before(self, sample: Sample) -> tuple[int, float]:
        """Requests let in, or not answered yet, that left before one; and the seconds that these took."""
        before = list(takewhile(lambda other: other.sent_at < sample.sent_at, self._log))
        return len(before), sample.sent_at - before[0].sent_at if before else 0.0

    def bursts(self) -> list[list[float]]:
        """When each request left that was let in during the latest bursts, and last the refused one."""
        return [self._let_in_during(*burst) for burst in self._bursts]

    @property
    def latest_burst(self) -> list[float]:
        """The latest of these; only the refused one, if a pause that was told before hides when it began."""
        return self._let_in_during(*self._bursts[-1]) if self._bursts else [self.refused_at]

    def _let_in_during(self, first: float, last: float) -> list[float]:
        late = dropwhile(lambda sample: sample.sent_at > last, reversed(self._log))
        of_burst = takewhile(lambda sample: sample.sent_at >= first, late)
        return [*reversed([sample.sent_at for sample in of_burst]), last]

    def refused_from(self, moment: float) -> int:
        """Requests refused that left from a moment on."""
        return sum(1 for _ in takewhile(lambda refusal: refusal[0] >= moment, reversed(self._refusals)))

    @property
    def first_distance(self) -> float | None:
        """Seconds between the first requests let in, where only one was of many that left together at first.

        None once enough have left to know better.
        """
        if len(self._log) > _FIRST:
            return None
        first, *others = [sample.sent_at for sample in self._log]
        together_s = min(_TOGETHER * self.round_trip, self.pause / 2 if self.is_exact else math.inf)
        refused = sum(1 for sent_at, _ in self._refusals if abs(sent_at - first) <= together_s)
        if refused < _TELLING_REFUSALS or any(other - first <= together_s for other in others):
            return None
        return others[0] - first if others else max(self.round_trip, self.pause)

    def is_limit_on_calls(self, let_in: int) -> bool:
        """Whether a limit on requests in flight can explain the latest refusals, if `let_in` went through.

        Refusals before the carrier opened again don't count.
        """
        latest = takewhile(lambda refusal: refusal[0] >= self.opened_at, reversed(self._refusals))
        fewest = min((in_flight for _, in_flight in islice(latest, _LATEST)), default=let_in)
        return let_in <= _FEWER * fewest + 1

    @property
    def refusals_are_costly(self) -> bool:
        """Whether a refusal stops everyone for much longer than it takes to learn of it."""
        return self.pause > _COSTLY_ROUND_TRIPS * self.round_trip

    @property
    def patience(self) -> float:
        """Seconds to leave out what may be refused, where a refusal stops everyone."""
        return min(50 * self.pause, 60.0 + self.pause)

    @property
    def all_is_refused(self) -> bool:
        """Whether a request let in since the first of the refusals would have been answered by now.

        Where a refusal stops everyone that can't be known.
        """
        if not self.refused_in_a_row or self.refusals_are_costly:
            return False
        waited = self.now - self.refused_since > 1.2 * self.round_trip
        return not self._unanswered or (waited and self.refused_in_a_row >= _TELLING_REFUSALS)

    def sent(self) -> Sample:
        """Count one request that leaves now."""
        sample = Sample(self.now, len(self._unanswered) + 1)
        self._unanswered.add(sample)
        self._log.append(sample)
        return sample

    def ended(self, sample: Sample) -> None:
        """Count one request that is in flight no more, by how it ended."""
        self._unanswered.discard(sample)
        match sample.ending:
            case Ending.ADMITTED:
                self._admitted(sample)
            case Ending.REFUSED:
                self._refused(sample)
            case Ending.LOST if not sample.was_sent:
                self._forget(sample)
        if sample.retry_after_s and sample.ending is not Ending.REFUSED:
            self.resumed_at = max(self.resumed_at, self.now + sample.retry_after_s)

    def _admitted(self, sample: Sample) -> None:
        took = max(_SHORTEST_S, self.now - sample.sent_at)
        self.round_trip += (_SMOOTHING if self.has_admitted else 1.0) * (took - self.round_trip)
        self.has_admitted = True
        self._answers.append(self.now)
        self._latest_admitted = max(self._latest_admitted, sample.sent_at)
        if sample.sent_at > self.refused_since:
            self.refused_in_a_row = 0

    def _refused(self, sample: Sample) -> None:
        pause = sample.retry_after_s
        if pause and sample.sent_at >= self.resumed_at:
            self._bursts.append((self.resumed_at, sample.sent_at))
            self.resumed_at = self.now + pause
        self.round_trip = self.round_trip or max(_SHORTEST_S, self.now - sample.sent_at)
        self.pause, self.is_exact = pause, sample.told_s % 1 > 0
        self.refused_at = max(self.refused_at, sample.sent_at)
        self._refusals.append((sample.sent_at, sample.in_flight))
        self._forget(sample)
        if sample.sent_at > self._latest_admitted:
            earlier = self.refused_since if self.refused_in_a_row else sample.sent_at
            self.refused_since = min(earlier, sample.sent_at)
            self.refused_in_a_row += 1

    def _forget(self, sample: Sample) -> None:
        later: list[Sample] = []
        while self._log and (last := self._log.pop()) is not sample:
            later.append(last)
        self._log.extend(reversed(later))

    def reopened(self, moment: float) -> None:
        """The carrier lets requests in again, after it had refused everything."""
        self._bursts.append((self.resumed_at, self.refused_since))
        self.resumed_at = self.opened_at = moment
        self.has_reopened, self.refused_in_a_row = True, 0
