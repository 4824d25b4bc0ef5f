"""What is sent again, how often, and for how long."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from batchlic.carrier.answers import Answer
from batchlic.carrier.auth import CarrierUnreachable
from batchlic.errors import CredentialsRejected
from batchlic.pool.remaining import Delivery
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.verdict import Verdict, judge
from tests.pool.builders import (
    ACCEPTED,
    AMBIGUOUS,
    BAD_DEVICE,
    FLEXIBLE,
    LIFETIME,
    REFUSED,
    THROTTLED,
    UNAUTHORIZED,
    UNAVAILABLE,
    batch,
)

POLICY = RetryPolicy(resendable={FLEXIBLE}, give_up_after=100.0, max_resends=4)


def attempts(sku: str, *answers: Answer) -> tuple[Answer, int, float]:
    """The last answer, how many attempts it took, and how many seconds."""
    coming = iter([*answers, *[answers[-1]] * 50])
    made = 0

    async def attempt() -> Verdict:
        nonlocal made
        made += 1
        answer = next(coming)
        return judge(Delivery(batch(1)), answer, is_proven=True, is_resendable=True, trusts_duplicates=True)

    async def run() -> tuple[Answer, int, float]:
        started = trio.current_time()
        verdict = await POLICY.run(attempt, sku)
        return verdict.answer, made, trio.current_time() - started

    return trio.run(run, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("sku", [FLEXIBLE, LIFETIME])
@pytest.mark.parametrize("answer", [ACCEPTED, REFUSED, BAD_DEVICE])
def test_a_definite_answer_is_never_asked_for_again(sku: str, answer: Answer) -> None:
    assert attempts(sku, answer)[:2] == (answer, 1)


@pytest.mark.parametrize("sku", [FLEXIBLE, LIFETIME])
@pytest.mark.parametrize("answer", [THROTTLED, UNAVAILABLE, UNAUTHORIZED])
def test_what_was_not_executed_is_sent_again(sku: str, answer: Answer) -> None:
    assert attempts(sku, answer, answer, answer, ACCEPTED)[:2] == (ACCEPTED, 4)


def test_d_a_doubtful_flexible_license_is_asked_for_a_few_times_more() -> None:
    assert attempts(FLEXIBLE, AMBIGUOUS)[:2] == (AMBIGUOUS, 5)
    assert attempts(FLEXIBLE, AMBIGUOUS, THROTTLED, AMBIGUOUS, ACCEPTED)[:2] == (ACCEPTED, 4)


def test_d_a_doubtful_lifetime_license_is_never_asked_for_again() -> None:
    assert attempts(LIFETIME, AMBIGUOUS)[:2] == (AMBIGUOUS, 1)
    assert attempts(LIFETIME, THROTTLED, AMBIGUOUS)[:2] == (AMBIGUOUS, 2)


def test_only_a_carrier_that_is_not_well_is_given_time_here() -> None:
    assert attempts(FLEXIBLE, THROTTLED, THROTTLED, UNAUTHORIZED, ACCEPTED)[2] == 0.0
    assert attempts(FLEXIBLE, *[UNAVAILABLE] * 5, ACCEPTED)[2] > 0.0
    assert attempts(FLEXIBLE, *[AMBIGUOUS] * 4, ACCEPTED)[2] > 0.0


def reach(ask: Callable[[], Awaitable[None]]) -> float:
    """How many seconds it took to reach the carrier."""

    async def run() -> float:
        since = trio.current_time()
        await POLICY.reach(ask, since=since)
        return trio.current_time() - since

    return trio.run(run, clock=MockClock(autojump_threshold=0))


def failing(*errors: Exception) -> Callable[[], Awaitable[None]]:
    coming = iter(errors)

    async def ask() -> None:
        for error in coming:
            raise error

    return ask


def test_j_a_login_that_is_told_to_wait_waits_as_long() -> None:
    assert reach(failing(CarrierUnreachable("busy", 70.0))) >= 70.0
    assert reach(failing(CarrierUnreachable("busy", 100.0))) >= 100.0
    assert reach(failing(CarrierUnreachable("down"), CarrierUnreachable("down"))) < 2.0


def test_a_login_that_is_told_to_wait_too_long_gives_up_at_once() -> None:
    with pytest.raises(CarrierUnreachable, match="busy"):
        reach(failing(CarrierUnreachable("busy", 101.0)))


def test_an_unreachable_carrier_is_given_up_after_a_while() -> None:
    with pytest.raises(CarrierUnreachable, match="down"):
        reach(failing(*[CarrierUnreachable("down")] * 1000))


def test_g_a_rejected_login_is_not_repeated() -> None:
    with pytest.raises(CredentialsRejected):
        reach(failing(CredentialsRejected("no"), AssertionError("asked again")))
