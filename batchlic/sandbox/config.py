"""The configuration of a sandbox: accounts, licenses, limits, latency, faults, poison, callbacks."""

from dataclasses import dataclass, field
from enum import StrEnum

from batchlic.carrier.catalog import SKUS
from batchlic.errors import UsageError


class LimitKind(StrEnum):
    """The algorithm of the rate limit."""

    TOKEN_BUCKET = "token-bucket"  # noqa: S105 - the algorithm's name
    """`burst` requests at once, refilled at `rate`."""
    FIXED_WINDOW = "fixed-window"
    """A quota of `rate * window_s` requests, renewed when the next window begins."""
    SLIDING_WINDOW = "sliding-window"
    """At most `rate * window_s` requests within any `window_s` seconds."""


class LimitScope(StrEnum):
    """What the limits are for."""

    LOGIN = "login"
    """All license requests together."""
    ACCOUNT = "account"
    """The license requests of each account by themselves."""


class ThrottleShape(StrEnum):
    """The form of the body of a 429."""

    GATEWAY = "gateway"
    BARE_GATEWAY = "bare-gateway"
    """The gateway's body without the outer `fault`."""
    LICENSE = "license"
    """As the license endpoints refuse."""


class RetryHint(StrEnum):
    """How a 429 says when to send again."""

    NOTHING = "nothing"
    SECONDS = "seconds"
    """`Retry-After` in whole seconds, rounded up."""
    DATE = "date"
    """`Retry-After` as an HTTP date, with a `Date` header to compare it with."""
    NEXT_ACCESS_TIME = "next-access-time"
    """`nextAccessTime` in the gateway's body, with a `Date` header."""


class QuotaHeaders(StrEnum):
    """Headers about the rate limit in every answer: quota, requests left, seconds until it is full again."""

    NOTHING = "nothing"
    RATELIMIT = "ratelimit"
    """`RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`."""
    X_RATELIMIT = "x-ratelimit"
    """The same headers with the prefix `X-`."""
    DRAFT = "draft"
    """`RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10."""


class Fault(StrEnum):
    """A fault of a license request, or of a login.

    With `…-after` the request is executed, with `…-before` it is not. Where a fault has several forms, each
    occurrence draws one of them.
    """

    RESET_BEFORE = "reset-before"
    RESET_AFTER = "reset-after"
    HANG_BEFORE = "hang-before"
    HANG_AFTER = "hang-after"
    SLOW_BODY = "slow-body"
    """Executed; the answer arrives byte by byte over `LatencyConfig.slow_body_s` seconds."""
    CUT_BODY = "cut-body"
    """Executed; the connection closes in the middle of the answer."""
    HTML_502_BEFORE = "html-502-before"
    HTML_502_AFTER = "html-502-after"
    EMPTY_503 = "empty-503"
    """Not executed."""
    ERROR_500_AFTER = "500-after"
    ERROR_504_AFTER = "504-after"
    NO_REQUEST_ID = "no-request-id"
    """Executed; a 200 without a requestId."""
    TOKEN_EXPIRED = "token-expired"  # noqa: S105 - the name of a fault
    """Not executed; the access token is invalid from now on, for every caller."""
    SESSION_EXPIRED = "session-expired"
    """Not executed; the session is closed for every caller."""
    STALE_ANSWER = "stale-answer"
    """Executed; the answer arrives twice on its connection, the second time shortly after the first."""
    CACHED_ANSWER = "cached-answer"
    """Not executed; the latest 200 that reached a caller is answered again, with `Age` and `X-Cache: HIT`."""
    DUPLICATE_REFUSED = "duplicate-refused"
    """Executed; the connection is reset, and every repetition of the request is refused as a duplicate."""
    GATEWAY_404 = "gateway-404"
    """Not executed; begins an outage: the gateway has no route, with a 404 or 403, for logins too."""
    THROTTLED_403 = "throttled-403"
    """Not executed; throttled with another status than 429: 403, 420, or 400 with `errorCode` 429."""
    AUTH_XML = "auth-xml"
    """Not executed; a token has expired for every caller, and the 401 is XML, HTML, text or damaged JSON."""
    LONG_HEADER = "long-header"
    """Executed; the answer has 9,000 bytes or more of headers."""
    DAMAGED_JSON = "damaged-json"
    """Executed; the answer is damaged JSON: a byte order mark, raw line feed, NaN, trailing text."""
    LOST_UPSTREAM_503 = "lost-upstream-503"
    """Executed; the gateway lost the connection to the carrier and answers 502, 503 or 504."""
    REFUSING_503 = "refusing-503"
    """Not executed; the 503 proves that the gateway had no connection to the carrier."""
    SESSION_FLAP = "session-flap"
    """Not executed; begins an outage: 401 for every caller, although the tokens are valid."""
    LOGIN_403 = "login-403"
    """A login, not a license request: throttled with 403 and `Retry-After`."""
    ODD_RETRY_AFTER = "odd-retry-after"
    """Not executed; a 429 whose `Retry-After` is in another form than RFC 9110 allows."""
    ODD_COUNTS = "odd-counts"
    """A request for license counts, not a license request: the numbers are texts or fractions, or missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison:
    """A device that makes the sandbox refuse its whole batch, with the platform's `error_code`."""

    identifier: str
    error_code: str = "INPUT_INVALID.DeviceState.Invalid"
    named: bool = True
    """Whether the refusal names the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """Rules of the real carrier that are not documented."""

    exclusive: bool = False
    """Refuse to assign a license to a device that holds one of another SKU."""
    deduplicate: bool = False
    """Execute each X-Request-ID only once."""
    permission: bool = True
    """Whether the login may manage licenses. Without it, the gateway refuses all requests about licenses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenConfig:
    """Lifetime of the tokens, in seconds."""

    access_life_s: float = 3600.0
    session_idle_s: float = 1200.0
    """A session that is unused for this long expires."""

    def __post_init__(self) -> None:
        """Raise UsageError for lifetimes of 0 or less."""
        if min(self.access_life_s, self.session_idle_s) <= 0:
            raise UsageError("The sandbox's token lifetimes must be above 0 seconds.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitConfig:
    """Limits of the license endpoint (assign and unassign), and how its answers report them."""

    scope: LimitScope = LimitScope.LOGIN
    rate: float | None = None
    """Requests per second; None: no rate limit."""
    account_rates: dict[str, float] = field(default_factory=dict)
    """Requests per second of single accounts, instead of `rate`; needs the scope of an account."""
    kind: LimitKind = LimitKind.TOKEN_BUCKET
    burst: int = 20
    """Requests; the size of a token bucket."""
    window_s: float = 1.0
    max_concurrent: int | None = None
    """Requests in progress at the same time; None: no limit."""
    changes: tuple[tuple[float, float], ...] = ()
    """(seconds after the first license request, factor on `rate` and `max_concurrent` from then on)."""
    count_throttled: bool = False
    """Whether a throttled request uses up quota too."""
    throttle_shape: ThrottleShape = ThrottleShape.GATEWAY
    retry_hint: RetryHint = RetryHint.SECONDS
    quota_headers: QuotaHeaders = QuotaHeaders.NOTHING

    def __post_init__(self) -> None:
        """Raise UsageError for limits that nothing can pass."""
        if any(rate <= 0 for rate in (self.rate, *self.account_rates.values()) if rate is not None):
            raise UsageError(
                "The sandbox's rate must be above 0 requests per second; leave it out for no limit."
            )
        if self.account_rates and self.scope is not LimitScope.ACCOUNT:
            raise UsageError("The sandbox's rate of an account needs --limit-scope account.")
        if min(self.burst, self.max_concurrent or 1) < 1:
            raise UsageError("The sandbox's burst and concurrent requests must be at least 1.")
        if self.window_s <= 0:
            raise UsageError("The sandbox's window must be above 0 seconds.")
        if any(factor <= 0 for _, factor in self.changes):
            raise UsageError("A change of the sandbox's limits needs a factor above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyConfig:
    """Duration of license requests, in seconds."""

    base_s: float = 0.0
    jitter_s: float = 0.0
    """Up to this much more, uniformly distributed."""
    growth_s: float = 0.0
    """This much more for each other request in progress."""
    slow_body_s: float = 5.0
    """Duration of the answer body under `Fault.SLOW_BODY`."""
    outage_s: float = 2.0
    """Duration of an outage that `Fault.GATEWAY_404` or `Fault.SESSION_FLAP` begins."""

    def __post_init__(self) -> None:
        """Raise UsageError for negative times."""
        if min(self.base_s, self.jitter_s, self.growth_s, self.slow_body_s, self.outage_s) < 0:
            raise UsageError("The sandbox's latency can't be negative.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackConfig:
    """When and how often the sandbox posts the outcomes of devices; times in seconds, shares 0 to 1."""

    delay_s: float = 0.0
    """From executing a request to posting the outcomes of its devices."""
    jitter_s: float = 0.0
    """Up to this much more, uniformly distributed for each device, so that the order of outcomes changes."""
    early_share: float = 0.0
    """Share of the requests whose outcomes are posted before the requests are answered."""
    repeat_share: float = 0.0
    """Share of the outcomes that are posted twice, acknowledged or not."""
    failure_share: float = 0.0
    """Share of the devices of accepted requests that get no license; their outcome is a failure."""
    odd_share: float = 0.0
    """Share of the outcomes in an unusual form: requestId in capitals, a failure with another status than
    `Failed`, a byte order mark, and `X-Forwarded-For` with a port. Half of them come after a message that the
    request is on hold, or with a status that the carrier does not document."""
    retry_s: float = 300.0
    """Time between the four attempts to post an outcome."""

    def __post_init__(self) -> None:
        """Raise UsageError for shares outside 0 to 1."""
        shares = self.early_share, self.repeat_share, self.failure_share, self.odd_share
        if not all(0 <= share <= 1 for share in shares):
            raise UsageError(
                "The sandbox's shares of early, repeated, failed and odd callbacks must be 0 to 1."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The whole configuration of a sandbox. Raises UsageError for impossible values."""

    seed: int = 0
    """With the same seed, the same requests in the same order meet the same faults and get the same ids."""
    accounts: tuple[str, ...] = ()
    """Names of the accounts; empty: every well-formed account name exists."""
    licenses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SKUS, 10_000_000))
    """Licenses that each account has bought, by SKU. An account has no licenses of other SKUs."""
    poison: tuple[Poison, ...] = ()
    faults: dict[Fault, float] = field(default_factory=dict)
    """Share of the license requests that meet each fault, 0 to 1; a request meets at most one fault. The
    share of `Fault.LOGIN_403` is that of the logins, and that of `Fault.ODD_COUNTS` that of the requests for
    license counts."""
    rules: RuleConfig = field(default_factory=RuleConfig)
    tokens: TokenConfig = field(default_factory=TokenConfig)
    limits: LimitConfig = field(default_factory=LimitConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    callbacks: CallbackConfig = field(default_factory=CallbackConfig)

    def __post_init__(self) -> None:
        """Raise UsageError for fault rates that are no shares."""
        if sum(self.faults.values()) > 1 or any(rate < 0 for rate in self.faults.values()):
            raise UsageError("The sandbox's fault rates must be 0 to 1, and at most 1 together.")
