"""What is let in between two pauses: a bucket's rate, a window's quota, or nothing that can be told yet."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.pool.limiter.bursts import shown_by_bursts
from batchlic.pool.limiter.observed import Observed
from batchlic.pool.limiter.regime import Rate, Window

ROUND_TRIP = 0.05

Admits = Callable[[float], bool]
"""Whether a request that comes at that moment is let in."""


def bucket(per_s: float, size: int) -> Admits:
    level, filled_at = float(size), 0.0

    def admits(at: float) -> bool:
        nonlocal level, filled_at
        level, filled_at = min(float(size), level + (at - filled_at) * per_s), at
        if level < 1:
            return False
        level -= 1
        return True

    return admits


def window(quota: int, seconds: float) -> Admits:
    let_in: dict[int, int] = {}

    def admits(at: float) -> bool:
        of_window = let_in.get(int(at / seconds), 0)
        let_in[int(at / seconds)] = min(quota, of_window + 1)
        return of_window < quota

    return admits


def observed(admits: Admits, *speeds: float, pause: float) -> Observed:
    """Requests one after another, at each speed until one is refused and all wait."""
    at = 100.0
    seen = Observed(at, 64)
    for speed in speeds:
        is_let_in = True
        while is_let_in:
            seen.now = at
            flight = seen.takes_off()
            is_let_in = admits(at)
            seen.lands(flight)
            seen.now = at + ROUND_TRIP
            if is_let_in:
                seen.delivered(flight)
            else:
                seen.throttled(flight, pause)
            at += 1 / speed
        at = seen.now + pause
    return seen


@given(per_s=st.floats(5, 50), size=st.integers(10, 50), excess=st.floats(1.2, 3))
def test_the_rate_of_a_bucket_is_told_from_its_size(per_s: float, size: int, excess: float) -> None:
    """At first it is asked for much more than flows into it, then for a little more."""
    seen = observed(bucket(per_s, size), 20 * per_s, excess * per_s, pause=size / per_s + 1)
    found = shown_by_bursts(seen)
    assert isinstance(found, Rate)
    assert 0.6 * per_s <= found.per_s <= 1.05 * per_s


@given(per_s=st.floats(1, 500), size=st.integers(1, 50), speeds=st.lists(st.floats(1.2, 100), max_size=5))
def test_a_bucket_is_never_thought_to_be_much_faster(per_s: float, size: int, speeds: list[float]) -> None:
    seen = observed(bucket(per_s, size), *(speed * per_s for speed in speeds), pause=size / per_s + 1)
    found = shown_by_bursts(seen)
    assert not isinstance(found, Rate) or found.per_s <= 1.3 * per_s


def test_a_bucket_that_is_slowly_used_up_is_measured_by_what_left_last() -> None:
    seen = observed(bucket(20.0, 5), 400.0, 28.0, pause=2.0)
    found = shown_by_bursts(seen)
    assert isinstance(found, Rate)
    assert found.per_s == pytest.approx(20.0, rel=0.2)


@given(quota=st.integers(10, 500), excess=st.floats(1.2, 3))
def test_a_window_is_known_by_letting_in_no_more_however_long_it_takes(quota: int, excess: float) -> None:
    seen = observed(window(quota, 10.0), 20 * quota / 10, excess * quota / 10, pause=10.0)
    assert shown_by_bursts(seen) == Window(quota, 10.0)


def test_too_quick_a_burst_tells_no_bucket_from_a_window() -> None:
    """A twentieth of a second in which nothing flowed says nothing yet."""
    assert shown_by_bursts(observed(bucket(20.0, 5), 2000.0, 250.0, pause=1.0)) is None


def test_refusals_that_stop_nobody_show_nothing_here() -> None:
    seen = observed(bucket(20.0, 5), 400.0, 40.0, pause=2.0)
    seen.pause = 0.0
    assert shown_by_bursts(seen) is None


def test_a_limit_that_has_fallen_is_not_judged_by_what_was_let_in_before() -> None:
    falls = bucket(20.0, 5)
    seen = observed(lambda at: at < 115 and falls(at), 400.0, 28.0, 28.0, pause=10.0)
    assert [len(seen.let_in_during(burst)) for burst in seen.bursts][2:] == [1]
    assert shown_by_bursts(seen) is None


def test_a_bucket_that_was_not_full_again_is_no_window() -> None:
    seen = observed(bucket(1.0, 50), 500.0, 3.0, pause=5.0)
    assert not isinstance(shown_by_bursts(seen), Window)
