"""`make bench-pace`: compare batchlic's limiter with other limiters, in virtual time, under hidden limits.

Unless the row says otherwise, the limit is 200 requests/s, the latency is 50 ms, and the work takes 20 s at
the limit. For batchlic, the table has the worst and the median share of the ideal (least possible time / time
taken), and the largest share of throttled requests, in the whole run and in steady state (after the first
5 seconds). These figures are of several starts at different moments of a window, each with its own seed. For
the other limiters, the table has the share of the ideal and of throttled requests, of the first start. Then
come processes that share a limit, and one run over real TCP against a sandbox in another process. The
shortest run is `--starts 1 --only batchlic`.
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

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import Submission, encode, open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.messages import AssignLicenseRequest, Device, DeviceId
from batchlic.pool.limiter.pace import Pace, Signal, SignalKind
from batchlic.pool.sender import signal_of
from batchlic.sandbox.config import (
    LatencyConfig,
    LimitConfig,
    LimitKind,
    QuotaHeaders,
    RetryHint,
    SandboxConfig,
)
from batchlic.sandbox.embedded import embedded
from tests.simulation.limits import NETWORK_S, SimulatedCarrier, ideal_seconds, seed_scheduler, vary

REQUESTS = 4000
CONCURRENCY = 64
STEADY_AFTER = 5.0
LONGEST = 400.0
"""Seconds after which a limiter is stopped."""

Call = Callable[[], Awaitable[Signal]]
Send = Callable[[Call], Awaitable[None]]
"""Delivers one request: calls until the call is not throttled."""


@dataclass(frozen=True)
class Limit:
    """A hidden limit, and the share of the ideal that batchlic aims to reach under this limit."""

    name: str
    target: float | None
    options: dict[str, Any]
    requests: int = REQUESTS
    network_s: float = NETWORK_S
    """Seconds on the network, a part of the latency: a 429 takes no longer."""


_BUCKET: dict[str, Any] = {"rate": 200.0, "burst": 20}
_WINDOW: dict[str, Any] = {"rate": 200.0, "kind": LimitKind.FIXED_WINDOW}
_SLIDING: dict[str, Any] = {"rate": 200.0, "kind": LimitKind.SLIDING_WINDOW}
_RETRY_AFTER: dict[str, Any] = {"retry_hint": RetryHint.SECONDS}
_SLOW_NETWORK: dict[str, Any] = {"latency": {"base_s": 0.02}}

LIMITS = [
    Limit("token bucket", 0.97, _BUCKET),
    Limit("window of 1 s", 0.97, _WINDOW),
    Limit("window of 5 s", 0.97, _WINDOW | {"window_s": 5.0}),
    Limit("window, Retry-After", 0.97, _WINDOW | _RETRY_AFTER),
    Limit("the same for a minute", 0.97, _WINDOW | _RETRY_AFTER, requests=3 * REQUESTS),
    Limit("sliding window", 0.97, _SLIDING),
    Limit("10 calls at once", 0.95, {"max_concurrent": 10}),
    Limit("bucket that halves", 0.95, _BUCKET | {"changes": ((10.0, 0.5),)}),
    Limit("bucket that triples", 0.95, _BUCKET | {"changes": ((7.0, 3.0),)}),
    Limit("window that halves", 0.95, _WINDOW | {"changes": ((10.0, 0.5),)}),
    Limit("window that triples", 0.95, _WINDOW | {"changes": ((7.0, 3.0),)}),
    Limit("latency +5 ms a call", None, {"latency": {"growth_s": 0.005}}),
    Limit("latency +50 ms a call", None, {"latency": {"growth_s": 0.05}}, requests=1000),
    Limit("no limit", None, {}),
    Limit("bucket, Retry-After", None, _BUCKET | _RETRY_AFTER),
    Limit("sliding, Retry-After", None, _SLIDING | _RETRY_AFTER),
    Limit("10 calls, Retry-After", None, {"max_concurrent": 10} | _RETRY_AFTER),
    Limit("bucket, 429s count", None, _BUCKET | {"count_throttled": True}),
    Limit("sliding, 429s count", None, _SLIDING | {"count_throttled": True}),
    Limit("window, RateLimit-*", None, _WINDOW | {"window_s": 5.0, "quota_headers": QuotaHeaders.RATELIMIT}),
    Limit("bucket, RateLimit-*", None, _BUCKET | {"quota_headers": QuotaHeaders.RATELIMIT}),
    Limit("window of 0.1 s", None, _WINDOW | {"window_s": 0.1}),
    Limit("sliding, 150 ms", None, _SLIDING | {"latency": {"base_s": 0.15}}),
    Limit("window, 150 ms", None, _WINDOW | {"latency": {"base_s": 0.15}}),
    Limit("bucket, slow 429s", None, _BUCKET | _SLOW_NETWORK, network_s=0.03),
    Limit("window, slow 429s", None, _WINDOW | _SLOW_NETWORK, network_s=0.03),
    Limit("sliding, slow 429s", None, _SLIDING | _SLOW_NETWORK, network_s=0.03),
    Limit("20/s bucket", None, {"rate": 20.0, "burst": 5}, requests=400),
    Limit("20/s, Retry-After", None, {"rate": 20.0, "burst": 5} | _RETRY_AFTER, requests=400),
    Limit("5/s bucket", None, {"rate": 5.0, "burst": 5}, requests=100),
    Limit(
        "5/min window", None, {"rate": 5 / 60, "window_s": 60.0, "kind": LimitKind.FIXED_WINDOW}, requests=20
    ),
    Limit("5/min, then 5/s", None, {"rate": 5 / 60, "burst": 1, "changes": ((120.0, 60.0),)}, requests=200),
]

SHARED = [("token bucket", _BUCKET), ("window of 1 s", _WINDOW), ("sliding window", _SLIDING)]


def batchlic_limiter() -> Send:
    """batchlic's limiter."""
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
    """The adaptive retry mode of botocore: its own rate limiter in virtual time, and its own backoff."""
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
    """One request after another, with a pause of a second after each 429."""
    lock = anyio.Lock()

    async def send(call: Call) -> None:
        async with lock:
            while _is_throttled(await call()):  # noqa: ASYNC110 - polling is what this limiter does
                await anyio.sleep(1.0)

    return send


LIMITERS: dict[str, Callable[[], Send]] = {
    "batchlic": batchlic_limiter,
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
    """Do the same as `limiter.on_sending_request`, but wait in virtual time."""
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
    """Share of the ideal, and shares of throttled requests: in the whole run, and in steady state."""

    share: float
    throttled: float
    steady: float


def measure(new_limiter: Callable[[], Send], config: SandboxConfig, start: float, limit: Limit) -> Measured:
    """Run the work with a limiter, from the virtual time `start` (seconds) on."""
    clock = MockClock(autojump_threshold=0)
    clock.jump(start)
    seed_scheduler(config.seed)
    return trio.run(_work, new_limiter, config, limit, clock=clock)


async def _work(new_limiter: Callable[[], Send], config: SandboxConfig, limit: Limit) -> Measured:
    random.seed(config.seed)
    carrier, send, requests = SimulatedCarrier(config, limit.network_s), new_limiter(), limit.requests
    begin, numbers = anyio.current_time(), iter(range(requests))

    async def worker() -> None:
        for _ in numbers:
            await send(carrier.call)

    with anyio.move_on_after(LONGEST):
        async with anyio.create_task_group() as tasks:
            for _ in range(CONCURRENCY):
                tasks.start_soon(worker)
    took = anyio.current_time() - begin
    done = len(carrier.admitted) / requests
    ideal = ideal_seconds(config, requests, max_concurrency=CONCURRENCY, start=begin)
    steady_throttled = [at for at in carrier.throttled if at > begin + STEADY_AFTER]
    steady_requests = [at for at in carrier.admitted if at > begin + STEADY_AFTER] + steady_throttled
    return Measured(
        share=done * ideal / took,
        throttled=len(carrier.throttled) / (requests + len(carrier.throttled)),
        steady=len(steady_throttled) / max(1, len(steady_requests)),
    )


def _largest(measured: list[Measured], name: str) -> float:
    return max(float(getattr(run, name)) for run in measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=LIMITERS, default=list(LIMITERS))
    chosen = parser.parse_args()
    others = [name for name in chosen.only if name != "batchlic"]
    print(
        f"{'limit':>21} target  worst median  throttled steady " + "".join(f"{name:>13}" for name in others)
    )
    for limit in LIMITS:
        runs = [_run(limit, batchlic_limiter, number) for number in range(chosen.starts)]
        worst, median = min(run.share for run in runs), statistics.median(run.share for run in runs)
        print(
            f"{limit.name:>21} {f'{limit.target:.2f}' if limit.target else '-':>6} {worst:>6.2f} "
            f"{median:>6.2f} {_largest(runs, 'throttled'):>10.1%} {_largest(runs, 'steady'):>6.1%} ",
            end="",
            flush=True,
        )
        cells = (_run(limit, LIMITERS[name], 0) for name in others)
        print("".join(f"{cell.share:>6.2f}/{cell.throttled:>6.1%}" for cell in cells), flush=True)
    _print_shares()
    _print_over_tcp()


def _run(limit: Limit, new_limiter: Callable[[], Send], number: int) -> Measured:
    return measure(new_limiter, _config(limit.options, number + 1), 0.3 + 0.41 * number, limit)


def _config(options: dict[str, Any], seed: int) -> SandboxConfig:
    quiet = SandboxConfig(
        seed=seed,
        limits=LimitConfig(retry_hint=RetryHint.NOTHING),
        latency=LatencyConfig(base_s=0.049, jitter_s=0.002),
    )
    return vary(quiet, **options)


def _print_shares() -> None:
    print("\nshared by processes, from 45 to 90 s: use of the limit, largest share / smallest share")
    for name, options in SHARED:
        cells = []
        for processes in (2, 4):
            seed_scheduler(1)
            counts = trio.run(_share, _config(options, 1), processes, clock=MockClock(autojump_threshold=0))
            cells.append(
                f"{processes}: {sum(counts) / 45 / 200:.2f}, {max(counts) / max(1, min(counts)):.1f}"
            )
        print(f"{name:>21} {'   '.join(cells)}", flush=True)


async def _share(config: SandboxConfig, processes: int) -> list[int]:
    """Return the number of delivered requests of each process, from 45 to 90 s."""
    carrier, counts = SimulatedCarrier(config), [0] * processes

    async def worker(process: int, send: Send) -> None:
        while True:
            await send(carrier.call)
            counts[process] += anyio.current_time() > 45

    with anyio.move_on_after(90):
        async with anyio.create_task_group() as tasks:
            for process in range(processes):
                send = batchlic_limiter()
                for _ in range(16):
                    tasks.start_soon(worker, process, send)
                await anyio.sleep(1)
    return counts


def _print_over_tcp() -> None:
    config = _config(_BUCKET, 1)
    with embedded(config) as url:
        took, throttled = anyio.run(_deliver_over_tcp, url)
    ideal = ideal_seconds(config, REQUESTS, max_concurrency=CONCURRENCY, start=0.0)
    print(f"\ntoken bucket over TCP, real time: {ideal / took:.2f} of the ideal, {throttled:.1%} throttled")


async def _deliver_over_tcp(url: str) -> tuple[float, float]:
    """Run batchlic's client and limiter, without a journal.

    Returns the seconds taken and the share of throttled requests.
    """
    name = Secret("sandbox")
    keys = Credentials(client_id=name, client_secret=name, username=name, password=name)
    send, requests, throttled = batchlic_limiter(), iter(range(REQUESTS)), 0
    device = Device([DeviceId("864508030109877", "IMEI")])
    body = encode(AssignLicenseRequest("0000123456-00001", [device], "SIMSec-IoT"))

    async def call() -> Signal:
        nonlocal throttled
        answer = await client.submit(Submission(Action.ASSIGN, "1-0001", body))
        throttled += answer.outcome is Outcome.THROTTLED
        return signal_of(answer)

    async def worker() -> None:
        for _ in requests:
            await send(call)

    async with open_client(url, keys, max_connections=CONCURRENCY) as client:
        await client.login()
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(CONCURRENCY):
                tasks.start_soon(worker)
        took = anyio.current_time() - began
    return took, throttled / (REQUESTS + throttled)


if __name__ == "__main__":
    main()
