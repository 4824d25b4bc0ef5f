"""Accounts with a limiter each: none holds back the others, and all together keep their bounds."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

import anyio
import pytest
import trio
from trio.testing import MockClock

from batchlic.carrier.answers import Answer
from batchlic.chunker import Batch, DeviceStatus
from batchlic.errors import StoppedEarly
from batchlic.journal import Journal
from batchlic.journal.writes import Insertion
from batchlic.pool.delivery import LanePlan, Pool
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import Limiters
from batchlic.pool.remaining import Delivery
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.sender import Sender
from batchlic.sandbox.limits import TokenBucket
from tests.pool.builders import ACCEPTED, REFUSED, THROTTLED, batch
from tests.pool.virtual import Carrier, Nobody, Request, run_session
from tests.writer.builders import journal_of

SLOW, OTHERS = "slow", ("second", "third")
WAIT_S = 600.0


def plan(batches: int, *accounts: str) -> list[Batch]:
    """So many batches of two devices for each of the accounts."""
    return [
        batch(2, batch_id=1 + at * batches + n, account=account, first=2 * (at * batches + n))
        for at, account in enumerate(accounts)
        for n in range(batches)
    ]


class AsksToWait:
    """Accepts everything, but the first request of the slow account after a second: that is to wait."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self.wait_s = wait_s
        self.asked_at: float | None = None

    def __call__(self, request: Request) -> Answer:
        if request.account != SLOW or request.at < 1.0 or self.asked_at is not None:
            return ACCEPTED
        self.asked_at = request.at
        return replace(THROTTLED, retry_after_s=self.wait_s)


@pytest.mark.slow
def test_j_a_throttled_account_does_not_hold_back_the_others() -> None:
    script = AsksToWait()
    session = run_session(script, plan(400, SLOW, *OTHERS), workers=4, round_trip_s=0.05, is_by_account=True)
    last = {request.account: request.at for request in session.requests}
    assert session.count(DeviceStatus.ACCEPTED) == 2400
    assert all(last[account] < 60 for account in OTHERS)
    assert last[SLOW] > WAIT_S


@pytest.mark.slow
def test_j_no_request_of_an_account_leaves_while_it_is_to_wait() -> None:
    script = AsksToWait()
    session = run_session(script, plan(400, SLOW, *OTHERS), workers=4, round_trip_s=0.05, is_by_account=True)
    assert script.asked_at is not None
    answered_at = script.asked_at + 0.05
    late = [request.at for request in session.requests if request.account == SLOW]
    assert not [at for at in late if answered_at < at < answered_at + WAIT_S - 1e-6]


@pytest.mark.slow
def test_j_with_one_limiter_for_the_login_all_accounts_wait() -> None:
    script = AsksToWait()
    session = run_session(script, plan(400, SLOW, *OTHERS), workers=4, round_trip_s=0.05)
    assert script.asked_at is not None
    answered_at = script.asked_at + 0.05
    assert not [
        request.at for request in session.requests if answered_at < request.at < answered_at + WAIT_S - 1e-6
    ]


@pytest.mark.slow
def test_an_account_that_waits_too_long_ends_without_the_others() -> None:
    session = run_session(
        AsksToWait(7200.0), plan(400, SLOW, *OTHERS), workers=4, round_trip_s=0.05, is_by_account=True
    )
    assert isinstance(session.stopped, StoppedEarly)
    assert f"account {SLOW}: the carrier asks batchlic to wait 7200 s" in str(session.stopped)
    accepted = {place[0] for place, one in session.statuses.items() if one is DeviceStatus.ACCEPTED}
    assert set(range(401, 1201)) <= accepted
    assert session.seconds < 60


def test_several_accounts_that_wait_too_long_are_counted() -> None:
    script = lambda _: replace(THROTTLED, retry_after_s=7200.0)  # noqa: E731 - short
    session = run_session(script, plan(4, SLOW, *OTHERS), workers=4, is_by_account=True)
    assert str(session.stopped).endswith("; 2 other accounts wait too long, too")


@pytest.mark.slow
def test_an_account_without_progress_gives_up_while_the_others_go_on() -> None:
    def script(request: Request) -> Answer:
        return replace(THROTTLED, retry_after_s=5.0) if request.account == SLOW else ACCEPTED

    session = run_session(
        script,
        plan(2000, SLOW, *OTHERS),
        workers=2,
        round_trip_s=0.05,
        give_up_after=20.0,
        is_by_account=True,
    )
    assert f"account {SLOW}: no progress for 20 s" in str(session.stopped)
    assert session.count(DeviceStatus.ACCEPTED) == 8000
    assert max(request.at for request in session.requests if request.account == SLOW) < 40


@pytest.mark.slow
@pytest.mark.parametrize("is_by_account", [False, True])
def test_accounts_take_turns(*, is_by_account: bool) -> None:
    session = run_session(
        lambda _: ACCEPTED, plan(100, SLOW, *OTHERS), workers=3, is_by_account=is_by_account
    )
    half = Counter(request.account for request in session.requests[:150])
    assert max(half.values()) - min(half.values()) <= 6


@pytest.mark.slow
def test_all_accounts_together_have_no_more_requests_in_flight_than_allowed() -> None:
    session = run_session(
        lambda _: ACCEPTED, plan(50, *map(str, range(10))), workers=3, round_trip_s=1.0, is_by_account=True
    )
    starts = sorted(request.at for request in session.requests)
    in_flight = [sum(at <= start < at + 1.0 - 1e-6 for at in starts) for start in starts]
    assert max(in_flight) == 3
    assert session.seconds < 500 / 3 * 1.05


@pytest.mark.slow
def test_each_account_finds_its_own_limit() -> None:
    rates = {"first": 4.0, "second": 16.0, "third": 64.0}
    buckets = {account: TokenBucket(5, cost_when_throttled=0) for account in rates}
    accounts = [account for account, rate in rates.items() for _ in range(int(120 * rate))]
    batches = [batch(1, batch_id=n + 1, account=account, first=n) for n, account in enumerate(accounts)]
    admitted = defaultdict[str, list[float]](list)

    def script(request: Request) -> Answer:
        if buckets[request.account].wait(request.at, rates[request.account]):
            return THROTTLED
        admitted[request.account].append(request.at)
        return ACCEPTED

    session = run_session(script, batches, workers=16, round_trip_s=0.1, is_by_account=True)
    assert session.count(DeviceStatus.ACCEPTED) == len(batches)
    for account, rate in rates.items():
        assert sum(60 < at < 110 for at in admitted[account]) > 0.8 * 50 * rate
    assert session.seconds < 120 * 1.3
    assert len(session.requests) < 1.5 * len(batches)


@pytest.mark.slow
def test_refusals_of_one_account_stop_the_run() -> None:
    session = run_session(
        lambda request: REFUSED if request.account == SLOW else ACCEPTED,
        plan(1000, SLOW, *OTHERS),
        workers=4,
        round_trip_s=0.5,
        is_by_account=True,
    )
    assert f"refuses all requests for account {SLOW}" in str(session.stopped)
    assert session.count(DeviceStatus.FAILED) == 0
    assert session.count(DeviceStatus.PENDING) > 0


class Lanes:
    """Lanes of many batches, of which it counts those that were taken, and those that were accepted."""

    def __init__(self, *accounts: str) -> None:
        self.taken: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.accounts = accounts

    def accept(self, request: Request) -> Answer:
        self.accepted[request.account] += 1
        return ACCEPTED

    def plans(self) -> Iterator[LanePlan]:
        for at, account in enumerate(self.accounts):
            yield LanePlan(self._sequences(at, account), account)

    def _sequences(self, at: int, account: str) -> Iterator[Delivery]:
        for n in range(1000):
            self.taken[account] += 1
            yield Delivery(batch(1, batch_id=1 + 1000 * at + n, account=account, first=n))


async def at_once(commit: Callable[[list[Insertion]], None], insertions: list[Insertion]) -> None:
    """Commit without a thread, which would not know the virtual time."""
    commit(insertions)


async def deliver_for(
    seconds: float, lanes: Lanes, *, held: tuple[str, ...], hold_s: float = 1000.0, hold_at: float = 0.0
) -> Limiters:
    """Deliver lanes, some of which are to wait so long from a moment on."""
    limiters = Limiters(
        lambda _scope, learned, slots: Limiter(max_concurrency=50, start_from=learned, slots=slots),
        max_concurrency=50,
        is_by_account=True,
    )

    async def hold() -> None:
        await anyio.sleep(hold_at)
        for account in held:
            limiters.hold(hold_s, account)

    sender = Sender(
        client=Carrier(lanes.accept),  # type: ignore[arg-type]
        journal=Journal(journal_of([], [1] * 1000 * len(lanes.accounts))._database, offload=at_once),
        limiters=limiters,
        policy=RetryPolicy(resendable=()),
        observer=Nobody(),
    )
    if not hold_at:
        await hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        with anyio.move_on_after(seconds):
            await Pool(sender, workers=50).deliver_lanes(lanes.plans())
    return limiters


@pytest.mark.slow
def test_h_few_batches_of_an_account_that_waits_are_in_memory() -> None:
    lanes = Lanes(SLOW, *OTHERS)

    async def main() -> None:
        await deliver_for(500.0, lanes, held=(SLOW,))

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert lanes.taken["second"] == lanes.taken["third"] == 1000
    assert lanes.taken[SLOW] <= 6


def test_h_an_account_that_begins_to_wait_takes_few_more_batches() -> None:
    lanes = Lanes(SLOW)

    async def main() -> None:
        await deliver_for(500.0, lanes, held=(SLOW,), hold_at=0.1)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert 100 < lanes.accepted[SLOW] < 900
    assert lanes.taken[SLOW] - lanes.accepted[SLOW] <= 6


def test_h_many_accounts_that_wait_hold_few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchlic.pool.delivery.MOST_LANES", 20)
    lanes = Lanes(*(f"account {n}" for n in range(100)))

    async def main() -> None:
        await deliver_for(500.0, lanes, held=lanes.accounts)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert len(lanes.taken) == 20
    assert lanes.taken.total() <= 120


@pytest.mark.slow
def test_an_account_that_is_done_leaves_only_what_it_learned() -> None:
    async def main() -> list[Limiter]:
        return list(await deliver_for(500.0, Lanes(*OTHERS), held=()))

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == []


@pytest.mark.slow
def test_j_an_account_whose_wait_is_too_long_gives_up_at_once() -> None:
    lanes = Lanes(SLOW, *OTHERS)

    async def main() -> None:
        await deliver_for(500.0, lanes, held=(SLOW,), hold_s=7200.0)

    with pytest.RaisesGroup(StoppedEarly) as raised:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert f"account {SLOW}: the carrier asks batchlic to wait 7200 s" in str(raised.value.exceptions[0])
    assert lanes.taken["second"] == lanes.taken["third"] == 1000
