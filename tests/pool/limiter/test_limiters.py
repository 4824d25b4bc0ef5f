"""The limiters of a session together: whom bounds, waits and pauses hold for, and what they show."""

import pytest
import trio
from trio.testing import MockClock

from batchlic.pool.limiter.evidence import Learned
from batchlic.pool.limiter.findings import Calls, Finding, Rate
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import Limiters, Scope, only
from batchlic.pool.limiter.transitions import estimator_for

pytestmark = pytest.mark.anyio


def limiters_of(*accounts: str, most: int = 10, learned: Learned | None = None) -> Limiters:
    found = Limiters(
        lambda _scope, known, slots: Limiter(max_concurrency=most, start_from=known or learned, slots=slots),
        max_concurrency=most,
        is_by_account=True,
    )
    for account in accounts:
        found.of(account)
    return found


def has_found(limiter: Limiter, finding: Finding) -> None:
    limiter._hypothesis = estimator_for(finding, limiter._samples)


async def test_all_accounts_of_a_login_share_one_limiter() -> None:
    limiters = only(Limiter(max_concurrency=1))
    assert limiters.of("A") is limiters.of("B")


async def test_each_account_has_one_limiter() -> None:
    limiters = limiters_of()
    assert limiters.of("A") is limiters.of("A")
    assert limiters.of("A") is not limiters.of("B")


async def test_a_changed_bound_holds_for_all_limiters_and_for_later_ones() -> None:
    limiters = limiters_of("A", "B")
    limiters.set_bounds(max_rate=5.0, max_concurrency=3, headroom=0.0)
    assert [limiters.of(account).rate for account in ("A", "B", "later")] == [5.0] * 3
    assert limiters.concurrency == 3


async def test_a_pause_by_a_person_holds_for_all_limiters_and_for_later_ones() -> None:
    limiters = limiters_of("A", "B")
    limiters.stop()
    assert [limiters.of(account).is_stopped for account in ("A", "B", "later")] == [True] * 3
    limiters.go_on()
    assert not any(limiter.is_stopped for limiter in limiters)


async def test_j_a_wait_for_a_login_holds_for_all_accounts_and_for_later_ones() -> None:
    limiters = limiters_of("A", "B")
    limiters.hold(60.0)
    assert all(limiters.of(account).is_paused for account in ("A", "B", "later"))
    assert limiters.is_paused


async def test_j_a_wait_of_an_account_holds_for_that_account_only() -> None:
    limiters = limiters_of("A", "B")
    limiters.hold(60.0, "A")
    assert [limiters.of(account).is_paused for account in ("A", "B")] == [True, False]
    assert not limiters.is_paused
    assert limiters.wait_s == 0


async def test_j_a_wait_outlasts_the_batches_of_its_account() -> None:
    limiters = limiters_of("A")
    limiters.of("A").hold(60.0)
    limiters.end("A")
    assert list(limiters) == []
    assert limiters.of("A").is_paused


async def test_an_account_that_goes_on_starts_from_what_it_learned() -> None:
    started: list[tuple[Scope, Learned | None]] = []

    def new(scope: Scope, learned: Learned | None, _slots: object) -> Limiter:
        started.append((scope, learned))
        return Limiter(max_concurrency=1)

    limiters = Limiters(new, max_concurrency=1, is_by_account=True)
    limiters.of("A")
    known = Learned(limit=Calls(3))
    limiters._learned["A"] = known
    limiters.end("A")
    limiters.of("A")
    assert started == [("A", None), ("A", known)]


async def test_the_limits_of_several_accounts_are_shown_together() -> None:
    limiters = limiters_of("A", "B", "C")
    has_found(limiters.of("A"), Rate(5.0))
    has_found(limiters.of("B"), Rate(20.0))
    assert limiters.found == "limits found for 2 of 3 accounts: 25 requests a second together"


async def test_the_limit_of_one_account_is_shown_as_it_is() -> None:
    limiters = limiters_of("A")
    has_found(limiters.of("A"), Rate(5.0))
    assert limiters.found == "found: 5 requests a second"


def test_the_flow_is_the_sum_over_all_accounts() -> None:
    async def flows() -> tuple[float | None, list[float | None]]:
        limiters = limiters_of("A", "B")
        for _ in range(10):
            for account in ("A", "B"):
                permit = await limiters.of(account).acquire()
                permit.started()
                await trio.sleep(0.05)
                permit.success()
        return limiters.flow, [limiter.flow for limiter in limiters]

    flow, each = trio.run(flows, clock=MockClock(autojump_threshold=0))
    assert flow == pytest.approx(sum(one or 0.0 for one in each))
    assert flow == pytest.approx(20, rel=0.1)


def test_a_slot_that_one_account_frees_is_taken_by_another() -> None:
    async def main() -> list[str]:
        limiters, order = limiters_of("A", "B", most=1), list[str]()

        async def send(account: str) -> None:
            permit = await limiters.of(account).acquire()
            permit.started()
            order.append(account)
            await trio.sleep(1.0)
            permit.success()

        async with trio.open_nursery() as nursery:
            for account in ("A", "B", "A", "B"):
                nursery.start_soon(send, account)
                await trio.sleep(0.1)
        assert limiters.in_flight == 0
        return order

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == ["A", "B", "A", "B"]
