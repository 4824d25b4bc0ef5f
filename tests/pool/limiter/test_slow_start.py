"""Slow start: before any limit is known."""

from batchlic.pool.limiter.limiter import Limiter


def test_a_first_request_that_is_refused_at_once_makes_the_next_one_wait() -> None:
    limiter = Limiter(max_concurrency=1, clock=lambda: 100.0)
    limiter.take().throttled()
    assert limiter.delay() > 0
