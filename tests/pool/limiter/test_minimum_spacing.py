"""Without a burst, the distance that requests must keep is found; other limits are told from it."""

import statistics

import pytest

from batchlic.pool.limiter.concurrency import Concurrency
from batchlic.pool.limiter.evidence import Evidence
from batchlic.pool.limiter.findings import Calls, Finding, NoLimit, Rate, Shut
from batchlic.pool.limiter.minimum_spacing import MinimumSpacing
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from tests.benchmarks.limiter.engine import Measured, measure, shared
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.peers import Batchlic

ROUND_TRIP_S, NETWORK_S = 0.05, 0.001


class Carrier:
    """Lets a request in if it comes `distance` after the one before; answers in the order of sending."""

    def __init__(self, distance: float, *, known: Rate) -> None:
        self.distance, self.counts_refused = distance, False
        self.samples = Samples(100.0, 64)
        self.refused = 0
        self._counted_at = 100.0
        first = self.samples.sent()
        self._end(first, Ending.ADMITTED, 0.0, after=ROUND_TRIP_S)
        self.estimator = MinimumSpacing(self.samples, known)

    def request(self, *, is_lost: bool = False, told: bool | float = False) -> Finding | None:
        """Send one as soon as the estimator lets it; `told` is what a refusal tells, True: the exact wait."""
        samples = self.samples
        samples.now = max(samples.now + self.estimator.wait(), samples.now, samples.resumed_at)
        sample = samples.sent()
        self.estimator.on_sent(sample)
        left = self._counted_at + self.distance - sample.sent_at
        is_let_in = left <= 1e-9
        if is_let_in or self.counts_refused:
            self._counted_at = sample.sent_at
        ending = Ending.LOST if is_lost else Ending.ADMITTED if is_let_in else Ending.REFUSED
        self.refused += ending is Ending.REFUSED
        self._end(sample, ending, left if told is True else float(told), after=NETWORK_S)
        return self.estimator.on_sample(sample)

    def requests(self, count: int, *, told: bool | float = False) -> None:
        for _ in range(count):
            assert self.request(told=told) is None

    def _end(self, sample: Sample, ending: Ending, told_s: float, *, after: float) -> None:
        self.samples.now += after
        sample.was_sent, sample.ending = True, ending
        if ending is Ending.REFUSED:
            sample.told_s = sample.retry_after_s = told_s
        self.samples.ended(sample)


def found_by(carrier: Carrier) -> float:
    """Seconds of the distance that is found."""
    found = carrier.estimator.found()
    assert isinstance(found, Rate)
    assert found.is_spaced
    return 1 / found.per_s


@pytest.mark.parametrize("distance", [0.06, 0.13, 1.0])
def test_the_distance_is_found_by_bisection(distance: float) -> None:
    carrier = Carrier(distance, known=Rate(1 / (1.9 * distance)))
    carrier.requests(20)
    assert distance <= found_by(carrier) <= 1.03 * distance
    assert carrier.refused <= 6


def test_once_found_it_is_seldom_tried() -> None:
    carrier = Carrier(0.2, known=Rate(4.0))
    carrier.requests(20)
    refused = carrier.refused
    carrier.requests(400)
    assert 1 <= carrier.refused - refused <= 8


def test_a_told_wait_says_how_long_the_distance_is() -> None:
    carrier = Carrier(0.2, known=Rate(2.0))
    while not carrier.refused:
        carrier.requests(1, told=True)
    assert 0.2 <= found_by(carrier) <= 0.201


def test_a_limit_that_rises_is_found_again() -> None:
    carrier = Carrier(0.2, known=Rate(4.0))
    carrier.requests(30)
    carrier.distance = 0.06
    carrier.requests(100)
    assert found_by(carrier) <= 0.065


@pytest.mark.parametrize("distance", [0.21, 0.8])
def test_a_limit_that_falls_is_found_again(distance: float) -> None:
    carrier = Carrier(0.2, known=Rate(4.0))
    carrier.requests(60)
    carrier.distance = distance
    carrier.requests(40)
    assert distance <= found_by(carrier) <= 1.05 * distance


def test_refused_requests_that_count_are_waited_for() -> None:
    carrier = Carrier(0.2, known=Rate(3.0))
    carrier.requests(3)
    carrier.counts_refused = True
    carrier.requests(30)
    assert 0.2 <= found_by(carrier) <= 0.215
    refused = carrier.refused
    carrier.requests(200)
    assert carrier.refused - refused <= 5


def test_a_trial_that_is_lost_is_not_the_last_one() -> None:
    carrier = Carrier(0.2, known=Rate(2.0))
    for _ in range(5):
        assert carrier.request(is_lost=True) is None
    carrier.requests(30)
    assert found_by(carrier) <= 0.206


def test_a_distance_that_never_was_enough_is_none() -> None:
    carrier = Carrier(5.0, known=Rate(10.0, refused_per_s=10.1))
    findings = [carrier.request() for _ in range(2)]
    assert Shut(None) in findings


def test_a_limit_that_is_gone_is_noticed() -> None:
    carrier = Carrier(0.0, known=Rate(10.0))
    carrier.samples.round_trip = 1.0
    findings = [carrier.request() for _ in range(40)]
    assert NoLimit(64) in findings


@pytest.mark.parametrize("distance", [0.06, 0.25, 0.9])
def test_with_waits_in_whole_seconds_it_is_found_by_fewer_refusals(distance: float) -> None:
    carrier = Carrier(distance, known=Rate(0.9))
    carrier.requests(40, told=1.0)
    assert distance <= found_by(carrier) <= 1.1 * distance
    assert carrier.refused <= 5


def test_a_distance_that_was_enough_by_chance_is_a_rate() -> None:
    carrier = Carrier(0.3, known=Rate(0.9))
    carrier.requests(40, told=1.0)
    carrier.distance = 0.5
    found = carrier.request(told=1.0)
    assert isinstance(found, Rate)
    assert not found.is_spaced
    assert 0.3 <= 1 / found.per_s <= 0.6


def test_what_others_took_at_the_told_distance_is_forgiven_twice() -> None:
    carrier = Carrier(3.0, known=Rate(0.9))
    findings = [carrier.request(told=1.0) for _ in range(9)]
    first = next(number for number, found in enumerate(findings) if found is not None)
    assert findings[first] == Rate(pytest.approx(0.9 / 1.002), is_no_window=True)  # type: ignore[arg-type] # mock
    assert carrier.refused >= 3


@pytest.mark.parametrize(("refused_per_s", "is_learned"), [(8.0, False), (5.1, True)])
def test_a_distance_that_is_still_searched_for_is_not_learned(
    refused_per_s: float, *, is_learned: bool
) -> None:
    samples = Samples(0.0, 8)
    evidence = Evidence(samples, None)
    found = Rate(5.0, refused_per_s=refused_per_s, is_spaced=True)
    for number in range(100):
        ending = Ending.REFUSED if number % 10 == 0 else Ending.ADMITTED
        evidence.add(found, Sample(number, in_flight=1, ending=ending), now=number)
    assert (evidence.limit is not None) == is_learned


def run(part: Part, **conditions: object) -> Measured:
    """Measure 60 s of work."""
    rate = part.rate or part.calls / 0.06
    hidden = Hidden((part,), requests=max(40, round(60 * rate)), **conditions)  # type: ignore[arg-type] # few
    return measure(hidden, Batchlic)


def limit_of(measured: Measured) -> Finding:
    client = measured.clients[0]
    assert isinstance(client, Batchlic)
    return client.limiter.found


@pytest.mark.slow
@pytest.mark.parametrize("hint", [Hint.NOTHING, Hint.EXACT])
@pytest.mark.parametrize(
    ("rate", "latency_s"), [(0.7, 0.13), (4.1, 0.2), (33.0, 0.25), (55.0, 0.03), (210.0, 0.035)]
)
def test_a_limit_without_a_burst_is_used_up(rate: float, latency_s: float, hint: Hint) -> None:
    measured = run(Part("bucket", rate, burst=1), latency_s=latency_s, hint=hint)
    assert measured.share >= 0.88
    assert measured.steady <= 0.14
    limit = limit_of(measured)
    assert isinstance(limit, Rate)
    assert limit.is_spaced
    assert 0.96 * rate <= limit.per_s <= 1.001 * rate


@pytest.mark.slow
@pytest.mark.parametrize("hint", [Hint.ROUNDED, Hint.DATE])
@pytest.mark.parametrize(
    "part",
    [
        Part("sliding", 1.0, period_s=1.0),
        Part("sliding", 3.6, period_s=0.28),
        Part("bucket", 0.93, burst=1),
        Part("bucket", 2.4, burst=1),
        Part("fixed", 2.9, period_s=0.34),
    ],
)
def test_told_waits_in_whole_seconds_are_no_hindrance(part: Part, hint: Hint) -> None:
    assert run(part, hint=hint, latency_s=0.12).share >= 0.84


@pytest.mark.slow
@pytest.mark.parametrize("hint", [Hint.NOTHING, Hint.EXACT])
@pytest.mark.parametrize("rate", [5.4, 26.0, 77.0])
def test_so_is_one_that_counts_refused_requests(rate: float, hint: Hint) -> None:
    measured = run(Part("bucket", rate, burst=1), hint=hint, counts_refused=True, latency_s=0.03)
    assert measured.share >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        Part("calls", calls=1),
        Part("bucket", 50.0, burst=2),
        Part("bucket", 20.0, burst=40),
        Part("fixed", 1.0, period_s=1.0),
        Part("fixed", 1.7, period_s=0.6),
    ],
)
def test_other_limits_are_told_from_it(part: Part) -> None:
    measured = run(part)
    assert measured.share >= 0.9
    if part.kind == "calls":
        assert limit_of(measured) == Calls(1)


def test_a_distance_that_is_refused_so_soon_is_taken_by_others() -> None:
    carrier = Carrier(0.2, known=Rate(4.0))
    carrier.requests(10)
    carrier.distance = 0.4
    found = None
    while found is None:
        found = carrier.request()
    assert isinstance(found, Rate)
    assert not found.is_spaced
    assert found.per_s < 2.6


def test_one_of_many_is_let_in_though_its_answer_comes_before_the_refusals() -> None:
    samples = Samples(0.0, 64)
    first, *others = [samples.sent() for _ in range(10)]
    samples.now, first.ending = ROUND_TRIP_S, Ending.ADMITTED
    samples.ended(first)
    estimator = Concurrency(samples, 9)
    findings = []
    for other in others:
        other.ending = Ending.REFUSED
        samples.ended(other)
        findings.append(estimator.on_sample(other))
    found = next(found for found in findings if found is not None)
    assert found == Rate(1 / ROUND_TRIP_S, is_spaced=True)


@pytest.mark.slow
def test_a_process_that_begins_later_takes_no_more_than_its_share() -> None:
    """To it, a bucket that another one uses up looks like one without a burst."""
    ratios = []
    for seed in (1, 2, 3):
        bucket = Hidden((Part("bucket", 20.0, burst=20),), processes=2, seed=seed)
        shares = shared(bucket, Batchlic, since=30.0, until=75.0)
        ratios.append(max(shares) / max(1, min(shares)))
    assert statistics.median(ratios) <= 1.5


@pytest.mark.slow
def test_two_processes_use_up_a_limit_without_a_burst() -> None:
    hidden = Hidden((Part("bucket", 37.0, burst=1),), requests=2200, processes=2, latency_s=0.067)
    assert measure(hidden, Batchlic).share >= 0.8
