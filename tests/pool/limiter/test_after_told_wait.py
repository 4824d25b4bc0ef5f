"""After a long told wait: a window has opened, a bucket has one more, or the wait was a penalty."""

import pytest

from batchlic.pool.limiter.findings import Finding, NoLimit, Rate, ToldToWait, Window
from batchlic.pool.limiter.limiter import TOLD_TO_WAIT, Change, Limiter
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.windows.after_told_wait import AfterToldWait
from batchlic.pool.limiter.windows.periods import renewed
from tests.benchmarks.limiter.engine import Clock, measure
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.peers import Batchlic

BEGAN_S, ROUND_TRIP_S, EACH_S = 100.0, 0.05, 0.01


class Wait:
    """A quota was let in, one each 10 ms; then one was refused, and everyone told to wait."""

    def __init__(self, quota: int, wait_s: float) -> None:
        self.samples = Samples(BEGAN_S, 64)
        for _ in range(quota):
            self._send(Ending.ADMITTED)
        self._send(Ending.REFUSED, wait_s)
        self.samples.now += wait_s
        self.estimator = AfterToldWait(self.samples, ToldToWait(wait_s))
        self.left_at: list[float] = []

    def send(self, ending: Ending, told_s: float = 0.0) -> Finding | None:
        """Send one as soon as the estimator lets it."""
        self.samples.now += max(0.0, self.estimator.wait())
        return self.estimator.on_sample(self._send(ending, told_s, estimator=self.estimator))

    def admitted(self, count: int) -> None:
        for _ in range(count):
            assert self.send(Ending.ADMITTED) is None

    def _send(self, ending: Ending, told_s: float = 0.0, *, estimator: AfterToldWait | None = None) -> Sample:
        sample = self.samples.sent()
        if estimator is not None:
            estimator.on_sent(sample)
            self.left_at.append(sample.sent_at)
        self.samples.now += EACH_S
        sample.was_sent, sample.ending, sample.told_s, sample.retry_after_s = True, ending, told_s, told_s
        self.samples.ended(sample)
        return sample


def test_one_beyond_the_quota_that_is_refused_shows_a_window() -> None:
    wait = Wait(20, 35.5)
    wait.admitted(20)
    found = wait.send(Ending.REFUSED, told_s=32.5)
    assert isinstance(found, Window)
    assert (found.quota, found.opened_at) == (20, wait.left_at[0])
    assert found.period == pytest.approx(wait.left_at[-1] - wait.left_at[0] + 32.5, abs=0.5)


def test_all_of_them_leave_later_than_before() -> None:
    wait = Wait(100, 60.0)
    wait.admitted(100)
    assert wait.left_at[99] - wait.left_at[0] >= 5.0


@pytest.mark.parametrize(("told_s", "period"), [(23.5, 30.7), (53.25, 58.6)])
def test_a_window_of_which_an_earlier_run_had_used_a_part(told_s: float, period: float) -> None:
    wait = Wait(20, 30.5)
    wait.admitted(45)
    found = wait.send(Ending.REFUSED, told_s=told_s)
    assert isinstance(found, Window)
    assert found.quota == 45
    assert found.period == pytest.approx(period, abs=0.5)


def test_a_bucket_lets_in_one_after_it_has_told_how_long_that_takes() -> None:
    wait = Wait(20, 5.0)
    wait.admitted(1)
    found = wait.send(Ending.REFUSED, told_s=5.0)
    assert isinstance(found, Rate)
    assert 0.18 <= found.per_s <= 0.2


def test_one_let_in_each_time_shows_a_minimum_spacing() -> None:
    wait = Wait(1, 3.0)
    wait.admitted(1)
    found = wait.send(Ending.REFUSED, told_s=3.0)
    assert isinstance(found, Rate)
    assert found.is_spaced
    assert 1 / found.per_s == pytest.approx(3.0, abs=0.2)


def test_a_window_of_which_one_was_left_is_not_taken_for_a_minimum_spacing() -> None:
    wait = Wait(1, 3000.0)
    wait.admitted(5)
    assert wait.left_at[-1] - wait.left_at[0] < 1000


def test_a_penalty_is_as_long_whenever_it_is_told() -> None:
    wait = Wait(20, 10.0)
    wait.admitted(60)
    found = wait.send(Ending.REFUSED, told_s=10.0)
    assert isinstance(found, Rate)
    assert found.is_no_window
    assert found.per_s >= 20 / 10.2


@pytest.mark.parametrize("quota", [2, 20, 400])
def test_if_ever_more_is_let_in_there_is_no_limit_any_more(quota: int) -> None:
    wait = Wait(quota, 300.0)
    found = None
    while found is None:
        found = wait.send(Ending.ADMITTED)
    assert isinstance(found, NoLimit | Rate)
    assert wait.samples.now - BEGAN_S < 650.0


def test_requests_that_are_lost_hold_up_nothing() -> None:
    wait = Wait(5, 10.0)
    for _ in range(20):
        assert wait.send(Ending.LOST) is None
    assert wait.estimator.wait() <= 1.0


def test_if_nothing_was_let_in_before_all_begins_again() -> None:
    wait = Wait(0, 300.0)
    assert wait.send(Ending.ADMITTED) == NoLimit(1)
    wait = Wait(0, 10.0)
    assert isinstance(wait.send(Ending.REFUSED, told_s=9.0), Rate)


@pytest.mark.parametrize(
    ("first", "second", "is_exact", "period"),
    [
        (3.29, 3.59, True, 3.59),  # the first burst began within a fixed window
        (6.2, 4.5, False, 5.0),  # HTTP dates are up to 2 s late
        (11.0, 10.4, False, 10.0),
        (8.6, 8.1, False, 8.6),  # no usual length
        (2.9, 2.2, False, 2.9),  # it may as well be one of 2.9 s
        (61.0, 60.2, False, 60.0),
    ],
)
def test_the_period_lies_within_what_was_told(
    first: float, second: float, *, is_exact: bool, period: float
) -> None:
    assert renewed(first, second, is_exact=is_exact) == period


def test_a_long_wait_is_reported_once() -> None:
    clock = Clock(100.0)
    changes: list[Change] = []
    limiter = Limiter(max_concurrency=4, clock=clock, on_change=changes.append)
    let_in, refused = limiter.take(), limiter.take()
    clock.now += ROUND_TRIP_S
    let_in.success()
    refused.throttled(30.0)
    assert [change.found for change in changes] == [f"{TOLD_TO_WAIT} 30 s: the carrier asks for it"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "hint"),
    [
        (Part("fixed", 1.74, period_s=36.1), Hint.ROUNDED),
        (Part("fixed", 2.2, period_s=26.2), Hint.DATE),
        (Part("fixed", 18.0, period_s=3.59), Hint.EXACT),
        (Part("sliding", 9.0, period_s=60.0), Hint.EXACT),
        (Part("sliding", 75.0, period_s=10.0), Hint.EXACT),
        (Part("bucket", 0.3, burst=20), Hint.ROUNDED),
    ],
)
def test_a_told_limit_is_used_up(part: Part, hint: Hint) -> None:
    requests = round(part.rate * max(60.0, 4 * part.period_s)) + part.burst
    assert measure(Hidden((part,), requests=requests, hint=hint), Batchlic).share >= 0.9


def test_a_large_quota_let_in_at_once_is_no_sign_that_there_is_no_limit() -> None:
    wait = Wait(400, 3.0)
    wait.samples.max_in_flight = 2  # two are faster than they need to be
    wait.admitted(400)


@pytest.mark.slow
@pytest.mark.parametrize("hint", [Hint.ROUNDED, Hint.DATE])
@pytest.mark.parametrize(
    "part",
    [
        Part("fixed", 60.0, period_s=0.25),
        Part("fixed", 35.0, period_s=1.0),
        Part("sliding", 72.0, period_s=1.0),
        Part("sliding", 16.0, period_s=1.0),
        Part("fixed", 19.0, period_s=1.56),
    ],
)
def test_windows_much_shorter_than_their_told_wait_are_used_up(part: Part, hint: Hint) -> None:
    hidden = Hidden((part,), requests=round(60 * part.rate), hint=hint, latency_s=0.04)
    assert measure(hidden, Batchlic).share >= 0.7


@pytest.mark.slow
def test_a_bucket_taken_for_a_window_is_used_up() -> None:
    bucket = Hidden((Part("bucket", 480.0, burst=69),), requests=12069, hint=Hint.ROUNDED, network_s=0.018)
    assert measure(bucket, Batchlic).share >= 0.5
