"""The worker pool: bounded workers, each takes a batch and delivers it to its last device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.errors import BatchlicError, StoppedEarly
from batchlic.pool.bisect import bisect
from batchlic.pool.refusals import RefusalWatch
from batchlic.pool.remaining import Delivery, Position
from batchlic.pool.sender import Sender, Sent
from batchlic.pool.suspicion import Suspicions, due_at
from batchlic.pool.verdict import Next, Verdict

if TYPE_CHECKING:
    from batchlic.chunker import Batch


MOST_POSTPONED = 5_000
"""While so many sequences are postponed, no new one is taken from the plan (promise H)."""
POSTPONED_TO_CHECK = 16
"""So many postponed sequences are looked at for each new one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Postponed:
    """Deliveries that were refused without a known reason, and what follows them in their sequence."""

    deliveries: list[Delivery]
    rest: Iterator[Delivery]

    def sequence(self) -> Iterator[Delivery]:
        return chain(self.deliveries, self.rest)

    def due_at(self) -> float:
        return max(map(due_at, self.deliveries))

    def is_due(self, suspicions: Suspicions) -> bool:
        now = anyio.current_time()
        return all(suspicions.is_due(delivery, now=now) for delivery in self.deliveries)


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
        self._postponed: deque[_Postponed] = deque()

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
            shared = iter(sequences)
            async with anyio.create_task_group() as tasks:
                for _ in range(self._workers):
                    tasks.start_soon(self._work, shared)
        if self._failure is not None:
            raise self._failure

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

    async def _work(self, sequences: Iterator[Iterable[Delivery]]) -> None:
        """One worker: take the next sequence that no other worker has taken, and deliver it."""
        try:
            while self._failure is None and (sequence := await self._take(sequences)) is not None:
                deliveries = iter(sequence)
                for delivery in deliveries:
                    if postponed := await self._deliver(delivery):
                        self._postponed.append(_Postponed(postponed, deliveries))
                        break
        except BatchlicError as error:
            self._fail(error)

    async def _take(self, sequences: Iterator[Iterable[Delivery]]) -> Iterable[Delivery] | None:
        """The next sequence: a postponed one that can be judged now, or one of the plan; None at the end.

        At the end of the plan, or if too many are postponed, it is the one that can be sent first.
        """
        for _ in range(min(len(self._postponed), POSTPONED_TO_CHECK)):
            first = self._postponed.popleft()
            if first.is_due(self._sender.suspicions):
                return first.sequence()
            self._postponed.append(first)
        if len(self._postponed) < MOST_POSTPONED:
            new = next(sequences, None)
            if new is not None or not self._postponed:
                return new
        first = min(self._postponed, key=_Postponed.due_at)
        self._postponed.remove(first)
        await anyio.sleep_until(first.due_at())
        return first.sequence()

    async def _deliver(self, delivery: Delivery) -> list[Delivery]:
        """Send a batch, and its parts if it is refused, until each device has an answer.

        Returns what is to be sent again later.
        """
        parts = _Parts(delivery, self._sender)
        try:
            if delivery.is_refused:  # in an earlier session; the devices that it named are not known any more
                await bisect(delivery.batch, (), parts.send)
            else:
                verdict = await parts.send(delivery.batch)
                if verdict.next is Next.SPLIT:
                    await bisect(delivery.batch, verdict.answer.named_devices, parts.send)
            await parts.end_between_steps()
        finally:
            self._sender.suspicions.end(delivery)
        if parts.is_accepted:
            self.refusals.accepted(delivery.batch)
        elif parts.last is not None and parts.last.next is Next.END:
            self._watch_refusal(delivery, parts.last.answer)
        return parts.postponed

    def _watch_refusal(self, delivery: Delivery, answer: Answer) -> None:
        """Stop the run if too many batches were refused alike."""
        try:
            self.refusals.refused(delivery.batch, answer, delivery.position)
        except StoppedEarly as stopped:
            if delivery.position is not Position.SECOND_RESTORABLE:
                raise
            # Stop only after the sequences at work have undone their first steps.
            self._failure = self._failure or stopped


class _Parts:
    """Sends a delivery and the parts that it is split into."""

    def __init__(self, delivery: Delivery, sender: Sender) -> None:
        self._delivery = delivery
        self._sender = sender
        self._refused_at = -math.inf
        self.is_accepted = False
        """Whether any of them was accepted."""
        self.last: Verdict | None = None
        self.postponed: list[Delivery] = []

    async def send(self, part: Batch) -> Verdict:
        """Send the whole batch or a part of it; returns the last verdict on it."""
        if part is self._delivery.batch:
            sent = await self._send(self._delivery)
            self._refused_at = sent.delivery.refusals.last_at
        else:
            position = self._delivery.position
            sent = await self._send(Delivery(part, batch_refused_at=self._refused_at, position=position))
        if sent.verdict.next is Next.POSTPONE:
            self.postponed.append(sent.delivery)
        return sent.verdict

    async def end_between_steps(self) -> None:
        """Send postponed devices again, soon, while devices stand between two steps of a migration."""
        position = self._delivery.position
        is_first_step = self._delivery.batch.step is not None and position is Position.FIRST
        others_wait = self._delivery.others_wait or (self.is_accepted and is_first_step)
        while self.postponed and (others_wait or position is Position.SECOND_RESTORABLE):
            delivery = self.postponed.pop(0)
            await anyio.sleep_until(due_at(delivery))
            sent = await self._send(replace(delivery, others_wait=others_wait))
            if sent.verdict.next is Next.POSTPONE:
                self.postponed.append(sent.delivery)

    async def _send(self, delivery: Delivery) -> Sent:
        sent = await self._sender.send(delivery)
        self.last = sent.verdict
        self.is_accepted |= sent.verdict.answer.outcome is Outcome.ACCEPTED
        return sent
