"""The window that exact waits tell."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.pool.limiter.findings import Finding, Window
from batchlic.pool.limiter.samples import Ending, Samples
from batchlic.pool.limiter.windows.told import ToldWindow
from tests.benchmarks.limiter.engine import measure
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.peers import PEERS


class Sliding:
    """A carrier with a sliding window; each refusal tells to the millisecond how long to wait."""

    def __init__(self, quota: int, period: float) -> None:
        self._quota, self._period = quota, period
        self._log: list[float] = []
        self.samples = Samples(0.0, 1000)
        self._told = ToldWindow(self.samples)

    def send(self, at: float) -> tuple[float, Finding | None]:
        """Send one; returns the seconds to wait, 0 if it was let in, and what was found."""
        self.samples.now = at
        sample = self.samples.sent()
        opens_at = self._log[-self._quota] + self._period if len(self._log) >= self._quota else at
        sample.ending = Ending.ADMITTED
        if at < opens_at:
            sample.ending = Ending.REFUSED
            sample.told_s = sample.retry_after_s = opens_at - at
        else:
            self._log.append(at)
        self.samples.ended(sample)
        return max(0.0, opens_at - at), self._told.on_sample(sample)


def found_after(refusals: int, quota: int, period: float, seed: int) -> Window | None:
    """What is found, within so many refusals, if requests leave at random, twice as fast as the limit."""
    carrier, rng, now = Sliding(quota, period), random.Random(seed), 0.0
    while refusals:
        wait, found = carrier.send(now)
        if isinstance(found, Window):
            return found
        refusals -= wait > 0
        now += wait or rng.expovariate(2 * quota / period)
    return None


@given(
    quota=st.integers(2, 60),
    period=st.floats(0.2, 30.0),
    seed=st.integers(0, 2**32),
)
def test_no_other_sliding_window_is_found(quota: int, period: float, seed: int) -> None:
    found = found_after(60, quota, period, seed)
    assert found is None or found == Window(quota, found.period, is_told=True)
    assert found is None or found.period == pytest.approx(period, rel=0.02)


@pytest.mark.parametrize(("quota", "period"), [(2, 0.25), (5, 1.0), (39, 1.0), (46, 1.0), (30, 30.0)])
@pytest.mark.parametrize("seed", range(5))
def test_a_sliding_window_is_found_by_a_few_refusals(quota: int, period: float, seed: int) -> None:
    found = found_after(100, quota, period, seed)
    assert found is not None
    assert found.quota == quota
    assert found.period == pytest.approx(period, rel=0.02)


def test_what_a_bucket_tells_is_no_window() -> None:
    samples = Samples(0.0, 1000)
    told, rng = ToldWindow(samples), random.Random(1)
    tokens, filled_at, now = 10.0, 0.0, 0.0
    for _ in range(2000):
        tokens, filled_at = min(10.0, tokens + 7.3 * (now - filled_at)), now
        samples.now = now
        sample = samples.sent()
        sample.ending = Ending.ADMITTED if tokens >= 1 else Ending.REFUSED
        if sample.ending is Ending.REFUSED:
            sample.told_s = sample.retry_after_s = (1 - tokens) / 7.3
        else:
            tokens -= 1
        samples.ended(sample)
        assert told.on_sample(sample) is None
        now += sample.told_s or rng.expovariate(15.0)


def test_waits_in_whole_seconds_tell_none() -> None:
    samples = Samples(0.0, 1000)
    told = ToldWindow(samples)
    for number in range(20):
        samples.now = 2.0 * number
        sample = samples.sent()
        sample.ending, sample.told_s, sample.retry_after_s = Ending.REFUSED, 1.0, 1.0
        samples.ended(sample)
        assert told.on_sample(sample) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "latency_s"),
    [
        (Part("sliding", 46.0, period_s=1.0), 0.18),
        (Part("sliding", 195.0, period_s=0.302), 0.04),
        (Part("sliding", 8.0, period_s=0.25), 0.19),
    ],
    ids=str,
)
def test_such_a_window_is_used_up(part: Part, latency_s: float) -> None:
    hidden = Hidden((part,), requests=round(30 * part.rate), hint=Hint.EXACT, latency_s=latency_s)
    assert measure(hidden, PEERS["batchlic"]).share >= 0.95


def test_a_window_is_found_once() -> None:
    carrier, now, found = Sliding(5, 1.0), 0.0, []
    rng = random.Random(3)
    for _ in range(400):
        wait, window = carrier.send(now)
        found.append(window)
        now += wait or rng.expovariate(10.0)
    assert sum(window is not None for window in found) == 1
