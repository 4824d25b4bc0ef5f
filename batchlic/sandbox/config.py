"""What a sandbox is told before it starts: licenses, limits, latency, faults, poisoned devices."""

from dataclasses import dataclass, field
from enum import StrEnum

from batchlic.carrier.catalogue import SKUS
from batchlic.errors import UsageError


class LimitKind(StrEnum):
    """How the sandbox counts calls against its rate."""

    TOKEN_BUCKET = "token-bucket"  # noqa: S105 - the algorithm's name
    """`burst` calls at once, refilled at `rate`."""
    FIXED_WINDOW = "fixed-window"
    """A quota of `rate * window_s` calls that is renewed when the clock enters the next window."""
    SLIDING_WINDOW = "sliding-window"
    """At most `rate * window_s` calls within any `window_s`."""


class ThrottleShape(StrEnum):
    """The body of a 429."""

    GATEWAY = "gateway"
    BARE_GATEWAY = "bare-gateway"
    """The gateway's, without the outer `fault`."""
    LICENSE = "license"


class RetryHint(StrEnum):
    """What a 429 says about when to come back."""

    NOTHING = "nothing"
    SECONDS = "seconds"
    """`Retry-After` in whole seconds, rounded up."""
    DATE = "date"
    """`Retry-After` as an HTTP date, beside a `Date` to compare it with."""
    NEXT_ACCESS_TIME = "next-access-time"
    """`nextAccessTime` in the body, beside a `Date`; where the body is the gateway's."""


class QuotaHeaders(StrEnum):
    """What every answer says of the limit of rate: the quota, how much is left, seconds until it is whole."""

    NOTHING = "nothing"
    RATELIMIT = "ratelimit"
    """`RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`."""
    X_RATELIMIT = "x-ratelimit"
    """The same with `X-` before."""
    DRAFT = "draft"
    """`RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10."""


class Fault(StrEnum):
    """What can go wrong with a license request; `after` and its like were executed, `before` were not."""

    RESET_BEFORE = "reset-before"
    RESET_AFTER = "reset-after"
    HANG_BEFORE = "hang-before"
    HANG_AFTER = "hang-after"
    SLOW_BODY = "slow-body"
    """Executed; the answer comes in over `slow_body_s`, byte by byte."""
    CUT_BODY = "cut-body"
    """Executed; the connection ends in the middle of the answer."""
    HTML_502_BEFORE = "html-502-before"
    HTML_502_AFTER = "html-502-after"
    EMPTY_503 = "empty-503"
    """Not executed."""
    ERROR_500_AFTER = "500-after"
    ERROR_504_AFTER = "504-after"
    NO_REQUEST_ID = "no-request-id"
    """Executed; a 200 that does not say its requestId."""
    TOKEN_EXPIRED = "token-expired"  # noqa: S105 - the name of a fault
    """Not executed; the access token has ended for every caller that holds it."""
    SESSION_EXPIRED = "session-expired"
    """Not executed; the session has ended for every caller that holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison:
    """A device that makes the whole batch refused with the platform's `error_code`."""

    identifier: str
    error_code: str = "INPUT_INVALID.DeviceState.Invalid"
    named: bool = True
    """Whether the refusal names the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """All that can be chosen about a sandbox; rates in requests per second, times in seconds.

    Limits, latency and faults concern the license endpoint (assign and unassign) only.
    Raises UsageError where values contradict each other.
    """

    seed: int = 0
    """Same seed, same requests in the same order: same faults, same ids."""

    accounts: tuple[str, ...] = ()
    """The accounts there are; empty: every account name of the right form exists."""
    licenses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKUS, 10_000_000))
    """Licenses that each account has bought, by SKU. A SKU that is not listed was not bought."""
    poison: tuple[Poison, ...] = ()
    exclusive: bool = False
    """Refuse a license to a device that holds one of another SKU; whether the real carrier does is not
    documented."""
    deduplicate: bool = False
    """Execute one X-Request-ID once only; whether the real carrier does is not documented."""

    access_token_s: float = 3600.0
    session_idle_s: float = 1200.0

    rate: float | None = None
    """None: no limit of rate."""
    limit: LimitKind = LimitKind.TOKEN_BUCKET
    burst: int = 20
    window_s: float = 1.0
    max_concurrent: int | None = None
    """Calls inside at the same time; None: no limit of concurrency."""
    changes: tuple[tuple[float, float], ...] = ()
    """(seconds since the first license request, factor on `rate` and `max_concurrent` from then on)."""
    count_throttled: bool = False
    """Whether a throttled call counts against the rate too."""
    throttle_shape: ThrottleShape = ThrottleShape.GATEWAY
    retry_hint: RetryHint = RetryHint.SECONDS
    quota_headers: QuotaHeaders = QuotaHeaders.NOTHING

    latency_s: float = 0.0
    latency_jitter_s: float = 0.0
    """Up to this much more, drawn evenly."""
    latency_growth_s: float = 0.0
    """This much more for each other call inside."""

    faults: dict[Fault, float] = field(default_factory=dict)
    """Share of the license requests that meet each fault, 0 to 1; a request meets one at most."""
    slow_body_s: float = 5.0

    callback_delay_s: float = 0.0
    """From executing a request to posting the outcomes of its devices, to the account's listener."""
    callback_jitter_s: float = 0.0
    """Up to this much more, drawn evenly for each device, so that outcomes overtake each other."""
    callback_early: float = 0.0
    """Share of the requests whose outcomes are posted before they are answered."""
    callback_repeats: float = 0.0
    """Share of the outcomes that are posted twice, acknowledged or not."""
    callback_failures: float = 0.0
    """Share of the devices that the carrier takes and then does not serve: their outcome is a failure."""
    callback_retry_s: float = 300.0
    """From an outcome that was not acknowledged to the next of three more tries."""

    def __post_init__(self) -> None:
        """Refuse what can't be meant."""
        if sum(self.faults.values()) > 1 or any(rate < 0 for rate in self.faults.values()):
            raise UsageError("The sandbox's fault rates must be 0 to 1, and at most 1 together.")
        if self.rate is not None and self.rate <= 0:
            raise UsageError(
                "The sandbox's rate must be above 0 requests per second; leave it out for no limit."
            )
        times = (self.latency_s, self.latency_jitter_s, self.latency_growth_s, self.slow_body_s)
        if min(times) < 0 or min(self.access_token_s, self.session_idle_s) <= 0:
            raise UsageError("The sandbox's times can't be negative, and its tokens must live for a while.")
        if min(self.burst, self.max_concurrent or 1) < 1 or self.window_s <= 0:
            raise UsageError("The sandbox's burst, window and concurrent calls must be at least 1.")
        shares = (self.callback_early, self.callback_repeats, self.callback_failures)
        if not all(0 <= share <= 1 for share in shares):
            raise UsageError("The sandbox's shares of early, repeated and failed callbacks must be 0 to 1.")
        if any(factor <= 0 for _, factor in self.changes):
            raise UsageError("A change of the sandbox's limit needs a factor above 0.")
