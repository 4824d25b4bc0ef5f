"""The sandbox's limits, latency and 429 answers."""

import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from math import ceil
from typing import NamedTuple, Protocol

from batchlic.sandbox.config import (
    LatencyConfig,
    LimitConfig,
    LimitKind,
    QuotaHeaders,
    RetryHint,
    ThrottleShape,
)
from batchlic.sandbox.refusals import Refusal, license_refusal


class AdvertisedQuota(NamedTuple):
    """The quota in requests, the requests left of it, and seconds until it is full again."""

    limit: int
    remaining: int
    reset_s: float


class RateLimit(Protocol):
    """A rate limit; times in seconds, rates in requests per second."""

    def quota(self, now: float, rate: float) -> AdvertisedQuota:
        """Return the quota after the latest request."""

    def wait(self, now: float, rate: float) -> float:
        """Count a request at `now`. Return 0 if it is admitted, otherwise seconds until one would be."""


class TokenBucket:
    """Token bucket: at most `burst` tokens, `rate` new tokens per second; a request takes one token."""

    def __init__(self, burst: int, cost_when_throttled: int) -> None:
        self._burst = self._tokens = float(burst)
        self._cost_when_throttled = cost_when_throttled
        self._last: float | None = None

    def wait(self, now: float, rate: float) -> float:
        """See RateLimit. Throttled requests make the token count negative, down to the size of the bucket."""
        elapsed = 0.0 if self._last is None else now - self._last
        self._last = now
        self._tokens = min(self._burst, self._tokens + elapsed * rate)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        self._tokens = max(-self._burst, self._tokens - self._cost_when_throttled)
        return (1 - self._tokens) / rate

    def quota(self, now: float, rate: float) -> AdvertisedQuota:  # noqa: ARG002 - the count is that of the latest request
        """See RateLimit."""
        return AdvertisedQuota(
            int(self._burst), max(0, int(self._tokens)), (self._burst - self._tokens) / rate
        )


class FixedWindow:
    """Fixed window: a quota that is renewed when the next window begins."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._window = self._used = 0

    def wait(self, now: float, rate: float) -> float:
        """See RateLimit. Throttled requests change nothing: the next window begins with a full quota."""
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
    """Sliding window log: a quota within any `window_s` seconds."""

    def __init__(self, window_s: float, cost_when_throttled: int) -> None:
        self._window_s = window_s
        self._cost_when_throttled = cost_when_throttled
        self._requests: deque[float] = deque()

    def wait(self, now: float, rate: float) -> float:
        """See RateLimit."""
        quota = _quota(rate, self._window_s)
        while self._requests and self._requests[0] <= now - self._window_s:
            self._requests.popleft()
        if len(self._requests) < quota:
            self._requests.append(now)
            return 0.0
        self._requests.extend([now] * self._cost_when_throttled)
        return self._requests[len(self._requests) - quota] + self._window_s - now

    def quota(self, now: float, rate: float) -> AdvertisedQuota:
        """See RateLimit."""
        limit = _quota(rate, self._window_s)
        return AdvertisedQuota(
            limit, max(0, limit - len(self._requests)), self._requests[-1] + self._window_s - now
        )


def _quota(rate: float, window_s: float) -> int:
    return max(1, round(rate * window_s))


class Throttled(Exception):
    """The request was throttled; a request after `wait_s` seconds would be admitted."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class RequestLimits:
    """Admits requests within the limits of rate and concurrency, which change as configured."""

    def __init__(self, config: LimitConfig) -> None:
        self._config = config
        self._limit = _rate_limit(config)
        self._first_request_at: float | None = None
        self.in_progress = 0
        """Requests that are admitted and not finished."""

    def admit(self, now: float) -> None:
        """Admit a request, which must call `finish` at its end; or raise Throttled."""
        factor = self._factor(now)
        max_concurrent = self._config.max_concurrent
        if max_concurrent is not None and self.in_progress >= max(1, round(max_concurrent * factor)):
            raise Throttled(1.0)
        if self._config.rate is not None:
            wait_s = self._limit.wait(now, self._config.rate * factor)
            if wait_s > 0:
                raise Throttled(wait_s)
        self.in_progress += 1

    def quota(self, now: float) -> AdvertisedQuota | None:
        """Return the quota after the request at `now`; None if there is no rate limit."""
        rate = self._config.rate
        return None if rate is None else self._limit.quota(now, rate * self._factor(now))

    def finish(self) -> None:
        """Note that an admitted request is finished."""
        self.in_progress -= 1

    def _factor(self, now: float) -> float:
        if self._first_request_at is None:
            self._first_request_at = now
        elapsed = now - self._first_request_at
        return next(
            (factor for at, factor in sorted(self._config.changes, reverse=True) if at <= elapsed), 1.0
        )


class ScopedLimits:
    """The limits of all license requests, or of each account, as configured.

    `in_progress` and `max_in_progress` count admitted requests that are not finished, of all accounts.
    """

    def __init__(self, config: LimitConfig) -> None:
        self._config = config
        self._limits: dict[str, RequestLimits] = {}
        self.in_progress = 0
        self.max_in_progress = 0

    def of(self, account: str) -> RequestLimits:
        """The limits that hold for requests of an account; empty: for all requests."""
        if account not in self._limits:
            rate = self._config.account_rates.get(account, self._config.rate)
            self._limits[account] = RequestLimits(replace(self._config, rate=rate))
        return self._limits[account]

    @contextmanager
    def counted(self, limits: RequestLimits) -> Iterator[None]:
        """Count a request that these limits have admitted; it is finished after the block."""
        self.in_progress += 1
        self.max_in_progress = max(self.max_in_progress, self.in_progress)
        try:
            yield
        finally:
            self.in_progress -= 1
            limits.finish()


def _rate_limit(config: LimitConfig) -> RateLimit:
    cost_when_throttled = int(config.count_throttled)
    match config.kind:
        case LimitKind.TOKEN_BUCKET:
            return TokenBucket(config.burst, cost_when_throttled)
        case LimitKind.FIXED_WINDOW:
            return FixedWindow(config.window_s)
        case LimitKind.SLIDING_WINDOW:
            return SlidingWindow(config.window_s, cost_when_throttled)


class Latency:
    """Duration of a request: a base, a random jitter, and a part that grows with the load."""

    def __init__(self, config: LatencyConfig, seed: int) -> None:
        self._config = config
        self._random = random.Random(f"{seed}/latency")  # noqa: S311 - reproducible, guards nothing

    def draw(self, in_progress: int) -> float:
        """Seconds for a request while this many are in progress, itself included."""
        config = self._config
        jitter = self._random.uniform(0, config.jitter_s) if config.jitter_s else 0.0
        return config.base_s + jitter + config.growth_s * (in_progress - 1)


def quota_headers(kind: QuotaHeaders, quota: AdvertisedQuota | None) -> dict[str, str]:
    """Headers that report the quota; seconds are rounded up."""
    if quota is None or kind is QuotaHeaders.NOTHING:
        return {}
    reset = ceil(quota.reset_s)
    if kind is QuotaHeaders.DRAFT:
        return {
            "ratelimit-policy": f'"default";q={quota.limit}',
            "ratelimit": f'"default";r={quota.remaining};t={reset}',
        }
    values = {"limit": quota.limit, "remaining": quota.remaining, "reset": reset}
    return {f"{kind}-{name}": str(number) for name, number in values.items()}


def throttle_refusal(
    config: LimitConfig, wait_s: float, clock: datetime, quota: Mapping[str, str] | None = None
) -> Refusal:
    """The configured 429. `clock` is the carrier's wall clock; `quota` are further headers."""
    headers, body = _hint(config.retry_hint, wait_s, clock)
    is_license = config.throttle_shape is ThrottleShape.LICENSE
    tells_wait = "retry-after" in headers or (bool(body) and not is_license)
    headers |= quota or {}
    if is_license:
        refusal = license_refusal(429, "Too many requests.", headers)
    else:
        refusal = Refusal(429, _gateway_body(config.throttle_shape, body), headers)
    refusal.wait_s = wait_s if tells_wait else None
    return refusal


def _gateway_body(shape: ThrottleShape, hint: dict[str, str]) -> Mapping[str, object]:
    fault = {
        "code": "900802",
        "message": "Message throttled out",
        "description": "You have exceeded your quota",
    }
    bare = fault | hint
    return bare if shape is ThrottleShape.BARE_GATEWAY else {"fault": bare}


def _hint(hint: RetryHint, wait_s: float, clock: datetime) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and body fields that say when to send again: `wait_s` seconds after `clock`, or later."""
    retry_at = (clock + timedelta(seconds=wait_s + 1)).replace(microsecond=0)
    date = {"date": format_datetime(clock, usegmt=True)}
    match hint:
        case RetryHint.NOTHING:
            return {}, {}
        case RetryHint.SECONDS:
            return {"retry-after": str(ceil(wait_s))}, {}
        case RetryHint.DATE:
            return date | {"retry-after": format_datetime(retry_at, usegmt=True)}, {}
        case RetryHint.NEXT_ACCESS_TIME:
            return date, {"nextAccessTime": retry_at.strftime("%Y-%b-%d %H:%M:%S%z UTC")}
