"""The hidden limits: which requests they admit, and how answers report them."""

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

from batchlic.carrier.rate_limits import read_quota
from batchlic.errors import UsageError
from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.config import (
    LatencyConfig,
    LimitConfig,
    LimitKind,
    LimitScope,
    QuotaHeaders,
    RetryHint,
    SandboxConfig,
    ThrottleShape,
)
from batchlic.sandbox.limits import (
    FixedWindow,
    Latency,
    RateLimit,
    RequestLimits,
    SlidingWindow,
    Throttled,
    TokenBucket,
    throttle_refusal,
)
from tests.sandbox.caller import IMEI, caller_of, device, request_body

RATE, BURST, WINDOW_S = 10.0, 5, 2.0
GAPS = st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.125, 1.0, 3.0]), max_size=200)
SLOW = LatencyConfig(base_s=1)
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
def test_a_token_bucket_admits_no_more_than_burst_and_rate(gaps: list[float]) -> None:
    times = admitted(TokenBucket(BURST, cost_when_throttled=0), gaps)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= BURST + (times[last] - times[first]) * RATE + 1e-6


@given(GAPS)
def test_a_fixed_window_admits_one_quota_per_window(gaps: list[float]) -> None:
    times = admitted(FixedWindow(WINDOW_S), gaps)
    windows = [time // WINDOW_S for time in times]
    assert all(windows.count(window) <= RATE * WINDOW_S for window in windows)


@given(GAPS)
def test_a_sliding_window_admits_one_quota_in_any_window(gaps: list[float]) -> None:
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
def test_a_request_after_the_advertised_wait_is_admitted(limit: RateLimit) -> None:
    now = 100.0
    while (wait := limit.wait(now, RATE)) == 0:
        now += 0.001
    assert limit.wait(now + wait + 1e-6, RATE) == 0


@pytest.mark.parametrize("limit", [TokenBucket(BURST, 1), SlidingWindow(WINDOW_S, 1)])
def test_if_throttled_requests_count_hammering_admits_nothing(limit: RateLimit) -> None:
    while limit.wait(100.0, RATE) == 0:
        pass
    assert admitted(limit, [0.05] * 1000) == []


def test_limits_change_at_times_after_the_first_request() -> None:
    config = LimitConfig(
        rate=RATE, kind=LimitKind.FIXED_WINDOW, changes=((10.0, 0.5), (20.0, 3.0)), max_concurrent=100
    )
    limits = RequestLimits(config)

    def quota(now: float) -> int:
        count = 0
        try:
            while True:
                limits.admit(now)
                limits.finish()
                count += 1
        except Throttled:
            return count

    assert [quota(now) for now in (50.0, 59.0, 60.0, 69.0, 70.0)] == [10, 10, 5, 5, 30]


def test_a_finished_request_frees_its_place() -> None:
    limits = RequestLimits(LimitConfig(max_concurrent=2))
    limits.admit(0)
    limits.admit(0)
    with pytest.raises(Throttled):
        limits.admit(0)
    limits.finish()
    limits.admit(0)


async def _statuses_by_account(config: LimitConfig, accounts: list[str]) -> list[int]:
    """The statuses of one request for each of the accounts, sent in this order at the same moment."""
    async with caller_of(Sandbox(SandboxConfig(limits=config))) as caller:
        return [
            (await caller.assign(request_body(device(IMEI), account=account))).status_code
            for account in accounts
        ]


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [(LimitScope.LOGIN, [200, 429, 429, 429]), (LimitScope.ACCOUNT, [200, 200, 429, 429])],
)
def test_a_limit_holds_for_the_login_or_for_each_account(scope: LimitScope, statuses: list[int]) -> None:
    config = LimitConfig(rate=0.1, burst=1, scope=scope)
    found = trio.run(
        _statuses_by_account,
        config,
        ["0000-1", "0000-2", "0000-1", "0000-2"],
        clock=MockClock(autojump_threshold=0),
    )
    assert found == statuses


def test_an_account_may_have_a_rate_of_its_own() -> None:
    config = LimitConfig(
        rate=1.0, scope=LimitScope.ACCOUNT, kind=LimitKind.FIXED_WINDOW, account_rates={"0000-2": 3.0}
    )
    found = trio.run(
        _statuses_by_account,
        config,
        ["0000-1"] * 2 + ["0000-2"] * 4,
        clock=MockClock(autojump_threshold=0),
    )
    assert found == [200, 429, 200, 200, 200, 429]


def test_rates_of_accounts_need_the_scope_of_an_account() -> None:
    with pytest.raises(UsageError, match="--limit-scope account"):
        LimitConfig(account_rates={"0000-1": 1.0})


def test_the_limit_of_concurrent_requests_changes_too() -> None:
    limits = RequestLimits(LimitConfig(max_concurrent=2, changes=((10, 2.0),)))
    limits.admit(0)
    limits.admit(0)
    with pytest.raises(Throttled):
        limits.admit(9)
    limits.admit(10)
    limits.admit(10)
    with pytest.raises(Throttled):
        limits.admit(10)


@pytest.mark.anyio
async def test_an_answered_request_frees_its_place() -> None:
    async with caller_of(Sandbox(SandboxConfig(limits=LimitConfig(max_concurrent=1)))) as caller:
        for body in (request_body(device(IMEI)), {}, request_body(device(IMEI))):
            assert (await caller.assign(body)).status_code != 429


def test_latency_grows_with_the_requests_in_progress() -> None:
    config = LatencyConfig(base_s=0.05, growth_s=0.01)
    assert [Latency(config, seed=0).draw(in_progress) for in_progress in (1, 2, 11)] == pytest.approx(
        [0.05, 0.06, 0.15]
    )


def test_jitter_is_bounded_and_the_same_for_the_same_seed() -> None:
    config = LatencyConfig(base_s=0.05, jitter_s=0.02)
    first, same = Latency(config, seed=7), Latency(config, seed=7)
    drawn = [first.draw(1) for _ in range(20)]
    assert drawn == [same.draw(1) for _ in range(20)]
    assert all(0.05 <= seconds <= 0.07 for seconds in drawn)
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("wait_s", [0.2, 1.0, 29.7])
def test_no_retry_hint_is_earlier_than_the_limit_allows(wait_s: float) -> None:
    def throttled(hint: RetryHint) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        refusal = throttle_refusal(LimitConfig(retry_hint=hint), wait_s, NOON)
        return dict(refusal.headers or {}), msgspec.json.decode(refusal.body)

    earliest = NOON + timedelta(seconds=wait_s)
    seconds, _ = throttled(RetryHint.SECONDS)
    assert wait_s <= int(seconds["retry-after"]) < wait_s + 1
    date, _ = throttled(RetryHint.DATE)
    assert earliest <= parsedate_to_datetime(date["retry-after"]) <= earliest + timedelta(seconds=1)
    assert parsedate_to_datetime(date["date"]) == NOON.replace(microsecond=0)
    _, body = throttled(RetryHint.NEXT_ACCESS_TIME)
    next_access = datetime.strptime(body["fault"]["nextAccessTime"], "%Y-%b-%d %H:%M:%S%z UTC")
    assert earliest <= next_access <= earliest + timedelta(seconds=1)
    nothing, body = throttled(RetryHint.NOTHING)
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
def test_a_429_has_the_configured_shape(shape: ThrottleShape, path: list[str]) -> None:
    body = msgspec.json.decode(throttle_refusal(LimitConfig(throttle_shape=shape), 1.0, NOON).body)
    for key in path:
        body = body[key]
    assert body in {"900802", "429"}


@pytest.mark.parametrize("shape", ThrottleShape)
@pytest.mark.parametrize("hint", RetryHint)
def test_a_429_has_the_wait_that_it_asks_for(shape: ThrottleShape, hint: RetryHint) -> None:
    refusal = throttle_refusal(LimitConfig(throttle_shape=shape, retry_hint=hint), 1.5, NOON)
    asks = "retry-after" in (refusal.headers or {}) or b"nextAccessTime" in refusal.body
    assert refusal.wait_s == (1.5 if asks else None)


QUOTAS = [
    (LimitKind.TOKEN_BUCKET, [(2, 1, 1), (2, 0, 2), (2, 0, 2)]),
    (LimitKind.FIXED_WINDOW, [(2, 1, 2), (2, 0, 2), (2, 0, 2)]),
    (LimitKind.SLIDING_WINDOW, [(2, 1, 2), (2, 0, 2), (2, 0, 2)]),
]


@pytest.mark.parametrize("kind", [QuotaHeaders.RATELIMIT, QuotaHeaders.X_RATELIMIT, QuotaHeaders.DRAFT])
@pytest.mark.parametrize(("limit", "expected"), QUOTAS)
def test_every_answer_has_a_quota_that_our_client_reads(
    kind: QuotaHeaders, limit: LimitKind, expected: list[tuple[int, int, int]]
) -> None:
    config = LimitConfig(rate=1.0, burst=2, window_s=2.0, kind=limit, quota_headers=kind)

    async def ask() -> list[httpx.Response]:
        async with caller_of(Sandbox(SandboxConfig(limits=config))) as caller:
            return [await caller.assign(request_body(device(IMEI))) for _ in expected]

    answers = trio.run(ask, clock=MockClock(autojump_threshold=0))
    read = [read_quota(answer.headers) for answer in answers]
    assert [(quota.limit, quota.remaining, quota.reset_s) for quota in read if quota] == expected
    assert [answer.status_code for answer in answers] == [200, 200, 429]


@pytest.mark.anyio
async def test_without_a_rate_limit_there_are_no_quota_headers() -> None:
    async with caller_of(
        Sandbox(SandboxConfig(limits=LimitConfig(quota_headers=QuotaHeaders.RATELIMIT)))
    ) as caller:
        assert read_quota((await caller.assign(request_body(device(IMEI)))).headers) is None


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
        (SandboxConfig(limits=LimitConfig(rate=10, burst=5)), 5),
        (SandboxConfig(limits=LimitConfig(rate=10, kind=LimitKind.FIXED_WINDOW)), 10),
        (SandboxConfig(limits=LimitConfig(rate=10, kind=LimitKind.SLIDING_WINDOW, window_s=2)), 20),
        (SandboxConfig(limits=LimitConfig(max_concurrent=7), latency=SLOW), 7),
        (SandboxConfig(limits=LimitConfig(rate=10, burst=5, max_concurrent=3), latency=SLOW), 3),
    ],
)
def test_requests_beyond_the_limit_are_throttled_and_not_executed(config: SandboxConfig, taken: int) -> None:
    sandbox = Sandbox(config)
    statuses = trio.run(_hurry, sandbox, 30, clock=MockClock(autojump_threshold=0))
    assert (statuses.count(200), statuses.count(429)) == (taken, 30 - taken)
    assert sandbox.totals().executions == taken


@pytest.mark.anyio
async def test_only_license_requests_are_limited() -> None:
    async with caller_of(Sandbox(SandboxConfig(limits=LimitConfig(rate=0.001, burst=1)))) as caller:
        for _ in range(3):
            await caller.log_in()
            await caller.counts()
        assert (await caller.assign(request_body(device(IMEI)))).status_code == 200
        assert (await caller.assign(request_body(device(IMEI)))).status_code == 429
        assert (await caller.unassign()).status_code == 429


def test_throttled_requests_take_the_base_latency_too() -> None:
    async def elapsed() -> list[float]:
        times = []
        config = SandboxConfig(limits=LimitConfig(rate=0.001, burst=1), latency=LatencyConfig(base_s=3))
        async with caller_of(Sandbox(config)) as caller:
            for _ in range(2):
                start = trio.current_time()
                await caller.assign(request_body(device(IMEI)))
                times.append(trio.current_time() - start)
        return times

    assert trio.run(elapsed, clock=MockClock(autojump_threshold=0)) == pytest.approx([3, 3])
