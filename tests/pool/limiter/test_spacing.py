"""Requests spread evenly: lateness is caught up, a pause is not."""

import pytest

from batchlic.carrier.rate_limits import Quota
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.spacing import Spacing
from tests.benchmarks.limiter.engine import Clock


def started(spacing: Spacing, at: float, count: int, *, late_s: float = 0.0) -> list[float]:
    """Starts as soon as each is due, all of them late."""
    moments = []
    for _ in range(count):
        at += spacing.delay(at) + late_s
        spacing.take(at)
        moments.append(at)
    return moments


def test_starts_are_as_far_apart_as_the_rate_says() -> None:
    moments = started(Spacing(100.0), 5.0, 11)
    assert moments[-1] - moments[0] == pytest.approx(0.1)


def test_lateness_of_timers_costs_nothing() -> None:
    moments = started(Spacing(100.0), 5.0, 101, late_s=0.002)
    assert moments[-1] - moments[0] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("pause", [0.2, 1.0, 60.0])
def test_after_a_pause_no_two_start_at_once(pause: float) -> None:
    spacing = Spacing(500.0)
    last = started(spacing, 5.0, 10)[-1]
    first, second = started(spacing, last + pause, 2)
    assert second - first == pytest.approx(1 / 500)


def test_a_start_that_something_else_held_is_not_late() -> None:
    spacing = Spacing(100.0)
    spacing.take(5.0)
    spacing.take(5.03, held_until=5.03)
    assert spacing.delay(5.03) == pytest.approx(0.01)


def test_a_start_is_late_only_after_what_held_it() -> None:
    spacing = Spacing(100.0)
    spacing.take(5.0)
    spacing.take(5.033, held_until=5.03)
    assert spacing.delay(5.033) == pytest.approx(0.007)


def test_a_wait_that_was_taken_back_holds_nothing() -> None:
    """A quota that is used up, and proves false: lateness is caught up as before."""
    clock = Clock(100.0)
    limiter = Limiter(max_concurrency=8, fixed_rate=100.0, clock=clock)
    used_up = Quota(limit=100, remaining=0, reset_s=3600.0)
    first, second = limiter.take(), limiter.take()
    clock.now += 0.05
    first.success(quota=used_up)
    assert limiter.delay() == pytest.approx(3600.0)
    second.success(quota=used_up)
    began = clock.now
    for _ in range(100):
        clock.now += limiter.delay() + 0.002
        limiter.take().success()
    assert clock.now - began == pytest.approx(1.0, abs=0.02)
