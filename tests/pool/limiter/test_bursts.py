"""What is let in between two pauses tells a bucket's rate."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.pool.limiter.bursts import least_rates
from batchlic.pool.limiter.samples import Ending, Samples

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


def observed(admits: Admits, *speeds: float, pause: float) -> Samples:
    """Requests one after another, at each speed until one is refused and all wait."""
    at = 100.0
    samples = Samples(at, 64)
    for speed in speeds:
        is_let_in = True
        while is_let_in:
            samples.now = at
            sample = samples.sent()
            is_let_in = admits(at)
            samples.now = at + ROUND_TRIP
            sample.ending = Ending.ADMITTED if is_let_in else Ending.REFUSED
            sample.told_s = sample.retry_after_s = 0.0 if is_let_in else pause
            samples.ended(sample)
            at += 1 / speed
        at = samples.now + pause
    return samples


def least(admits: Admits, *speeds: float, pause: float) -> float:
    samples = observed(admits, *speeds, pause=pause)
    return max(least_rates(samples.bursts(), pause))


@given(per_s=st.floats(5, 50), size=st.integers(10, 50), excess=st.floats(1.2, 3))
def test_the_rate_of_a_bucket_is_told_from_its_size(per_s: float, size: int, excess: float) -> None:
    """At first it is asked for much more than flows into it, then for a little more."""
    found = least(bucket(per_s, size), 20 * per_s, excess * per_s, pause=size / per_s + 1)
    assert 0.6 * per_s <= found <= 1.05 * per_s


@given(
    per_s=st.floats(1, 500),
    size=st.integers(1, 50),
    speeds=st.lists(st.floats(1.2, 100), min_size=1, max_size=5),
)
def test_a_bucket_is_never_thought_to_be_much_faster(per_s: float, size: int, speeds: list[float]) -> None:
    found = least(bucket(per_s, size), *(speed * per_s for speed in speeds), pause=size / per_s + 1)
    assert found <= 1.3 * per_s


def test_a_bucket_that_is_slowly_used_up_is_measured_by_what_left_last() -> None:
    assert least(bucket(20.0, 5), 400.0, 28.0, pause=2.0) == pytest.approx(20.0, rel=0.2)
