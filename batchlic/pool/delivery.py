"""Gets batches delivered: bounded workers, each takes a batch and sees it through to its last device."""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalogue import Action
from batchlic.carrier.client import CarrierClient, Submission
from batchlic.errors import BatchlicError, CredentialsRejected, StoppedEarly
from batchlic.journal import Intent, Journal
from batchlic.pool.bisect import bisect, can_be_split
from batchlic.pool.breaker import CircuitBreaker
from batchlic.pool.limiter.pace import Pace, Signal, SignalKind, Turn
from batchlic.pool.refusals import RefusalWatch
from batchlic.pool.remaining import Delivery, Position
from batchlic.pool.retry import RetryPolicy

if TYPE_CHECKING:
    from batchlic.chunker import Batch


class Observer(Protocol):
    """What a run hears from its pool; must return at once."""

    def answered(
        self, batch: Batch, intent: Intent, answer: Answer, duration_ms: float, *, final: bool
    ) -> None:
        """An attempt was answered, and the answer is durable."""


class Pool:
    """Delivers batches to the carrier with at most `pace`'s concurrency.

    `stop` lets requests in flight finish, `abort` does not; both leave a journal from which the run can be
    resumed. `refusals` may be told what earlier sittings got accepted.
    """

    def __init__(
        self,
        *,
        run_id: str,
        action: Action,
        client: CarrierClient,
        journal: Journal,
        pace: Pace,
        policy: RetryPolicy,
        observer: Observer,
        workers: int,
    ) -> None:
        self._run_id = run_id
        self._action = action
        self._client = client
        self._journal = journal
        self._pace = pace
        self._policy = policy
        self._observer = observer
        self._workers = workers
        self._breaker = CircuitBreaker()
        self.refusals = RefusalWatch()
        self._scope = anyio.CancelScope()
        self._in_flight: set[anyio.CancelScope] = set()
        self._failure: BatchlicError | None = None
        self._last_progress = 0.0
        self._rejected_generation = -1
        self._useless_tokens = 0

    async def deliver(
        self,
        sequences: Iterable[Iterable[Delivery]],
        *,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """See all deliveries through: courses side by side, the deliveries of a course one after another.

        The next delivery of a course is asked for when the last one is through; one that nothing follows is
        a course of its own. `before` is called once logged in, before the first course is asked for.

        Raises what `before` raises, and CredentialsRejected or StoppedEarly when going on makes no sense or
        `stop` was called; requests in flight are finished and recorded first.
        """
        self._last_progress = anyio.current_time()
        with self._scope:
            await self._policy.reach(self._client.login, since=self._last_progress)
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
        self._fail(StoppedEarly(f"{reason}; resume the run to go on"))

    def _fail(self, error: BatchlicError) -> None:
        self._failure = self._failure or error
        self._scope.cancel()

    def abort(self) -> None:
        """Stop at once; requests in flight end in doubt."""
        self._scope.cancel()
        for exchange in self._in_flight:
            exchange.cancel()

    async def _work(self, sequences: Iterator[Iterable[Delivery]]) -> None:
        """See through one course after another: each worker takes the next one that nobody has taken."""
        try:
            for sequence in sequences:
                if self._failure is not None:
                    return
                for delivery in sequence:
                    await self._see_through(delivery)
        except BatchlicError as error:
            self._fail(error)

    async def _see_through(self, delivery: Delivery) -> None:
        accepted = False
        last_answer: Answer | None = None

        async def send(part: Batch) -> Answer:
            nonlocal accepted, last_answer
            last_answer = await self._send(part, attempts=delivery.attempts if part is delivery.batch else 0)
            accepted |= last_answer.outcome is Outcome.ACCEPTED
            return last_answer

        refusal = REFUSED_EARLIER if delivery.is_refused else await send(delivery.batch)
        if delivery.is_refused or can_be_split(delivery.batch, refusal):
            await bisect(delivery.batch, refusal, send)
        if accepted:
            self.refusals.accepted(delivery.batch)
        elif last_answer is not None:
            self._refused(delivery, last_answer)

    def _refused(self, delivery: Delivery, answer: Answer) -> None:
        try:
            self.refusals.refused(delivery.batch, answer, delivery.position)
        except StoppedEarly as stopped:
            if delivery.position is not Position.SECOND_RESTORABLE:
                raise
            self._failure = self._failure or stopped  # once all courses in hand have undone what they began

    async def _send(self, batch: Batch, *, attempts: int) -> Answer:
        body = batch.body() if batch.undoes is None else None
        action = batch.action or self._action
        submission = Submission(action=action, x_request_id=batch.x_request_id(self._run_id), body=body)
        digest = hashlib.sha256(body or b"").hexdigest()
        numbers = itertools.count(attempts + 1)

        async def attempt() -> Answer:
            return await self._attempt(batch, submission, digest, next(numbers))

        return await self._policy.run(attempt, batch.sku_number if batch.is_repeatable else None)

    async def _attempt(self, batch: Batch, submission: Submission, digest: str, number: int) -> Answer:
        turn = await self._pace.wait_turn()
        try:
            async with self._breaker.passage():
                intent = Intent(
                    batch_id=batch.batch_id,
                    step=batch.step,
                    part=batch.part,
                    x_request_id=submission.x_request_id,
                    attempt=number,
                    action=submission.action,
                    device_count=len(batch.offsets),
                    request_sha256=digest,
                    pace_rps=self._pace.rate if math.isfinite(self._pace.rate) else None,
                    started_at=time.time_ns() // 1000,
                )
                answer = await self._exchange(batch, submission, intent, turn)
        finally:
            turn.abandon()
        self._give_up_without_progress(answer)
        await self._renew_where_unauthorized(answer)
        return answer

    async def _exchange(self, batch: Batch, submission: Submission, intent: Intent, turn: Turn) -> Answer:
        """Intent, request, answer: once begun it is ended, unless the pool is aborted."""
        with anyio.CancelScope(shield=True) as exchange:
            self._in_flight.add(exchange)
            try:
                seq = await self._journal.intend(intent)
                if turn.started():
                    answer = await self._client.submit(submission)
                    self._pace.finished(turn, signal_of(answer))  # at once: others may be about to send
                    self._breaker.record(answer)
                else:
                    answer = NOT_SENT
                ended_at = anyio.current_time()
                duration_ms = round((ended_at - turn.flight.sent_at) * 1000, 3)
                final = answer.outcome is Outcome.REFUSED and not can_be_split(batch, answer)
                await self._journal.answer(seq, answer, duration_ms=duration_ms, final=final)
            finally:
                self._in_flight.discard(exchange)
            if answer.outcome in DEFINITE:
                self._last_progress = ended_at
            if answer is not NOT_SENT:
                self._observer.answered(batch, intent, answer, duration_ms, final=final)
            return answer
        raise StoppedEarly("stopped at once: requests in flight are in doubt; resume the run")

    def _give_up_without_progress(self, answer: Answer) -> None:
        """Raise StoppedEarly after too long without a definite answer, or when told to wait that long."""
        limit = self._policy.give_up_after
        if answer.outcome in DEFINITE:
            return
        if (answer.retry_after_s or 0) > limit:
            raise StoppedEarly(f"the carrier asks to wait {answer.retry_after_s:.0f} s; resume the run later")
        if anyio.current_time() - self._last_progress > limit:
            raise StoppedEarly(
                f"no progress for {limit:.0f} s, last answer: {answer.error_message or answer.outcome}; "
                "resume the run when the carrier is well again"
            )

    async def _renew_where_unauthorized(self, answer: Answer) -> None:
        """Renew the token that an answer rejects; CredentialsRejected once fresh ones are of no use."""
        if answer.outcome is not Outcome.UNAUTHORIZED:
            self._useless_tokens = 0
            return
        if answer.credentials_generation > self._rejected_generation:
            self._rejected_generation = answer.credentials_generation
            self._useless_tokens += 1
        if self._useless_tokens > MAX_USELESS_TOKENS:
            raise CredentialsRejected(
                "the carrier rejects the tokens that it has just given: "
                f"{answer.error_code} {answer.error_message}"
            )
        await self._policy.reach(lambda: self._client.renew(answer), since=self._last_progress)


MAX_USELESS_TOKENS = 5
"""Generations of tokens in a row that the carrier may reject without having accepted one."""

DEFINITE = frozenset({Outcome.ACCEPTED, Outcome.REFUSED})
"""Answers that get the run on."""

REFUSED_EARLIER = Answer(outcome=Outcome.REFUSED)
"""Stands for a refusal in an earlier sitting of the run, whose named devices are not known any more."""

NOT_SENT = Answer(
    outcome=Outcome.THROTTLED, error_message="not sent: meanwhile the carrier told everyone to wait"
)
"""Ends an intent that became durable too late: its request may not leave any more (promise J)."""

_KINDS = {
    Outcome.ACCEPTED: SignalKind.DELIVERED,
    Outcome.REFUSED: SignalKind.DELIVERED,
    Outcome.UNAUTHORIZED: SignalKind.DELIVERED,
    Outcome.THROTTLED: SignalKind.THROTTLED,
    Outcome.UNAVAILABLE: SignalKind.LOST,
    Outcome.AMBIGUOUS: SignalKind.LOST,
}


def signal_of(answer: Answer) -> Signal:
    """What an answer says to the pace."""
    return Signal(_KINDS[answer.outcome], retry_after_s=answer.retry_after_s, quota=answer.quota)
