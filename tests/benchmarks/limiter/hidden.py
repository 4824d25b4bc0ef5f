"""Hidden limits of a carrier: what a request meets, and the least time that any limiter could take.

Times are in seconds, rates in requests per second.
"""

import heapq
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

_CALLS_HINT_S = 1.0
"""The wait that a limit on calls tells: it cannot know."""
LATER_S = 1.0
"""Seconds between the starts of two processes."""
EPSILON = 1e-9
"""A moment after a limit opens, so that rounding cannot make it too early."""


class Hint(Enum):
    """What a 429 says about the wait."""

    NOTHING = "none"
    ROUNDED = "rounded"
    """Whole seconds, rounded up, as in `Retry-After: 1`."""
    EXACT = "exact"
    DATE = "date"
    """An HTTP date: whole seconds, one to two seconds too late."""

    def seconds(self, wait: float, now: float) -> float | None:
        """The wait that a client reads out of the answer."""
        match self:
            case Hint.NOTHING:
                return None
            case Hint.ROUNDED:
                return float(math.ceil(wait))
            case Hint.EXACT:
                return wait
            case Hint.DATE:
                return float(math.floor(now + wait + 1) - math.floor(now))


class Counter(Protocol):
    """One limit: how long until it admits one more, and what it counts."""

    def wait(self, now: float) -> float:
        """Seconds until a request would be admitted; 0 if one would be now."""

    def take(self, now: float) -> None:
        """Count an admitted request."""

    def refused(self, now: float) -> None:
        """Count a refused request, where those count."""

    def finish(self) -> None:
        """Note that an admitted request has been answered."""


Factor = Callable[[float], float]
"""What a limit is multiplied by at a moment."""


class Bucket:
    """Token bucket; a burst of 1 is a minimum spacing."""

    def __init__(self, rate: float, burst: int, factor: Factor, *, counts_refused: bool) -> None:
        self._rate, self._burst, self._factor = rate, burst, factor
        self._tokens, self._last = float(burst), -math.inf
        self._cost = int(counts_refused)

    def _refill(self, now: float) -> float:
        rate = self._rate * self._factor(now)
        self._tokens = min(float(self._burst), self._tokens + (now - self._last) * rate)
        self._last = now
        return rate

    def wait(self, now: float) -> float:
        rate = self._refill(now)
        return max(0.0, (1 - EPSILON - self._tokens) / rate)

    def take(self, now: float) -> None:
        self._refill(now)
        self._tokens -= 1

    def refused(self, now: float) -> None:
        self._refill(now)
        self._tokens = max(-float(self._burst), self._tokens - self._cost)

    def finish(self) -> None:
        pass


class FixedWindow:
    """A quota that is renewed at each multiple of the period."""

    def __init__(self, quota: int, period: float, factor: Factor) -> None:
        self._quota, self._period, self._factor = quota, period, factor
        self._window, self._used = -1, 0

    def wait(self, now: float) -> float:
        if (window := math.floor(now / self._period)) != self._window:
            self._window, self._used = window, 0
        if self._used < max(1, round(self._quota * self._factor(now))):
            return 0.0
        return (window + 1) * self._period - now + EPSILON

    def take(self, now: float) -> None:  # noqa: ARG002
        self._used += 1

    def refused(self, now: float) -> None:
        pass

    def finish(self) -> None:
        pass


class SlidingWindow:
    """A quota in any stretch of one period."""

    def __init__(self, quota: int, period: float, factor: Factor, *, counts_refused: bool) -> None:
        self._quota, self._period, self._factor = quota, period, factor
        self._counts_refused = counts_refused
        self._log: deque[float] = deque()

    def wait(self, now: float) -> float:
        quota, log = max(1, round(self._quota * self._factor(now))), self._log
        while log and log[0] <= now - self._period:
            log.popleft()
        return 0.0 if len(log) < quota else log[len(log) - quota] + self._period - now + EPSILON

    def take(self, now: float) -> None:
        self._log.append(now)

    def refused(self, now: float) -> None:
        if self._counts_refused:
            self._log.append(now)

    def finish(self) -> None:
        pass


class Calls:
    """A number of requests at the same time."""

    def __init__(self, most: int, factor: Factor) -> None:
        self._most, self._factor = most, factor
        self._inside = 0

    def wait(self, now: float) -> float:
        return _CALLS_HINT_S if self._inside >= max(1, round(self._most * self._factor(now))) else 0.0

    def take(self, now: float) -> None:  # noqa: ARG002
        self._inside += 1

    def refused(self, now: float) -> None:
        pass

    def finish(self) -> None:
        self._inside -= 1


@dataclass(frozen=True)
class Part:
    """One limit: a bucket (rate, burst), a window (rate, period_s), or calls."""

    kind: str
    rate: float = 0.0
    burst: int = 1
    period_s: float = 0.0
    calls: int = 0

    def counter(self, factor: Factor, *, counts_refused: bool) -> Counter:
        quota = max(1, round(self.rate * self.period_s))
        match self.kind:
            case "bucket":
                return Bucket(self.rate, self.burst, factor, counts_refused=counts_refused)
            case "fixed":
                return FixedWindow(quota, self.period_s, factor)
            case "sliding":
                return SlidingWindow(quota, self.period_s, factor, counts_refused=counts_refused)
            case "calls":
                return Calls(self.calls, factor)
        raise ValueError(self.kind)

    def __str__(self) -> str:
        match self.kind:
            case "bucket":
                return f"{self.rate:.3g}/s burst {self.burst}"
            case "calls":
                return f"{self.calls} calls"
        return f"{self.kind} {max(1, round(self.rate * self.period_s))} per {self.period_s:.3g} s"


@dataclass(frozen=True)
class Hidden:
    """A hidden limit and the conditions around it."""

    parts: tuple[Part, ...]
    name: str = ""
    requests: int = 4000
    hint: Hint = Hint.NOTHING
    latency_s: float = 0.049
    jitter_s: float = 0.002
    growth_s: float = 0.0
    network_s: float = 0.001
    """Seconds on the network, both ways. A 429 takes these only; other answers add the latency."""
    counts_refused: bool = False
    changes: tuple[tuple[float, float], ...] = ()
    """Seconds after the start, and what the limit is multiplied by from then on."""
    nodes: int = 1
    """Gateway nodes with these limits each; a balancer sends each request to any of them."""
    spurious: float = 0.0
    """Share of requests that are refused without a reason."""
    others: float = 0.0
    """Requests per second, at most, of other clients under the same limit."""
    penalty_s: float = 0.0
    """Seconds that a refused client is shut out; each request meanwhile starts them again."""
    processes: int = 1
    seed: int = 1

    def __str__(self) -> str:
        words = {
            " + ".join(map(str, self.parts)) or "no limit": True,
            f"x{self.nodes} nodes": self.nodes > 1,
            f"spurious {self.spurious:.1%}": self.spurious > 0,
            f"others {self.others:.3g}/s": self.others > 0,
            f"penalty {self.penalty_s:.3g} s": self.penalty_s > 0,
            f"{self.processes} processes": self.processes > 1,
            f"hint {self.hint.value}": self.hint is not Hint.NOTHING,
            "429s count": self.counts_refused,
            "changes " + ", ".join(f"x{by:g} after {at:.0f} s" for at, by in self.changes): bool(
                self.changes
            ),
            f"{self.latency_s * 1000:.0f}+{self.network_s * 1000:.0f} ms": True,
        }
        return ", ".join(word for word, holds in words.items() if holds)


class _Others:
    """Requests of other clients: a load that swings between nothing and the most, in random arrivals."""

    def __init__(self, most: float, seed: int, start: float) -> None:
        self._most, self._random = most, random.Random(f"{seed}/others")
        self._phase, self._swing_s = self._random.uniform(0, math.tau), self._random.uniform(15, 40)
        self._next = start

    def until(self, now: float) -> list[float]:
        arrivals = []
        while self._next <= now:
            arrivals.append(self._next)
            load = 0.5 * self._most * (1 + math.sin(self._phase + math.tau * self._next / self._swing_s))
            self._next += self._random.expovariate(max(load, 0.02 * self._most))
        return arrivals


class Gate:
    """Admits or refuses requests as a hidden limit does; `ideal` leaves out what only costs the clumsy."""

    def __init__(self, hidden: Hidden, start: float, *, ideal: bool = False) -> None:
        self._hidden, self._ideal = hidden, ideal
        moments = [start + at for at, _ in hidden.changes]
        factors = [1.0, *(factor for _, factor in hidden.changes)]

        def factor(now: float) -> float:
            return factors[bisect_right(moments, now)]

        plain: Factor = factor if moments else lambda _: 1.0
        counts = hidden.counts_refused and not ideal
        self._nodes = [
            [part.counter(plain, counts_refused=counts) for part in hidden.parts] for _ in range(hidden.nodes)
        ]
        self._random = random.Random(f"{hidden.seed}/gate")
        self._others = _Others(hidden.others, hidden.seed, start) if hidden.others else None
        self._shut_until = -math.inf
        self.inside = 0

    def admit(self, now: float) -> tuple[float, Sequence[Counter]]:
        """Seconds until one would be admitted, 0 if this one is; and the limits that count it."""
        hidden = self._hidden
        if self._others is not None:
            for at in self._others.until(now):
                if all(counter.wait(at) <= 0 for counter in self._nodes[0]):
                    for counter in self._nodes[0]:
                        counter.take(at)
        if self._ideal:
            return self._count(now, min(self._nodes, key=lambda node: _wait(node, now)))
        if now < self._shut_until:
            self._shut_until = now + hidden.penalty_s
            return hidden.penalty_s, ()
        if hidden.spurious and self._random.random() < hidden.spurious:
            return EPSILON, ()
        node = self._random.choice(self._nodes) if len(self._nodes) > 1 else self._nodes[0]
        wait, counters = self._count(now, node)
        if wait > 0 and hidden.penalty_s:
            self._shut_until = now + hidden.penalty_s
            wait = hidden.penalty_s
        return wait, counters

    def _count(self, now: float, node: Sequence[Counter]) -> tuple[float, Sequence[Counter]]:
        if (wait := _wait(node, now)) > 0:
            for counter in node:
                counter.refused(now)
            return wait, ()
        for counter in node:
            counter.take(now)
        self.inside += 1
        return 0.0, node

    def finish(self, counters: Sequence[Counter]) -> None:
        self.inside -= 1
        for counter in counters:
            counter.finish()


def _wait(node: Sequence[Counter], now: float) -> float:
    return max((counter.wait(now) for counter in node), default=0.0)


class Latency:
    """Duration of an admitted request: a base, a jitter, and a part that grows with the load."""

    def __init__(self, hidden: Hidden) -> None:
        self._hidden, self._random = hidden, random.Random(f"{hidden.seed}/latency")

    def draw(self, inside: int) -> float:
        hidden = self._hidden
        return hidden.latency_s + self._random.uniform(0, hidden.jitter_s) + hidden.growth_s * (inside - 1)


def ideal_seconds(hidden: Hidden, *, workers: int, start: float) -> float:
    """The least seconds for the work, by search: each request leaves at the first moment that admits it.

    Each process has so many workers; each of them waits for an answer before it sends again. For a carrier
    that slows down under load, the best number in flight is searched for as well.
    """
    if hidden.growth_s:
        flat = replace(hidden, growth_s=0.0)
        tried = {least: _greedy(replace(hidden), least, start) for least in {1, 2, 4, 8, 16, 32, workers}}
        return max(_greedy(flat, workers, start), min(tried.values()))
    return _greedy(hidden, workers, start)


def _greedy(hidden: Hidden, workers: int, start: float) -> float:
    gate, latency = Gate(hidden, start, ideal=True), Latency(hidden)
    leaving: list[tuple[float, int, Sequence[Counter]]] = []
    free_at = [start + number * LATER_S for number in range(hidden.processes) for _ in range(workers)]
    changes = [start + at for at, _ in hidden.changes]
    now = last = start
    for number in range(hidden.requests):
        now = max(now, heapq.heappop(free_at))
        while True:
            while leaving and leaving[0][0] <= now:
                gate.finish(heapq.heappop(leaving)[2])
            wait, counters = gate.admit(now)
            if wait <= 0:
                break
            openings = [now + wait, *(at for at in changes if at > now), *(end for end, _, _ in leaving[:1])]
            now = min(openings) + EPSILON
        end = now + latency.draw(gate.inside)
        last = max(last, end)
        heapq.heappush(leaving, (end, number, counters))
        heapq.heappush(free_at, end + hidden.network_s)
    return last - start + hidden.network_s
