"""Time slots: processes that share a rate measure all of it, one after the other."""

import math
from dataclasses import replace

import pytest

from batchlic.pool.limiter.findings import Calls, NoLimit, Rate
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.time_slots import AGAIN_S, LEASE_S, SLOT_S, Member, TimeSlots, shared_rate
from tests.benchmarks.limiter.engine import Clock, measure
from tests.benchmarks.limiter.hidden import Hidden, Part
from tests.benchmarks.limiter.peers import Batchlic
from tests.benchmarks.limiter.sharing import InTimeSlots, fairness, with_store

BUCKET = Hidden((Part("bucket", 50.0, 50),), requests=4000)
ONE, TWO = (Member(name=name, per_s=25.0, burst=50, most=1000.0) for name in "12")
STORE_NOW = 1000.0


def slots_of(clock: Clock, *members: Member) -> TimeSlots:
    """The time slots of member 1, which has agreed with the others at 1000 s of the store's clock."""
    time_slots = TimeSlots("1", clock)
    time_slots.agree(members, store_now=STORE_NOW)
    return time_slots


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_in_turns_are_refused_at_most_half_as_often(processes: int) -> None:
    shared = replace(BUCKET, processes=processes)
    alone, in_time_slots = measure(shared, Batchlic), measure(shared, with_store())
    assert in_time_slots.steady < 0.6 * alone.steady
    assert in_time_slots.share > alone.share - 0.005


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_in_turns_deliver_the_same(processes: int) -> None:
    assert fairness(replace(BUCKET, processes=processes), with_store()) < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("by", [0.5, 2.0])
def test_a_limit_that_changes_is_found_in_slots(by: float) -> None:
    shared = replace(BUCKET, processes=4, changes=((30.0, by),))
    assert measure(shared, with_store()).share > 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [Part("bucket", 20.0, 1), Part("fixed", 30.0, period_s=10.0), Part("calls", calls=8)],
    ids=str,
)
def test_other_limits_are_found_as_without_a_store(part: Part) -> None:
    shared = Hidden((part,), requests=2000, processes=2)
    assert measure(shared, with_store()).admitted == measure(shared, Batchlic).admitted


def test_processes_that_lose_the_store_go_on_as_without_one() -> None:
    clock = Clock(0.0)
    time_slots = slots_of(clock, ONE, TWO)
    assert time_slots.are_on
    clock.now = LEASE_S + 0.1
    assert time_slots.wait() == 0
    assert not time_slots.are_on


def test_the_turn_of_a_process_that_is_gone_goes_back() -> None:
    clock = Clock(0.0)
    time_slots = slots_of(clock, ONE, TWO)
    clock.now = SLOT_S + 0.1
    assert time_slots.wait() > 0
    time_slots.agree([ONE], store_now=STORE_NOW + clock.now)
    assert time_slots.wait() == 0


def test_time_stands_still_in_the_turns_of_others() -> None:
    clock = Clock(0.0)
    time_slots = slots_of(clock, ONE, TWO)
    clock.now = SLOT_S
    assert (at_end := time_slots.time()) < SLOT_S
    clock.now = 2 * SLOT_S
    assert time_slots.time() == pytest.approx(at_end)
    clock.now = 3 * SLOT_S
    assert time_slots.time() == pytest.approx(2 * at_end)


def test_two_processes_never_have_a_turn_at_the_same_time() -> None:
    clock = Clock(0.0)
    both = [TimeSlots(name, clock) for name in "12"]
    for time_slots in both:
        time_slots.agree([ONE, TWO], store_now=STORE_NOW)
    had = []
    for step in range(500):
        clock.now = step * 0.01
        had.append(sum(time_slots.wait() == 0 for time_slots in both))
    assert max(had) == 1
    assert sum(had) > 0.9 * len(had)


def test_a_process_with_nothing_to_send_has_no_turn() -> None:
    time_slots = slots_of(Clock(0.0), replace(ONE, is_idle=True), TWO)
    assert time_slots.wait() == math.inf


def test_a_process_that_joins_goes_on_from_the_rate_that_was_found() -> None:
    clock = Clock(0.0)
    limiter = Limiter(max_concurrency=64, clock=clock, time_slots=(time_slots := TimeSlots("1", clock)))
    others = [replace(TWO, name=name, per_s=50.0, has_slots=True, slot_ended_at=990.0) for name in "23"]
    limiter.agree(time_slots, [limiter.tell(time_slots), *others], store_now=STORE_NOW)
    assert limiter.found == Rate(50.0, is_no_window=True)


def test_a_process_goes_on_from_a_rate_that_has_risen() -> None:
    clock = Clock(0.0)
    time_slots = slots_of(clock, ONE, TWO)
    clock.now = 3.0
    at = STORE_NOW + clock.now
    mine = replace(ONE, per_s=50.0, has_slots=True, slot_ended_at=at - 1)
    for found, expected in ((80.0, Rate(80.0, is_no_window=True)), (51.0, None)):
        other = replace(TWO, per_s=found, has_slots=True, slot_ended_at=at)
        assert time_slots.agree([mine, other], store_now=at) == expected


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
    time_slots = slots_of(clock, ONE, TWO)
    time_slots.agree([ONE, replace(TWO, is_other=True)], store_now=STORE_NOW)
    assert not time_slots.are_on
    told = time_slots.tell(
        Rate(25.0), burst=50, most=1000.0, is_bounded=False, is_costly=False, is_idle=False
    )
    assert told.not_before == STORE_NOW + AGAIN_S
    for at, are_on in ((STORE_NOW + AGAIN_S - 1, False), (STORE_NOW + AGAIN_S, True)):
        time_slots.agree([told, TWO], store_now=at)
        assert time_slots.are_on is are_on


@pytest.mark.parametrize(
    "bounds",
    [{"max_rate": 5.0}, {"fixed_rate": 5.0}, {"headroom": 0.2}],
    ids=lambda bounds: next(iter(bounds)),
)
def test_a_process_with_bounds_of_its_own_takes_no_slots(bounds: dict[str, float]) -> None:
    clock = Clock(0.0)
    limiter = Limiter(max_concurrency=64, clock=clock, **bounds)  # type: ignore[arg-type]
    assert limiter.tell(TimeSlots("1", clock)).is_other


def test_a_process_that_no_worker_waits_for_is_idle() -> None:
    clock = Clock(0.0)
    limiter, time_slots = Limiter(max_concurrency=64, clock=clock), TimeSlots("1", clock)
    assert limiter.tell(time_slots).is_idle
    limiter.take()
    assert not limiter.tell(time_slots).is_idle


def test_what_was_never_refused_is_new_and_not_of_another_kind() -> None:
    time_slots = TimeSlots("1", Clock(0.0))
    figures = {"burst": 0, "most": 1000.0, "is_bounded": False, "is_costly": False, "is_idle": False}
    told = [time_slots.tell(found, **figures) for found in (NoLimit(), Calls(8), NoLimit())]  # type: ignore[arg-type]
    assert [(each.is_new, each.is_other) for each in told] == [(True, False), (False, True), (False, True)]


def test_a_process_cut_off_from_the_store_in_turns_sends_on() -> None:
    processes: list[InTimeSlots] = []
    new = with_store()

    def cut_off(clock: Clock) -> InTimeSlots:
        processes.append(process := new(clock))
        process.reaches_store = len(processes) == 1
        return process

    assert measure(replace(BUCKET, processes=2, requests=2000), cut_off).share > 0.95
