"""A carrier in virtual time: the sandbox's own limits and latency, without the wire."""

import heapq
import math
from dataclasses import replace

import anyio
import trio

from batchlic.carrier.hints import Quota, quota_of
from batchlic.pool.limiter.pace import Signal, SignalKind
from batchlic.sandbox.config import RetryHint, SandboxConfig
from batchlic.sandbox.limits import Gate, Latency, Throttled, quota_headers

NETWORK_S = 0.001
"""Seconds on the wire, there and back; a refusal takes no more, an answer the carrier's latency too."""


def seed_scheduler(seed: int) -> None:
    """Let trio run tasks in an order that depends on the seed alone: by itself it shuffles them."""
    vars(trio._core._run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    trio._core._run._r.seed(seed)


class SimulatedCarrier:
    """Answers calls as the sandbox would, and remembers them; `network_s` is what a refusal takes."""

    def __init__(self, config: SandboxConfig, network_s: float = NETWORK_S) -> None:
        self.admitted: list[float] = []
        """When each call that came in arrived."""
        self.throttled: list[float] = []
        """When each call that was kept out arrived."""
        self._network_s = network_s
        self._hint = config.retry_hint
        self._quota_headers = config.quota_headers
        self._gate = Gate(config)
        self._latency = Latency(config)

    async def call(self) -> Signal:
        """One request, from leaving to its answer."""
        await anyio.sleep(self._network_s / 2)
        now = anyio.current_time()
        try:
            self._gate.enter(now)
        except Throttled as refusal:
            self.throttled.append(now)
            await anyio.sleep(self._network_s / 2)
            told = None if self._hint is RetryHint.NOTHING else float(math.ceil(refusal.wait_s))
            return Signal(SignalKind.THROTTLED, retry_after_s=told, quota=self._quota(now))
        self.admitted.append(now)
        quota = self._quota(now)
        try:
            await anyio.sleep(self._latency.of(self._gate.inside))
        finally:
            self._gate.leave()
        await anyio.sleep(self._network_s / 2)
        return Signal(SignalKind.DELIVERED, quota=quota)

    def _quota(self, now: float) -> Quota | None:
        return quota_of(quota_headers(self._quota_headers, self._gate.quota(now)))


def ideal_seconds(config: SandboxConfig, requests: int, *, max_concurrency: int, start: float) -> float:
    """The least time for `requests`: each sent at the very moment at which the limit lets it in."""
    gate, latency = Gate(replace(config, count_throttled=False)), Latency(config)
    leaving: list[float] = []
    now = start
    for _ in range(requests):
        while True:
            while leaving and leaving[0] <= now:
                heapq.heappop(leaving)
                gate.leave()
            if gate.inside >= max_concurrency:
                now = leaving[0]
                continue
            try:
                gate.enter(now)
            except Throttled as refusal:
                changes = [start + at for at, _ in config.changes if start + at > now]
                now = min([now + refusal.wait_s, *changes, *leaving[:1]]) + 1e-9
            else:
                break
        heapq.heappush(leaving, now + latency.of(gate.inside))
    return max(leaving) - start + NETWORK_S
