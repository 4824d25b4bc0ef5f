"""Moves devices from one SKU to another: two requests a batch, the second once the first is accepted.

The order is chosen batch by batch. While the account has licenses of the new SKU to spare, devices get the
new license before they lose the old one, so that none is ever without. Otherwise the old license goes first.
A batch continues in the order in which it began.

An assign whose answer was lost is not simply sent again. What it may have given is cleared first, so that a
device ends with one new license and not with two.

If the pool parks devices of a step, the others go on without them. The parked devices continue later, in a
sequence of their own.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import TypeAlias

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, DeviceStatus, Step, StepRequest, parse_ranges
from batchlic.journal import Attempt, Event, Journal, is_lost, status_of
from batchlic.pool.remaining import (
    BATCHES_PER_READ,
    BetweenSteps,
    Delivery,
    Position,
    by_history,
    events_about,
    remaining_of,
    statuses_of,
)

MAX_CLEARINGS = 4
"""How often in a row an assign whose answer was lost is cleared and sent again."""

History: TypeAlias = Mapping[tuple[int, str | None], list[Event]]
"""What earlier sessions did, by batch and step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What is left to do for the batches of a plan, whose SKU is the one to leave.

    - `spare`: by account, the licenses of `to_sku` left for batches that begin with getting one. Accounts
      that are not in it have enough.
    - `is_revocable`: whether the new license can be unassigned (a flexible one can).
    - `resendable`: the SKUs whose requests may be repeated after a lost answer.
    - `restorable`: the SKUs whose first step is undone where the second one fails.
    - `denied`: by batch and step, the places in the batch of devices for which a callback reported a failure.
      No second step is begun for them. A second step that may have been executed is completed, because it
      would stay in doubt.
    - `on_accepted`: called with each step of which an earlier session got a part accepted.
    - `on_end`: called with the numbers of devices that moved and that failed, when a batch is done.
    """

    journal: Journal
    to_sku: str
    spare: dict[str, int]
    is_revocable: bool
    resendable: Collection[str]
    restorable: Collection[str]
    denied: Mapping[tuple[int, Step], Collection[int]]
    on_accepted: Callable[[Batch], None]
    on_end: Callable[[int, int], None]

    def sequences(self, read_batches: Callable[[], Iterable[Batch]]) -> Iterator[Iterable[Delivery]]:
        """For each batch, its deliveries one after another: the steps that are not done yet.

        Refusals can stop the run. So devices that an earlier session left between two steps go on before all
        others: in the order of the batches, which are then read a second time.
        """
        yield from self.between_steps(read_batches)
        yield from self.others(read_batches)

    def between_steps(
        self, read_batches: Callable[[], Iterable[Batch]], *, batches_per_read: int = BATCHES_PER_READ
    ) -> Iterator[Iterable[Delivery]]:
        """The sequences of devices that an earlier session left between two steps."""
        if self.journal.is_fresh:
            return
        for batch, history in self._with_history(read_batches(), batches_per_read):
            if taken := self._taken(batch, history):
                yield BetweenSteps(self._sequence(batch, taken, history))

    def others(
        self, read_batches: Callable[[], Iterable[Batch]], *, batches_per_read: int = BATCHES_PER_READ
    ) -> Iterator[Iterable[Delivery]]:
        """The sequences of all other devices."""
        if self.journal.is_fresh:
            yield from (self._sequence(batch, batch.offsets, {}) for batch in read_batches())
            return
        for batch, history in self._with_history(read_batches(), batches_per_read):
            if others := sorted(set(batch.offsets).difference(self._taken(batch, history))):
                yield self._sequence(batch, others, history)

    def _with_history(
        self, batches: Iterable[Batch], batches_per_read: int
    ) -> Iterator[tuple[Batch, History]]:
        """Each batch, with the history of it and of the batches near it."""
        batches = iter(batches)
        while group := list(islice(batches, batches_per_read)):
            history = self._history(range(group[0].batch_id, group[-1].batch_id + 1))
            yield from ((batch, history) for batch in group)

    def _taken(self, batch: Batch, history: History) -> Sequence[int]:
        """The devices of a batch that took the first step, certainly or perhaps."""
        begun_with = _begun_with(batch, history)
        events = history.get((batch.batch_id, begun_with), []) if begun_with else []
        statuses = statuses_of(batch, events)
        taken = {DeviceStatus.ACCEPTED}
        if begun_with is Step.UNASSIGN:  # in doubt, they are perhaps without a license
            taken.add(DeviceStatus.IN_DOUBT)
        return [offset for offset, status in statuses.items() if status in taken]

    def _continued(self, batch: Batch, offsets: Collection[int]) -> Iterator[Delivery]:
        """What is left to do for some devices of a batch that were parked."""
        history = self._history(range(batch.batch_id, batch.batch_id + 1))
        yield from self._sequence(batch, sorted(offsets), history)

    def _sequence(self, batch: Batch, offsets: Sequence[int], history: History) -> Iterator[Delivery]:
        unassign = _for_step(batch, Step.UNASSIGN, Action.UNASSIGN, batch.sku_number)
        assign = _for_step(batch, Step.ASSIGN, Action.ASSIGN, self.to_sku, is_repeatable=False)
        first, second = (assign, unassign) if self._assigns_first(assign, history) else (unassign, assign)
        is_restorable = first.sku_number in self.restorable
        template = Delivery(batch, then=partial(self._continued, batch))
        after_first = yield from self._deliver(first, offsets, history, template)
        denied = set(self.denied.get(_key(first), ())).intersection(offsets)
        after_first |= dict.fromkeys(denied - _in_doubt(second, history), DeviceStatus.FAILED)
        accepted = _with_status(DeviceStatus.ACCEPTED, after_first)
        position = Position.SECOND_RESTORABLE if is_restorable else Position.SECOND
        after_second = yield from self._deliver(
            second, accepted, history, replace(template, position=position)
        )
        failed_second = _with_status(DeviceStatus.FAILED, after_second)
        after_undo: dict[int, DeviceStatus] = {}
        if is_restorable:
            undo = _for_step(batch, Step.RESTORE, _opposite(first), first.sku_number)
            to_undo = [offset for offset in failed_second if offset not in denied]
            after_undo = yield from self._deliver(
                undo, to_undo, history, replace(template, position=Position.UNDO)
            )
        failed = denied.union(_with_status(DeviceStatus.FAILED, after_first), failed_second)
        moved = set(_with_status(DeviceStatus.ACCEPTED, after_second)) - denied
        parked = {
            offset
            for statuses in (after_first, after_second, after_undo)
            for offset in _with_status(DeviceStatus.PENDING, statuses)
        }
        self.on_end(len(moved), len(failed - parked))

    def _assigns_first(self, assign: Batch, history: History) -> bool:
        """Whether this batch begins with the new license; takes its licenses from `spare`."""
        if begun_with := _begun_with(assign, history):
            return begun_with is Step.ASSIGN
        account, size = assign.account_name, len(assign.offsets)
        if size > self.spare.get(account, math.inf):
            return False
        if account in self.spare:
            self.spare[account] -= size
        return True

    def _deliver(
        self, step: Batch, offsets: Sequence[int], history: History, template: Delivery
    ) -> Generator[Delivery, None, dict[int, DeviceStatus]]:
        """Deliver what is left of a step for the devices at `offsets`; returns their statuses afterwards.

        `template` has the position of the step, and what follows for devices that are parked.
        """
        if not offsets:
            return {}
        part = _part(step, offsets)
        events = history.get(_key(step), [])
        if any(isinstance(event, Attempt) and event.outcome == Outcome.ACCEPTED for event in events):
            self.on_accepted(step)
        parked = set[int]()
        for _ in range(1 if step.is_repeatable else 1 + MAX_CLEARINGS):
            others = [offset for offset in part.offsets if offset not in parked]
            left = list(remaining_of(_part(part, others), events, self.resendable)) if others else []
            if not left:
                break
            for found in left:
                delivery = replace(found, position=template.position, then=template.then)
                sent = [e for e in events_about(delivery.batch, events) if isinstance(e, Attempt)]
                if not step.is_repeatable and self.is_revocable and any(map(is_lost, sent)):
                    parked |= yield from self._clear_and_assign(delivery, sent)
                else:
                    yield delivery
            events = self._events(step)
            parked.update(
                offset for offsets, done in by_history(part, events) if _is_open(done) for offset in offsets
            )
        return statuses_of(part, events)

    def _clear_and_assign(
        self, delivery: Delivery, sent: Sequence[Attempt]
    ) -> Generator[Delivery, None, set[int]]:
        """Take back what the assigns sent may have given, and assign again where that is certainly gone.

        The carrier can't take a license that a device does not have, so a refusal also shows that it is gone.
        Returns the offsets of devices for which the pool has parked the clearing.
        """
        assign, since = delivery.batch, max(attempt.seq for attempt in sent if is_lost(attempt))
        clear = _for_step(assign, Step.CLEAR, Action.UNASSIGN, assign.sku_number)
        earlier = self._events(clear)
        clear = _cleared(clear, _clearings(clear, sent, earlier, until=since))
        for found in remaining_of(clear, _after(since, earlier), {clear.sku_number}):
            yield replace(found, position=Position.UNDO, then=delivery.then)
        done = self._events(clear)
        by_device = {
            offset: events for offsets, events in by_history(clear, _after(since, done)) for offset in offsets
        }
        if gone := [offset for offset, events in by_device.items() if _is_gone(events)]:
            part = _part(assign, gone)
            batch = _cleared(part, _clearings(part, events_about(part, sent), done))
            is_refused = delivery.is_refused and batch.is_divisible
            yield replace(delivery, batch=batch, is_refused=is_refused, is_in_doubt=False)
        return {
            offset
            for offset, events in by_device.items()
            if _is_open(events) or status_of(events) is DeviceStatus.PENDING
        }

    def _events(self, step: Batch) -> list[Event]:
        """The attempts and settlements of a step of a batch."""
        batch_id = step.batch_id
        return self._history(range(batch_id, batch_id + 1)).get(_key(step), [])

    def _history(self, batches: range) -> History:
        history = defaultdict[tuple[int, str | None], list[Event]](list)
        for event in self.journal.history(batches=batches):
            history[event.batch_id, event.step].append(event)
        return history


def _for_step(batch: Batch, step: Step, action: Action, sku: str, *, is_repeatable: bool = True) -> Batch:
    request = StepRequest(step=step, action=action, is_repeatable=is_repeatable)
    return replace(batch, sku_number=sku, request=request)


def _begun_with(batch: Batch, history: History) -> Step | None:
    """The step that was sent first for a batch; None if nothing was sent."""
    begun = [
        (events[0].seq, step)
        for step in (Step.UNASSIGN, Step.ASSIGN)
        if (events := history.get((batch.batch_id, step)))
    ]
    return min(begun)[1] if begun else None


def _part(batch: Batch, offsets: Sequence[int]) -> Batch:
    return batch if len(offsets) == len(batch.offsets) else batch.take(offsets)


def _cleared(step: Batch, clearings: int) -> Batch:
    """The batch as it is sent after so many clearings."""
    return replace(step, request=step.request and replace(step.request, clearings=clearings))


def _key(step: Batch) -> tuple[int, Step]:
    if step.step is None:
        raise ValueError(f"batch {step.batch_id} is not a step of a migration")
    return step.batch_id, step.step


def _clearings(
    part: Batch, assigns: Iterable[Event], clears: Iterable[Event], *, until: float = math.inf
) -> int:
    """How often assigns of a part were cleared, however many requests each clearing took.

    It is counted from the journal, so that every session of the run counts alike.
    """
    marks = [(event.seq, False) for event in assigns]
    marks += [(event.seq, True) for event in events_about(part, clears) if event.seq < until]
    return sum(is_clearing for is_clearing, _ in groupby(sorted(marks), key=itemgetter(1)))


def _after(seq: int, events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.seq > seq]


def _is_gone(clears: Sequence[Event]) -> bool:
    last = clears[-1] if clears else None
    was_refused = isinstance(last, Attempt) and last.outcome == Outcome.REFUSED and bool(last.final)
    return was_refused or status_of(clears) is DeviceStatus.ACCEPTED


def _is_open(events: Sequence[Event]) -> bool:
    """Whether the last request was neither accepted nor lost nor refused for good: the pool has parked it."""
    last = events[-1] if events else None
    return isinstance(last, Attempt) and not (
        last.outcome == Outcome.ACCEPTED or is_lost(last) or bool(last.final)
    )


def _in_doubt(step: Batch, history: History) -> set[int]:
    """Offsets of the devices of a step that a request without a known answer carried."""
    attempts = (event for event in history.get(_key(step), []) if isinstance(event, Attempt))
    return {
        offset
        for attempt in attempts
        if is_lost(attempt)
        for offset in (parse_ranges(attempt.part) if attempt.part else step.offsets)
    }


def _opposite(step: Batch) -> Action:
    return Action.UNASSIGN if step.action is Action.ASSIGN else Action.ASSIGN


def _with_status(status: DeviceStatus, statuses: Mapping[int, DeviceStatus]) -> list[int]:
    return [offset for offset, found in statuses.items() if found is status]
