"""A share of the limit is left to others who use the same login."""

from dataclasses import replace

import pytest

from batchlic.pool.limiter.evidence import Learned
from batchlic.pool.limiter.findings import Rate
from batchlic.pool.limiter.limiter import Limiter
from tests.benchmarks.limiter.engine import Clock, Measured, measure
from tests.benchmarks.limiter.hidden import Hidden, Part
from tests.benchmarks.limiter.learned import knowing
from tests.benchmarks.limiter.peers import Batchlic

START = 0.3
BUCKET = Hidden((Part("bucket", 50.0, burst=10),), requests=10_000)
WINDOW = Hidden((Part("fixed", 50.0, period_s=2.0),), requests=10_000)
SLIDING = Hidden((Part("sliding", 20.0, period_s=10.0),), requests=4000)
CALLS = Hidden((Part("calls", calls=10),), requests=20_000)
PENALTY = Hidden((Part("bucket", 20.0, burst=20),), requests=4000, penalty_s=10.0)


def used(run: Measured, limit: float, since: float, until: float) -> float:
    """Share of the limit that was used between two moments, in seconds since the start."""
    return sum(since <= at - START < until for at in run.admitted) / (until - since) / limit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "limit"),
    [(BUCKET, 50.0), (WINDOW, 50.0), (SLIDING, 20.0), (CALLS, 200.0), (PENALTY, 20.0)],
    ids=["bucket", "window", "sliding", "calls", "penalty box"],
)
def test_only_the_share_that_is_not_left_to_others_is_used(hidden: Hidden, limit: float) -> None:
    lasts = min(200.0, 0.8 * hidden.requests / limit)
    run = measure(hidden, knowing(None, headroom=0.2), start=START)
    assert 0.7 <= used(run, limit, lasts - 30, lasts) <= 0.87


def test_what_an_earlier_run_has_found_is_not_exceeded_even_at_first() -> None:
    run = measure(
        replace(BUCKET, requests=1500), knowing(Learned(limit=Rate(50.0)), headroom=0.4), start=START
    )
    assert run.refusals == []
    client = run.clients[0]
    assert isinstance(client, Batchlic)
    assert client.limiter.learned is None, "nothing was measured anew, so what is known grows older"
    assert used(run, 50.0, 1.0, 40.0) == pytest.approx(0.6, abs=0.02)


@pytest.mark.slow
def test_a_limit_that_has_doubled_is_found_again_and_shared_again() -> None:
    hidden = replace(BUCKET, requests=40_000, changes=((100.0, 2.0),))
    run = measure(hidden, knowing(None, headroom=0.2), start=START)
    assert used(run, 50.0, 200.0, 280.0) <= 0.87
    assert 1.4 <= used(run, 50.0, 400.0, 500.0) <= 1.72


@pytest.mark.slow
def test_spurious_refusals_do_not_wear_down_what_is_used() -> None:
    run = measure(replace(BUCKET, spurious=0.02), knowing(None, headroom=0.2), start=START)
    assert used(run, 50.0, 150.0, 200.0) >= 0.8 * used(run, 50.0, 30.0, 80.0)


def started(limiter: Limiter, clock: Clock, seconds: float) -> int:
    """Requests that start in so many seconds, each answered at once."""
    count, until = 0, clock.now + seconds
    while clock.now < until:
        if (delay := limiter.delay()) > 0:
            clock.now += min(delay, until - clock.now + 1e-6)
            continue
        limiter.take().success()
        count += 1
        clock.now += 0.001
    return count


def test_bounds_change_while_it_runs() -> None:
    clock = Clock(10.0)
    limiter = Limiter(max_concurrency=8, max_rate=100.0, clock=clock)
    assert 95 <= started(limiter, clock, 1.0) <= 105
    limiter.set_bounds(max_rate=20.0, max_concurrency=8, headroom=0.0)
    assert 18 <= started(limiter, clock, 1.0) <= 22
    limiter.set_bounds(max_rate=None, max_concurrency=2, headroom=0.0)
    assert limiter.concurrency == 2


def test_a_fixed_rate_is_bounded_but_never_raised() -> None:
    clock = Clock(10.0)
    limiter = Limiter(max_concurrency=8, fixed_rate=50.0, clock=clock)
    limiter.set_bounds(max_rate=500.0, max_concurrency=8, headroom=0.0)
    assert 48 <= started(limiter, clock, 1.0) <= 52
    limiter.set_bounds(max_rate=5.0, max_concurrency=8, headroom=0.0)
    assert 4 <= started(limiter, clock, 1.0) <= 6


def test_what_is_stopped_twice_goes_on_at_once_and_its_time_is_left_out() -> None:
    clock = Clock(10.0)
    limiter = Limiter(max_concurrency=8, clock=clock)
    limiter.stop()
    limiter.stop()
    assert started(limiter, clock, 30.0) == 0
    limiter.go_on()
    assert started(limiter, clock, 1.0) > 0
    assert limiter.seconds_since(5.0) == pytest.approx(6.0, abs=0.1)
