"""The pace finds how many requests in flight are worth it, for a carrier that slows down under load."""

from collections.abc import Callable

import pytest

from batchlic.pool.limiter.knee import Knee
from batchlic.pool.limiter.observed import Observed

MOST = 64


def settled(answer_s: Callable[[int], float], *, requests: int = 20_000) -> int:
    """Where always as many are in flight as allowed, each answered in the time that so many take."""
    seen = Observed(0.0, MOST)
    knee = Knee(seen)
    seen.now = answer_s(1)
    deliver(seen, knee, answer_s(1), 1)
    for _ in range(requests):
        inside = seen.max_concurrency
        seen.now += answer_s(inside) / inside
        deliver(seen, knee, answer_s(inside), inside)
    return seen.max_concurrency


def deliver(seen: Observed, knee: Knee, took: float, company: int) -> None:
    for _ in range(company - 1 - seen.in_flight):
        seen.takes_off()
    flight = seen.takes_off()
    flight.sent_at -= took
    seen.delivered(flight)
    knee.delivered(flight)


@pytest.mark.parametrize(
    ("answer_s", "least", "most"),
    [
        pytest.param(lambda _: 0.05, MOST, MOST, id="no load: all"),
        pytest.param(lambda n: 0.05 + 0.005 * n, MOST // 2, MOST, id="more still deliver more"),
        pytest.param(lambda n: max(0.05, n / 200), 8, 16, id="a queue behind 10 servers"),
        pytest.param(lambda n: 0.05 * max(1, n / 8) ** 1.5, 8, 16, id="throughput falls under load"),
    ],
)
def test_in_flight_are_as_many_as_are_worth_it(
    answer_s: Callable[[int], float], least: int, most: int
) -> None:
    assert least <= settled(answer_s) <= most


def test_after_the_load_is_gone_there_are_more_again() -> None:
    assert settled(lambda n: max(0.05, n / 200)) < MOST
    calls = iter(range(10**6))
    assert settled(lambda n: max(0.05, n / 200) if next(calls) < 30_000 else 0.05, requests=60_000) == MOST
