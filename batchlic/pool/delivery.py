"""The worker pool: bounded workers, each takes a batch and delivers it to its last device."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.errors import BatchlicError, StoppedEarly
from batchlic.pool.bisect import bisect
from batchlic.pool.parked import WITNESSES, Parked
from batchlic.pool.refusals import RefusalWatch, RefusedTooMuch
from batchlic.pool.remaining import BetweenSteps, Delivery
from batchlic.pool.sender import Sender
from batchlic.pool.suspicion import MANY_REQUESTS, due_at
from batchlic.pool.verdict import Next, Verdict

if TYPE_CHECKING:
    from batchlic.chunker import Batch

_Work: TypeAlias = Callable[[], Awaitable[None]]


class Pool:
    """Delivers batches by so many workers, which share one sender.

    `stop` lets requests in flight finish, `abort` does not. Both leave a journal from which the run can be
    resumed. Pass batches that were accepted in earlier sessions to `refusals.accepted`.
    """

    def __init__(self, sender: Sender, *, workers: int) -> None:
        self._sender = sender
        self._workers = workers
        self.refusals = RefusalWatch()
        self._scope = anyio.CancelScope()
        self._failure: BatchlicError | None = None
        self._parked = Parked(sender.suspicions)
        self._is_turn_of_parked = True
        self._busy = 0
        """Workers that are sending something."""
        self._witnesses = 0
        """Those of them that are sending a witness."""
        self._stopping = anyio.Event()
        """Is set when refusals stop the run."""
        self._changed = anyio.Event()
        """Is set, and replaced, when a worker is done with something."""

    async def deliver(
        self,
        sequences: Iterable[Iterable[Delivery]],
        *,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Deliver sequences side by side, and the deliveries of each sequence one after another.

        The next delivery of a sequence is taken when the last one is done. A delivery that nothing follows is
        a sequence of its own. `before` is called after the login, before the first sequence is taken.

        Raises what `before` raises; CredentialsRejected; and StoppedEarly when the carrier can't be reached,
        refuses too much, or `stop` was called. Requests in flight are finished and recorded first.
        """
        with self._scope:
            await self._sender.login()
            if before is not None:
                await before()
            plan = _Plan(sequences)
            async with anyio.create_task_group() as tasks:
                for _ in range(self._workers):
                    tasks.start_soon(self._work, plan)
        if isinstance(self._failure, RefusedTooMuch) and len(self._parked):
            raise RefusedTooMuch(f"{self._failure}. {self._parked.description()}")
        if self._failure is not None:
            raise self._failure
        if len(self._parked):
            raise RefusedTooMuch(
                "the carrier refuses some devices for an unknown reason. No device counts as failed for this "
                f"reason: resume the run to send them again; {self._parked.description()}"
            )

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new is sent any more."""
        return self._scope.cancel_called

    def stop(self, reason: str) -> None:
        """Send nothing new: requests in flight are finished, then `deliver` raises StoppedEarly."""
        self._fail(StoppedEarly(f"{reason}; continue with batchlic resume"))

    def abort(self) -> None:
        """Stop at once; requests in flight end in doubt."""
        self._scope.cancel()
        self._sender.abort()

    def _fail(self, error: BatchlicError) -> None:
        self._failure = self._failure or error
        self._scope.cancel()

    async def _work(self, plan: _Plan) -> None:
        """One worker: do what is next, until nothing is left."""
        try:
            while (work := await self._next_work(plan)) is not None:
                self._busy += 1
                try:
                    await work()
                except RefusedTooMuch as refusals:
                    self._stop_for(refusals)
                finally:
                    self._busy -= 1
                    self._changed.set()
                    self._changed = anyio.Event()
        except BatchlicError as error:
            self._fail(error)

    def _stop_for(self, refusals: RefusedTooMuch) -> None:
        """Begin nothing new. The pool ends when no device is left between two steps that can be undone."""
        self._failure = self._failure or refusals
        self._sender.suspicions.stop(refusals)
        self._stopping.set()

    async def _next_work(self, plan: _Plan) -> _Work | None:
        """A parked delivery or the next sequence, by the rules of `parked`; None if nothing is left."""
        while True:
            if (work := self._parked_work(plan) or self._new_work(plan)) is not None:
                return work
            may_go_on = self._failure is None and not plan.is_empty
            if not (may_go_on and self._busy):
                return None
            await self._changed.wait()

    def _new_work(self, plan: _Plan) -> _Work | None:
        """The next sequence of the plan, if one may begin."""
        may_begin = self._failure is None and not self._is_blocked(plan)
        if not may_begin or plan.is_empty:
            return None
        self._is_turn_of_parked = True
        if not plan.has_only_witnesses:
            return partial(self._deliver_all, next(plan))
        waits_for = self._busy if self._parked.needs_evidence else self._busy - self._witnesses
        return None if waits_for else partial(self._deliver_witness, next(plan))

    def _parked_work(self, plan: _Plan) -> _Work | None:
        """A parked delivery, if it is its turn."""
        is_over = self._failure is not None
        if is_over or plan.is_empty or self._is_blocked(plan):
            found = self._parked.take_first(only_bounded=is_over)
        elif plan.has_only_witnesses:
            found = self._parked.take_explained()
        else:
            found = self._parked.take_due() if self._is_turn_of_parked else None
        self._is_turn_of_parked = False
        return None if found is None else partial(self._send_again, found)

    def _is_blocked(self, plan: _Plan) -> bool:
        """Whether parked requests keep the next sequence of the plan from beginning."""
        return self._parked.blocks(is_between_steps=plan.is_between_steps)

    async def _deliver_all(self, sequence: Iterable[Delivery]) -> None:
        for delivery in sequence:
            await self._deliver(delivery)

    async def _deliver_witness(self, sequence: Iterable[Delivery]) -> None:
        self._witnesses += 1
        try:
            await self._deliver_all(sequence)
        finally:
            self._witnesses -= 1

    async def _send_again(self, parked: Delivery) -> None:
        """Send a parked delivery when it is due, and go on with those of its devices that are not parked."""
        with anyio.CancelScope(deadline=due_at(parked)):
            await (anyio.sleep_forever() if parked.is_bounded else self._stopping.wait())
        try:
            again = await self._deliver(parked)
        except RefusedTooMuch:
            self._parked.put([parked])
            raise
        finally:
            self._parked.release(parked)
        left = {offset for delivery in again for offset in delivery.batch.offsets}
        if ended := [offset for offset in parked.batch.offsets if offset not in left]:
            await self._deliver_all(parked.then(ended))

    async def _deliver(self, delivery: Delivery) -> list[Delivery]:
        """Send a batch, and its parts if it is refused, until each device has an answer or is parked.

        Returns what is parked.
        """
        parts = _Parts(delivery, self._sender)
        try:
            if delivery.is_refused:  # in an earlier session; the devices that it named are not known any more
                await bisect(delivery.batch, (), parts.send)
            else:
                verdict = await parts.send(delivery.batch)
                if verdict.next is Next.SPLIT:
                    await bisect(delivery.batch, verdict.answer.named_devices, parts.send)
        finally:
            self._sender.suspicions.end(delivery)
            self._parked.put(parts.parked, are_stuck=not parts.is_accepted)
            if (refusals := self._sender.suspicions.stopped) is not None:
                self._stop_for(refusals)
        if parts.is_accepted:
            self.refusals.accepted(delivery.batch)
        elif parts.last is not None and parts.last.next is Next.END:
            self._watch_refusal(delivery, parts.last.answer)
        return parts.parked

    def _watch_refusal(self, delivery: Delivery, answer: Answer) -> None:
        """Stop the run if too many batches were refused alike."""
        try:
            self.refusals.refused(delivery.batch, answer, delivery.position)
        except RefusedTooMuch as refusals:
            self._stop_for(refusals)


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

    def __init__(self, delivery: Delivery, sender: Sender) -> None:
        self._delivery = delivery
        self._sender = sender
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
        verdict, delivery = await self._sender.send(delivery)
        self.last = verdict
        is_accepted = verdict.answer.outcome is Outcome.ACCEPTED
        self.is_accepted |= is_accepted
        self._refused_in_a_row = 0 if is_accepted else self._refused_in_a_row + 1
        if verdict.next is Next.SPLIT and self._refused_in_a_row >= MANY_REQUESTS and delivery.is_bounded:
            verdict = replace(verdict, next=Next.PARK)  # nothing else limits requests during an outage
        if verdict.next is Next.PARK:
            self.parked.append(delivery)
        return verdict
