"""Turns: processes that share a rate measure all of it, one after the other."""

import math
from dataclasses import replace

import pytest

from batchlic.pool.limiter.findings import Calls, NoLimit, Rate
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.turns import AGAIN_S, LEASE_S, TURN_S, Member, Turns, shared_rate
from tests.benchmarks.limiter.engine import Clock, measure
from tests.benchmarks.limiter.hidden import Hidden, Part
from tests.benchmarks.limiter.sharing import Alone, InTurns, fairness, with_store

BUCKET = Hidden((Part("bucket", 50.0, 50),), requests=4000)
ONE, TWO = (Member(name=name, per_s=25.0, burst=50, most=1000.0) for name in "12")
STORE_NOW = 1000.0


def turns_of(clock: Clock, *members: Member) -> Turns:
    """The turns of member 1, which has agreed with the others at 1000 s of the store's clock."""
    turns = Turns("1", clock)
    turns.agree(members, store_now=STORE_NOW)
    return turns


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_in_turns_are_refused_at_most_half_as_often(processes: int) -> None:
    shared = replace(BUCKET, processes=processes)
    alone, in_turns = measure(shared, Alone), measure(shared, with_store())
    assert in_turns.steady < 0.6 * alone.steady
    assert in_turns.share > alone.share - 0.005


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_in_turns_deliver_the_same(processes: int) -> None:
    assert fairness(replace(BUCKET, processes=processes), with_store()) < 1.05


@pytest.mark.parametrize("by", [0.5, 2.0])
def test_a_limit_that_changes_is_found_in_turns(by: float) -> None:
    shared = replace(BUCKET, processes=4, changes=((30.0, by),))
    assert measure(shared, with_store()).share > 0.99


@pytest.mark.parametrize(
    "part",
    [Part("bucket", 20.0, 1), Part("fixed", 30.0, period_s=10.0), Part("calls", calls=8)],
    ids=str,
)
def test_other_limits_are_found_as_without_a_store(part: Part) -> None:
    shared = Hidden((part,), requests=2000, processes=2)
    assert measure(shared, with_store()).admitted == measure(shared, Alone).admitted


def test_processes_that_lose_the_store_go_on_as_without_one() -> None:
    clock = Clock(0.0)
    turns = turns_of(clock, ONE, TWO)
    assert turns.are_on
    clock.now = LEASE_S + 0.1
    assert turns.wait() == 0
    assert not turns.are_on


def test_the_turn_of_a_process_that_is_gone_goes_back() -> None:
    clock = Clock(0.0)
    turns = turns_of(clock, ONE, TWO)
    clock.now = TURN_S + 0.1
    assert turns.wait() > 0
    turns.agree([ONE], store_now=STORE_NOW + clock.now)
    assert turns.wait() == 0


def test_time_stands_still_in_the_turns_of_others() -> None:
    clock = Clock(0.0)
    turns = turns_of(clock, ONE, TWO)
    clock.now = TURN_S
    assert (at_end := turns.time()) < TURN_S
    clock.now = 2 * TURN_S
    assert turns.time() == pytest.approx(at_end)
    clock.now = 3 * TURN_S
    assert turns.time() == pytest.approx(2 * at_end)


def test_two_processes_never_have_a_turn_at_the_same_time() -> None:
    clock = Clock(0.0)
    both = [Turns(name, clock) for name in "12"]
    for turns in both:
        turns.agree([ONE, TWO], store_now=STORE_NOW)
    had = []
    for step in range(500):
        clock.now = step * 0.01
        had.append(sum(turns.wait() == 0 for turns in both))
    assert max(had) == 1
    assert sum(had) > 0.9 * len(had)


def test_a_process_with_nothing_to_send_has_no_turn() -> None:
    turns = turns_of(Clock(0.0), replace(ONE, is_idle=True), TWO)
    assert turns.wait() == math.inf


def test_a_process_that_joins_goes_on_from_the_rate_that_was_found() -> None:
    clock = Clock(0.0)
    limiter = Limiter(max_concurrency=64, clock=clock, turns=(turns := Turns("1", clock)))
    others = [replace(TWO, name=name, per_s=50.0, takes_turns=True, turned_at=990.0) for name in "23"]
    limiter.agree(turns, [limiter.tell(turns), *others], store_now=STORE_NOW)
    assert limiter.found == Rate(50.0, is_no_window=True)


def test_a_process_goes_on_from_a_rate_that_has_risen() -> None:
    clock = Clock(0.0)
    turns = turns_of(clock, ONE, TWO)
    clock.now = 3.0
    at = STORE_NOW + clock.now
    mine = replace(ONE, per_s=50.0, takes_turns=True, turned_at=at - 1)
    for found, expected in ((80.0, Rate(80.0, is_no_window=True)), (51.0, None)):
        other = replace(TWO, per_s=found, takes_turns=True, turned_at=at)
        assert turns.agree([mine, other], store_now=at) == expected


def test_turns_begin_with_the_sum_of_what_each_process_has_found() -> None:
    assert shared_rate([ONE, replace(TWO, per_s=30.0)]) == 55.0


@pytest.mark.parametrize(
    "two",
    [
        replace(TWO, is_other=True),
        replace(TWO, is_new=True),
        replace(TWO, most=40.0),
        replace(TWO, per_s=290.0),
    ],
    ids=["another kind", "nothing found yet", "more than one process can send", "a high rate"],
)
def test_there_are_no_turns_under_other_conditions(two: Member) -> None:
    assert shared_rate([ONE, two]) is None


def test_there_are_no_turns_where_no_burst_was_let_in() -> None:
    assert shared_rate([replace(ONE, burst=1), replace(TWO, burst=1)]) is None


def test_there_are_no_turns_below_ten_requests_a_second() -> None:
    assert shared_rate([replace(ONE, per_s=4.0), replace(TWO, per_s=4.0)]) is None


def test_once_the_limit_is_of_another_kind_turns_wait_for_two_minutes() -> None:
    clock = Clock(0.0)
    turns = turns_of(clock, ONE, TWO)
    turns.agree([ONE, replace(TWO, is_other=True)], store_now=STORE_NOW)
    assert not turns.are_on
    told = turns.tell(Rate(25.0), burst=50, most=1000.0, is_bounded=False, is_costly=False, is_idle=False)
    assert told.not_before == STORE_NOW + AGAIN_S
    for at, are_on in ((STORE_NOW + AGAIN_S - 1, False), (STORE_NOW + AGAIN_S, True)):
        turns.agree([told, TWO], store_now=at)
        assert turns.are_on is are_on


@pytest.mark.parametrize(
    "bounds",
    [{"max_rate": 5.0}, {"fixed_rate": 5.0}, {"headroom": 0.2}],
    ids=lambda bounds: next(iter(bounds)),
)
def test_a_process_with_bounds_of_its_own_takes_no_turns(bounds: dict[str, float]) -> None:
    clock = Clock(0.0)
    limiter = Limiter(max_concurrency=64, clock=clock, **bounds)  # type: ignore[arg-type]
    assert limiter.tell(Turns("1", clock)).is_other


def test_a_process_that_no_worker_waits_for_is_idle() -> None:
    clock = Clock(0.0)
    limiter, turns = Limiter(max_concurrency=64, clock=clock), Turns("1", clock)
    assert limiter.tell(turns).is_idle
    limiter.take()
    assert not limiter.tell(turns).is_idle


def test_what_was_never_refused_is_new_and_not_of_another_kind() -> None:
    turns = Turns("1", Clock(0.0))
    figures = {"burst": 0, "most": 1000.0, "is_bounded": False, "is_costly": False, "is_idle": False}
    told = [turns.tell(found, **figures) for found in (NoLimit(), Calls(8), NoLimit())]  # type: ignore[arg-type]
    assert [(each.is_new, each.is_other) for each in told] == [(True, False), (False, True), (False, True)]


def test_a_process_cut_off_from_the_store_in_turns_sends_on() -> None:
    processes: list[InTurns] = []
    new = with_store()

    def cut_off(clock: Clock) -> InTurns:
        processes.append(process := new(clock))
        process.reaches_store = len(processes) == 1
        return process

    assert measure(replace(BUCKET, processes=2, requests=2000), cut_off).share > 0.95
