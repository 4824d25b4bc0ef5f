"""What of a plan is still to be sent, by its journal (promises C and D)."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import groupby, islice, takewhile
from operator import attrgetter

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, DeviceStatus, parse_ranges
from batchlic.journal import Attempt, Event, JournalQueries, Settlement, is_lost, status_of

BATCHES_PER_READ = 500
"""Batches whose history is in memory at once (promise H)."""


class Position(Enum):
    """Where a delivery stands among the deliveries of its batch: decides what a refusal of it means."""

    FIRST = auto()
    """Nothing was done to its devices before."""
    SECOND = auto()
    """A step before it was accepted, and stays so."""
    SECOND_RESTORABLE = auto()
    """A step before it was accepted, and is undone if this one is refused."""
    UNDO = auto()
    """It undoes a step that may not have been executed: its refusal says nothing about account and SKU."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refusals of one delivery. `suspicion` explains what they mean.

    - `count`: how many.
    - `explained`: after how many of them the carrier accepted other requests that were sent later.
    - `first_at`, `last_at`: when the first and the last refused request was sent, in seconds of the event
      loop's clock.
    - `blames_all`: whether the last one blames something that all devices of the request share.
    - `last`: the words of the last one.
    """

    count: int = 0
    explained: int = 0
    first_at: float = math.inf
    last_at: float = math.inf
    blames_all: bool = False
    last: str = ""


NO_REFUSALS = Refusals()


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Answers to one delivery that say that its request did not reach the service.

    - `count`, `first_at`, `last_at`, `last`: as in `Refusals`. They begin anew with a refusal.
    - `parked`: how often the delivery was parked because of them.
    """

    count: int = 0
    first_at: float = math.inf
    last_at: float = math.inf
    last: str = ""
    parked: int = 0


NEVER_UNAVAILABLE = Unavailable()


def _nothing(_: Collection[int]) -> Iterator["Delivery"]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Delivery:
    """A batch, or what is left of one, to be sent until each device has a definite answer.

    - `attempts`: the requests already made for exactly these devices.
    - `is_refused`: the last of them was refused as a whole, so that only parts may be sent.
    - `is_in_doubt`: the answer to one of them was lost, and nobody has settled the devices since.
    - `is_part`: it was split off a batch that was refused in this session.
    - `refusals`, `unavailable`: such answers for exactly these devices in this session.
    - `then`: returns the deliveries that follow for the devices at some offsets, if they are sent apart from
      the other devices of their batch.
    """

    batch: Batch
    attempts: int = 0
    is_refused: bool = False
    is_in_doubt: bool = False
    is_part: bool = False
    refusals: Refusals = NO_REFUSALS
    unavailable: Unavailable = NEVER_UNAVAILABLE
    position: Position = Position.FIRST
    then: Callable[[Collection[int]], Iterator["Delivery"]] = field(default=_nothing, compare=False)

    @property
    def is_new_part(self) -> bool:
        """Whether it was split off a batch that was refused a moment ago."""
        return self.is_part and not self.refusals.count

    @property
    def setbacks(self) -> Refusals | Unavailable:
        """The answers for which it was parked: those of the kind that came last."""
        return self.unavailable if self.unavailable.count else self.refusals

    @property
    def is_bounded(self) -> bool:
        """Whether refusals count after half a minute: its devices must not stay between two steps."""
        return self.position is Position.UNDO or self.position is Position.SECOND_RESTORABLE

    def __iter__(self) -> Iterator["Delivery"]:
        """A sequence of one: nothing follows this delivery."""
        yield self


@dataclass(frozen=True, slots=True)
class BetweenSteps:
    """A sequence of deliveries for devices that an earlier session left between two steps of a migration."""

    deliveries: Iterator[Delivery]

    def __iter__(self) -> Iterator[Delivery]:
        return self.deliveries


def remaining(
    batches: Iterable[Batch],
    journal: JournalQueries,
    resendable: Collection[str],
    *,
    on_accepted: Callable[[Batch], None] = lambda _: None,
    batches_per_read: int = BATCHES_PER_READ,
) -> Iterator[Delivery]:
    """What is left to deliver of `batches`, in their order.

    Accepted and failed devices are left out. Devices in doubt are left out, too, unless their SKU is
    `resendable` or they were settled as pending. `on_accepted` is called with each batch of which an earlier
    session got a part accepted. The history of `batches_per_read` batches is in memory at once.
    """
    if journal.is_fresh:
        yield from map(Delivery, batches)
        return
    batches = iter(batches)
    while group := list(islice(batches, batches_per_read)):
        history = journal.history(batches=range(group[0].batch_id, group[-1].batch_id + 1))
        by_batch = {batch_id: list(events) for batch_id, events in groupby(history, attrgetter("batch_id"))}
        for batch in group:
            events = by_batch.get(batch.batch_id, [])
            if any(isinstance(event, Attempt) and event.outcome == Outcome.ACCEPTED for event in events):
                on_accepted(batch)
            yield from remaining_of(batch, events, resendable)


def remaining_of(batch: Batch, history: Sequence[Event], resendable: Collection[str]) -> Iterator[Delivery]:
    """What is left to deliver of one batch: its unsettled devices, by the part that carried them last.

    Devices in doubt are left out in two cases: they were refused since then, so that sending them again is
    useless; or some devices of their request are settled, so that it can't be sent again unchanged. Devices
    that an operator settled as pending are sent in any case.
    """
    groups: defaultdict[tuple[str | None, DeviceStatus, bool], list[int]] = defaultdict(list)
    for offsets, events in by_history(batch, history):
        attempts = [event for event in events if isinstance(event, Attempt)]
        last = attempts[-1] if attempts else None
        is_settled = bool(events) and isinstance(events[-1], Settlement)
        match status := status_of(events):
            case DeviceStatus.PENDING:
                groups[last.part if last else "", status, is_settled].extend(offsets)
            case DeviceStatus.IN_DOUBT if last and not last.final and batch.sku_number in resendable:
                groups[last.part if _is_request_known(events) else None, status, is_settled].extend(offsets)
    attempts = [event for event in history if isinstance(event, Attempt)]
    for (last_part, status, is_settled), offsets in groups.items():
        part = batch if len(offsets) == len(batch.offsets) else batch.take(offsets)
        is_in_doubt = status is DeviceStatus.IN_DOUBT
        if is_in_doubt and part.part != last_part and _could_assign_twice(part):
            continue
        of_part = [attempt for attempt in attempts if attempt.part == part.part]
        was_refused = bool(of_part) and of_part[-1].outcome == Outcome.REFUSED
        yield Delivery(
            part,
            attempts=len(of_part),
            is_refused=was_refused and part.is_divisible and not is_settled,
            is_in_doubt=is_in_doubt,
        )


def _is_request_known(events: Sequence[Event]) -> bool:
    """Whether all answers that were lost since the last settlement are those of the last request."""
    since = takewhile(lambda event: isinstance(event, Attempt), reversed(events))
    attempts = [event for event in since if isinstance(event, Attempt)]
    return {attempt.part for attempt in attempts if is_lost(attempt)} <= {attempts[0].part}


def _could_assign_twice(part: Batch) -> bool:
    """Whether sending a part under an `X-Request-ID` of its own could assign a second license.

    A migration first takes back what a lost request for an assign step may have assigned.
    """
    return part.action is not Action.UNASSIGN and part.is_repeatable


def statuses_of(batch: Batch, history: Sequence[Event]) -> dict[int, DeviceStatus]:
    """Offset: status, of each device of a batch."""
    return {
        offset: status
        for offsets, events in by_history(batch, history)
        for status in [status_of(events)]
        for offset in offsets
    }


def events_about(batch: Batch, history: Iterable[Event]) -> list[Event]:
    """The attempts and settlements about any device of a batch, out of the history of all its parts."""
    return [event for event in history if not set(batch.offsets).isdisjoint(_offsets(event, batch))]


def by_history(batch: Batch, history: Sequence[Event]) -> Iterator[tuple[Sequence[int], Sequence[Event]]]:
    """Offsets of devices that share one history, with it: all devices where the batch was never split."""
    if not any(event.part for event in history):
        yield batch.offsets, history
        return
    events = [(event, _offsets(event, batch)) for event in history]
    for offset in batch.offsets:
        yield (offset,), [event for event, offsets in events if offset in offsets]


def _offsets(event: Event, batch: Batch) -> Collection[int]:
    return frozenset(parse_ranges(event.part)) if event.part else batch.offsets
