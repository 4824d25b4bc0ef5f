"""A quota for each window that is refuted by what the carrier lets in."""

import pytest

from batchlic.pool.limiter.findings import Rate, Window
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.transitions import estimator_for
from tests.benchmarks.limiter.engine import measure
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.peers import PEERS

ROUND_TRIP = 0.05


def ended(samples: Samples, at: float, ending: Ending) -> Sample:
    """One request that has ended."""
    samples.now = at
    sample = samples.sent()
    samples.now, sample.ending = at + ROUND_TRIP, ending
    samples.ended(sample)
    return sample


def test_a_quota_of_which_nothing_is_let_in_becomes_a_rate_above_zero() -> None:
    samples = Samples(0.0, 8)
    ended(samples, 0.0, Ending.ADMITTED)
    windowed = estimator_for(Window(quota=4, period=1.0), samples)
    found = windowed.on_sample(ended(samples, 10.0, Ending.REFUSED))
    assert isinstance(found, Rate)
    assert estimator_for(found, samples).rate() > 0


def test_a_planned_question_may_be_dropped_before_it_leaves() -> None:
    """Two processes under a slow bucket: what looks like a window turns out to open at any time."""
    slow = Hidden(
        (Part("bucket", rate=0.3553842254513956, burst=81),),
        requests=111,
        latency_s=0.19393193651130075,
        jitter_s=0.09696596825565038,
        network_s=0.020279278788686305,
        processes=2,
        seed=29,
    )
    assert len(measure(slow, PEERS["batchlic"]).admitted) == slow.requests


@pytest.mark.parametrize(("start", "seed"), [(14.706181803975374, 217), (22.7001712348657, 292)])
def test_a_quota_measured_over_two_fixed_windows_is_corrected(start: float, seed: int) -> None:
    """The quota is used up just before the next window opens, so twice as many seem to be allowed."""
    window = Hidden((Part("fixed", rate=200.0, period_s=1.0),), requests=4000, seed=seed)
    assert measure(window, PEERS["batchlic"], start=start).share >= 0.9


class Told:
    """A window with a quota of 20, after a wait that was told in whole seconds."""

    def __init__(self, period: float) -> None:
        self.samples = Samples(100.0, 64)
        self.samples.round_trip, self.samples.pause = ROUND_TRIP, period
        self.estimator = estimator_for(Window(20, period, opened_at=100.0), self.samples)

    def use_up(self) -> float:
        """Use up the quota; returns the seconds since the window opened at which the next one may leave."""
        opened = self.samples.now + max(0.0, self.estimator.wait())
        for _ in range(20):
            self.send(Ending.ADMITTED)
        return self.samples.now + self.estimator.wait() - opened

    def send(self, ending: Ending) -> None:
        while (wait := self.estimator.wait()) > 0:
            self.samples.now += wait
        sample = self.samples.sent()
        self.estimator.on_sent(sample)
        sample.ending, sample.retry_after_s = ending, float(ending is Ending.REFUSED)
        self.samples.ended(sample)
        self.estimator.on_sample(sample)


def test_one_asks_whether_a_told_window_opens_a_second_earlier() -> None:
    told = Told(10.0)
    assert told.use_up() == pytest.approx(9.0, abs=0.1)
    told.send(Ending.REFUSED)
    assert told.use_up() == pytest.approx(10.0, abs=0.1)  # asked once, in vain


def test_a_told_window_that_opens_earlier_again_and_again_is_shorter() -> None:
    told, periods = Told(4.0), []
    for _ in range(3):
        told.use_up()
        found = told.estimator.found()
        assert isinstance(found, Window)
        periods.append(found.period)
    assert periods[1] == 4.0  # the present one may only have begun earlier
    assert periods[2] < 3.0


@pytest.mark.slow
def test_windows_that_are_told_too_long_are_used_up() -> None:
    window = Hidden((Part("fixed", 23.0, period_s=2.81),), requests=1380, hint=Hint.ROUNDED, latency_s=0.138)
    assert measure(window, PEERS["batchlic"]).share >= 0.93
