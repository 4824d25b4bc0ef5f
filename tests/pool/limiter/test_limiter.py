"""The limiter finds limits that it is not told of, in virtual time; and keeps to those that it is told."""

import itertools
import math
import statistics
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import anyio
import pytest
import trio
from trio.testing import MockClock

from batchlic.carrier.rate_limits import Quota
from batchlic.pool.limiter.limiter import Change, Limiter
from batchlic.sandbox.config import (
    LatencyConfig,
    LimitConfig,
    LimitKind,
    QuotaHeaders,
    RetryHint,
    SandboxConfig,
)
from tests.simulation.limits import NETWORK_S, Ended, SimulatedCarrier, ideal_seconds, seed_chance, vary

DELIVERED = Ended()
THROTTLED = Ended(throttled=True)
WORKERS = 64

PLAIN = SandboxConfig(
    limits=LimitConfig(retry_hint=RetryHint.NOTHING), latency=LatencyConfig(base_s=0.049, jitter_s=0.002)
)
BUCKET = vary(PLAIN, rate=200.0, burst=20)
WINDOW = vary(PLAIN, rate=200.0, kind=LimitKind.FIXED_WINDOW)
SLIDING = vary(PLAIN, rate=200.0, kind=LimitKind.SLIDING_WINDOW)
CAP = vary(PLAIN, max_concurrent=10)


class Run:
    """One run of a number of requests from start to end, in virtual time."""

    def __init__(
        self, config: SandboxConfig, requests: int, *, start: float = 0.3, network_s: float = NETWORK_S
    ) -> None:
        self.changes: list[Change] = []
        clock = MockClock(autojump_threshold=0)
        clock.jump(start)
        seed_chance(config.seed)
        self.seconds, self.carrier = trio.run(self._work, config, requests, network_s, clock=clock)
        ideal = ideal_seconds(config, requests, max_concurrency=WORKERS, start=start)
        self.share = ideal / self.seconds
        self.throttled_share = self._throttled_share(start)
        self.throttled_later = self._throttled_share(start + 5.0)

    async def _work(
        self, config: SandboxConfig, requests: int, network_s: float
    ) -> tuple[float, SimulatedCarrier]:
        carrier = SimulatedCarrier(config, network_s)
        limiter = Limiter(max_concurrency=WORKERS, on_change=self.changes.append)
        started = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            left = iter(range(requests))
            for _ in range(WORKERS):
                tasks.start_soon(work, limiter, carrier.call, left)
        return anyio.current_time() - started, carrier

    def _throttled_share(self, since: float) -> float:
        throttled, admitted = (
            sum(at >= since for at in times) for times in (self.carrier.throttled, self.carrier.admitted)
        )
        return throttled / max(1, throttled + admitted)


async def work(limiter: Limiter, call: Callable[[], Awaitable[Ended]], left: Iterator[int]) -> None:
    for _ in left:
        ended = THROTTLED
        while ended.throttled:
            permit = await limiter.acquire()
            permit.started()
            ended = await call()
            ended.tell(permit)


def in_virtual_time(test: Callable[[], Awaitable[None]]) -> None:
    seed_chance(0)
    trio.run(test, clock=MockClock(autojump_threshold=0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "least_share", "start"),
    [
        pytest.param(BUCKET, 0.97, 0.3, id="token bucket"),
        pytest.param(WINDOW, 0.97, 0.71, id="fixed window"),
        pytest.param(WINDOW, 0.97, 1.5, id="fixed window that ends soon"),
        pytest.param(vary(WINDOW, window_s=5.0), 0.97, 0.3, id="fixed window of 5 s"),
        pytest.param(SLIDING, 0.97, 1.12, id="sliding window"),
        pytest.param(CAP, 0.95, 0.3, id="cap on concurrent calls"),
        pytest.param(vary(BUCKET, changes=((10.0, 0.5),)), 0.95, 0.3, id="limit that halves"),
        pytest.param(vary(BUCKET, changes=((7.0, 3.0),)), 0.95, 0.71, id="limit that triples"),
        pytest.param(vary(WINDOW, changes=((10.0, 0.5),)), 0.95, 0.71, id="quota that halves"),
        pytest.param(vary(WINDOW, changes=((7.0, 3.0),)), 0.95, 1.12, id="quota that triples"),
    ],
)
def test_a_hidden_limit_is_found_and_kept_to(config: SandboxConfig, least_share: float, start: float) -> None:
    run = Run(replace(config, seed=1), 4000, start=start)
    assert run.share >= least_share
    assert run.throttled_share <= 0.05
    assert run.throttled_later <= 0.02
    assert all(change.found and change.concurrency >= 1 for change in run.changes)
    assert 1 <= len(run.changes) <= 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "least_share"),
    [
        (vary(WINDOW, retry_hint=RetryHint.SECONDS), 0.94),
        (vary(SLIDING, retry_hint=RetryHint.SECONDS), 0.94),
        (vary(BUCKET, retry_hint=RetryHint.SECONDS), 0.8),
        (vary(CAP, retry_hint=RetryHint.SECONDS), 0.9),
    ],
    ids=["window", "sliding", "bucket", "cap"],
)
def test_where_each_refusal_costs_a_second_there_are_few(config: SandboxConfig, least_share: float) -> None:
    run = Run(config, 2000)
    assert run.share >= least_share - 0.1  # half the work, the same search
    assert len(run.carrier.throttled) <= 10  # a window is asked once whether it is shorter than told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "least_share"),
    [(BUCKET, 0.95), (WINDOW, 0.95), (SLIDING, 0.95)],
    ids=["bucket", "window", "sliding"],
)
def test_refusals_that_take_as_long_as_answers_are_no_more(config: SandboxConfig, least_share: float) -> None:
    run = Run(vary(config, latency={"base_s": 0.015}), 4000, network_s=0.03)
    assert run.share >= least_share
    assert run.throttled_share <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "later"),
    [
        (Ended(throttled=True, retry_after_s=300.0), 450),
        (THROTTLED, 150),
        (Ended(is_lost=True, retry_after_s=300.0), 450),
    ],
)
def test_what_has_passed_leaves_no_mark(told: Ended, later: float) -> None:
    """Five seconds of refusals after a free run; some minutes later all goes at full speed again."""
    let_in = 0

    async def call() -> Ended:
        nonlocal let_in
        await anyio.sleep(0.05)
        if 5 <= anyio.current_time() < 10:
            return told
        let_in += anyio.current_time() > later
        return DELIVERED

    async def main() -> None:
        limiter = Limiter(max_concurrency=4)
        with anyio.move_on_after(later + 50):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(work, limiter, call, itertools.count())

    in_virtual_time(main)
    assert let_in >= 0.75 * 50 * 80


@pytest.mark.slow
def test_a_probe_that_never_left_is_not_waited_for() -> None:
    """For ten seconds half of the permits are given back; a quota raised later is found all the same."""

    async def main() -> None:
        carrier = SimulatedCarrier(vary(WINDOW, rate=50.0, changes=((25.0, 4.0),)))
        limiter, numbers = Limiter(max_concurrency=8), itertools.count()

        async def worker() -> None:
            while True:
                permit = await limiter.acquire()
                if 10 <= anyio.current_time() < 20 and next(numbers) % 2:
                    permit.dropped()
                else:
                    permit.started()
                    (await carrier.call()).tell(permit)

        with anyio.move_on_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(worker)
        assert sum(at > 50 for at in carrier.admitted) >= 0.6 * 10 * 150

    in_virtual_time(main)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "least_share"),
    [
        pytest.param(vary(BUCKET, count_throttled=True), 0.8, id="bucket where refused calls count"),
        pytest.param(vary(SLIDING, count_throttled=True), 0.85, id="window where refused calls count"),
        pytest.param(vary(WINDOW, latency={"base_s": 0.15}), 0.9, id="window of six round trips"),
        pytest.param(vary(SLIDING, latency={"base_s": 0.15}), 0.9, id="sliding window of six round trips"),
        pytest.param(vary(WINDOW, window_s=0.1), 0.9, id="window of two round trips"),
        pytest.param(vary(BUCKET, rate=50.0, burst=5), 0.9, id="bucket that looks like a cap"),
    ],
)
def test_awkward_limits_are_found_as_well(config: SandboxConfig, least_share: float) -> None:
    run = Run(config, 2000)
    assert run.share >= least_share
    assert run.throttled_share <= 0.06


@pytest.mark.parametrize(
    ("rate", "latency", "requests", "least_share"), [(1.0, 0.05, 40, 0.9), (20.0, 0.15, 400, 0.85)]
)
def test_low_limits_are_kept_to(rate: float, latency: float, requests: int, least_share: float) -> None:
    config = vary(BUCKET, rate=rate, burst=max(1, round(rate / 10)), latency={"base_s": latency})
    assert Run(config, requests).share >= least_share


@pytest.mark.parametrize(
    ("config", "requests", "least_share"),
    [
        (vary(BUCKET, rate=20.0, burst=5), 400, 0.72),
        (vary(BUCKET, rate=20.0, burst=5, latency={"base_s": 0.002, "jitter_s": 0.0}), 400, 0.7),
        (vary(BUCKET, rate=20.0), 400, 0.8),
        (vary(BUCKET, rate=3.0, burst=1), 400, 0.8),
        (vary(WINDOW, rate=10.0), 200, 0.72),
    ],
    ids=["small bucket", "small bucket nearby", "bucket", "three a second", "window"],
)
def test_low_limits_are_found_though_each_refusal_costs_a_second(
    config: SandboxConfig, requests: int, least_share: float
) -> None:
    run = Run(vary(config, retry_hint=RetryHint.SECONDS), requests, network_s=0.001)
    assert run.share >= least_share
    assert len(run.carrier.throttled) <= 30


@pytest.mark.parametrize("kind", list(LimitKind))
def test_five_a_minute_are_found_with_ever_rarer_questions(kind: LimitKind) -> None:
    run = Run(vary(PLAIN, rate=5 / 60, window_s=60.0, burst=1, kind=kind), 20)
    assert run.share >= 0.85
    assert len(run.carrier.throttled) <= 80


def test_five_a_minute_that_become_five_a_second_are_found_again() -> None:
    run = Run(vary(BUCKET, rate=5 / 60, burst=1, changes=((120.0, 60.0),)), 200)
    assert run.share >= 0.4


@pytest.mark.slow
def test_without_a_limit_all_workers_are_busy_after_a_few_round_trips() -> None:
    run = Run(PLAIN, 4000)
    assert run.share >= 0.93
    assert run.changes == []


@pytest.mark.slow
def test_a_quota_in_the_headers_is_kept_to_without_a_refusal() -> None:
    told = vary(WINDOW, rate=20.0, window_s=10.0, quota_headers=QuotaHeaders.RATELIMIT)
    run = Run(told, 1000, start=2.0)
    assert run.share >= 0.9
    assert run.throttled_share <= 0.07
    assert Run(vary(BUCKET, quota_headers=QuotaHeaders.DRAFT), 2000).share >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "processes", "ratio"),
    [
        (BUCKET, 2, 2.0),
        (BUCKET, 4, 2.0),
        (WINDOW, 2, 1.5),
        (SLIDING, 2, 3.0),
        (SLIDING, 4, 6.0),
    ],
    ids=["bucket 2", "bucket 4", "window 2", "sliding 2", "sliding 4"],
)
def test_processes_that_share_a_limit_end_near_equal_shares(
    config: SandboxConfig, processes: int, ratio: float
) -> None:
    runs = [_shares(config, processes, later) for later in (0.8, 1.0, 1.2)]
    assert all(sum(counts) >= 0.9 * 200 * 15 for counts in runs)
    assert statistics.median(max(counts) / max(1, min(counts)) for counts in runs) <= ratio


def _shares(config: SandboxConfig, processes: int, later: float) -> list[int]:
    """Requests let in from 30 to 45 s, for processes that start so many seconds one after another."""
    counts = [0] * processes

    async def main() -> None:
        carrier = SimulatedCarrier(config)

        async def call(process: int) -> Ended:
            ended = await carrier.call()
            counts[process] += not ended.throttled and anyio.current_time() > 30
            return ended

        with anyio.move_on_after(45):
            async with anyio.create_task_group() as tasks:
                for process in range(processes):
                    limiter = Limiter(max_concurrency=16)
                    for _ in range(16):
                        tasks.start_soon(work, limiter, lambda n=process: call(n), itertools.count())
                    await anyio.sleep(later)

    in_virtual_time(main)
    return counts


@pytest.mark.parametrize(
    "told", [Ended(throttled=True, retry_after_s=30.0), Ended(is_lost=True, retry_after_s=30.0)]
)
def test_j_nobody_sends_while_the_carrier_has_told_anyone_to_wait(told: Ended) -> None:
    async def main() -> None:
        limiter = Limiter(max_concurrency=8)
        others = [await limiter.acquire() for _ in range(4)]
        late = await limiter.acquire()
        told.tell(await limiter.acquire())
        assert not late.started()
        late.dropped()
        for permit in others:
            DELIVERED.tell(permit)
        permit = await limiter.acquire()
        assert anyio.current_time() >= 30.0
        assert permit.started()

    in_virtual_time(main)


def test_the_wait_that_the_carrier_asks_for_is_known_and_runs_out() -> None:
    async def main() -> None:
        limiter = Limiter(max_concurrency=1)
        assert limiter.wait_s == 0
        Ended(throttled=True, retry_after_s=30.0).tell(await limiter.acquire())
        assert limiter.wait_s == pytest.approx(30)
        await anyio.sleep(20)
        assert limiter.wait_s == pytest.approx(10)
        await limiter.acquire()
        assert limiter.wait_s == 0

    in_virtual_time(main)


def test_who_is_let_go_at_the_end_of_a_pause_may_leave() -> None:
    """Though a clock that counts in fractions does not meet the end of the pause exactly."""

    async def main() -> None:
        limiter = Limiter(max_concurrency=1)
        limiter.hold(5e-7)
        permit = await limiter.acquire()
        assert permit.started()

    in_virtual_time(main)


def test_nothing_is_measured_across_a_pause_that_another_failure_told() -> None:
    async def main() -> None:
        limiter = Limiter(max_concurrency=1)
        Ended(is_lost=True, retry_after_s=5.0).tell(await limiter.acquire())
        Ended(throttled=True, retry_after_s=1.0).tell(await limiter.acquire())
        assert [len(burst) for burst in limiter._samples.bursts()] == [1]

    in_virtual_time(main)


def used_up(after_s: float) -> Ended:
    return Ended(quota=Quota(limit=100, remaining=0, reset_s=after_s))


def test_a_used_up_quota_is_waited_for_before_anything_is_refused() -> None:
    async def main() -> None:
        limiter = Limiter(max_concurrency=8)
        used_up(7.0).tell(await limiter.acquire())
        await limiter.acquire()
        assert anyio.current_time() >= 7.0

    in_virtual_time(main)


def test_a_quota_that_is_used_up_again_and_again_is_not_believed() -> None:
    async def main() -> None:
        limiter = Limiter(max_concurrency=8)
        permits = [await limiter.acquire() for _ in range(2)]
        for permit in permits:
            used_up(7.0).tell(permit)
        await limiter.acquire()
        assert anyio.current_time() < 1.0

    in_virtual_time(main)


@pytest.mark.slow
def test_nothing_grows_while_the_pool_has_little_to_send() -> None:
    """RFC 7661: what was never used says nothing about what is allowed."""

    async def main() -> None:
        carrier, limiter = SimulatedCarrier(BUCKET), Limiter(max_concurrency=WORKERS)
        with anyio.move_on_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(WORKERS):
                    tasks.start_soon(work, limiter, carrier.call, itertools.count())
        before = limiter.rate
        for _ in range(300):
            await work(limiter, carrier.call, iter(range(1)))
            await anyio.sleep(0.1)
        assert limiter.rate <= 1.5 * before

    in_virtual_time(main)


@pytest.mark.parametrize("bound", ["max_rate", "fixed_rate"])
def test_a_rate_set_by_a_person_is_never_exceeded(bound: str) -> None:
    starts: list[float] = []

    async def main() -> None:
        limiter = Limiter(max_concurrency=WORKERS, **{bound: 50.0})  # type: ignore[arg-type]  # one of the two
        for _ in range(500):
            permit = await limiter.acquire()
            starts.append(anyio.current_time())
            DELIVERED.tell(permit)

    in_virtual_time(main)
    assert all(later - earlier >= 9.7 / 50 for earlier, later in zip(starts, starts[10:], strict=False))
    assert starts[-1] - starts[0] == pytest.approx(499 / 50, rel=0.01)


def test_j_a_fixed_rate_still_pauses_everyone_when_throttled() -> None:
    async def main() -> None:
        limiter = Limiter(max_concurrency=8, fixed_rate=1000.0)
        waits = []
        for _ in range(4):
            before = anyio.current_time()
            THROTTLED.tell(await limiter.acquire())
            waits.append(anyio.current_time() - before)
        assert waits[1:] == pytest.approx([0.1, 0.2, 0.4])
        assert limiter.rate == 1000.0

    in_virtual_time(main)


@pytest.mark.anyio
async def test_no_more_permits_are_held_than_the_concurrency_allows() -> None:
    limiter = Limiter(max_concurrency=3)
    permits = [await limiter.acquire() for _ in range(3)]
    with anyio.move_on_after(0.01):
        permits.append(await limiter.acquire())
    assert len(permits) == limiter.concurrency == 3
    permits[0].dropped()
    with anyio.fail_after(10):
        await limiter.acquire()


@pytest.mark.anyio
async def test_a_cancelled_wait_and_a_dropped_permit_leak_no_slot() -> None:
    limiter = Limiter(max_concurrency=1)
    held = await limiter.acquire()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(limiter.acquire)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    held.dropped()
    held.dropped()
    for _ in range(3):
        with anyio.fail_after(10):
            permit = await limiter.acquire()
        DELIVERED.tell(permit)
        permit.dropped()


@pytest.mark.anyio
async def test_a_waiting_worker_goes_on_as_soon_as_a_slot_is_free() -> None:
    limiter = Limiter(max_concurrency=1)
    permit = await limiter.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limiter.acquire)
        await anyio.wait_all_tasks_blocked()
        DELIVERED.tell(permit)


def test_an_idle_night_does_no_harm() -> None:
    async def main() -> None:
        limiter = Limiter(max_concurrency=8)
        carrier = SimulatedCarrier(BUCKET)
        with anyio.move_on_after(3):
            await work(limiter, carrier.call, itertools.count())
        await anyio.sleep(12 * 3600)
        await work(limiter, carrier.call, iter(range(100)))
        assert not math.isnan(limiter.rate)

    in_virtual_time(main)
