"""A quota for each window that is refuted by what the carrier lets in."""

import pytest

from batchlic.pool.limiter.findings import Rate, Window
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.transitions import estimator_for
from tests.benchmarks.limiter.engine import measure
from tests.benchmarks.limiter.hidden import Hidden, Part
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
