"""Where each refusal stops everyone, limits are found with few of them, and kept to."""

from dataclasses import replace

import pytest

from batchlic.pool.limiter.careful_rate import CarefulRate
from batchlic.pool.limiter.findings import Rate
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.samples import Samples
from tests.benchmarks.limiter.engine import Clock, Measured, measure
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.peers import Batchlic


def run(rate: float, burst: int, *, seconds: float = 60, **conditions: object) -> Measured:
    hidden = Hidden((Part("bucket", rate, burst=burst),), requests=round(rate * seconds), hint=Hint.ROUNDED)
    return measure(replace(hidden, **conditions), Batchlic)  # type: ignore[arg-type]  # fields of Hidden


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "latency"), [(374.0, 0.05), (200.0, 0.09), (85.0, 0.23), (28.0, 0.22), (7.5, 0.35)]
)
def test_a_bucket_without_burst_is_no_limit_on_calls(rate: float, latency: float) -> None:
    assert run(rate, 1, latency_s=latency).share >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize("hint", [Hint.ROUNDED, Hint.DATE])
@pytest.mark.parametrize(("rate", "burst"), [(20.0, 5), (100.0, 10), (200.0, 20)])
def test_the_dearer_a_refusal_the_fewer_there_are(rate: float, burst: int, hint: Hint) -> None:
    found = run(rate, burst, hint=hint)
    assert found.share >= 0.8
    assert len(found.refusals) <= 20


@pytest.mark.parametrize(("rate", "penalty"), [(20.0, 10.0), (15.0, 12.5), (5.0, 9.0)])
def test_a_penalty_box_that_tells_its_time_is_seldom_entered(rate: float, penalty: float) -> None:
    assert run(rate, 15, seconds=200, penalty_s=penalty).share >= 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "burst", "penalty"),
    [
        (20.0, 15, 10.0),
        (37.0, 15, 10.3),
        (82.0, 15, 9.4),
        (42.0, 19, 5.0),  # the burst that is let in first takes seconds
        (8.0, 8, 10.9),  # it leaves at once
        (8.5, 2, 12.1),  # it is no quota of a window
        (3.1, 1, 10.4),
        (2.5, 12, 14.9),
    ],
)
def test_a_silent_penalty_box_is_told_from_a_window(rate: float, burst: int, penalty: float) -> None:
    found = run(rate, burst, seconds=200, penalty_s=penalty, hint=Hint.NOTHING)
    assert found.share >= 0.55
    assert len(found.refusals) <= 65


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "factor"), [(50.0, 2.0), (100.0, 2.0), (50.0, 0.5)])
def test_a_limit_that_changes_is_found_again(rate: float, factor: float) -> None:
    found = run(rate, 10, seconds=200, changes=((30.0, factor),))
    assert found.share >= 0.65


@pytest.mark.parametrize("pause", [2.0, 20.0, 600.0])
def test_after_each_told_pause_one_request_may_start_at_once(pause: float) -> None:
    clock = Clock(100.0)
    limiter = Limiter(max_concurrency=8, clock=clock)
    limiter.take().success()
    for _ in range(4):
        clock.now += max(0.0, limiter.delay())
        permit = limiter.take()
        clock.now += 0.05
        permit.throttled(pause)
        assert limiter.delay() <= 1.25**4 * pause


def test_the_rate_grows_evenly_to_the_one_that_was_refused() -> None:
    samples = Samples(100.0, 64)
    samples.pause, samples.round_trip = 1.0, 0.05
    estimator = CarefulRate(samples, Rate(10.0, refused_per_s=40.0))
    began = samples.now
    reached: dict[float, float] = {}
    for _ in range(3000):
        samples.now += 0.01
        estimator.on_sent(samples.sent())
        for rate in (20.0, 40.0):
            if estimator.rate() >= rate:
                reached.setdefault(rate, samples.now - began)
    assert reached[40.0] == pytest.approx(2 * reached[20.0], rel=0.02)
    assert reached[40.0] > 5 * samples.pause
