"""How many requests in flight are worth it is found, for a carrier that slows down under load."""

from collections.abc import Callable

import pytest

from batchlic.pool.limiter.latency import Latency
from batchlic.pool.limiter.samples import Ending, Samples

MOST = 64


def settled(answer_s: Callable[[int], float], *, requests: int = 20_000) -> int:
    """Where always as many are in flight as allowed, each answered in the time that so many take."""
    samples = Samples(0.0, MOST)
    latency = Latency(samples, MOST)
    samples.now = answer_s(1)
    deliver(samples, latency, answer_s(1), 1)
    for _ in range(requests):
        inside = latency.calls()
        samples.now += answer_s(inside) / inside
        deliver(samples, latency, answer_s(inside), inside)
    return latency.calls()


def deliver(samples: Samples, latency: Latency, took: float, in_flight: int) -> None:
    sample = samples.sent()
    sample.sent_at, sample.in_flight, sample.ending = samples.now - took, in_flight, Ending.ADMITTED
    samples.ended(sample)
    latency.on_sample(sample)


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


@pytest.mark.slow
def test_after_the_load_is_gone_there_are_more_again() -> None:
    assert settled(lambda n: max(0.05, n / 200)) < MOST
    calls = iter(range(10**6))
    assert settled(lambda n: max(0.05, n / 200) if next(calls) < 30_000 else 0.05, requests=60_000) == MOST
