"""What a limiter shows of itself."""

from tests.benchmarks.limiter.engine import measure
from tests.benchmarks.limiter.hidden import Hidden, Part
from tests.benchmarks.limiter.peers import Batchlic


def test_what_flows_is_what_the_carrier_lets_in() -> None:
    run = measure(Hidden((Part("bucket", 50.0, burst=5),), requests=2000), Batchlic)
    client = run.clients[0]
    assert isinstance(client, Batchlic)
    assert client.limiter.flow is not None
    assert 45 <= client.limiter.flow <= 55
