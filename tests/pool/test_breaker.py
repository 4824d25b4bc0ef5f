"""While nothing gets through, one request at a time finds out whether that is over."""

from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio
from trio.testing import MockClock

from batchlic.carrier.answers import Answer
from batchlic.pool.breaker import FIRST_PAUSE, LONGEST_PAUSE, THRESHOLD, CircuitBreaker
from tests.pool.builders import ACCEPTED, AMBIGUOUS, REFUSED, THROTTLED, UNAUTHORIZED, UNAVAILABLE


def virtually(device_history: Callable[[], Awaitable[None]]) -> None:
    trio.run(device_history, clock=MockClock(autojump_threshold=0))


def opened() -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(THRESHOLD):
        breaker.record(UNAVAILABLE)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row_and_no_sooner() -> None:
    async def device_history() -> None:
        breaker = CircuitBreaker()
        for _ in range(2):
            for failure in [UNAVAILABLE, AMBIGUOUS, UNAVAILABLE, AMBIGUOUS][: THRESHOLD - 1]:
                breaker.record(failure)
            assert not breaker.is_open
            breaker.record(THROTTLED)
        assert opened().is_open

    virtually(device_history)


@pytest.mark.parametrize("answer", [ACCEPTED, REFUSED, THROTTLED, UNAUTHORIZED])
def test_any_definite_answer_closes_it(answer: Answer) -> None:
    async def device_history() -> None:
        begun, breaker = trio.current_time(), opened()
        breaker.record(answer)
        assert not breaker.is_open
        async with breaker.passage():
            assert trio.current_time() == begun

    virtually(device_history)


def test_while_it_is_open_one_probe_goes_at_a_time_with_growing_pauses() -> None:
    probes: list[float] = []
    inside = 0

    async def work(breaker: CircuitBreaker) -> None:
        nonlocal inside
        while len(probes) < 10:
            async with breaker.passage():
                inside += 1
                assert inside == 1
                probes.append(trio.current_time())
                await trio.sleep(0.5)
                inside -= 1
                breaker.record(UNAVAILABLE)

    async def device_history() -> None:
        breaker, begun = opened(), trio.current_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(work, breaker)
            await trio.sleep(1000)
            tasks.cancel_scope.cancel()
        gaps = [round(b - a, 6) for a, b in zip([begun, *probes], probes, strict=False)]
        assert gaps[0] == FIRST_PAUSE
        assert gaps[1:8] == [0.5 + min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(1, 8)]

    virtually(device_history)


def test_when_a_probe_gets_through_all_who_waited_go_at_once() -> None:
    went: list[float] = []

    async def work(breaker: CircuitBreaker) -> None:
        async with breaker.passage():
            went.append(trio.current_time())
            breaker.record(ACCEPTED)

    async def device_history() -> None:
        breaker, begun = opened(), trio.current_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(work, breaker)
        assert [at - begun for at in went] == [FIRST_PAUSE] * 20

    virtually(device_history)
