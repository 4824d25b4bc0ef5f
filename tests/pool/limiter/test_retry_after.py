"""Everyone waits as long as the carrier says, also to an earlier session (promise J)."""

import pytest
import trio
from trio.testing import MockClock

from batchlic.pool.limiter.limiter import Limiter
from tests.benchmarks.limiter.engine import Clock


def test_j_nobody_starts_while_the_limiter_is_held() -> None:
    async def first_starts_at() -> float:
        began = trio.current_time()
        limiter = Limiter(max_concurrency=4)
        limiter.hold(30)
        limiter.hold(10)
        await limiter.acquire()
        return trio.current_time() - began

    assert 30 <= trio.run(first_starts_at, clock=MockClock(autojump_threshold=0)) < 31


def lengths_of_pauses(*, lets_in_after: float) -> list[float]:
    """The pauses that everyone keeps where each refusal says 10 s, and more are needed."""
    clock = Clock(100.0)
    limiter = Limiter(max_concurrency=1, clock=clock)
    waits: list[float] = []
    shut_until = lets_in_after
    for _ in range(8):
        permit = limiter.take()
        if clock.now >= shut_until and waits:
            permit.success()
            break
        shut_until = clock.now + lets_in_after
        permit.throttled(10.0)
        waits.append(limiter.delay())
        clock.now += waits[-1]
    return waits


def test_j_a_told_pause_that_proves_too_short_is_lengthened() -> None:
    assert lengths_of_pauses(lets_in_after=14.0) == pytest.approx([10.0, 12.5, 15.625])


def test_j_a_told_pause_that_suffices_stays_as_it_is() -> None:
    assert lengths_of_pauses(lets_in_after=9.0) == pytest.approx([10.0])


def test_j_a_told_pause_that_sufficed_is_not_lengthened_at_a_later_refusal() -> None:
    clock = Clock(100.0)
    limiter = Limiter(max_concurrency=8, clock=clock)
    limiter.take().throttled(10.0)
    clock.now += 10.0 - 5e-7  # as good as the end of the pause
    others = [limiter.take()]
    for _ in range(5):
        clock.now += 0.1
        others.append(limiter.take())
        clock.now += 0.1
        others.pop(0).success()  # after the next one has left
    limiter.take().throttled(10.0)
    assert limiter.held_s == pytest.approx(10.0)
