"""Nothing is let in: what it was."""

import pytest

from batchlic.pool.limiter.closed import Closed
from batchlic.pool.limiter.findings import Finding, NoLimit, Rate
from batchlic.pool.limiter.samples import Ending, Samples
from tests.benchmarks.limiter.engine import measure
from tests.benchmarks.limiter.hidden import Hidden, Part
from tests.benchmarks.limiter.peers import PEERS


def reopened_after(seconds: float, *, rate: float) -> Finding | None:
    """What is found if nothing is let in for so long, at a rate that is known."""
    samples = Samples(0.0, 64)
    samples.round_trip = 0.1
    closed = Closed(samples, rate)
    while True:
        samples.now += closed.wait()
        sample = samples.sent()
        closed.on_sent(sample)
        sample.ending = Ending.REFUSED if samples.now < seconds else Ending.ADMITTED
        samples.ended(sample)
        finding = closed.on_sample(sample)
        if sample.ending is Ending.ADMITTED:
            return finding


@pytest.mark.parametrize("rate", [4.0, 20.0, 300.0])
def test_a_rate_at_which_nothing_is_let_in_for_long_is_a_window(rate: float) -> None:
    assert isinstance(reopened_after(25 / rate, rate=rate), NoLimit)


@pytest.mark.parametrize("rate", [0.1, 4.0, 300.0])
def test_a_rate_that_is_refused_for_a_moment_stays_one(rate: float) -> None:
    assert isinstance(reopened_after(5 / rate, rate=rate), Rate)


def test_where_attempts_are_rare_silence_may_be_why_one_is_let_in() -> None:
    assert isinstance(reopened_after(250.0, rate=0.1), Rate)


@pytest.mark.parametrize("start", [1.6, 3.0, 5.5])
def test_a_fixed_window_of_no_usual_length_is_not_taken_for_a_longer_one(start: float) -> None:
    hidden = Hidden((Part("fixed", 57.0, period_s=7.76),), requests=3400, latency_s=0.034)
    assert measure(hidden, PEERS["batchlic"], start=start).share >= 0.95
