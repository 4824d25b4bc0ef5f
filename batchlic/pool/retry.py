"""When a request is sent again, and after how long: one policy, carried out by tenacity.

| answer | sent again | after |
| --- | --- | --- |
| accepted | never | |
| refused | never unchanged, or later: see `verdict` | |
| throttled | until the run gives up | when the limiter permits |
| unavailable | until the run gives up, or later: see `suspicion` | exponential backoff with full jitter |
| unauthorized | after renewing the token | at once |
| ambiguous | flexible licenses only, `max_resends` times (promise D) | exponential backoff |
"""

import itertools
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import anyio
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    wait_random_exponential,
)

from batchlic.carrier.answers import Outcome
from batchlic.carrier.auth import CarrierUnreachable
from batchlic.pool.verdict import Next, Verdict

_backoff = wait_random_exponential(multiplier=0.5, max=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long a run keeps trying.

    `give_up_after`: seconds without any definite answer to any request. `resendable`: the SKUs whose requests
    are sent again after a lost answer, up to `max_resends` times in a row. Devices of other SKUs stay in
    doubt. `trusts_duplicates`: a request of a resendable SKU whose answer was lost counts as accepted if the
    carrier refuses its repetition as a duplicate.
    """

    resendable: Collection[str]
    give_up_after: float = 30 * 60.0
    max_resends: int = 4
    trusts_duplicates: bool = True
    on_unreachable: Callable[[CarrierUnreachable], None] = lambda _: None
    """Is called each time that `reach` does not reach the carrier; must return at once."""

    async def run(self, attempt: Callable[[], Awaitable[Verdict]], sku_number: str | None) -> Verdict:
        """Attempt until nothing more is to be sent now; return the last verdict.

        `sku_number` is that of the devices; None if the caller handles lost answers itself.

        Tenacity is used only after an answer that needs a retry: most batches are accepted at once, and its
        machinery costs as much as the journal.
        """
        first = await attempt()
        if first.next is not Next.REPEAT:
            return first
        at_hand, doubts = [first], itertools.count(1)

        async def next_verdict() -> Verdict:
            return at_hand.pop() if at_hand else await attempt()

        def is_sent_again(verdict: Verdict) -> bool:
            if verdict.answer.outcome is Outcome.AMBIGUOUS and verdict.next is Next.REPEAT:
                return sku_number in self.resendable and next(doubts) <= self.max_resends
            return verdict.next is Next.REPEAT

        retrying = AsyncRetrying(sleep=anyio.sleep, wait=_wait, retry=retry_if_result(is_sent_again))
        return await retrying(next_verdict)

    async def reach(self, ask: Callable[[], Awaitable[None]], *, since: float) -> None:
        """Call `ask` until it reaches the carrier, and wait between calls as long as the carrier asks.

        Raises its CarrierUnreachable `give_up_after` seconds after `since`, or if the wait would be longer.
        """

        async def call() -> None:  # tenacity awaits coroutine functions only, not what merely returns one
            try:
                await ask()
            except CarrierUnreachable as error:
                self.on_unreachable(error)
                raise

        def is_too_late(state: RetryCallState) -> bool:
            return max(anyio.current_time() - since, _asked_to_wait(state)) > self.give_up_after

        await AsyncRetrying(
            sleep=anyio.sleep,
            wait=lambda state: max(_backoff(state), _asked_to_wait(state)),
            retry=retry_if_exception_type(CarrierUnreachable),
            stop=is_too_late,
            reraise=True,
        )(call)


def _asked_to_wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return (error.retry_after_s or 0.0) if isinstance(error, CarrierUnreachable) else 0.0


def _wait(state: RetryCallState) -> float:
    verdict: Verdict = state.outcome.result()  # type: ignore[union-attr]  # tenacity waits only after an outcome
    if verdict.answer.outcome in {Outcome.UNAVAILABLE, Outcome.AMBIGUOUS}:
        return _backoff(state)
    return 0.0
