"""Where a refusal costs little, a rate is measured, and other limits are told from it."""

import pytest

from batchlic.pool.limiter.findings import Finding, Rate
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from batchlic.pool.limiter.steady_rate import SteadyRate
from tests.benchmarks.limiter.engine import Measured, measure
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.peers import Batchlic

ROUND_TRIP_S = 0.05


class Requests:
    """Requests one after another, as an estimator sees them."""

    def __init__(self, rate: float) -> None:
        self.samples = Samples(100.0, 64)
        self._answer(self.samples.sent(), Ending.ADMITTED)
        self.samples.sent()  # one that stays in flight, so that a refusal does not mean that all is refused
        self.estimator = SteadyRate(self.samples, Rate(rate))

    def send(self, ending: Ending, *, after: float) -> None:
        """Send one so many seconds after the latest answer or pause."""
        self.samples.now += after
        sample = self.samples.sent()
        self.estimator.on_sent(sample)
        self._answer(sample, ending)
        self.estimator.on_sample(sample)

    def wait(self) -> None:
        self.samples.now += max(0.0, self.estimator.wait())

    @property
    def found(self) -> float:
        found = self.estimator.found()
        assert isinstance(found, Rate)
        return found.per_s

    def _answer(self, sample: Sample, ending: Ending) -> None:
        self.samples.now += ROUND_TRIP_S
        sample.ending = ending
        self.samples.ended(sample)


def test_a_rate_that_is_refused_after_each_gap_is_lowered() -> None:
    requests = Requests(4.0)
    for _ in range(12):
        requests.send(Ending.ADMITTED, after=0.2)
    requests.send(Ending.REFUSED, after=0.2)
    at_first = requests.found
    for _ in range(3):
        requests.wait()
        requests.send(Ending.ADMITTED, after=0.0)
        requests.send(Ending.REFUSED, after=0.2)
    assert 0.8 * at_first < requests.found < 0.95 * at_first


def test_the_time_of_gaps_need_not_count() -> None:
    """With a gap for each few requests, what was let in / all of the time is far below the limit."""
    requests = Requests(4.0)
    for _ in range(6):
        for _ in range(4):
            requests.send(Ending.ADMITTED, after=0.2)
        requests.send(Ending.REFUSED, after=0.2)
        requests.wait()
    assert requests.found > 3.4


def run(part: Part, **conditions: object) -> Measured:
    return measure(Hidden((part,), requests=round(part.rate * 60), **conditions), Batchlic)  # type: ignore[arg-type]  # fields of Hidden


def limit(measured: Measured) -> Finding:
    client = measured.clients[0]
    assert isinstance(client, Batchlic)
    return client.limiter.found


@pytest.mark.parametrize(
    ("rate", "latency", "least"), [(70.5, 0.147, 0.75), (114.0, 0.5, 0.7), (41.0, 0.1, 0.75)]
)
def test_requests_that_must_keep_their_distance_are_no_limit_in_flight(
    rate: float, latency: float, least: float
) -> None:
    found = run(Part("bucket", rate, burst=1), latency_s=latency)
    assert isinstance(limit(found), Rate)
    assert found.share >= least


@pytest.mark.parametrize("rate", [37.0, 42.5])
def test_after_a_told_wait_the_next_two_keep_their_distance(rate: float) -> None:
    found = run(Part("bucket", rate, burst=1), latency_s=0.2, hint=Hint.EXACT)
    assert found.share >= 0.8
    assert found.refused <= 0.08


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_a_bucket_is_found_to_be_a_rate(seed: int) -> None:
    found = limit(run(Part("bucket", 200.0, burst=20), seed=seed))
    assert isinstance(found, Rate)
    assert found.per_s == pytest.approx(200.0, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [187, 188])
def test_a_limit_in_flight_taken_for_a_rate_is_found_after_all(seed: int) -> None:
    """Answers that take unequal times look like those of a rate at first."""
    calls = Part("calls", calls=4)
    hidden = Hidden((calls,), requests=4000, latency_s=0.66, jitter_s=0.33, network_s=0.0092, seed=seed)
    assert measure(hidden, Batchlic, start=0.3 + 0.137 * seed).share >= 0.88
