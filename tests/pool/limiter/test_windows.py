"""A quota for each window that is refuted by what the carrier lets in."""

from batchlic.pool.limiter.observed import Flight, Observed
from batchlic.pool.limiter.regime import Rate, Window
from batchlic.pool.limiter.regimes import regime_for

ROUND_TRIP = 0.05


def sent(seen: Observed, at: float) -> Flight:
    """One request, its answer due."""
    seen.now = at
    flight = seen.takes_off()
    seen.now += ROUND_TRIP
    seen.lands(flight)
    return flight


def test_a_quota_of_which_nothing_is_let_in_becomes_a_rate_above_zero() -> None:
    seen = Observed(0.0, 8)
    seen.delivered(sent(seen, 0.0))
    windowed = regime_for(Window(quota=4, period=1.0), seen)
    refused = sent(seen, 10.0)
    seen.throttled(refused, 0.0)
    found = windowed.throttled(refused)
    assert isinstance(found, Rate)
    assert regime_for(found, seen).rate() > 0
