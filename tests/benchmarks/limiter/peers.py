"""batchlic's limiter and its peers, as the engine drives them."""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable

from botocore.exceptions import CapacityNotAvailableError  # type: ignore[import-untyped]
from botocore.retries import adaptive, bucket, throttling  # type: ignore[import-untyped]

from batchlic.pool.limiter.limiter import Limiter, Permit
from tests.benchmarks.limiter.engine import NOW_S, WORKERS, Client, Clock


class Batchlic:
    """batchlic's limiter."""

    def __init__(self, clock: Clock) -> None:
        self.limiter = Limiter(max_concurrency=WORKERS, clock=clock)
        self.delay, self.start = self.limiter.delay, self.limiter.take

    def finish(self, started: Permit, *, throttled: bool, retry_after: float | None) -> None:
        if throttled:
            started.throttled(retry_after)
        else:
            started.success(retry_after)


class SemaphoreWithBackoff:
    """A semaphore of 32, and backoff with full jitter (https://aws.amazon.com/builders-library).

    Whoever is refused keeps its place while it waits.
    """

    SIZE, FIRST_S, LONGEST_S = 32, 0.1, 10.0

    def __init__(self, clock: Clock) -> None:
        self._clock, self._random = clock, random.Random(1)
        self._in_flight = 0
        self._waiting: list[tuple[float, int]] = []

    def _due(self) -> bool:
        return bool(self._waiting) and self._waiting[0][0] <= self._clock.now + NOW_S

    def delay(self) -> float:
        if self._due() or self._in_flight + len(self._waiting) < self.SIZE:
            return 0.0
        return self._waiting[0][0] - self._clock.now if self._waiting else math.inf

    def start(self) -> int:
        self._in_flight += 1
        return heapq.heappop(self._waiting)[1] if self._due() else 0

    def finish(self, started: int, *, throttled: bool, retry_after: float | None) -> None:
        self._in_flight -= 1
        if throttled:
            most = min(self.LONGEST_S, self.FIRST_S * 2 ** min(started, 20))
            wait = max(retry_after or 0.0, self._random.uniform(0, most))
            heapq.heappush(self._waiting, (self._clock.now + wait, started + 1))


class Botocore:
    """botocore's adaptive mode: its own rate limiter, and the backoff of its retries."""

    SIZE, LONGEST_S = 32, 20.0

    def __init__(self, clock: Clock) -> None:
        time = _BotocoreClock(clock)
        self._clock, self._random = clock, random.Random(1)
        self._bucket = bucket.TokenBucket(max_rate=1, clock=time)
        self._limiter = adaptive.ClientRateLimiter(
            rate_adjustor=throttling.CubicCalculator(starting_max_rate=0, start_time=clock.now),
            rate_clocker=adaptive.RateClocker(time),
            token_bucket=self._bucket,
            throttling_detector=_Detector(),
            clock=time,
        )
        self._in_flight = 0
        self._has_token = False
        self._waiting: list[tuple[float, int]] = []

    def delay(self) -> float:
        is_due = self._waiting and self._waiting[0][0] <= self._clock.now + NOW_S
        if not is_due and self._in_flight + len(self._waiting) >= self.SIZE:
            return self._waiting[0][0] - self._clock.now if self._waiting else math.inf
        if not self._limiter._enabled or self._has_token:
            return 0.0
        try:
            self._bucket.acquire(block=False)
        except CapacityNotAvailableError:
            return max(float(self._bucket._sleep_amount(1)), 0.001)
        self._has_token = True
        return 0.0

    def start(self) -> int:
        self._has_token = False
        self._in_flight += 1
        is_due = self._waiting and self._waiting[0][0] <= self._clock.now + NOW_S
        return heapq.heappop(self._waiting)[1] if is_due else 0

    def finish(self, started: int, *, throttled: bool, retry_after: float | None) -> None:  # noqa: ARG002
        self._in_flight -= 1
        self._limiter.on_receiving_response(signal=throttled)
        if throttled:
            wait = min(self._random.random() * 2 ** min(started, 20), self.LONGEST_S)
            heapq.heappush(self._waiting, (self._clock.now + wait, started + 1))


class _BotocoreClock(bucket.Clock):  # type: ignore[misc]  # botocore is untyped
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def current_time(self) -> float:
        return self._clock.now

    def sleep(self, amount: float) -> None:
        raise NotImplementedError


class _Detector:
    def is_throttling_error(self, *, signal: bool) -> bool:
        return signal


class AimdRate:
    """Additive increase, multiplicative decrease of a rate (Chiu and Jain, 1989)."""

    FIRST, STEP_PER_S, CUT, AGAIN_S = 1.0, 1.0, 0.7, 0.5

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rate, self._changed = self.FIRST, clock.now
        self._next = self._cut_at = self._shut_until = clock.now
        self._is_starting = True

    def delay(self) -> float:
        return max(0.0, self._next - self._clock.now, self._shut_until - self._clock.now)

    def start(self) -> None:
        now = self._clock.now
        elapsed, self._changed = min(now - self._changed, 1.0), now
        self._rate *= 1 + elapsed * (1 if self._is_starting else self.STEP_PER_S / self._rate)
        self._next = max(self._next, now - 1 / self._rate) + 1 / self._rate

    def finish(self, started: None, *, throttled: bool, retry_after: float | None) -> None:  # noqa: ARG002
        now = self._clock.now
        if throttled and now >= self._cut_at:
            self._rate, self._is_starting = self._rate * self.CUT, False
            self._cut_at = now + self.AGAIN_S
            self._shut_until = max(self._shut_until, now + (retry_after or 0.0))


class AdaptiveThrottler:
    """failsafe-go's adaptive throttler: rejects at a probability that the recent share of failures sets.

    p = max(0, (requests - K * accepts) / (requests + 1)), as in Google's "Handling Overload" (SRE book), over
    the last minute, with at most 0.9 rejected. Whoever is rejected tries again a tenth of a second later.
    """

    K, SPAN_S, MOST, AGAIN_S, SIZE = 1.1, 60.0, 0.9, 0.1, 32

    def __init__(self, clock: Clock) -> None:
        self._clock, self._random = clock, random.Random(1)
        self._log: deque[tuple[float, bool]] = deque()
        self._accepted = self._in_flight = 0
        self._again_at = clock.now

    def delay(self) -> float:
        now = self._clock.now
        if self._in_flight >= self.SIZE:
            return math.inf
        if now < self._again_at - NOW_S:
            return self._again_at - now
        while self._log and self._log[0][0] < now - self.SPAN_S:
            self._accepted -= self._log.popleft()[1]
        requests = len(self._log)
        rejected = min(self.MOST, max(0.0, (requests - self.K * self._accepted) / (requests + 1)))
        if self._random.random() < rejected:
            self._again_at = now + self.AGAIN_S / self.SIZE
            return self._again_at - now
        return 0.0

    def start(self) -> None:
        self._in_flight += 1

    def finish(self, started: None, *, throttled: bool, retry_after: float | None) -> None:  # noqa: ARG002
        self._in_flight -= 1
        self._log.append((self._clock.now, not throttled))
        self._accepted += not throttled


class Gradient2:
    """Netflix's Gradient2: concurrency by the ratio of long and short round trips, less if dropped."""

    FIRST, QUEUE, TOLERANCE, SMOOTHING, LONG, CUT = 20.0, 4.0, 1.5, 0.2, 600, 0.9

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limit, self._in_flight, self._long = self.FIRST, 0, 0.0

    def delay(self) -> float:
        return math.inf if self._in_flight >= self._limit else 0.0

    def start(self) -> tuple[float, int]:
        self._in_flight += 1
        return self._clock.now, self._in_flight

    def finish(
        self,
        started: tuple[float, int],
        *,
        throttled: bool,
        retry_after: float | None,  # noqa: ARG002
    ) -> None:
        sent_at, in_flight = started
        self._in_flight -= 1
        if throttled:
            self._limit = max(1.0, self._limit * self.CUT)
            return
        short = self._clock.now - sent_at
        self._long = self._long + 2 / (self.LONG + 1) * (short - self._long) if self._long else short
        if in_flight < self._limit / 2:
            return
        gradient = max(0.5, min(1.0, self.TOLERANCE * self._long / short))
        wanted = self._limit * gradient + self.QUEUE
        self._limit = min(
            float(WORKERS), max(1.0, (1 - self.SMOOTHING) * self._limit + self.SMOOTHING * wanted)
        )


PEERS: dict[str, Callable[[Clock], Client]] = {
    "batchlic": Batchlic,
    "semaphore": SemaphoreWithBackoff,
    "botocore": Botocore,
    "AIMD": AimdRate,
    "throttler": AdaptiveThrottler,
    "Gradient2": Gradient2,
}
