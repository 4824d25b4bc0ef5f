"""What the estimator of windows is made of: periods, attempts, the cycle, its shape, and who shares it."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.windows.attempts import Attempts
from batchlic.pool.limiter.windows.cycle import LATE_S, Cycle
from batchlic.pool.limiter.windows.extras import Extras
from batchlic.pool.limiter.windows.periods import configured, enclosing, is_usual, is_window
from batchlic.pool.limiter.windows.shape import Shape
from batchlic.pool.limiter.windows.sharing import Sharing
from batchlic.pool.limiter.windows.shorter import Shorter
from batchlic.pool.limiter.windows.unexpected import Unexpected


def cycle(period: float = 10.0, *, used: int = 0, late: float = 0.0) -> Cycle:
    return Cycle(opened=0.0, period=period, used=used, late=late)


def refused(samples: Samples, at: float) -> Sample:
    samples.now = at
    sample = samples.sent()
    sample.ending = Ending.REFUSED
    samples.ended(sample)
    return sample


@pytest.mark.parametrize(("measured", "period"), [(59.0, 60.0), (1.05, 1.0), (4.2, 5.0), (8.9, 10.0)])
def test_a_period_near_a_usual_one_is_taken_for_it(measured: float, period: float) -> None:
    assert configured(measured) == period


def test_an_unusual_period_is_tried_a_little_early() -> None:
    assert configured(150.0) == pytest.approx(0.94 * 150)


def test_a_usual_period_is_taken_only_where_the_measurement_allows_it() -> None:
    assert configured(7.76) == 10.0
    assert configured(7.76, most=8.0) == pytest.approx(0.94 * 7.76)
    assert configured(37.6) == 30.0
    assert configured(37.6, least=32.7) == pytest.approx(0.94 * 37.6)


def test_a_pause_in_whole_seconds_was_rounded_up_to_the_end_of_a_usual_window() -> None:
    assert enclosing(took=0.4, pause=60.0, is_exact=False) == 60.0
    assert enclosing(took=0.4, pause=42.0, is_exact=False) == pytest.approx(42.4)
    assert enclosing(took=0.4, pause=59.75, is_exact=False) == 60.0  # lengthened since
    assert enclosing(took=0.4, pause=59.75, is_exact=True) == pytest.approx(60.15)


def test_few_requests_or_a_short_period_are_no_window_to_wait_for() -> None:
    assert is_window(100, 1.0, round_trip=0.1)
    assert not is_window(4, 60.0, round_trip=0.1)
    assert not is_window(100, 1.0, round_trip=0.3)


def test_attempts_are_rarer_the_longer_they_are_in_vain() -> None:
    samples = Samples(0.0, 8)
    attempts = Attempts(samples, first_s=0.1)
    waits = []
    for _ in range(30):
        refused(samples, at := samples.now + attempts.wait())
        attempts.refused(Sample(sent_at=at, in_flight=1))
        waits.append(round(attempts.wait(), 6))
    assert waits == sorted(waits)
    assert waits[-1] > 10 * waits[0]


def test_a_refusal_of_an_earlier_request_is_no_attempt() -> None:
    samples = Samples(5.0, 8)
    attempts = Attempts(samples, first_s=0.1)
    attempts.refused(Sample(sent_at=4.9, in_flight=1))
    assert attempts.in_vain == 0
    assert attempts.wait() == pytest.approx(0.1)


def test_the_first_cycle_asks_whether_the_next_window_is_open_already() -> None:
    first = cycle()
    first.ask()
    assert first.question_due(0.0) == 5.0
    assert first.question_due(8.5) == pytest.approx(-0.5)  # of those that were missed, the latest
    first.asked()
    assert first.question_due(8.5) == pytest.approx(0.5)


def test_a_question_may_be_asked_after_all_were_dropped() -> None:
    sliding = cycle()
    sliding.ask()
    sliding.ask_nothing()
    sliding.asked()
    assert sliding.question_due(0.0) == math.inf


def test_a_confirmed_cycle_halves_what_it_may_be_late_by() -> None:
    later = cycle(late=8 * LATE_S)
    later.begin(10.0, 0, by_plan=True)
    later.admitted(Sample(sent_at=10.1, in_flight=1))
    later.ask()
    assert later.question_due(10.0) == pytest.approx(10.0 - 4 * LATE_S)
    later.late = LATE_S
    later.ask()
    assert later.question_due(10.0) == math.inf


def test_a_window_that_did_not_open_as_planned_leaves_the_earlier_one() -> None:
    window = cycle()
    window.begin(10.0, 0, by_plan=True)
    window.has_not_begun()
    assert window.opened == 0.0
    window.begin(10.3, 0, by_plan=False)
    window.has_not_begun()
    assert window.opened == 10.3


def test_a_trial_of_a_fixed_window_fails_if_little_of_its_quota_is_let_in() -> None:
    shape, window = Shape(), cycle()
    shape.suppose_fixed(window, period=5.0, opened=3.0)
    assert (shape.is_fixed, window.period, shape.counts_from) == (True, 5.0, 3.0)
    window.used = 49
    assert shape.fails_trial(window, quota=100)
    assert (shape.is_fixed, shape.is_sliding, window.period, shape.counts_from) == (
        False,
        True,
        10.0,
        -math.inf,
    )


@pytest.mark.parametrize("ended", [True, False])
def test_a_trial_that_is_over_or_went_well_does_not_fail(*, ended: bool) -> None:
    shape, window = Shape(), cycle(used=10 if ended else 50)
    shape.suppose_fixed(window, period=5.0, opened=3.0)
    if ended:
        shape.end_trial()
    assert not shape.fails_trial(window, quota=100)
    assert shape.is_fixed


@pytest.mark.parametrize(("second", "is_sliding"), [(8.0, True), (9.5, False)])
def test_a_window_that_opens_twice_within_its_length_slides(second: float, *, is_sliding: bool) -> None:
    shape, window, samples = Shape(), cycle(), Samples(0.0, 8)
    for refused_at, admitted_at in ((0.2, 0.3), (second, second + 0.1)):
        refused(samples, refused_at)
        shape.compare(Sample(sent_at=admitted_at, in_flight=1), samples, window)
    assert (shape.opens_anytime, shape.is_sliding) == (is_sliding, is_sliding)


def test_two_changes_of_a_quota_within_thirty_periods_show_that_others_use_it() -> None:
    sharing = Sharing()
    assert not sharing.changed(0.0, 1.0, is_clear=True)
    assert not sharing.is_contended(0.0)
    assert not sharing.changed(31.0, 1.0, is_clear=True)
    assert sharing.changed(60.0, 1.0, is_clear=False)
    assert sharing.is_contended(89.0)
    assert not sharing.is_shared
    assert sharing.changed(61.0, 1.0, is_clear=True)
    assert sharing.is_shared
    assert not sharing.is_contended(92.0)


def test_probes_grow_until_one_is_refused_and_stay_single_where_others_compete() -> None:
    extras = Extras(probe_at=0.0)
    sizes = []
    for one in (False, False, False, True):
        extras.plan_probes(one=one)
        sizes.append(extras.left)
    assert sizes == [1, 4, 16, 1]


def test_a_question_takes_the_place_of_planned_probes() -> None:
    extras, sample = Extras(probe_at=0.0), Sample(sent_at=1.0, in_flight=1)
    extras.plan_question()
    extras.asked(sample)
    assert (extras.question, extras.left, extras.asks) == (sample, 0, False)
    extras.lost(sample)
    assert extras.question is None


def test_refusals_of_requests_before_a_judgment_are_part_of_it() -> None:
    unexpected = Unexpected(0.0)
    sample = Sample(sent_at=1.0, in_flight=1)
    assert unexpected.is_new(sample)
    unexpected.hold(sample, until=2.0)
    assert not unexpected.is_new(Sample(sent_at=1.1, in_flight=1))
    unexpected.settle(1.5)
    assert not unexpected.is_new(Sample(sent_at=1.4, in_flight=1))
    assert unexpected.is_new(Sample(sent_at=1.6, in_flight=1))


def search(period: float, told: float, *, is_on: bool = True) -> tuple[float, int]:
    """The length found in 60 windows that open if they are as long as `period`, and refusals until then."""
    shorter, length, refused = Shorter(told, is_on=is_on), told, 0
    for _ in range(60):
        if length >= period:
            length = shorter.fits(length)
        else:
            refused += 1
            longer = shorter.fails(length)
            assert longer is not None
            assert length < longer <= told
            length = longer
    return length, refused


@given(told=st.floats(0.5, 4.0), share=st.floats(0.05, 1.0))
@example(told=1.0, share=0.6)
@example(told=2.0, share=0.3)
def test_a_window_shorter_than_told_is_found_at_the_cost_of_few_refusals(told: float, share: float) -> None:
    period = max(share * told, told - 1.99)
    length, refused = search(period, told)
    assert period <= length <= (2.0 if is_usual(length) else 1.42) * period
    assert refused <= 3


def test_a_window_that_was_told_exactly_is_not_searched_for() -> None:
    assert search(0.1, 1.0, is_on=False) == (1.0, 0)
    assert Shorter(1.0, is_on=False).fails(0.5) is None


def test_a_length_that_opened_several_times_by_chance_is_a_little_too_short() -> None:
    shorter = Shorter(1.0, is_on=True)
    shorter.fits(1.0)
    assert (half := shorter.fits(1.0)) == 0.5
    for _ in range(4):
        assert shorter.fits(half) == half
    assert shorter.fails(half) == pytest.approx(0.5 * 5 / 4)
    assert shorter.fails(1.0) is None  # the told length is long enough: it is another limit
