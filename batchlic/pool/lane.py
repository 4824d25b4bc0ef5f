"""A lane: the sequences that wait for one limiter, and the workers that send them.

One worker of a lane at a time is the leader: it takes the next sequence, and waits for the limiter. Then it
makes a worker that is done, or a new one, the leader. So a lane whose limiter waits holds few batches in
memory (promise H). See Schmidt et al., "Leader/Followers" (2000).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeAlias

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.errors import BatchlicError
from batchlic.pool.bisect import bisect
from batchlic.pool.parked import WITNESSES, Parked
from batchlic.pool.refusals import RefusalWatch, RefusedTooMuch
from batchlic.pool.remaining import BetweenSteps, Delivery
from batchlic.pool.sender import GaveUp, Sender
from batchlic.pool.suspicion import MANY_REQUESTS, due_at
from batchlic.pool.verdict import Next, Verdict

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from batchlic.chunker import Batch

MORE_WORKERS = WITNESSES
"""Workers beyond those of the lane, one after the other, if the requests of all of them stall."""

_Work: TypeAlias = Callable[["Lead"], Awaitable[None]]


class LanePool(Protocol):
    """What the lanes of a pool share."""

    sender: Sender
    refusals: RefusalWatch
    workers_in_all: int
    """Workers of all lanes."""

    def may_grow(self) -> bool:
        """Whether a lane may have another worker."""

    def fail(self, error: BatchlicError) -> None:
        """Stop all lanes: requests in flight are finished."""

    def refuse(self, refusals: RefusedTooMuch) -> None:
        """Begin nothing new in any lane."""


class Lane:
    """Delivers sequences side by side by up to `workers` workers. `most_parked`: requests parked at once."""

    def __init__(
        self, sequences: Iterable[Iterable[Delivery]], pool: LanePool, *, workers: int, most_parked: int
    ) -> None:
        self._sequences = sequences
        self._pool = pool
        self._sender = pool.sender
        self._most_workers = workers
        self._workers = 0
        self.failure: BatchlicError | None = None
        """Why nothing new begins in this lane."""
        self.parked = Parked(pool.sender.suspicions, most=most_parked)
        self._scope = anyio.CancelScope()
        self._parked_is_next = True
        self._has_leader = False
        """Whether a worker is the leader."""
        self._busy: set[Lead] = set()
        """Those of the workers that are sending something."""
        self._stopping = anyio.Event()
        """Is set when refusals stop the run."""
        self._changed = anyio.Event()
        """Is set, and replaced, when a worker is done with something."""

    async def run(self) -> None:
        """Deliver until nothing is left, or nothing more may be sent in this lane."""
        with self._scope:
            try:
                plan = _Plan(self._sequences)
            except BatchlicError as error:
                self._pool.fail(error)
                return
            async with anyio.create_task_group() as tasks:
                self._start_worker(plan, tasks)

    def give_up(self, error: BatchlicError) -> None:
        """Send nothing new in this lane: requests in flight are finished."""
        self.failure = self.failure or error
        self._scope.cancel()

    def refuse(self, refusals: RefusedTooMuch) -> None:
        """Begin nothing new. The lane ends when no device is left between two steps that can be undone."""
        self.failure = self.failure or refusals
        self._stopping.set()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # -- workers ----------------------------------------------------------------------------------------

    def _start_worker(self, plan: _Plan, tasks: TaskGroup) -> None:
        self._workers += 1
        self._pool.workers_in_all += 1
        self._has_leader = True
        tasks.start_soon(self._work, plan, tasks)

    def _pass_lead(self, plan: _Plan, tasks: TaskGroup) -> None:
        self._has_leader = False
        if self._workers < self._most_workers and self._pool.may_grow():
            self._start_worker(plan, tasks)

    def _replace_stalled(self, plan: _Plan, tasks: TaskGroup) -> None:
        """Let others go on without a worker that stalls; if all of them do, start one more."""
        self._notify()
        are_all_stalled = len(self._busy) == self._workers and all(lead.is_stalled for lead in self._busy)
        may_grow = self._workers < self._most_workers + MORE_WORKERS and self._pool.may_grow()
        if are_all_stalled and may_grow:
            self._start_worker(plan, tasks)

    async def _work(self, plan: _Plan, tasks: TaskGroup) -> None:
        """One worker, which is the leader: do what is next, until another worker is."""
        try:
            while (work := await self._next_work(plan)) is not None:
                pass_on, replace_stalled = self._pass_lead, self._replace_stalled
                lead = Lead(partial(pass_on, plan, tasks), partial(replace_stalled, plan, tasks))
                await self._do(work, lead)
                if lead.is_over and self._has_leader:
                    return
                self._has_leader = True
            self._has_leader = False
        except GaveUp as error:
            self.give_up(error)
        except BatchlicError as error:
            self._pool.fail(error)
        finally:
            self._workers -= 1
            self._pool.workers_in_all -= 1

    async def _do(self, work: _Work, lead: Lead) -> None:
        self._busy.add(lead)
        try:
            await work(lead)
        except RefusedTooMuch as refusals:
            self._pool.refuse(refusals)
        finally:
            self._busy.remove(lead)
            self._notify()

    async def _next_work(self, plan: _Plan) -> _Work | None:
        """A parked delivery or the next sequence, by the rules of `parked`; None if nothing is left."""
        while True:
            if (work := self._parked_work(plan) or self._new_work(plan)) is not None:
                return work
            may_go_on = self.failure is None and not plan.is_empty
            if not (may_go_on and self._busy):
                return None
            await self._changed.wait()

    def _new_work(self, plan: _Plan) -> _Work | None:
        """The next sequence of the plan, if one may begin."""
        may_begin = self.failure is None and not self._is_blocked(plan)
        if not may_begin or plan.is_empty:
            return None
        self._parked_is_next = True
        if not plan.has_only_witnesses:
            return partial(self._deliver_all, next(plan))
        must_wait = any(map(self._is_before_witness, self._busy))
        return None if must_wait else partial(self._deliver_witness, next(plan))

    def _is_before_witness(self, lead: Lead) -> bool:
        """Whether the next witness waits until a worker is done."""
        return self.parked.needs_evidence if lead.is_witness else not lead.is_stalled

    def _parked_work(self, plan: _Plan) -> _Work | None:
        """A parked delivery, if one is next."""
        is_over = self.failure is not None
        if is_over or plan.is_empty or self._is_blocked(plan):
            found = self.parked.take_first(only_bounded=is_over)
        elif plan.has_only_witnesses:
            found = self.parked.take_explained()
        else:
            found = self.parked.take_due() if self._parked_is_next else None
        self._parked_is_next = False
        return None if found is None else partial(self._send_again, found)

    def _is_blocked(self, plan: _Plan) -> bool:
        """Whether parked requests keep the next sequence of the plan from beginning."""
        return self.parked.blocks(is_between_steps=plan.is_between_steps)

    # -- deliveries -------------------------------------------------------------------------------------

    async def _deliver_all(self, sequence: Iterable[Delivery], lead: Lead) -> None:
        for delivery in sequence:
            await self._deliver(delivery, lead)

    async def _deliver_witness(self, sequence: Iterable[Delivery], lead: Lead) -> None:
        lead.is_witness = True
        await self._deliver_all(sequence, lead)

    async def _send_again(self, parked: Delivery, lead: Lead) -> None:
        """Send a parked delivery when it is due, and go on with those of its devices that are not parked."""
        lead.end()
        with anyio.CancelScope(deadline=due_at(parked)):
            await (anyio.sleep_forever() if parked.is_bounded else self._stopping.wait())
        try:
            again = await self._deliver(parked, lead)
        except RefusedTooMuch:
            self.parked.put([parked])
            raise
        finally:
            self.parked.release(parked)
        left = {offset for delivery in again for offset in delivery.batch.offsets}
        if ended := [offset for offset in parked.batch.offsets if offset not in left]:
            await self._deliver_all(parked.then(ended), lead)

    async def _deliver(self, delivery: Delivery, lead: Lead) -> list[Delivery]:
        """Send a batch, and its parts if it is refused, until each device has an answer or is parked.

        Returns what is parked.
        """
        parts = _Parts(delivery, self._sender, lead)
        try:
            if delivery.is_refused:  # in an earlier session; the devices that it named are not known any more
                await bisect(delivery.batch, (), parts.send)
            else:
                verdict = await parts.send(delivery.batch)
                if verdict.next is Next.SPLIT:
                    await bisect(delivery.batch, verdict.answer.named_devices, parts.send)
        finally:
            self._sender.suspicions.end(delivery)
            self.parked.put(parts.parked, are_stuck=not parts.is_accepted)
            if (refusals := self._sender.suspicions.stopped) is not None:
                self._pool.refuse(refusals)
        if parts.is_accepted:
            self._pool.refusals.accepted(delivery.batch)
        elif parts.last is not None and parts.last.next is Next.END:
            self._watch_refusal(delivery, parts.last.answer)
        return parts.parked

    def _watch_refusal(self, delivery: Delivery, answer: Answer) -> None:
        """Stop the run if too many batches were refused alike."""
        try:
            self._pool.refusals.refused(delivery.batch, answer, delivery.position)
        except RefusedTooMuch as refusals:
            self._pool.refuse(refusals)


class Lead:
    """What a worker does since it became the leader. Its lead ends once: then another worker may lead."""

    def __init__(self, pass_on: Callable[[], None], replace_stalled: Callable[[], None]) -> None:
        self._pass_on = pass_on
        self._replace_stalled = replace_stalled
        self.is_over = False
        self.is_witness = False
        """Whether the worker sends a witness."""
        self.is_stalled = False
        """Whether its request does not reach the service, again and again."""

    def end(self) -> None:
        """Let another worker be the leader, unless this is over already."""
        if not self.is_over:
            self.is_over = True
            self._pass_on()

    def stall(self) -> None:
        """Let others go on without the worker."""
        if not self.is_stalled:
            self.is_stalled = True
            self._replace_stalled()


class _Plan:
    """The sequences of a plan that no worker has taken yet. The last ones are witnesses (see `parked`)."""

    def __init__(self, sequences: Iterable[Iterable[Delivery]]) -> None:
        self._sequences = iter(sequences)
        self._ahead = deque(islice(self._sequences, WITNESSES + 1))

    def __next__(self) -> Iterable[Delivery]:
        following = next(self._sequences, None)
        if following is not None:
            self._ahead.append(following)
        return self._ahead.popleft()

    @property
    def is_empty(self) -> bool:
        return not self._ahead

    @property
    def is_between_steps(self) -> bool:
        """Whether the devices of the next sequence are between two steps of a migration."""
        return bool(self._ahead) and isinstance(self._ahead[0], BetweenSteps)

    @property
    def has_only_witnesses(self) -> bool:
        return len(self._ahead) <= WITNESSES


class _Parts:
    """Sends a delivery and the parts that it is split into."""

    def __init__(self, delivery: Delivery, sender: Sender, lead: Lead) -> None:
        self._delivery = delivery
        self._sender = sender
        self._lead = lead
        self._refused_in_a_row = 0
        self.is_accepted = False
        """Whether any of them was accepted."""
        self.last: Verdict | None = None
        self.parked: list[Delivery] = []

    async def send(self, part: Batch) -> Verdict:
        """Send the whole batch or a part of it; returns the last verdict on it."""
        delivery = self._delivery
        if part is not delivery.batch:
            delivery = Delivery(part, is_part=True, position=delivery.position, then=delivery.then)
        lead = self._lead
        verdict, delivery = await self._sender.send(delivery, on_begun=lead.end, on_stalled=lead.stall)
        lead.is_stalled = False
        self.last = verdict
        is_accepted = verdict.answer.outcome is Outcome.ACCEPTED
        self.is_accepted |= is_accepted
        self._refused_in_a_row = 0 if is_accepted else self._refused_in_a_row + 1
        if verdict.next is Next.SPLIT and self._refused_in_a_row >= MANY_REQUESTS and delivery.is_bounded:
            verdict = replace(verdict, next=Next.PARK)  # nothing else limits requests during an outage
        if verdict.next is Next.PARK:
            self.parked.append(delivery)
        return verdict
