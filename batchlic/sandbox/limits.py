"""How many calls the sandbox lets in, how long they take, and what it tells those that it keeps out."""

import random
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from math import ceil
from typing import NamedTuple, Protocol

from batchlic.sandbox.config import LimitKind, QuotaHeaders, RetryHint, SandboxConfig, ThrottleShape
from batchlic.sandbox.refusals import Refusal, license_refusal


class AdvertisedQuota(NamedTuple):
    """Calls that come in at once, how many of them are left, and seconds until all of them are again."""

    limit: int
    remaining: int
    reset_s: float


class RateLimit(Protocol):
    """Counts calls; times in seconds, rates in calls per second."""

    def quota(self, now: float, rate: float) -> AdvertisedQuota:
        """What is left after the latest call."""

    def wait(self, now: float, rate: float) -> float:
        """0 if the call at `now` comes in, otherwise how long until the next one would."""


class TokenBucket:
    """Token bucket: `burst` tokens at most, `rate` new ones per second, a call takes one."""

    def __init__(self, burst: int, cost_when_throttled: int) -> None:
        self._burst = self._tokens = float(burst)
        self._cost_when_throttled = cost_when_throttled
        self._last: float | None = None

    def wait(self, now: float, rate: float) -> float:
        """See RateLimit; throttled calls put the bucket in debt by its own size at most."""
        elapsed = 0.0 if self._last is None else now - self._last
        self._last = now
        self._tokens = min(self._burst, self._tokens + elapsed * rate)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        self._tokens = max(-self._burst, self._tokens - self._cost_when_throttled)
        return (1 - self._tokens) / rate

    def quota(self, now: float, rate: float) -> AdvertisedQuota:  # noqa: ARG002 - the tokens are those of the latest call
        """See RateLimit."""
        return AdvertisedQuota(
            int(self._burst), max(0, int(self._tokens)), (self._burst - self._tokens) / rate
        )


class FixedWindow:
    """Fixed window: a quota, renewed when the clock enters the next window."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._window = self._used = 0

    def wait(self, now: float, rate: float) -> float:
        """See RateLimit; whether throttled calls count makes no difference: the next window starts anew."""
        window = int(now // self._window_s)
        if window != self._window:
            self._window, self._used = window, 0
        if self._used < _quota(rate, self._window_s):
            self._used += 1
            return 0.0
        return (window + 1) * self._window_s - now

    def quota(self, now: float, rate: float) -> AdvertisedQuota:
        """See RateLimit."""
        limit = _quota(rate, self._window_s)
        return AdvertisedQuota(limit, max(0, limit - self._used), (self._window + 1) * self._window_s - now)


class SlidingWindow:
    """Sliding window log: a quota within any stretch of time as long as the window."""

    def __init__(self, window_s: float, cost_when_throttled: int) -> None:
        self._window_s = window_s
        self._cost_when_throttled = cost_when_throttled
        self._calls: deque[float] = deque()

    def wait(self, now: float, rate: float) -> float:
        """See RateLimit."""
        quota = _quota(rate, self._window_s)
        while self._calls and self._calls[0] <= now - self._window_s:
            self._calls.popleft()
        if len(self._calls) < quota:
            self._calls.append(now)
            return 0.0
        self._calls.extend([now] * self._cost_when_throttled)
        return self._calls[len(self._calls) - quota] + self._window_s - now

    def quota(self, now: float, rate: float) -> AdvertisedQuota:
        """See RateLimit."""
        limit = _quota(rate, self._window_s)
        return AdvertisedQuota(
            limit, max(0, limit - len(self._calls)), self._calls[-1] + self._window_s - now
        )


def _quota(rate: float, window_s: float) -> int:
    return max(1, round(rate * window_s))


class Throttled(Exception):
    """The call was kept out; the next one would come in after `wait_s`."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class Gate:
    """Lets calls in up to the limits of rate and concurrency, which change as configured."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._limit = _rate_limit(config)
        self._opened_at: float | None = None
        self.inside = 0
        self.most_inside = 0

    def enter(self, now: float) -> None:
        """Let one call in, which must `leave` again; or raise Throttled."""
        factor = self._factor(now)
        cap = self._config.max_concurrent
        if cap is not None and self.inside >= max(1, round(cap * factor)):
            raise Throttled(1.0)
        if self._config.rate is not None:
            wait_s = self._limit.wait(now, self._config.rate * factor)
            if wait_s > 0:
                raise Throttled(wait_s)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)

    def quota(self, now: float) -> AdvertisedQuota | None:
        """What is left of the limit of rate after a call at `now`; None if there is no such limit."""
        rate = self._config.rate
        return None if rate is None else self._limit.quota(now, rate * self._factor(now))

    def leave(self) -> None:
        """A call that came in is done."""
        self.inside -= 1

    def _factor(self, now: float) -> float:
        if self._opened_at is None:
            self._opened_at = now
        elapsed = now - self._opened_at
        return next(
            (factor for at, factor in sorted(self._config.changes, reverse=True) if at <= elapsed), 1.0
        )


def _rate_limit(config: SandboxConfig) -> RateLimit:
    cost_when_throttled = int(config.count_throttled)
    match config.limit:
        case LimitKind.TOKEN_BUCKET:
            return TokenBucket(config.burst, cost_when_throttled)
        case LimitKind.FIXED_WINDOW:
            return FixedWindow(config.window_s)
        case LimitKind.SLIDING_WINDOW:
            return SlidingWindow(config.window_s, cost_when_throttled)


class Latency:
    """How long the carrier works on a call: a fixed part, jitter, and a part that grows with load."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._random = random.Random(f"{config.seed}/latency")  # noqa: S311 - reproducible, guards nothing

    def of(self, inside: int) -> float:
        """Seconds for a call that finds this many inside, itself included."""
        config = self._config
        jitter = self._random.uniform(0, config.latency_jitter_s) if config.latency_jitter_s else 0.0
        return config.latency_s + jitter + config.latency_growth_s * (inside - 1)


def quota_headers(kind: QuotaHeaders, quota: AdvertisedQuota | None) -> dict[str, str]:
    """Headers that say what is left, in whole seconds as they are used to."""
    if quota is None or kind is QuotaHeaders.NOTHING:
        return {}
    reset = ceil(quota.reset_s)
    if kind is QuotaHeaders.DRAFT:
        return {
            "ratelimit-policy": f'"default";q={quota.limit}',
            "ratelimit": f'"default";r={quota.remaining};t={reset}',
        }
    said = {"limit": quota.limit, "remaining": quota.remaining, "reset": reset}
    return {f"{kind}-{name}": str(number) for name, number in said.items()}


def throttle_refusal(
    config: SandboxConfig, wait_s: float, clock: datetime, quota: Mapping[str, str] | None = None
) -> Refusal:
    """The 429 in the configured shape and with the configured hint; `clock` is the carrier's wall clock."""
    headers, body = _hint(config.retry_hint, wait_s, clock)
    headers |= quota or {}
    if config.throttle_shape is ThrottleShape.LICENSE:
        return license_refusal(429, "Too many requests.", headers)
    fault = {
        "code": "900802",
        "message": "Message throttled out",
        "description": "You have exceeded your quota",
    }
    bare = fault | body
    return Refusal(
        429, bare if config.throttle_shape is ThrottleShape.BARE_GATEWAY else {"fault": bare}, headers
    )


def _hint(hint: RetryHint, wait_s: float, clock: datetime) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and body fields that say when to come back; never earlier than `wait_s` from `clock`."""
    again = (clock + timedelta(seconds=wait_s + 1)).replace(microsecond=0)
    date = {"date": format_datetime(clock, usegmt=True)}
    match hint:
        case RetryHint.NOTHING:
            return {}, {}
        case RetryHint.SECONDS:
            return {"retry-after": str(ceil(wait_s))}, {}
        case RetryHint.DATE:
            return date | {"retry-after": format_datetime(again, usegmt=True)}, {}
        case RetryHint.NEXT_ACCESS_TIME:
            return date, {"nextAccessTime": again.strftime("%Y-%b-%d %H:%M:%S%z UTC")}
