"""Sends one batch until an answer settles it: intent, request, answer, and again where the policy says so."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.client import Carrier, Submission
from batchlic.errors import CredentialsRejected, StoppedEarly
from batchlic.journal import Intent, Journal
from batchlic.pool.breaker import CircuitBreaker
from batchlic.pool.limiter.limiter import Limiter, Permit
from batchlic.pool.limiter.limiters import Limiters
from batchlic.pool.remaining import NEVER_UNAVAILABLE, Delivery
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.suspicion import MANY_UNAVAILABLE, Suspicions
from batchlic.pool.verdict import Next, Verdict, judge

if TYPE_CHECKING:
    from batchlic.chunker import Batch

MAX_USELESS_TOKENS = 8
"""New tokens in a row that the carrier may reject before the run stops."""
FIRST_TOKEN_PAUSE = 1.0
LONGEST_TOKEN_PAUSE = 60.0
"""Seconds before a rejected new token is renewed: doubling from the first to the longest."""

DEFINITE = frozenset({Outcome.ACCEPTED, Outcome.REFUSED})
"""Answers that count as progress."""

NOT_SENT = Answer(outcome=Outcome.THROTTLED, error_message="not sent: a wait for all workers had just begun")
"""Ends an intent that became durable too late: its request must not leave any more (promise J), since another
one had just been throttled, or a person had stopped everyone."""


class GaveUp(StoppedEarly):
    """The requests of one limiter wait too long: an account if each has one, otherwise the run."""


class Observer(Protocol):
    """Is called about each answer; must return at once."""

    def answered(
        self, batch: Batch, intent: Intent, answer: Answer, duration_ms: float, *, final: bool
    ) -> None:
        """An attempt was answered, and the answer is durable."""


class Sent(NamedTuple):
    """The last verdict on a delivery, and the delivery as its attempts have changed it."""

    verdict: Verdict
    delivery: Delivery


class Sender:
    """Makes the attempts for batches; all workers share one.

    Each limiter has its own waits. Shared by all are the login and its tokens, what refusals mean, and the
    circuit breaker: these are about the carrier, whatever the account.

    `login_delay_s`: seconds before the first login, because the carrier asked to wait.
    """

    def __init__(
        self,
        *,
        client: Carrier,
        journal: Journal,
        limiters: Limiters,
        policy: RetryPolicy,
        observer: Observer,
        login_delay_s: float = 0.0,
    ) -> None:
        self._client = client
        self._journal = journal
        self._identity = journal.identity
        self.limiters = limiters
        self._policy = policy
        self._observer = observer
        self._login_delay_s = login_delay_s
        self.suspicions = Suspicions()
        self._breaker = CircuitBreaker()
        self._tokens = _TokenRenewal(client, policy, limiters)
        self._progress: dict[str | None, float] = {}
        """By account: when its last definite answer came, or else its first request began to wait."""
        self._in_flight: set[anyio.CancelScope] = set()

    async def login(self) -> None:
        """Log in; waits for the carrier as long as the policy allows."""
        await anyio.sleep(self._login_delay_s)
        self._tokens.last_progress = anyio.current_time()
        await self._policy.reach(self._client.login, since=self._tokens.last_progress)

    def abort(self) -> None:
        """Cut off the requests in flight: they end in doubt."""
        for exchange in self._in_flight:
            exchange.cancel()

    async def send(
        self,
        delivery: Delivery,
        *,
        on_begun: Callable[[], None] = lambda: None,
        on_stalled: Callable[[], None] = lambda: None,
    ) -> Sent:
        """Send a delivery until an answer settles it, or nothing more is to be sent for it now.

        `on_begun` is called when it does not wait for its limiter any more: others may queue up there.
        `on_stalled` is called when it did not reach the service so often that others need not wait for it.
        """
        batch = delivery.batch
        body = batch.body() if batch.undoes is None else None
        refusals = self._journal.refusals(batch.batch_id, batch.step, batch.part) if delivery.attempts else 0
        course = _Course(
            delivery,
            Submission(
                action=batch.action or self._identity.action,
                x_request_id=batch.x_request_id(self._identity.run_id, refusals=refusals),
                body=body,
            ),
            hashlib.sha256(body or b"").hexdigest(),
            self.limiters.of(batch.account_name),
            batch.account_name if self.limiters.is_by_account else None,
            on_begun,
            on_stalled,
        )

        async def attempt() -> Verdict:
            return await self._attempt(course)

        verdict = await self._policy.run(attempt, batch.sku_number if batch.is_repeatable else None)
        return Sent(verdict, course.delivery)

    async def _attempt(self, course: _Course) -> Verdict:
        if self.suspicions.holds_back(course.delivery):
            course.on_begun()
            await self.suspicions.admit(course.delivery)
        self._begin_to_wait(course)
        permit = await course.limiter.acquire()
        course.on_begun()
        try:
            async with self._breaker.passage():
                verdict = await self._exchange(course, permit)
        finally:
            permit.dropped()
        answer = verdict.answer
        self._give_up_without_progress(course, answer)
        self.suspicions.stop_if_nothing_is_accepted(
            course.delivery, answer, seconds_since=course.limiter.seconds_since
        )
        await self._tokens.renew_if_rejected(answer)
        return verdict

    async def _exchange(self, course: _Course, permit: Permit) -> Verdict:
        """Intent, request, answer: once begun, it runs to its end unless the pool is aborted."""
        with anyio.CancelScope(shield=True) as exchange:
            self._in_flight.add(exchange)
            try:
                intent = self._intent(course)
                seq = await self._journal.intend(intent)
                if was_sent := permit.started():
                    self._journal.check_held()  # this process may have been paused since then (promise K)
                    received = await self._client.submit(course.submission)
                    tell_limiter(permit, received)  # at once: others may be about to send
                    verdict = self._judge(course, received, sent_at=permit.sample.sent_at)
                else:
                    verdict = Verdict(NOT_SENT, Next.REPEAT)
                answer, ended_at = verdict.answer, anyio.current_time()
                duration_ms = round((ended_at - permit.sample.sent_at) * 1000, 3)
                await self._journal.answer(seq, answer, duration_ms=duration_ms, final=verdict.is_final)
            finally:
                self._in_flight.discard(exchange)
            if answer.outcome in DEFINITE:
                self._tokens.last_progress = ended_at
                self._progress[course.account] = ended_at
            if was_sent:
                self._observer.answered(
                    course.delivery.batch, intent, answer, duration_ms, final=verdict.is_final
                )
            return verdict
        raise StoppedEarly("stopped at once: requests in flight are in doubt; resume the run")

    def _intent(self, course: _Course) -> Intent:
        delivery, submission = course.delivery, course.submission
        course.delivery = replace(delivery, attempts=delivery.attempts + 1)
        return Intent(
            batch_id=delivery.batch.batch_id,
            step=delivery.batch.step,
            part=delivery.batch.part,
            x_request_id=submission.x_request_id,
            attempt=delivery.attempts + 1,
            action=submission.action,
            device_count=len(delivery.batch.offsets),
            request_sha256=course.digest,
            pace_rps=course.limiter.flow,
            started_at=time.time_ns() // 1000,
        )

    def _judge(self, course: _Course, answer: Answer, *, sent_at: float) -> Verdict:
        """Judge an answer, and learn from it what to expect of the carrier."""
        delivery, policy = course.delivery, self._policy
        verdict = judge(
            delivery,
            answer,
            is_proven=self.suspicions.is_proven(delivery),
            is_resendable=delivery.batch.sku_number in policy.resendable and delivery.batch.is_repeatable,
            trusts_duplicates=policy.trusts_duplicates,
        )
        if not self.suspicions.is_suspect(delivery, answer):
            self._breaker.record(answer)
        self.suspicions.learn(delivery, answer, sent_at=sent_at)
        if answer.outcome is Outcome.REFUSED:
            refusals = self.suspicions.refused(delivery, answer, sent_at=sent_at)
            course.delivery = replace(delivery, refusals=refusals, unavailable=NEVER_UNAVAILABLE)
        elif verdict.answer.outcome is Outcome.AMBIGUOUS:
            course.delivery = replace(delivery, is_in_doubt=True)
        elif verdict.answer.outcome is Outcome.UNAVAILABLE:
            return self._judge_unavailable(course, verdict, sent_at=sent_at)
        return verdict

    def _judge_unavailable(self, course: _Course, verdict: Verdict, *, sent_at: float) -> Verdict:
        """Park a request that does not reach the service while others do."""
        unavailable = self.suspicions.unavailable(course.delivery, verdict.answer, sent_at=sent_at)
        course.delivery = replace(course.delivery, unavailable=unavailable)
        if self.suspicions.is_out_of_reach(course.delivery):
            parked = replace(unavailable, parked=unavailable.parked + 1)
            course.delivery = replace(course.delivery, unavailable=parked)
            return replace(verdict, next=Next.PARK)
        if unavailable.count >= MANY_UNAVAILABLE:
            course.on_stalled()
        return verdict

    def _begin_to_wait(self, course: _Course) -> None:
        """Note when the first request of an account waits. Raises GaveUp if it would wait too long."""
        since = self._tokens.last_progress if course.account is None else anyio.current_time()
        self._progress.setdefault(course.account, since)
        if (wait := course.limiter.held_s) > self._policy.give_up_after:
            raise GaveUp(
                f"{course.whose}the carrier asks batchlic to wait {wait:.0f} s. Resume the run after that"
            )

    def _give_up_without_progress(self, course: _Course, answer: Answer) -> None:
        """Raise after too long without a definite answer, or where it is clear that waiting is useless."""
        limit = self._policy.give_up_after
        if answer.outcome in DEFINITE:
            return
        if answer.http_status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            raise CredentialsRejected(answer.summary)
        if (answer.retry_after_s or 0) > limit:
            raise GaveUp(
                f"{course.whose}the carrier asks batchlic to wait {answer.retry_after_s:.0f} s; "
                f"last answer: {answer.summary}. Resume the run after that"
            )
        if course.limiter.seconds_since(self._progress[course.account]) > limit:
            raise GaveUp(
                f"{course.whose}no progress for {limit:.0f} s; last answer: {answer.summary}. "
                "Resume the run when the carrier works again"
            )


@dataclass(slots=True)
class _Course:
    """A delivery while it is sent: its request, and what its attempts have changed about it."""

    delivery: Delivery
    submission: Submission
    digest: str
    limiter: Limiter
    account: str | None
    """The account whose limiter that is; None if it is that of the login."""
    on_begun: Callable[[], None]
    on_stalled: Callable[[], None]

    @property
    def whose(self) -> str:
        """What a message about a wait begins with."""
        return f"account {self.account}: " if self.account is not None else ""


class _TokenRenewal:
    """Renews rejected tokens, and gives up when the carrier rejects the new ones, too."""

    def __init__(self, client: Carrier, policy: RetryPolicy, limiters: Limiters) -> None:
        self._client = client
        self._policy = policy
        self._limiters = limiters
        self._lock = anyio.Lock()
        self._rejected_generation = -1
        self._useless_tokens = 0
        self.last_progress = 0.0
        """When the last definite answer came, in seconds of the event loop's clock."""

    async def renew_if_rejected(self, answer: Answer) -> None:
        """Renew the token that an answer rejects, once for all workers; StoppedEarly once that is useless.

        The carrier accepted the login for a new token. If it still rejects the token, the fault is not in the
        credentials, and the next renewal waits longer.
        """
        if answer.rejected is None:
            self._useless_tokens = 0
            return
        async with self._lock:
            if answer.credentials_generation > self._rejected_generation:
                self._rejected_generation = answer.credentials_generation
                await self._pause_after_useless_tokens(answer)
            since = anyio.current_time() - self._limiters.seconds_since(self.last_progress)
            await self._policy.reach(lambda: self._client.renew(answer), since=since)

    async def _pause_after_useless_tokens(self, answer: Answer) -> None:
        if self._useless_tokens > MAX_USELESS_TOKENS:
            raise StoppedEarly(
                f"the carrier rejected {MAX_USELESS_TOKENS} new tokens in a row; "
                f"last answer: {answer.summary}. Resume the run when the carrier works again. If you gave a "
                "token by BATCHLIC_ACCESS_TOKEN or BATCHLIC_SESSION_TOKEN, check that it has not expired"
            )
        if self._useless_tokens:
            await anyio.sleep(min(FIRST_TOKEN_PAUSE * 2 ** (self._useless_tokens - 1), LONGEST_TOKEN_PAUSE))
        self._useless_tokens += 1


def tell_limiter(permit: Permit, answer: Answer) -> None:
    """End a permit by what the answer means to the limiter."""
    match answer.outcome:
        case Outcome.ACCEPTED | Outcome.REFUSED | Outcome.UNAUTHORIZED:
            permit.success(answer.retry_after_s, quota=answer.quota)
        case Outcome.THROTTLED:
            permit.throttled(answer.retry_after_s, quota=answer.quota)
        case Outcome.UNAVAILABLE | Outcome.AMBIGUOUS:
            permit.dropped(answer.retry_after_s, quota=answer.quota)
