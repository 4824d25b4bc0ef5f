"""A carrier in virtual time: the sandbox's limits and latency, without HTTP."""

import heapq
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio
import trio

from batchlic.carrier.rate_limits import Quota, read_quota
from batchlic.pool.limiter.limiter import Permit
from batchlic.sandbox.config import RetryHint, SandboxConfig
from batchlic.sandbox.limits import Latency, RequestLimits, Throttled, quota_headers

NETWORK_S = 0.001
"""Seconds on the network, both ways. A 429 takes these only; other answers add the carrier's latency."""


def seed_chance(seed: int) -> None:
    """Make the order in which trio runs tasks, and the jitter of waits, depend on the seed only."""
    random.seed(seed)
    vars(trio._core._run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    trio._core._run._r.seed(seed)


def vary(
    config: SandboxConfig,
    *,
    latency: Mapping[str, float] | None = None,
    **limits: Any,  # noqa: ANN401 - fields of LimitConfig
) -> SandboxConfig:
    """Return the configuration with other values of its LimitConfig and its LatencyConfig."""
    return replace(
        config, limits=replace(config.limits, **limits), latency=replace(config.latency, **latency or {})
    )


@dataclass(frozen=True)
class Ended:
    """How a request ended, as a limiter is told."""

    throttled: bool = False
    is_lost: bool = False
    retry_after_s: float | None = None
    quota: Quota | None = None

    def tell(self, permit: Permit) -> None:
        """End the permit of the request."""
        end = permit.throttled if self.throttled else permit.dropped if self.is_lost else permit.success
        end(self.retry_after_s, quota=self.quota)


class SimulatedCarrier:
    """Answers calls like the sandbox, and records them. A 429 takes `network_s` seconds."""

    def __init__(self, config: SandboxConfig, network_s: float = NETWORK_S) -> None:
        self.admitted: list[float] = []
        """Arrival times of the admitted calls, in seconds of virtual time."""
        self.throttled: list[float] = []
        """Arrival times of the throttled calls, in seconds of virtual time."""
        self._network_s = network_s
        self._hint = config.limits.retry_hint
        self._quota_headers = config.limits.quota_headers
        self._limits = RequestLimits(config.limits)
        self._latency = Latency(config.latency, config.seed)

    async def call(self) -> Ended:
        """Send one request and wait for its answer."""
        await anyio.sleep(self._network_s / 2)
        now = anyio.current_time()
        try:
            self._limits.admit(now)
        except Throttled as refusal:
            self.throttled.append(now)
            await anyio.sleep(self._network_s / 2)
            retry_after_s = None if self._hint is RetryHint.NOTHING else float(math.ceil(refusal.wait_s))
            return Ended(throttled=True, retry_after_s=retry_after_s, quota=self._quota(now))
        self.admitted.append(now)
        quota = self._quota(now)
        try:
            await anyio.sleep(self._latency.draw(self._limits.in_progress))
        finally:
            self._limits.finish()
        await anyio.sleep(self._network_s / 2)
        return Ended(quota=quota)

    def _quota(self, now: float) -> Quota | None:
        return read_quota(quota_headers(self._quota_headers, self._limits.quota(now)))


def ideal_seconds(config: SandboxConfig, requests: int, *, max_concurrency: int, start: float) -> float:
    """Return the least seconds for `requests`: each is sent as soon as the limit admits it."""
    limits = RequestLimits(replace(config.limits, count_throttled=False))
    latency = Latency(config.latency, config.seed)
    leaving: list[float] = []
    now = start
    for _ in range(requests):
        while True:
            while leaving and leaving[0] <= now:
                heapq.heappop(leaving)
                limits.finish()
            if limits.in_progress >= max_concurrency:
                now = leaving[0]
                continue
            try:
                limits.admit(now)
            except Throttled as refusal:
                changes = [start + at for at, _ in config.limits.changes if start + at > now]
                now = min([now + refusal.wait_s, *changes, *leaving[:1]]) + 1e-9
            else:
                break
        heapq.heappush(leaving, now + latency.draw(limits.in_progress))
    return max(leaving) - start + NETWORK_S
