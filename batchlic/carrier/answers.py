"""Types for what the carrier answers: `Outcome`, and `Answer` with everything that an answer says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from batchlic.carrier.rate_limits import Quota


class Outcome(StrEnum):
    """What one attempt led to."""

    ACCEPTED = "accepted"
    """The carrier accepted the request and gave it a requestId."""
    THROTTLED = "throttled"
    """Not executed: too many requests."""
    REFUSED = "refused"
    """Not executed: the license service itself answered with a 4xx."""
    UNAUTHORIZED = "unauthorized"
    """Not executed: a token is wrong or has expired."""
    UNAVAILABLE = "unavailable"
    """Not executed: the service could not be reached, or a gateway answered in its place."""
    AMBIGUOUS = "ambiguous"
    """Possibly executed: the answer was lost (promise D)."""


class Blame(Enum):
    """What a refusal blames. It decides whether splitting the batch can help."""

    DEVICE = "device"
    """A device of the batch: the other devices can still be licensed."""
    ACCOUNT = "account"
    """Something that all devices of the batch share (account, SKU, permission, URL, media type).
    Splitting does not help."""
    UNKNOWN = "unknown"


class TokenKind(Enum):
    """Which of the two tokens the carrier rejected."""

    ACCESS = "access"
    SESSION = "session"
    EITHER = "either"
    """The answer does not say which one."""


@dataclass(frozen=True, slots=True)
class RejectedToken:
    """A token that the carrier rejected. `generation` counts token renewals; 0: the first tokens."""

    kind: TokenKind
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of the carrier in a single form, whatever form its HTTP response had.

    - `request_id`: the carrier's requestId. An ambiguous answer has one if it broke off after
      the requestId.
    - `error_code`: without the service name.
    - `error_message`: the carrier's text, at most 500 characters, without control characters.
    - `retry_after_s`: seconds to wait, counted from the moment the answer arrived. `MAX_WAIT_S` stands for
      any longer wait, which is not plausible.
    - `named_devices`: the identifiers of the request that a refusal names.
    - `is_known`: a refusal with a documented code about a device or the size of the request. Any other
      refusal is definite only while the carrier accepts other requests.
    - `is_duplicate`: the answer says that the carrier has seen this request before. The outcome is ambiguous:
      the first sending may have been executed, and the answer says nothing about single devices.
    - `is_inferred`: the answer only suggests its meaning. The request was probably not executed, but the
      service could also have sent the answer: a license that can't be taken back stays in doubt. Or it is
      probably a duplicate, but the answer may be about another request: this one may not have been executed.
    - `is_partial`: the answer has a requestId, but says that some devices were not accepted. The outcome is
      ambiguous: the request was executed, and only callbacks report each device.
    - `says_already`: a refusal says that what the request asks for is done already: this license is assigned,
      or removed. An earlier sending of the same request may have done it.
    - `rejected`: a token to renew, after `unauthorized` and some ambiguous answers.
    - `quota`: the rate-limit headers of the answer.
    - `warning`: a problem with this answer that the operator should know. The answer counts all the same.
    """

    outcome: Outcome
    http_status: int | None = None
    request_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    retry_after_s: float | None = None
    blame: Blame | None = None
    named_devices: tuple[str, ...] = ()
    is_known: bool = False
    is_duplicate: bool = False
    is_inferred: bool = False
    is_partial: bool = False
    says_already: bool = False
    rejected: RejectedToken | None = None
    quota: Quota | None = None
    warning: str | None = None

    @property
    def summary(self) -> str:
        """Status, code and text for people, such as "HTTP 503 with an empty body"."""
        text, code = self.error_message or "", self.error_code or ""
        if text and not self.has_text:
            return text if code in text else f"{text} ({code})"
        status = f"HTTP {self.http_status}:" if self.http_status else ""
        return " ".join(filter(None, (status, code, text))) or self.outcome.value

    @property
    def has_text(self) -> bool:
        """Whether the message is a text of the carrier, instead of batchlic's description of the answer."""
        return bool(self.error_message) and not str(self.error_message).startswith("HTTP ")

    @property
    def credentials_generation(self) -> int:
        """Generation of the rejected token; 0 if no token was rejected."""
        return self.rejected.generation if self.rejected else 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response: a status, and as much of the body as could be read.

    - `headers` has lower-case names. Headers with the same name are merged, with their values joined by ", ".
    - `complete` is False if the body broke off, exceeded the size limit, or if its length is in doubt.
    - `discard_connections` closes the connection of this reply. No other open one gets further requests.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True
    discard_connections: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
