"""A limiter that starts from what is known, and whose bounds change while it runs."""

from batchlic.pool.limiter.findings import Calls, Rate, Window
from batchlic.pool.limiter.limiter import Limiter
from tests.benchmarks.limiter.engine import Clock, measure
from tests.benchmarks.limiter.hidden import Hidden, Part
from tests.benchmarks.limiter.peers import Batchlic


def started(limiter: Limiter, clock: Clock, seconds: float) -> int:
    """Requests that start in so many seconds, each answered at once."""
    count, until = 0, clock.now + seconds
    while clock.now < until:
        if (delay := limiter.delay()) > 0:
            clock.now += min(delay, until - clock.now + 1e-6)
            continue
        limiter.take().success()
        count += 1
        clock.now += 0.001
    return count


def test_bounds_can_be_changed_while_it_runs() -> None:
    clock = Clock(10.0)
    limiter = Limiter(max_concurrency=8, max_rate=100.0, clock=clock)
    assert 95 <= started(limiter, clock, 1.0) <= 105
    limiter.set_bounds(max_rate=20.0, max_concurrency=8)
    assert 18 <= started(limiter, clock, 1.0) <= 22
    limiter.set_bounds(max_rate=None, max_concurrency=2)
    assert (limiter.concurrency, limiter.take() is not None) == (2, True)


def test_the_search_starts_from_what_is_known() -> None:
    for finding in (Rate(50.0), Calls(7), Window(300, 60.0)):
        limiter = Limiter(max_concurrency=64, start_from=finding, clock=Clock(10.0))
        assert type(limiter.found) is type(finding)


def test_a_known_rate_is_refused_less_often_than_an_unknown_one() -> None:
    hidden = Hidden((Part("bucket", 50.0, burst=5),), requests=500)

    class Knowing(Batchlic):
        def __init__(self, clock: Clock) -> None:
            super().__init__(clock)
            self.limiter = Limiter(max_concurrency=64, start_from=Rate(50.0), clock=clock)
            self.delay, self.start = self.limiter.delay, self.limiter.take

    assert len(measure(hidden, Knowing).refusals) < len(measure(hidden, Batchlic).refusals)


def test_what_flows_is_what_the_carrier_lets_in() -> None:
    run = measure(Hidden((Part("bucket", 50.0, burst=5),), requests=2000), Batchlic)
    client = run.clients[0]
    assert isinstance(client, Batchlic)
    assert client.limiter.flow is not None
    assert 45 <= client.limiter.flow <= 55
