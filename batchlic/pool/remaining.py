"""What of a plan is still to be sent, given what its journal knows (promises C and D)."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby, islice
from operator import attrgetter

from batchlic.carrier.answers import Outcome
from batchlic.chunker import Batch, parse_ranges
from batchlic.journal import Attempt, Event, Journal, Settlement, Standing
from batchlic.journal.status import standing_of

BATCHES_PER_LOOK = 500
"""Batches whose attempts are in memory at once (promise H)."""


class Place(Enum):
    """Where in its course a delivery comes: what it means for the run if the carrier refuses it."""

    FIRST = auto()
    """Nothing was done to its devices before."""
    SECOND = auto()
    """A step before it was accepted, and stays so."""
    SECOND_OR_BACK = auto()
    """A step before it was accepted, and is undone by the same course if this one is refused."""
    BACK = auto()
    """It takes back, or gives back, what may not be there: its refusal says nothing of account and SKU."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A batch, or what is left of one, to be seen through.

    `attempts` were already made to send exactly these devices; `is_refused` says that the last of them was
    refused as it stands, so that only parts may be sent.
    """

    batch: Batch
    attempts: int = 0
    is_refused: bool = False
    place: Place = Place.FIRST

    def __iter__(self) -> Iterator["Delivery"]:
        """A course of its own: nothing follows it."""
        yield self


def remaining(
    batches: Iterable[Batch],
    journal: Journal,
    resendable: Collection[str],
    *,
    on_accepted: Callable[[Batch], None] = lambda _: None,
) -> Iterator[Delivery]:
    """What is left to deliver of `batches`, in their order.

    Accepted and failed devices are left out, and those in doubt unless their SKU is `resendable` or the
    operator has settled that they are to be sent again. `on_accepted` is told each batch of which an
    earlier sitting got a part accepted.
    """
    if journal.is_fresh:
        yield from map(Delivery, batches)
        return
    batches = iter(batches)
    while group := list(islice(batches, BATCHES_PER_LOOK)):
        history = journal.history(batches=range(group[0].batch_id, group[-1].batch_id + 1))
        of_batch = {key: list(found) for key, found in groupby(history, key=attrgetter("batch_id"))}
        for batch in group:
            events = of_batch.get(batch.batch_id, [])
            if any(isinstance(event, Attempt) and event.outcome == Outcome.ACCEPTED for event in events):
                on_accepted(batch)
            yield from rest_of(batch, events, resendable)


def rest_of(batch: Batch, history: Sequence[Event], resendable: Collection[str]) -> Iterator[Delivery]:
    """What is left of one batch: its unsettled devices, grouped by the part that carried them last.

    A device in doubt that was refused for good since then stays in doubt: asking again is of no use. Where
    the operator asks for it all the same, its part is sent as it was.
    """
    groups: defaultdict[tuple[str, bool], list[int]] = defaultdict(list)
    for offsets, events in alike(batch, history):
        carriers = [event for event in events if isinstance(event, Attempt)]
        last = carriers[-1] if carriers else None
        is_asked_for = bool(events) and isinstance(events[-1], Settlement)
        match standing_of(events):
            case Standing.PENDING:
                groups[last.part if last else "", is_asked_for].extend(offsets)
            case Standing.IN_DOUBT if last and not last.final and batch.sku_number in resendable:
                groups[last.part, is_asked_for].extend(offsets)
    attempts = [event for event in history if isinstance(event, Attempt)]
    for (_, is_asked_for), offsets in groups.items():
        part = batch if len(offsets) == len(batch.offsets) else batch.take(offsets)
        of_part = [attempt for attempt in attempts if attempt.part == part.part]
        was_refused = bool(of_part) and of_part[-1].outcome == Outcome.REFUSED
        yield Delivery(part, attempts=len(of_part), is_refused=was_refused and not is_asked_for)


def standings_of(batch: Batch, history: Sequence[Event]) -> dict[int, Standing]:
    """Offset: standing, of each device of a batch."""
    return {
        offset: standing
        for offsets, events in alike(batch, history)
        for standing in [standing_of(events)]
        for offset in offsets
    }


def events_of(batch: Batch, history: Iterable[Event]) -> list[Event]:
    """What was sent and decided of any of the devices of a batch, out of the history of all its parts."""
    return [event for event in history if not set(batch.offsets).isdisjoint(_offsets(event, batch))]


def alike(batch: Batch, history: Sequence[Event]) -> Iterator[tuple[Sequence[int], Sequence[Event]]]:
    """Devices that have one history, with it: all of them where the batch was never split."""
    if not any(event.part for event in history):
        yield batch.offsets, history
        return
    events = [(event, _offsets(event, batch)) for event in history]
    for offset in batch.offsets:
        yield (offset,), [event for event, offsets in events if offset in offsets]


def _offsets(event: Event, batch: Batch) -> Collection[int]:
    return frozenset(parse_ranges(event.part)) if event.part else batch.offsets
