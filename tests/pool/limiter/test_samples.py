"""What the requests so far show."""

from batchlic.pool.limiter.samples import Ending, Sample, Samples


def refused(samples: Samples) -> Sample:
    sample = samples.sent()
    sample.was_sent, sample.ending = True, Ending.REFUSED
    samples.ended(sample)
    return sample


def test_refusals_with_few_in_flight_speak_against_a_limit_on_calls_until_the_carrier_opens_again() -> None:
    samples = Samples(0.0, max_in_flight=64)
    refused(samples)
    assert not samples.is_limit_on_calls(20)
    samples.now = 10.0
    samples.reopened(10.0)
    assert samples.is_limit_on_calls(20)
    refused(samples)
    assert not samples.is_limit_on_calls(20)
