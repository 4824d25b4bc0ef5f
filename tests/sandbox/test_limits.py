"""The hidden limits: how many come in, what the others are told, and that nothing else is limited."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import anyio
import httpx
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from batchlic.carrier.hints import quota_of
from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.config import LimitKind, QuotaHeaders, RetryHint, SandboxConfig, ThrottleShape
from batchlic.sandbox.limits import (
    FixedWindow,
    Gate,
    Latency,
    RateLimit,
    SlidingWindow,
    Throttled,
    TokenBucket,
    throttle_refusal,
)
from tests.sandbox.caller import IMEI, caller_of, device, request_body

RATE, BURST, WINDOW_S = 10.0, 5, 2.0
GAPS = st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.125, 1.0, 3.0]), max_size=200)
NOON = datetime(2026, 1, 2, 12, 0, 0, 300_000, tzinfo=UTC)


def admitted(limit: RateLimit, gaps: list[float]) -> list[float]:
    """When the calls came in that did, each a gap after the one before."""
    now, times = 100.0, []
    for gap in gaps:
        now += gap
        if limit.wait(now, RATE) == 0:
            times.append(now)
    return times


@given(GAPS)
def test_a_token_bucket_lets_in_no_more_than_its_burst_and_its_rate(gaps: list[float]) -> None:
    times = admitted(TokenBucket(BURST, cost_when_throttled=0), gaps)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= BURST + (times[last] - times[first]) * RATE + 1e-6


@given(GAPS)
def test_a_fixed_window_lets_in_its_quota_and_forgets_at_the_border(gaps: list[float]) -> None:
    times = admitted(FixedWindow(WINDOW_S), gaps)
    windows = [time // WINDOW_S for time in times]
    assert all(windows.count(window) <= RATE * WINDOW_S for window in windows)


@given(GAPS)
def test_a_sliding_window_lets_in_its_quota_in_any_stretch_of_its_length(gaps: list[float]) -> None:
    times = admitted(SlidingWindow(WINDOW_S, cost_when_throttled=0), gaps)
    for start in times:
        assert sum(start <= time < start + WINDOW_S for time in times) <= RATE * WINDOW_S


LIMITS: list[Callable[[], RateLimit]] = [
    lambda: TokenBucket(BURST, cost_when_throttled=0),
    lambda: TokenBucket(BURST, cost_when_throttled=1),
    lambda: FixedWindow(WINDOW_S),
    lambda: SlidingWindow(WINDOW_S, cost_when_throttled=0),
    lambda: SlidingWindow(WINDOW_S, cost_when_throttled=1),
]


@pytest.mark.parametrize("limit", [make() for make in LIMITS])
def test_who_waits_as_long_as_told_comes_in(limit: RateLimit) -> None:
    now = 100.0
    while (wait := limit.wait(now, RATE)) == 0:
        now += 0.001
    assert limit.wait(now + wait + 1e-6, RATE) == 0


@pytest.mark.parametrize("limit", [TokenBucket(BURST, 1), SlidingWindow(WINDOW_S, 1)])
def test_where_throttled_calls_count_who_hammers_never_comes_in(limit: RateLimit) -> None:
    while limit.wait(100.0, RATE) == 0:
        pass
    assert admitted(limit, [0.05] * 1000) == []


def test_a_limit_changes_by_its_factors_from_the_first_call_on() -> None:
    config = SandboxConfig(
        rate=RATE, limit=LimitKind.FIXED_WINDOW, changes=((10.0, 0.5), (20.0, 3.0)), max_concurrent=100
    )
    gate = Gate(config)

    def quota(now: float) -> int:
        count = 0
        try:
            while True:
                gate.enter(now)
                gate.leave()
                count += 1
        except Throttled:
            return count

    assert [quota(now) for now in (50.0, 59.0, 60.0, 69.0, 70.0)] == [10, 10, 5, 5, 30]


def test_a_cap_on_concurrent_calls_lets_the_next_in_when_one_leaves() -> None:
    gate = Gate(SandboxConfig(max_concurrent=2))
    gate.enter(0)
    gate.enter(0)
    with pytest.raises(Throttled):
        gate.enter(0)
    gate.leave()
    gate.enter(0)
    assert (gate.inside, gate.most_inside) == (2, 2)


def test_a_cap_on_concurrent_calls_changes_too() -> None:
    gate = Gate(SandboxConfig(max_concurrent=2, changes=((10, 2.0),)))
    gate.enter(0)
    gate.enter(0)
    with pytest.raises(Throttled):
        gate.enter(9)
    gate.enter(10)
    gate.enter(10)
    with pytest.raises(Throttled):
        gate.enter(10)


@pytest.mark.anyio
async def test_a_call_that_is_answered_makes_room_for_the_next() -> None:
    async with caller_of(Sandbox(SandboxConfig(max_concurrent=1))) as caller:
        for body in (request_body(device(IMEI)), {}, request_body(device(IMEI))):
            assert (await caller.assign(body)).status_code != 429


def test_latency_grows_with_the_calls_inside() -> None:
    config = SandboxConfig(latency_s=0.05, latency_growth_s=0.01)
    assert [Latency(config).of(inside) for inside in (1, 2, 11)] == pytest.approx([0.05, 0.06, 0.15])


def test_jitter_is_bounded_and_the_same_for_the_same_seed() -> None:
    config = SandboxConfig(latency_s=0.05, latency_jitter_s=0.02, seed=7)
    one, same = Latency(config), Latency(config)
    drawn = [one.of(1) for _ in range(20)]
    assert drawn == [same.of(1) for _ in range(20)]
    assert all(0.05 <= seconds <= 0.07 for seconds in drawn)
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("wait_s", [0.2, 1.0, 29.7])
def test_every_hint_says_to_come_back_no_earlier_than_the_limit_allows(wait_s: float) -> None:
    def told(hint: RetryHint) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        refusal = throttle_refusal(SandboxConfig(retry_hint=hint), wait_s, NOON)
        return dict(refusal.headers or {}), msgspec.json.decode(refusal.body)

    earliest = NOON + timedelta(seconds=wait_s)
    seconds, _ = told(RetryHint.SECONDS)
    assert wait_s <= int(seconds["retry-after"]) < wait_s + 1
    date, _ = told(RetryHint.DATE)
    assert earliest <= parsedate_to_datetime(date["retry-after"]) <= earliest + timedelta(seconds=1)
    assert parsedate_to_datetime(date["date"]) == NOON.replace(microsecond=0)
    _, body = told(RetryHint.NEXT_ACCESS_TIME)
    next_access = datetime.strptime(body["fault"]["nextAccessTime"], "%Y-%b-%d %H:%M:%S%z UTC")
    assert earliest <= next_access <= earliest + timedelta(seconds=1)
    nothing, body = told(RetryHint.NOTHING)
    assert nothing == {}
    assert "nextAccessTime" not in body["fault"]


@pytest.mark.parametrize(
    ("shape", "path"),
    [
        (ThrottleShape.GATEWAY, ["fault", "code"]),
        (ThrottleShape.BARE_GATEWAY, ["code"]),
        (ThrottleShape.LICENSE, ["errorCode"]),
    ],
)
def test_a_429_comes_in_each_of_the_carriers_shapes(shape: ThrottleShape, path: list[str]) -> None:
    body = msgspec.json.decode(throttle_refusal(SandboxConfig(throttle_shape=shape), 1.0, NOON).body)
    for key in path:
        body = body[key]
    assert body in {"900802", "429"}


QUOTAS = [
    (LimitKind.TOKEN_BUCKET, [(2, 1, 1), (2, 0, 2), (2, 0, 2)]),
    (LimitKind.FIXED_WINDOW, [(2, 1, 2), (2, 0, 2), (2, 0, 2)]),
    (LimitKind.SLIDING_WINDOW, [(2, 1, 2), (2, 0, 2), (2, 0, 2)]),
]


@pytest.mark.parametrize("kind", [QuotaHeaders.RATELIMIT, QuotaHeaders.X_RATELIMIT, QuotaHeaders.DRAFT])
@pytest.mark.parametrize(("limit", "told"), QUOTAS)
def test_every_answer_has_the_quota_left_and_our_client_reads_it(
    kind: QuotaHeaders, limit: LimitKind, told: list[tuple[int, int, int]]
) -> None:
    config = SandboxConfig(rate=1.0, burst=2, window_s=2.0, limit=limit, quota_headers=kind)

    async def ask() -> list[httpx.Response]:
        async with caller_of(Sandbox(config)) as caller:
            return [await caller.assign(request_body(device(IMEI))) for _ in told]

    answers = trio.run(ask, clock=MockClock(autojump_threshold=0))
    read = [quota_of(answer.headers) for answer in answers]
    assert [(quota.limit, quota.remaining, quota.reset_s) for quota in read if quota] == told
    assert [answer.status_code for answer in answers] == [200, 200, 429]


@pytest.mark.anyio
async def test_nothing_is_said_where_there_is_no_limit_of_rate() -> None:
    async with caller_of(Sandbox(SandboxConfig(quota_headers=QuotaHeaders.RATELIMIT))) as caller:
        assert quota_of((await caller.assign(request_body(device(IMEI)))).headers) is None


async def _hurry(sandbox: Sandbox, calls: int) -> list[int]:
    """Call at once, all together; the statuses."""
    statuses: list[int] = []
    async with caller_of(sandbox, read_timeout_s=3600) as caller, anyio.create_task_group() as group:

        async def call() -> None:
            statuses.append((await caller.assign(request_body(device(IMEI)))).status_code)

        for _ in range(calls):
            group.start_soon(call)
    return statuses


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        (SandboxConfig(), 30),
        (SandboxConfig(rate=10, burst=5), 5),
        (SandboxConfig(rate=10, limit=LimitKind.FIXED_WINDOW), 10),
        (SandboxConfig(rate=10, limit=LimitKind.SLIDING_WINDOW, window_s=2), 20),
        (SandboxConfig(max_concurrent=7, latency_s=1), 7),
        (SandboxConfig(rate=10, burst=5, max_concurrent=3, latency_s=1), 3),
    ],
)
def test_what_the_limit_does_not_take_is_throttled_and_not_executed(
    config: SandboxConfig, taken: int
) -> None:
    sandbox = Sandbox(config)
    statuses = trio.run(_hurry, sandbox, 30, clock=MockClock(autojump_threshold=0))
    assert (statuses.count(200), statuses.count(429)) == (taken, 30 - taken)
    assert sandbox.totals().executions == taken


@pytest.mark.anyio
async def test_only_license_requests_are_limited() -> None:
    async with caller_of(Sandbox(SandboxConfig(rate=0.001, burst=1))) as caller:
        for _ in range(3):
            await caller.log_in()
            await caller.counts()
        assert (await caller.assign(request_body(device(IMEI)))).status_code == 200
        assert (await caller.assign(request_body(device(IMEI)))).status_code == 429
        assert (await caller.unassign()).status_code == 429


def test_a_call_takes_its_latency_throttled_or_not() -> None:
    async def elapsed() -> list[float]:
        times = []
        async with caller_of(Sandbox(SandboxConfig(latency_s=3, rate=0.001, burst=1))) as caller:
            for _ in range(2):
                start = trio.current_time()
                await caller.assign(request_body(device(IMEI)))
                times.append(trio.current_time() - start)
        return times

    assert trio.run(elapsed, clock=MockClock(autojump_threshold=0)) == pytest.approx([3, 3])
