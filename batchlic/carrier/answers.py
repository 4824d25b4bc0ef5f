"""What an answer of the carrier means for the devices of the request that it answers."""

from dataclasses import dataclass
from enum import Enum, StrEnum


class Outcome(StrEnum):
    """What became of one attempt."""

    ACCEPTED = "accepted"
    """The carrier took the request and gave it a requestId."""
    THROTTLED = "throttled"
    """Not executed: too many requests."""
    REFUSED = "refused"
    """Not executed, and never will be as it stands: a definite 4xx."""
    UNAUTHORIZED = "unauthorized"
    """Not executed: a token is wrong or has expired."""
    UNAVAILABLE = "unavailable"
    """Not executed: the carrier could not be reached, or said 503."""
    AMBIGUOUS = "ambiguous"
    """May have been executed, and the answer was lost (promise D)."""


class Blame(Enum):
    """Who is at fault in a refusal; decides whether splitting the batch can help."""

    DEVICE = "device"
    ACCOUNT = "account"
    UNKNOWN = "unknown"


class Token(Enum):
    """Which of the two tokens an `unauthorized` answer rejects."""

    ACCESS = "access"
    SESSION = "session"
    EITHER = "either"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One typed answer, whatever shape it had on the wire.

    `error_code` is without the service name; `error_message` is the carrier's text, cut to 500 characters
    and free of control characters; `retry_after_s` is in seconds from the moment the answer arrived;
    `named_devices` are the identifiers of the request that the refusal names; `rejected` and
    `credentials_generation` say which token of which login to renew after `unauthorized`.
    """

    outcome: Outcome
    http_status: int | None = None
    request_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    retry_after_s: float | None = None
    blame: Blame | None = None
    named_devices: tuple[str, ...] = ()
    rejected: Token | None = None
    credentials_generation: int = 0
