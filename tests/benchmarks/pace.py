"""`make bench-pace`: the pace beside its peers, in virtual time, under limits that none of them is told.

Each cell is the share of the ideal (least possible time / time taken) and, after the slash, the share of
requests that were throttled; both are means over starts within a window and seeds. Steady state is what
comes after the first 5 seconds. The work is 20 s of a limit of 200 requests/s at 50 ms latency.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import trio
from botocore.exceptions import CapacityNotAvailableError  # type: ignore[import-untyped]
from botocore.retries.adaptive import ClientRateLimiter, RateClocker  # type: ignore[import-untyped]
from botocore.retries.bucket import Clock, TokenBucket  # type: ignore[import-untyped]
from botocore.retries.throttling import CubicCalculator  # type: ignore[import-untyped]
from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential
from trio.testing import MockClock

sys.path.insert(0, str(Path(__file__).parents[2]))

from batchlic.pool.pace import Pace, Signal, SignalKind
from batchlic.sandbox.config import LimitKind, RetryHint, SandboxConfig
from tests.simulation.limits import SimulatedCarrier, ideal_seconds

REQUESTS = 4000
CONCURRENCY = 64
STEADY_AFTER = 5.0
LONGEST = 600.0
"""Seconds after which a contender is stopped."""

Call = Callable[[], Awaitable[Signal]]
Send = Callable[[Call], Awaitable[None]]
"""Sees one request through: calls until it is delivered."""


@dataclass(frozen=True)
class Limit:
    """A hidden limit, and the share of the ideal that we want to reach under it."""

    name: str
    target: float | None
    options: dict[str, Any]


LIMITS = [
    Limit("token bucket", 0.97, {"rate": 200.0, "burst": 20}),
    Limit("window of 1 s", 0.97, {"rate": 200.0, "limit": LimitKind.FIXED_WINDOW}),
    Limit("window of 5 s", 0.97, {"rate": 200.0, "limit": LimitKind.FIXED_WINDOW, "window_s": 5.0}),
    Limit(
        "window, Retry-After",
        0.97,
        {"rate": 200.0, "limit": LimitKind.FIXED_WINDOW, "retry_hint": RetryHint.SECONDS},
    ),
    Limit("sliding window", 0.97, {"rate": 200.0, "limit": LimitKind.SLIDING_WINDOW}),
    Limit("10 concurrent calls", 0.95, {"max_concurrent": 10}),
    Limit("bucket that halves", 0.95, {"rate": 200.0, "burst": 20, "changes": ((10.0, 0.5),)}),
    Limit("bucket that triples", 0.95, {"rate": 200.0, "burst": 20, "changes": ((7.0, 3.0),)}),
    Limit("latency grows", None, {"latency_growth_s": 0.005}),
    Limit("no limit", None, {}),
]


def ours() -> Send:
    """The pace of batchlic."""
    pace = Pace(max_concurrency=CONCURRENCY)

    async def send(call: Call) -> None:
        delivered = False
        while not delivered:
            turn = await pace.wait_turn()
            turn.started()
            signal = await call()
            pace.finished(turn, signal)
            delivered = signal.kind is SignalKind.DELIVERED

    return send


def semaphore_and_backoff() -> Send:
    """A semaphore of 32 and tenacity's random exponential backoff."""
    semaphore = anyio.Semaphore(32)
    wait = wait_random_exponential(multiplier=0.1, max=10)

    async def send(call: Call) -> None:
        async with semaphore:
            again = retry_if_result(_is_throttled)
            await AsyncRetrying(sleep=anyio.sleep, wait=wait, retry=again)(call)

    return send


def botocore_adaptive() -> Send:
    """The adaptive retry mode of botocore: its own rate limiter, on our clock, and its own backoff."""
    clock = _VirtualClock()
    bucket = TokenBucket(max_rate=1, clock=clock)
    limiter = ClientRateLimiter(
        rate_adjustor=CubicCalculator(starting_max_rate=0, start_time=clock.current_time()),
        rate_clocker=RateClocker(clock),
        token_bucket=bucket,
        throttling_detector=_Detector(),
        clock=clock,
    )
    semaphore = anyio.Semaphore(32)

    async def send(call: Call) -> None:
        async with semaphore:
            for attempt in range(1_000_000):
                await _take(limiter, bucket)
                signal = await call()
                limiter.on_receiving_response(signal=signal)
                if not _is_throttled(signal):
                    return
                await anyio.sleep(min(random.random() * 2**attempt, 20))

    return send


def aimd() -> Send:
    """Additive increase, multiplicative decrease of the requests in flight (Chiu and Jain, 1989)."""
    window, in_flight, changed = 10.0, 0, anyio.Event()

    async def send(call: Call) -> None:
        nonlocal window, in_flight, changed
        delivered = False
        while not delivered:
            while in_flight >= window:
                await changed.wait()
            in_flight += 1
            delivered = not _is_throttled(await call())
            in_flight -= 1
            window = min(window + 1 / window, CONCURRENCY) if delivered else max(1.0, window / 2)
            changed.set()
            changed = anyio.Event()
            if not delivered:
                await anyio.sleep(0.05)

    return send


def sequential() -> Send:
    """One request after another, a second's pause after a 429."""
    lock = anyio.Lock()

    async def send(call: Call) -> None:
        async with lock:
            while _is_throttled(await call()):  # noqa: ASYNC110 - a peer that knows no better
                await anyio.sleep(1.0)

    return send


CONTENDERS: dict[str, Callable[[], Send]] = {
    "batchlic": ours,
    "semaphore": semaphore_and_backoff,
    "botocore": botocore_adaptive,
    "AIMD": aimd,
    "sequential": sequential,
}


class _VirtualClock(Clock):  # type: ignore[misc]  # botocore is untyped
    def current_time(self) -> float:
        return anyio.current_time()


class _Detector:
    def is_throttling_error(self, *, signal: Signal) -> bool:
        return _is_throttled(signal)


async def _take(limiter: ClientRateLimiter, bucket: TokenBucket) -> None:
    """What `limiter.on_sending_request` does, waiting in virtual time."""
    while limiter._enabled:
        try:
            bucket.acquire(block=False)
        except CapacityNotAvailableError:
            await anyio.sleep(max(bucket._sleep_amount(1), 0.001))
        else:
            return


def _is_throttled(signal: Signal) -> bool:
    return signal.kind is SignalKind.THROTTLED


@dataclass(frozen=True, slots=True)
class Measured:
    """Share of the ideal, and shares of requests throttled: of all, and in steady state."""

    share: float
    throttled: float
    steady: float


def measure(contender: Callable[[], Send], config: SandboxConfig, start: float) -> Measured:
    """Let a contender do the work from `start` on, in virtual time."""
    clock = MockClock(autojump_threshold=0)
    clock.jump(start)
    return trio.run(_work, contender, config, clock=clock)


async def _work(contender: Callable[[], Send], config: SandboxConfig) -> Measured:
    random.seed(config.seed)
    carrier, send = SimulatedCarrier(config), contender()
    begin, left = anyio.current_time(), iter(range(REQUESTS))

    async def worker() -> None:
        for _ in left:
            await send(carrier.call)

    with anyio.move_on_after(LONGEST):
        async with anyio.create_task_group() as tasks:
            for _ in range(CONCURRENCY):
                tasks.start_soon(worker)
    took = anyio.current_time() - begin
    done = len(carrier.admitted) / REQUESTS
    ideal = ideal_seconds(config, REQUESTS, max_concurrency=CONCURRENCY, start=begin)
    late = [at for at in carrier.throttled if at > begin + STEADY_AFTER]
    late_all = [at for at in carrier.admitted if at > begin + STEADY_AFTER] + late
    return Measured(
        share=done * ideal / took,
        throttled=len(carrier.throttled) / (REQUESTS + len(carrier.throttled)),
        steady=len(late) / max(1, len(late_all)),
    )


def _mean(measured: list[Measured]) -> Measured:
    return Measured(*(statistics.mean(getattr(m, name) for m in measured) for name in Measured.__slots__))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    chosen = parser.parse_args()
    print(
        f"{'limit':>20} {'target':>7} " + "".join(f"{name:>14}" for name in chosen.only) + "  batchlic steady"
    )
    for limit in LIMITS:
        cells = {}
        for name in chosen.only:
            runs = [
                measure(CONTENDERS[name], _config(limit, seed), 0.3 + 0.41 * seed)
                for seed in range(1, chosen.seeds + 1)
            ]
            cells[name] = _mean(runs)
        target = f"{limit.target:.2f}" if limit.target else "-"
        shown = "".join(f"{m.share:>8.2f}/{m.throttled:>5.1%}" for m in cells.values())
        steady = f"{cells['batchlic'].steady:>8.1%}" if "batchlic" in cells else ""
        print(f"{limit.name:>20} {target:>7} {shown} {steady}", flush=True)


def _config(limit: Limit, seed: int) -> SandboxConfig:
    quiet = {"retry_hint": RetryHint.NOTHING, "latency_s": 0.049, "latency_jitter_s": 0.002, "seed": seed}
    return SandboxConfig(**{**quiet, **limit.options})


if __name__ == "__main__":
    main()
