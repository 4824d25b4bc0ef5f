"""Devices moved from one SKU to another: two requests for each batch, the second once the first is accepted.

Which comes first is chosen batch by batch: as long as the account has licenses of the new SKU to spare,
devices get the new one before they lose the old one, so that none is ever without; otherwise the old one goes
first. A batch goes on in the order in which it began.

An assign whose answer was lost is not simply sent again: what it may have given is taken back first, so that
a device ends with one new license and not with two.
"""

import math
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import TypeAlias

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalogue import Action
from batchlic.chunker import Batch, parse_ranges
from batchlic.journal import Attempt, Event, Journal, Standing
from batchlic.journal.status import standing_of
from batchlic.journal.steps import Step
from batchlic.pool.remaining import BATCHES_PER_LOOK, Delivery, Place, alike, events_of, rest_of, standings_of

MAX_CLEARINGS = 4
"""How often in a row an assign whose answer was lost is cleared and sent again."""

_Known: TypeAlias = Mapping[int, list[Event]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What is left to do for the batches of a plan, whose SKU is the one to leave.

    `batches` is their number. `spare` has, by account, the licenses of `to_sku` that batches may still be
    promised which begin with getting one; accounts that are not in it have enough. `is_revocable` says
    whether the new license can be taken back: a flexible one can. `restorable` are the SKUs whose first step
    is undone where the second one fails. `denied` has, by the number of a step, the places in the batch of
    devices that a callback says it failed for: no second step is begun for them, but one that may have been
    carried out is seen through, as it would stay in doubt. `on_accepted` is told each
    step of which an earlier sitting got a part accepted; `on_end` how many devices of a batch have moved, and
    how many have failed to, when nothing more is to be done for it.
    """

    journal: Journal
    to_sku: str
    batches: int
    spare: dict[str, int]
    is_revocable: bool
    resendable: Collection[str]
    restorable: Collection[str]
    denied: Mapping[int, Collection[int]]
    on_accepted: Callable[[Batch], None]
    on_end: Callable[[int, int], None]

    def sequences(self, batches: Iterable[Batch]) -> Iterator[Iterator[Delivery]]:
        """A course for each batch, in their order: whatever of its steps is not done, one after another."""
        was_fresh, batches = self.journal.is_fresh, iter(batches)
        while group := list(islice(batches, BATCHES_PER_LOOK)):
            known = {} if was_fresh else self._known(range(group[0].batch_id, group[-1].batch_id + 1))
            for batch in group:
                yield self._course(batch, known)

    def _course(self, batch: Batch, known: _Known) -> Iterator[Delivery]:
        unassign = self._step(batch, Step.UNASSIGN, Action.UNASSIGN, batch.sku_number)
        assign = self._step(batch, Step.ASSIGN, Action.ASSIGN, self.to_sku, is_repeatable=False)
        first, second = (
            (assign, unassign) if self._assigns_first(assign, unassign, known) else (unassign, assign)
        )
        is_restorable = first.sku_number in self.restorable
        place = Place.SECOND_OR_BACK if is_restorable else Place.SECOND
        begun = yield from self._taken(first, first.offsets, known)
        denied = set(self.denied.get(first.batch_id, ()))
        begun |= dict.fromkeys(denied - _doubted(second, known), Standing.FAILED)
        ended = yield from self._taken(second, _that_are(Standing.ACCEPTED, begun), known, place)
        if is_restorable:
            undo = self._step(batch, Step.RESTORE, _opposite(first), first.sku_number)
            to_undo = [offset for offset in _that_are(Standing.FAILED, ended) if offset not in denied]
            yield from self._taken(undo, to_undo, known, Place.BACK)
        failed = denied.union(_that_are(Standing.FAILED, begun), _that_are(Standing.FAILED, ended))
        self.on_end(len(set(_that_are(Standing.ACCEPTED, ended)) - denied), len(failed))

    def _step(
        self, batch: Batch, step: Step, action: Action, sku: str, *, is_repeatable: bool = True
    ) -> Batch:
        return replace(
            batch,
            batch_id=step.number(batch.batch_id, self.batches),
            action=action,
            sku_number=sku,
            is_repeatable=is_repeatable,
        )

    def _assigns_first(self, assign: Batch, unassign: Batch, known: _Known) -> bool:
        begun = [*known.get(assign.batch_id, [])[:1], *known.get(unassign.batch_id, [])[:1]]
        if begun:
            return min(begun, key=attrgetter("seq")).batch_id == assign.batch_id
        account, size = assign.account_name, len(assign.offsets)
        if size > self.spare.get(account, math.inf):
            return False
        if account in self.spare:
            self.spare[account] -= size
        return True

    def _taken(
        self, step: Batch, offsets: Sequence[int], known: _Known, place: Place = Place.FIRST
    ) -> Generator[Delivery, None, dict[int, Standing]]:
        """Deliver what is left of a step for some of its devices; returns where each of them stands then."""
        if not offsets:
            return {}
        part = step if len(offsets) == len(step.offsets) else step.take(offsets)
        events = known.get(step.batch_id, [])
        if any(isinstance(event, Attempt) and event.outcome == Outcome.ACCEPTED for event in events):
            self.on_accepted(step)
        for _ in range(1 if step.is_repeatable else 1 + MAX_CLEARINGS):
            if not (left := list(rest_of(part, events, self.resendable))):
                break
            for delivery in (replace(found, place=place) for found in left):
                sent = [event for event in events_of(delivery.batch, events) if isinstance(event, Attempt)]
                if not step.is_repeatable and self.is_revocable and any(map(_is_doubtful, sent)):
                    yield from self._assigned_anew(delivery, sent)
                else:
                    yield delivery
            events = self._events(step)
        return standings_of(part, events)

    def _assigned_anew(self, delivery: Delivery, sent: Sequence[Attempt]) -> Iterator[Delivery]:
        """Take back what the assigns sent may have given, and assign again once that is known to be gone.

        What a device has not can't be taken, so a refusal says that it is gone, too.
        """
        assign, since = delivery.batch, max(attempt.seq for attempt in sent if _is_doubtful(attempt))
        number = assign.batch_id + (Step.CLEAR - Step.ASSIGN) * self.batches
        clear = replace(assign, batch_id=number, action=Action.UNASSIGN, is_repeatable=True)
        earlier = self._events(clear)
        clear = replace(clear, clearings=_clearings(clear, sent, earlier, until=since))
        for found in rest_of(clear, _after(since, earlier), {clear.sku_number}):
            yield replace(found, place=Place.BACK)
        done = self._events(clear)
        if all(map(_is_gone, (events for _, events in alike(clear, _after(since, done))))):
            yield replace(delivery, batch=replace(assign, clearings=_clearings(clear, sent, done)))

    def _events(self, step: Batch) -> list[Event]:
        """What was sent and decided of a step."""
        return list(self.journal.history(batches=range(step.batch_id, step.batch_id + 1)))

    def _known(self, ids: range) -> _Known:
        """What earlier sittings did, by the number of the step."""
        return {
            number: list(events)
            for step in Step
            for number, events in groupby(
                self.journal.history(batches=step.numbers(ids, self.batches)), key=attrgetter("batch_id")
            )
        }


def _clearings(
    part: Batch, assigns: Iterable[Event], clears: Iterable[Event], *, until: float = math.inf
) -> int:
    """How often assigns of a part were cleared, however many requests each time took.

    A count of what the journal has, so that nobody who goes on with the run counts otherwise.
    """
    marks = [(event.seq, False) for event in assigns]
    marks += [(event.seq, True) for event in events_of(part, clears) if event.seq < until]
    return sum(is_clearing for is_clearing, _ in groupby(sorted(marks), key=itemgetter(1)))


def _after(seq: int, events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.seq > seq]


def _is_doubtful(attempt: Attempt) -> bool:
    return attempt.outcome is None or attempt.outcome == Outcome.AMBIGUOUS


def _is_gone(clears: Sequence[Event]) -> bool:
    was_refused = bool(clears) and isinstance(clears[-1], Attempt) and bool(clears[-1].final)
    return was_refused or standing_of(clears) is Standing.ACCEPTED


def _doubted(step: Batch, known: _Known) -> set[int]:
    """The devices that a request without a known answer was sent for."""
    doubtful = (event for event in known.get(step.batch_id, []) if isinstance(event, Attempt))
    return {
        offset
        for attempt in doubtful
        if _is_doubtful(attempt)
        for offset in (parse_ranges(attempt.part) if attempt.part else step.offsets)
    }


def _opposite(step: Batch) -> Action:
    return Action.UNASSIGN if step.action is Action.ASSIGN else Action.ASSIGN


def _that_are(standing: Standing, standings: Mapping[int, Standing]) -> list[int]:
    return [offset for offset, found in standings.items() if found is standing]
