"""A quota for each window that is refuted by what the carrier lets in."""

from batchlic.pool.limiter.findings import Rate, Window
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.transitions import estimator_for

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
