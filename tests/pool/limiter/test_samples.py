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


def test_only_a_wait_that_was_told_in_fractions_is_exact() -> None:
    samples = Samples(0.0, max_in_flight=64)
    for told_s, waited_s, is_exact in ((1.0, 1.0, False), (1.0, 1.25, False), (0.24, 0.24, True)):
        sample = samples.sent()
        sample.ending, sample.told_s, sample.retry_after_s = Ending.REFUSED, told_s, waited_s
        samples.ended(sample)
        assert samples.is_exact == is_exact


def first_distance(*left_after: float, answered_after: float = 0.05) -> float | None:
    """What is known if the first request is let in, and the others are refused that left so much later."""
    samples = Samples(0.0, max_in_flight=64)
    first = samples.sent()
    others = []
    for samples.now in left_after:
        others.append(samples.sent())
    for other in others:
        other.ending = Ending.REFUSED
        samples.ended(other)
    samples.now, first.ending = answered_after, Ending.ADMITTED
    samples.ended(first)
    return samples.first_distance


def test_one_that_is_let_in_of_many_shows_that_there_is_no_burst() -> None:
    assert first_distance(0.0, 0.0, 0.0) == 0.05
    assert first_distance(0.001, 0.003, 0.006) == 0.05  # each of them was written to disk first
    assert first_distance(0.0, 0.0) is None
    assert first_distance(0.02, 0.03, 0.04) is None


def test_the_latest_burst_is_known_though_an_earlier_wait_hides_when_it_began() -> None:
    samples = Samples(0.0, max_in_flight=64)
    late, unwell = samples.sent(), samples.sent()
    unwell.was_sent, unwell.ending, unwell.retry_after_s = True, Ending.LOST, 5.0
    samples.ended(unwell)
    late.ending, late.told_s, late.retry_after_s = Ending.REFUSED, 30.0, 30.0
    samples.ended(late)
    assert samples.latest_burst == [0.0]
