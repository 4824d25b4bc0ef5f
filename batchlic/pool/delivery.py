"""The worker pool: bounded workers, each takes a batch and delivers it to its last device."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.errors import BatchlicError, StoppedEarly
from batchlic.pool.bisect import bisect, can_be_split
from batchlic.pool.refusals import RefusalWatch
from batchlic.pool.remaining import Delivery, Position
from batchlic.pool.sender import Sender

if TYPE_CHECKING:
    from batchlic.chunker import Batch

REFUSED_EARLIER = Answer(outcome=Outcome.REFUSED)
"""Stands for a refusal in an earlier session; the devices that it named are not known any more."""


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
            for sequence in sequences:
                if self._failure is not None:
                    return
                for delivery in sequence:
                    await self._deliver(delivery)
        except BatchlicError as error:
            self._fail(error)

    async def _deliver(self, delivery: Delivery) -> None:
        """Send a batch, and its parts if it is refused, until each device has an answer."""
        accepted = False
        last_answer: Answer | None = None

        async def send(part: Batch) -> Answer:
            nonlocal accepted, last_answer
            attempts = delivery.attempts if part is delivery.batch else 0
            last_answer = await self._sender.send(part, attempts=attempts)
            accepted |= last_answer.outcome is Outcome.ACCEPTED
            return last_answer

        refusal = REFUSED_EARLIER if delivery.is_refused else await send(delivery.batch)
        if delivery.is_refused or can_be_split(delivery.batch, refusal):
            await bisect(delivery.batch, refusal, send)
        if accepted:
            self.refusals.accepted(delivery.batch)
        elif last_answer is not None:
            self._watch_refusal(delivery, last_answer)

    def _watch_refusal(self, delivery: Delivery, answer: Answer) -> None:
        """Stop the run if too many batches were refused alike."""
        try:
            self.refusals.refused(delivery.batch, answer, delivery.position)
        except StoppedEarly as stopped:
            if delivery.position is not Position.SECOND_RESTORABLE:
                raise
            # Stop only after the sequences at work have undone their first steps.
            self._failure = self._failure or stopped
