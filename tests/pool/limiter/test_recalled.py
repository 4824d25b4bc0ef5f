"""What a run leaves to the next one, and what that gains; a hint that is wrong costs little."""

from dataclasses import replace

import pytest

from batchlic.pool.limiter.evidence import Evidence, Learned
from batchlic.pool.limiter.findings import Calls, Finding, NoLimit, Rate, Window, size
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.samples import Ending, Sample, Samples
from tests.benchmarks.limiter.engine import Clock, Measured, measure
from tests.benchmarks.limiter.hidden import Hidden, Hint, Part
from tests.benchmarks.limiter.learned import knowing, learned_from

BUCKET = Hidden((Part("bucket", 20.0, burst=5),), requests=600)
TOLD = replace(BUCKET, hint=Hint.ROUNDED)
PENALTY = Hidden((Part("bucket", 20.0, burst=20),), requests=1500, penalty_s=10.0)
WINDOW = Hidden((Part("fixed", 200.0, period_s=1.0),))
SLIDING = Hidden((Part("sliding", 10.0, period_s=10.0),), requests=600)
CALLS = Hidden((Part("calls", calls=10),), requests=1500)
NEXT_NIGHT = 86_417.37


def next_run(hidden: Hidden, learned: Learned | None, requests: int) -> Measured:
    """A run of so many requests the next night."""
    return measure(replace(hidden, requests=requests, seed=7), knowing(learned), start=NEXT_NIGHT)


@pytest.mark.parametrize(
    ("hidden", "requests", "cold", "warm"),
    [(PENALTY, 400, 0.4, 0.9), (TOLD, 40, 0.6, 0.8), (BUCKET, 40, 1.0, 0.9)],
    ids=["penalty box", "bucket that tells the wait", "bucket"],
)
def test_a_small_run_gains_from_what_the_last_one_found(
    hidden: Hidden, requests: int, cold: float, warm: float
) -> None:
    learned = learned_from(hidden)
    assert learned is not None
    before, after = next_run(hidden, None, requests), next_run(hidden, learned, requests)
    assert before.share <= cold
    assert after.share >= warm
    assert len(after.refusals) < len(before.refusals)


@pytest.mark.parametrize(
    ("hidden", "kind", "figure"),
    [(BUCKET, Rate, 20.0), (PENALTY, Rate, 20.0), (WINDOW, Window, 200.0), (CALLS, Calls, 10)],
)
def test_kind_and_figure_of_the_limit_are_learned(hidden: Hidden, kind: type, figure: float) -> None:
    learned = learned_from(hidden)
    assert learned is not None
    assert type(learned.limit) is kind
    assert size(learned.limit) == pytest.approx(figure, rel=0.1)
    assert not learned.is_noise


def test_the_price_of_a_refusal_is_learned() -> None:
    silent, told, cheap = (learned_from(hidden) for hidden in (PENALTY, TOLD, BUCKET))
    assert silent is not None
    assert silent.refusal_s == pytest.approx(10.0, rel=0.2)
    assert isinstance(silent.limit, Rate)
    assert silent.limit.pause_s == silent.refusal_s
    assert told is not None
    assert (told.refusal_s, told.limit.pause_s) == (1.0, 0.0)  # type: ignore[union-attr]
    assert cheap is not None
    assert cheap.refusal_s == 0.0


@pytest.mark.parametrize(
    "learned",
    [
        Learned(limit=Rate(500.0)),
        Learned(limit=Rate(5.0)),
        Learned(limit=Calls(3)),
        Learned(limit=Calls(50)),
        Learned(limit=Window(300, 60.0)),
        Learned(limit=Window(1000, 5.0)),
        Learned(limit=Window(1000, 3600.0)),
        Learned(limit=Window(9000, 3600.0), refusal_s=30.0),
    ],
    ids=lambda learned: str(learned.limit),
)
@pytest.mark.parametrize("hidden", [BUCKET, SLIDING], ids=["bucket", "sliding"])
def test_a_wrong_hint_costs_little(learned: Learned, hidden: Hidden) -> None:
    assert next_run(hidden, learned, 400).share >= next_run(hidden, None, 400).share - 0.15


@pytest.mark.parametrize("limit", [Window(300, 60.0), Window(1000, 3600.0), Calls(3), Rate(50.0)], ids=str)
def test_a_hint_is_dropped_when_far_more_is_let_in(limit: Window | Calls | Rate) -> None:
    assert next_run(Hidden(()), Learned(limit=limit), 4000).share >= 0.6


@pytest.mark.parametrize("let_in", [0, 4, 9])
def test_a_window_that_others_have_used_is_waited_for_not_forgotten(let_in: int) -> None:
    clock = Clock(NEXT_NIGHT)
    limiter = Limiter(max_concurrency=1, start_from=Learned(limit=Window(10, 60.0)), clock=clock)
    opens_at, sent = NEXT_NIGHT + 40.0, 0
    while limiter.found != Window(10, 60.0, is_recalled=False) or sent <= let_in:
        clock.now += limiter.delay()
        permit = limiter.take()
        clock.now += 0.05
        if clock.now < opens_at and sent >= let_in:
            permit.throttled()
        else:
            permit.success()
            sent += 1
        assert clock.now < opens_at + 20.0
    assert clock.now >= opens_at


def evidence_of(*figures: tuple[float, Finding]) -> tuple[Evidence, float]:
    """Evidence from findings, each after 30 requests let in and one refused; and when the last one was."""
    evidence = Evidence(Samples(0.0, 64), None)
    at = 0.0
    for seconds, found in figures:
        for _ in range(30):
            at += seconds / 30
            evidence.add(found, Sample(at, 1, ending=Ending.ADMITTED), at)
        evidence.add(found, Sample(at, 1, ending=Ending.REFUSED), at)
    return evidence, at


@pytest.mark.parametrize(
    "figures",
    [
        [(5.0, Rate(rate)) for rate in (10.0, 90.0, 35.0, 200.0, 17.0, 60.0)],
        [(1.0, kind) for _ in range(10) for kind in (Rate(20.0), Calls(4))],
    ],
    ids=["figures that do not agree", "kinds that change"],
)
def test_what_agrees_with_nothing_is_noise(figures: list[tuple[float, Finding]]) -> None:
    evidence, at = evidence_of(*figures)
    assert evidence.is_noise(at)


@pytest.mark.parametrize(
    "figures",
    [
        [(5.0, Rate(rate)) for rate in (20.0, 22.0, 19.0, 20.0, 21.0)],
        [(5.0, Rate(rate)) for rate in (20.0, 20.0, 21.0, 10.0, 10.0, 10.0, 11.0, 10.0, 10.0, 9.0)],
        [*((1.0, kind) for _ in range(10) for kind in (Rate(20.0), Calls(4))), (60.0, Rate(20.0))],
    ],
    ids=["steady", "a limit that halved", "steady in the end"],
)
def test_a_limit_that_stands_is_no_noise(figures: list[tuple[float, Finding]]) -> None:
    evidence, at = evidence_of(*figures)
    assert not evidence.is_noise(at)


@pytest.mark.parametrize(
    "figures",
    [
        [(1.0, Rate(20.0))],
        [(20.0, NoLimit())],
        [(20.0, Rate(20.0)), (20.0, Rate(20.0)), (1.0, NoLimit())],
        [(30.0, Window(300, 60.0))],
    ],
    ids=["too short", "no limit", "a limit that is gone", "less than a window"],
)
def test_too_little_evidence_leaves_nothing(figures: list[tuple[float, Finding]]) -> None:
    evidence, _ = evidence_of(*figures)
    assert evidence.limit is None
