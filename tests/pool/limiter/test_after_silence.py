"""What is let in after a long silence: a window has opened, or the carrier wanted the silence."""

import pytest

from batchlic.pool.limiter.closed import Closed
from batchlic.pool.limiter.findings import Finding, Rate, Reopened, Window
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.windows.after_silence import AfterSilence

ROUND_TRIP_S = 0.05
OPENED_S = 100.0


def reopened(quota: int, *, took_s: float = 1.0) -> tuple[AfterSilence, Samples]:
    """After `quota` requests in `took_s`, the carrier was shut for 60 s, of which 15 s were silent."""
    samples = Samples(OPENED_S, 64)
    samples.round_trip = ROUND_TRIP_S
    window = Window(quota, period=took_s + 60.0)
    return AfterSilence(samples, Reopened(window, took_s, shut_s=60.0, silence_s=15.0)), samples


def answer(estimator: AfterSilence, samples: Samples, sent_at: float, ending: Ending) -> Finding | None:
    samples.now = sent_at + ROUND_TRIP_S
    sample = Sample(sent_at, in_flight=1, ending=ending)
    samples.ended(sample)
    return estimator.on_sample(sample)


@pytest.mark.parametrize("quota", [1, 2, 8, 100])
def test_one_more_than_the_quota_that_is_let_in_soon_shows_a_silent_penalty_box(quota: int) -> None:
    estimator, samples = reopened(quota)
    findings = [
        answer(estimator, samples, OPENED_S + number / estimator.rate(), Ending.ADMITTED)
        for number in range(1, quota + 1)
    ]
    assert findings[:-1] == [None] * (quota - 1)
    assert isinstance(found := findings[-1], Rate)
    assert found.pause_s == 15.0
    assert found.is_no_window


def test_one_more_than_the_quota_that_is_refused_shows_a_window() -> None:
    estimator, samples = reopened(8)
    for number in range(1, 8):
        answer(estimator, samples, OPENED_S + number, Ending.ADMITTED)
    assert answer(estimator, samples, OPENED_S + 8, Ending.REFUSED) == Window(8, period=61.0)


def test_a_quota_too_small_for_a_window_is_a_rate() -> None:
    estimator, samples = reopened(2)
    found = answer(estimator, samples, OPENED_S + 1, Ending.REFUSED)
    assert found == Rate(2 / 61.0, is_no_window=True)


def test_a_request_let_in_when_the_next_window_may_be_open_shows_nothing() -> None:
    estimator, samples = reopened(8)
    assert isinstance(answer(estimator, samples, OPENED_S + 44, Ending.ADMITTED), Window)


@pytest.mark.parametrize("took_s", [0.0, 0.2, 1.0, 10.0, 30.0])
def test_the_quota_is_sent_slower_than_before_and_in_time(took_s: float) -> None:
    estimator, _ = reopened(100, took_s=took_s)
    lasts = 101 / estimator.rate()
    assert lasts > took_s
    assert lasts < 45.0


@pytest.mark.parametrize(("silent_s", "kind"), [(1.5, Window), (6.0, Reopened)])
def test_only_after_a_long_silence_it_may_be_the_silence(silent_s: float, kind: type) -> None:
    samples = Samples(0.0, 64)
    for number in range(10):
        samples.now = number / 10
        sample = samples.sent()
        samples.now += ROUND_TRIP_S
        sample.ending = Ending.ADMITTED
        samples.ended(sample)
    closed = Closed(samples)
    for at in (1.0, 20.0):
        samples.now = at
        refused = samples.sent()
        refused.ending = Ending.REFUSED
        samples.ended(refused)
        closed.on_sample(refused)
    samples.now = 20.0 + silent_s
    admitted = samples.sent()
    admitted.ending = Ending.ADMITTED
    samples.ended(admitted)
    assert isinstance(closed.on_sample(admitted), kind)


def test_what_left_before_nothing_was_let_in_shows_no_distance() -> None:
    """The journal was slow: two more leave after everything was refused, and are let in."""
    samples = Samples(OPENED_S, 8)
    samples.round_trip = ROUND_TRIP_S
    estimator = Closed(samples)
    first, second = samples.sent(), samples.sent()
    first.sent_at, second.sent_at = OPENED_S + 1.0, OPENED_S + 1.1
    refused = samples.sent()
    refused.sent_at, refused.ending = OPENED_S + 1.2, Ending.REFUSED
    samples.ended(refused)
    samples.now, first.ending = OPENED_S + 1.3, Ending.ADMITTED
    samples.ended(first)
    found = estimator.on_sample(first)
    assert found is not None
    assert not (isinstance(found, Rate) and found.is_spaced)
