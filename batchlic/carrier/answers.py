"""What an answer of the carrier means for the devices of the request that it answers.

The tables are `UNSENT`, `CODES` and `STATUSES`; `read_reply` and `read_silence` apply them. A code says more
than a status, so it is asked first; no body, however broken, makes an exchange without an `Answer`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

import httpx
import msgspec

from batchlic.carrier.hints import Quota, quota_of, retry_after_of
from batchlic.carrier.messages import RequestTaken


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
    """A device of the batch: the others can still be licensed."""
    ACCOUNT = "account"
    """What all devices of the batch share (account, SKU, permission, address, form): splitting is no help."""
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
    `credentials_generation` say which token of which login to renew after `unauthorized`; `quota` is what
    the answer's headers say about the carrier's limit. An ambiguous answer may have a `request_id`: it was
    readable, but the answer was cut short after it.
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
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back over the wire: a status, and as much of a body as could be read.

    `headers` has lower-case names; `whole` is false where the body broke off or was cut at our bound.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True


class Meaning(NamedTuple):
    """A row of the table: what became of the request, and whom or what the answer blames."""

    outcome: Outcome
    blame: Blame | None = None
    rejected: Token | None = None


_BAD_DEVICE = Meaning(Outcome.REFUSED, blame=Blame.DEVICE)
_BAD_REQUEST = Meaning(Outcome.REFUSED, blame=Blame.ACCOUNT)
_REFUSED = Meaning(Outcome.REFUSED, blame=Blame.UNKNOWN)
_THROTTLED = Meaning(Outcome.THROTTLED)
_UNAVAILABLE = Meaning(Outcome.UNAVAILABLE)
_AMBIGUOUS = Meaning(Outcome.AMBIGUOUS)
_BAD_ACCESS = Meaning(Outcome.UNAUTHORIZED, rejected=Token.ACCESS)
_BAD_SESSION = Meaning(Outcome.UNAUTHORIZED, rejected=Token.SESSION)
_BAD_TOKEN = Meaning(Outcome.UNAUTHORIZED, rejected=Token.EITHER)

UNSENT: tuple[type[httpx.RequestError], ...] = (
    httpx.ConnectError,  # refused, no such host, TLS, certificate
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""No connection, so nothing was sent: `unavailable`. Any other silence of the wire is `ambiguous`."""

CODES: Mapping[str, Meaning] = {
    "REQUEST_FAILED.SessionToken.Expired": _BAD_SESSION,
    "INPUT_INVALID.SessionToken.Invalid": _BAD_SESSION,
    "REQUEST_FAILED.SessionToken.Format": _BAD_SESSION,
    "900901": _BAD_ACCESS,
    "900902": _BAD_ACCESS,
    "900903": _BAD_ACCESS,
    **{str(code): _THROTTLED for code in range(900800, 900808)},
    "900906": _BAD_REQUEST,  # no such resource: the base URL is wrong
    "900907": _BAD_REQUEST,  # the API is blocked
    "900908": _BAD_REQUEST,  # the application has no subscription to the API
    "900910": _BAD_REQUEST,  # the token's scope does not allow it
    "INPUT_INVALID.Device.Identifier.Invalid": _BAD_DEVICE,
    "INPUT_INVALID.Device.Kind.Invalid": _BAD_DEVICE,
    "INPUT_INVALID.Device.Account.Invalid": _BAD_DEVICE,
    "INPUT_INVALID.DeviceState.Invalid": _BAD_DEVICE,
    "REQUEST_FAILED.DeviceNotFound": _BAD_DEVICE,
    "REQUEST_FAILED.AccountNotFound": _BAD_REQUEST,
    "REQUEST_FAILED.AccountName": _BAD_REQUEST,
    "INPUT_INVALID.Account.NotDefined": _BAD_REQUEST,
    "REQUEST_FAILED.MultipleAccounts": _BAD_REQUEST,
}
"""The carrier's stable codes. Throttling and token codes hold at any status, the others only at a 4xx."""

_WHOLE_REQUEST = re.compile(
    r"^(INPUT_INVALID|REQUEST_FAILED)\.(Sku|SKU|Account|Licen[cs]e.*(NotAvailable|Insufficient))"
)
"""Codes of no published list that name what all devices of a batch share."""

STATUSES: tuple[tuple[range, Meaning], ...] = (
    (range(200, 300), _AMBIGUOUS),  # with a whole body and a requestId: accepted
    (range(301, 303), _UNAVAILABLE),  # never followed: the API has no redirects, so this is not the API
    (range(307, 309), _UNAVAILABLE),
    (range(300, 400), _AMBIGUOUS),  # 303 is what a server says that has done it (RFC 9110, 15.4.4)
    (range(401, 402), _BAD_TOKEN),
    (range(402, 404), _BAD_REQUEST),
    (range(405, 407), _BAD_REQUEST),  # the method or the form is not for this address
    (range(407, 409), _UNAVAILABLE),  # a proxy wants a login; the server gave up on waiting for the request
    (range(411, 413), _BAD_REQUEST),
    (range(415, 416), _BAD_REQUEST),
    (range(421, 422), _UNAVAILABLE),  # the connection led to the wrong server
    (range(425, 426), _UNAVAILABLE),  # too early
    (range(429, 430), _THROTTLED),
    (range(400, 500), _REFUSED),
    (range(503, 504), _UNAVAILABLE),
)
"""The first row with the status counts; no row: ambiguous. A 4xx that is a proxy's page: unavailable."""

_MAX_TEXT = 500
_MAX_CODE = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")
_SERVICE_NAME = re.compile(r"^[A-Za-z0-9]+\.(?=[A-Z]+_[A-Z]+\.)")
_TITLE = re.compile(r"<title[^>]*>([^<]+)", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[\w.:{}-]{1,128}", re.ASCII)
_taken = msgspec.json.Decoder(RequestTaken)

UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""What msgspec raises for a body that is not the JSON it should be."""


def read_silence(error: httpx.RequestError, *, secrets: Collection[str] = ()) -> Answer:
    """Answer for an exchange that brought no status: `error` says how far it came."""
    outcome = Outcome.UNAVAILABLE if isinstance(error, UNSENT) else Outcome.AMBIGUOUS
    return Answer(
        outcome=outcome, error_message=_clean(str(error) or type(error).__name__, secrets, _MAX_TEXT)
    )


def read_reply(
    reply: Reply, *, identifiers: Callable[[], Iterable[str]] = tuple, secrets: Collection[str] = ()
) -> Answer:
    """Answer for a status that arrived.

    `identifiers` gives what a refusal may name and is called only for a refusal; `secrets` are texts that
    the carrier knows and that must not come back in an answer (promise F).
    """
    request_id = _request_id(reply, secrets) if 200 <= reply.status < 300 else None
    quota = quota_of(reply.headers)
    if request_id is not None and reply.whole:
        return Answer(outcome=Outcome.ACCEPTED, http_status=reply.status, request_id=request_id, quota=quota)
    fields = _error_fields(reply.body)
    code = _code_of(fields)
    meaning = _meaning(reply, code, is_json=bool(fields))
    return Answer(
        outcome=meaning.outcome,
        http_status=reply.status,
        request_id=request_id,
        error_code=_clean(code, secrets, _MAX_CODE),
        error_message=_clean(_text_of(fields) or _description(reply, fields), secrets, _MAX_TEXT),
        retry_after_s=retry_after_of(reply.headers, fields.get("nextAccessTime")),
        blame=meaning.blame,
        named_devices=_named(reply.body, identifiers) if meaning.outcome is Outcome.REFUSED else (),
        rejected=meaning.rejected,
        quota=quota,
    )


def _meaning(reply: Reply, code: str, *, is_json: bool) -> Meaning:
    by_code = CODES.get(code)
    is_definite = 400 <= reply.status < 500
    if by_code is not None and (is_definite or by_code.outcome is not Outcome.REFUSED):
        return by_code
    meaning = next((meaning for statuses, meaning in STATUSES if reply.status in statuses), _AMBIGUOUS)
    if is_definite and meaning is not _THROTTLED and not is_json and _is_foreign(reply):
        return _UNAVAILABLE
    if meaning is _REFUSED and _WHOLE_REQUEST.match(code):
        return _BAD_REQUEST
    return meaning


def _is_foreign(reply: Reply) -> bool:
    """Whether a body is a page or plain words: a proxy's or load balancer's, which knows no devices."""
    start = reply.body.lstrip()[:1]
    return start == b"<" or (reply.whole and bool(start) and start not in b"{[")


def _request_id(reply: Reply, secrets: Collection[str]) -> str | None:
    try:
        request_id = _taken.decode(reply.body).request_id
    except UNREADABLE:
        return None
    return request_id if _REQUEST_ID.fullmatch(request_id) and request_id not in secrets else None


def _error_fields(body: bytes) -> Mapping[str, object]:
    """Fields of the carrier's error in any of its shapes; empty if the body is none of them."""
    try:
        fields = msgspec.json.decode(body)
    except UNREADABLE:
        return {}
    if isinstance(fields, dict) and isinstance(fields.get("fault"), dict):
        return dict(fields["fault"])
    return fields if isinstance(fields, dict) else {}


def _code_of(fields: Mapping[str, object]) -> str:
    """Code without the service that says it: the same code means the same from any service."""
    code = next((fields[key] for key in ("errorCode", "code", "error") if fields.get(key) is not None), None)
    return without_service(str(code)) if isinstance(code, str | int) else ""


def without_service(code: str) -> str:
    """A code without the service's name and dot before it."""
    return _SERVICE_NAME.sub("", code)


def _text_of(fields: Mapping[str, object]) -> str:
    texts = (fields.get(key) for key in ("errorMessage", "message", "description", "error_description"))
    return ": ".join(text for text in texts if isinstance(text, str) and text)


def _description(reply: Reply, fields: Mapping[str, object]) -> str:
    """Words for a body that has none for us; not its text, where a cut could halve a secret."""
    if not reply.whole:
        return f"the answer broke off after {len(reply.body)} bytes"
    if not reply.body:
        return "an empty answer"
    if fields:
        return "an answer without a requestId" if reply.status < 300 else "an answer without words"
    title = _TITLE.search(reply.body.decode(errors="replace"))
    kind = reply.headers.get("content-type", "no content type")
    return f"not an answer of the carrier's API ({kind}): {title[1] if title else f'{len(reply.body)} bytes'}"


def _named(body: bytes, identifiers: Callable[[], Iterable[str]]) -> tuple[str, ...]:
    runs = {run.decode() for run in re.findall(rb"[0-9]+", body)}
    return tuple(identifier for identifier in identifiers() if identifier in runs) if runs else ()


def _clean(text: str, secrets: Collection[str], length: int) -> str | None:
    for secret in secrets:
        text = text.replace(secret, "[hidden]")
    return _CONTROL.sub(" ", text).strip()[:length] or None
