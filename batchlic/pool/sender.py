"""Sends one batch until an answer settles it: intent, request, answer, and again where the policy says so."""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from typing import TYPE_CHECKING, Protocol

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import CarrierClient, Submission
from batchlic.errors import CredentialsRejected, StoppedEarly
from batchlic.journal import Intent, Journal
from batchlic.pool.bisect import can_be_split
from batchlic.pool.breaker import CircuitBreaker
from batchlic.pool.limiter.pace import Pace, Signal, SignalKind, Turn
from batchlic.pool.retry import RetryPolicy

if TYPE_CHECKING:
    from batchlic.chunker import Batch

MAX_USELESS_TOKENS = 5
"""New tokens in a row that the carrier may reject before the run gives up."""

DEFINITE = frozenset({Outcome.ACCEPTED, Outcome.REFUSED})
"""Answers that count as progress."""

NOT_SENT = Answer(
    outcome=Outcome.THROTTLED, error_message="not sent: another request had just been throttled (429)"
)
"""Ends an intent that became durable too late: its request must not leave any more (promise J)."""


class Observer(Protocol):
    """Is called about each answer; must return at once."""

    def answered(
        self, batch: Batch, intent: Intent, answer: Answer, duration_ms: float, *, final: bool
    ) -> None:
        """An attempt was answered, and the answer is durable."""


class Sender:
    """Makes the attempts for batches; all workers share one."""

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
    ) -> None:
        self._run_id = run_id
        self._action = action
        self._client = client
        self._journal = journal
        self._pace = pace
        self._policy = policy
        self._observer = observer
        self._breaker = CircuitBreaker()
        self._tokens = _TokenRenewal(client, policy)
        self._in_flight: set[anyio.CancelScope] = set()

    async def login(self) -> None:
        """Log in; waits for the carrier as long as the policy allows."""
        self._tokens.last_progress = anyio.current_time()
        await self._policy.reach(self._client.login, since=self._tokens.last_progress)

    def abort(self) -> None:
        """Cut off the requests in flight: they end in doubt."""
        for exchange in self._in_flight:
            exchange.cancel()

    async def send(self, batch: Batch, *, attempts: int) -> Answer:
        """Send a batch until an answer settles it, or nothing more is to be sent for it; the last answer.

        `attempts` counts the requests already made for exactly these devices.
        """
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
        await self._tokens.renew_where_unauthorized(answer)
        return answer

    async def _exchange(self, batch: Batch, submission: Submission, intent: Intent, turn: Turn) -> Answer:
        """Intent, request, answer: once begun, it runs to its end unless the pool is aborted."""
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
                self._tokens.last_progress = ended_at
            if answer is not NOT_SENT:
                self._observer.answered(batch, intent, answer, duration_ms, final=final)
            return answer
        raise StoppedEarly("stopped at once: requests in flight are in doubt; resume the run")

    def _give_up_without_progress(self, answer: Answer) -> None:
        """Raise StoppedEarly after too long without a definite answer, or if `Retry-After` is that long."""
        limit = self._policy.give_up_after
        if answer.outcome in DEFINITE:
            return
        if (answer.retry_after_s or 0) > limit:
            raise StoppedEarly(
                f"the carrier asks to wait {answer.retry_after_s:.0f} s; resume the run after that"
            )
        if anyio.current_time() - self._tokens.last_progress > limit:
            raise StoppedEarly(
                f"no progress for {limit:.0f} s, last answer: {answer.error_message or answer.outcome}; "
                "resume the run when the carrier works again"
            )


class _TokenRenewal:
    """Renews rejected tokens, and gives up when the carrier rejects the new ones, too."""

    def __init__(self, client: CarrierClient, policy: RetryPolicy) -> None:
        self._client = client
        self._policy = policy
        self._rejected_generation = -1
        self._useless_tokens = 0
        self.last_progress = 0.0
        """When the last definite answer came, in seconds of the event loop's clock."""

    async def renew_where_unauthorized(self, answer: Answer) -> None:
        """Renew the token that an answer rejects; CredentialsRejected once new ones are useless."""
        if answer.outcome is not Outcome.UNAUTHORIZED:
            self._useless_tokens = 0
            return
        if answer.credentials_generation > self._rejected_generation:
            self._rejected_generation = answer.credentials_generation
            self._useless_tokens += 1
        if self._useless_tokens > MAX_USELESS_TOKENS:
            raise CredentialsRejected(
                f"the carrier rejected {MAX_USELESS_TOKENS} new tokens in a row: "
                f"{answer.error_code} {answer.error_message}"
            )
        await self._policy.reach(lambda: self._client.renew(answer), since=self.last_progress)


_SIGNALS = {
    Outcome.ACCEPTED: SignalKind.DELIVERED,
    Outcome.REFUSED: SignalKind.DELIVERED,
    Outcome.UNAUTHORIZED: SignalKind.DELIVERED,
    Outcome.THROTTLED: SignalKind.THROTTLED,
    Outcome.UNAVAILABLE: SignalKind.LOST,
    Outcome.AMBIGUOUS: SignalKind.LOST,
}


def signal_of(answer: Answer) -> Signal:
    """What an answer means to the limiter."""
    return Signal(_SIGNALS[answer.outcome], retry_after_s=answer.retry_after_s, quota=answer.quota)
