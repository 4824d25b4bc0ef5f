"""Slow start: before any limit is known."""

from batchlic.pool.limiter.findings import Rate
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.samples import Ending, Samples
from batchlic.pool.limiter.slow_start import SlowStart


def test_a_first_request_that_is_refused_at_once_makes_the_next_one_wait() -> None:
    limiter = Limiter(max_concurrency=1, clock=lambda: 100.0)
    limiter.take().throttled()
    assert limiter.delay() > 0


def test_a_long_wait_after_a_long_free_run_shows_no_window() -> None:
    """Such a window would stay unused until it ends, long after the wait."""
    samples = Samples(0.0, max_in_flight=8)
    estimator = SlowStart(samples, concurrency=8)
    found = None
    for at in range(200):
        samples.now = float(at)
        sample = samples.sent()
        samples.now += 0.05
        sample.ending = Ending.ADMITTED if at < 199 else Ending.REFUSED
        sample.told_s = sample.retry_after_s = 0.0 if at < 199 else 30.0
        samples.ended(sample)
        found = estimator.on_sample(sample)
    assert isinstance(found, Rate)
