"""Turns an HTTP response, or its absence, into an `Answer`.

The rules are the tables `NOT_SENT_ERRORS`, `BY_CODE` and `BY_STATUS`. An error code is more specific than a
status, so codes are looked up first. Every exchange gives an `Answer`, however malformed its body is.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import httpx
import msgspec

from batchlic.carrier.answers import Answer, Blame, Outcome, RejectedToken, Reply, TokenKind
from batchlic.carrier.messages import RequestAccepted, strip_service_name
from batchlic.carrier.rate_limits import read_quota, read_retry_after


class Classification(NamedTuple):
    """A table entry: the outcome, what a refusal blames, and which token was rejected."""

    outcome: Outcome
    blame: Blame | None = None
    rejected: TokenKind | None = None


_BAD_DEVICE = Classification(Outcome.REFUSED, blame=Blame.DEVICE)
_BAD_REQUEST = Classification(Outcome.REFUSED, blame=Blame.ACCOUNT)
_REFUSED = Classification(Outcome.REFUSED, blame=Blame.UNKNOWN)
_THROTTLED = Classification(Outcome.THROTTLED)
_UNAVAILABLE = Classification(Outcome.UNAVAILABLE)
_AMBIGUOUS = Classification(Outcome.AMBIGUOUS)
_BAD_ACCESS = Classification(Outcome.UNAUTHORIZED, rejected=TokenKind.ACCESS)
_BAD_SESSION = Classification(Outcome.UNAUTHORIZED, rejected=TokenKind.SESSION)
_BAD_TOKEN = Classification(Outcome.UNAUTHORIZED, rejected=TokenKind.EITHER)

NOT_SENT_ERRORS: tuple[type[httpx.RequestError], ...] = (
    httpx.ConnectError,  # refused, no such host, TLS, certificate
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""There was no connection, so nothing was sent: `unavailable`. Any other request error is `ambiguous`."""

BY_CODE: Mapping[str, Classification] = {
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
    "900910": _BAD_REQUEST,  # the token's scope does not allow the request
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
"""The carrier's stable codes. Throttling and token codes apply at any status, the others only at a 4xx."""

_SHARED_BY_BATCH = re.compile(
    r"^(INPUT_INVALID|REQUEST_FAILED)\.(Sku|SKU|Account|Licen[cs]e.*(NotAvailable|Insufficient))"
)
"""Codes that no list documents, about something that all devices of a batch share."""

BY_STATUS: tuple[tuple[range, Classification], ...] = (
    (range(200, 300), _AMBIGUOUS),  # `answer_from_reply` accepts a complete body with a requestId before this
    (range(301, 303), _UNAVAILABLE),  # never followed: the API does not redirect, so something else answered
    (range(307, 309), _UNAVAILABLE),
    (range(300, 400), _AMBIGUOUS),  # a server may send 303 after it executed the request (RFC 9110, 15.4.4)
    (range(401, 402), _BAD_TOKEN),
    (range(402, 404), _BAD_REQUEST),
    (range(405, 407), _BAD_REQUEST),  # wrong method or media type for this URL
    (range(407, 409), _UNAVAILABLE),  # a proxy requires a login; the server timed out reading the request
    (range(411, 413), _BAD_REQUEST),
    (range(415, 416), _BAD_REQUEST),
    (range(421, 422), _UNAVAILABLE),  # the connection reached the wrong server
    (range(425, 426), _UNAVAILABLE),  # too early
    (range(429, 430), _THROTTLED),
    (range(400, 500), _REFUSED),
    (range(503, 504), _UNAVAILABLE),
)
"""The first row that contains the status applies; without one: ambiguous. A proxy's 4xx page: unavailable."""

_MAX_TEXT = 500
_MAX_CODE = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")
_TITLE = re.compile(r"<title[^>]*>([^<]+)", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[\w.:{}-]{1,128}", re.ASCII)
_request_taken = msgspec.json.Decoder(RequestAccepted)

DECODE_ERRORS = (msgspec.DecodeError, ValueError, RecursionError)
"""What msgspec raises for a body that is not the expected JSON."""


def answer_from_error(error: httpx.RequestError, *, secrets: Collection[str] = ()) -> Answer:
    """Interpret an exchange that brought no status. `secrets` are hidden in the message (promise F)."""
    outcome = Outcome.UNAVAILABLE if isinstance(error, NOT_SENT_ERRORS) else Outcome.AMBIGUOUS
    return Answer(
        outcome=outcome, error_message=_clean(str(error) or type(error).__name__, secrets, _MAX_TEXT)
    )


def answer_from_reply(
    reply: Reply,
    *,
    identifiers: Callable[[], Iterable[str]] = tuple,
    secrets: Collection[str] = (),
    token_generation: int = 0,
) -> Answer:
    """Interpret a reply.

    `identifiers` returns the identifiers of the request; it is called only for a refusal, to find the devices
    that the refusal names. `secrets` are hidden in the answer (promise F). `token_generation` is that of
    the tokens that the request carried.
    """
    request_id = _request_id(reply, secrets) if 200 <= reply.status < 300 else None
    quota = read_quota(reply.headers)
    if request_id is not None and reply.complete:
        return Answer(outcome=Outcome.ACCEPTED, http_status=reply.status, request_id=request_id, quota=quota)
    fields = _error_fields(reply.body)
    code = _error_code(fields)
    outcome, blame, rejected = _classify(reply, code, is_json=bool(fields))
    return Answer(
        outcome=outcome,
        http_status=reply.status,
        request_id=request_id,
        error_code=_clean(code, secrets, _MAX_CODE),
        error_message=_clean(_error_text(fields) or _description(reply, fields), secrets, _MAX_TEXT),
        retry_after_s=read_retry_after(reply.headers, fields.get("nextAccessTime")),
        blame=blame,
        named_devices=_named_devices(reply.body, identifiers) if outcome is Outcome.REFUSED else (),
        rejected=RejectedToken(rejected, token_generation) if rejected else None,
        quota=quota,
    )


def _classify(reply: Reply, code: str, *, is_json: bool) -> Classification:
    by_code = BY_CODE.get(code)
    is_definite = 400 <= reply.status < 500
    if by_code is not None and (is_definite or by_code.outcome is not Outcome.REFUSED):
        return by_code
    by_status = next((result for statuses, result in BY_STATUS if reply.status in statuses), _AMBIGUOUS)
    if is_definite and by_status is not _THROTTLED and not is_json and _is_from_proxy(reply):
        return _UNAVAILABLE
    if by_status is _REFUSED and _SHARED_BY_BATCH.match(code):
        return _BAD_REQUEST
    return by_status


def _is_from_proxy(reply: Reply) -> bool:
    """Whether the body is HTML or plain text: a proxy or load balancer wrote it, not the carrier's API."""
    start = reply.body.lstrip()[:1]
    return start == b"<" or (reply.complete and bool(start) and start not in b"{[")


def _request_id(reply: Reply, secrets: Collection[str]) -> str | None:
    try:
        request_id = _request_taken.decode(reply.body).request_id
    except DECODE_ERRORS:
        return None
    return request_id if _REQUEST_ID.fullmatch(request_id) and request_id not in secrets else None


def _error_fields(body: bytes) -> Mapping[str, object]:
    """Fields of the carrier's error in any of its forms; empty if the body has none of these forms."""
    try:
        fields = msgspec.json.decode(body)
    except DECODE_ERRORS:
        return {}
    if isinstance(fields, dict) and isinstance(fields.get("fault"), dict):
        return dict(fields["fault"])
    return fields if isinstance(fields, dict) else {}


def _error_code(fields: Mapping[str, object]) -> str:
    """The error code without its service name: a code means the same from every service."""
    code = next((fields[key] for key in ("errorCode", "code", "error") if fields.get(key) is not None), None)
    return strip_service_name(str(code)) if isinstance(code, str | int) else ""


def _error_text(fields: Mapping[str, object]) -> str:
    texts = (fields.get(key) for key in ("errorMessage", "message", "description", "error_description"))
    return ": ".join(text for text in texts if isinstance(text, str) and text)


def _description(reply: Reply, fields: Mapping[str, object]) -> str:
    """Describe a body without an error text. The body is not quoted: a cut could leave half a secret."""
    if not reply.complete:
        return f"the answer broke off after {len(reply.body)} bytes"
    if not reply.body:
        return "an empty answer"
    if fields:
        return "an answer without a requestId" if reply.status < 300 else "an answer without an error text"
    title = _TITLE.search(reply.body.decode(errors="replace"))
    kind = reply.headers.get("content-type", "no content type")
    return f"not an answer of the carrier's API ({kind}): {title[1] if title else f'{len(reply.body)} bytes'}"


def _named_devices(body: bytes, identifiers: Callable[[], Iterable[str]]) -> tuple[str, ...]:
    numbers = {number.decode() for number in re.findall(rb"[0-9]+", body)}
    return tuple(identifier for identifier in identifiers() if identifier in numbers) if numbers else ()


def _clean(text: str, secrets: Collection[str], length: int) -> str | None:
    for secret in secrets:
        text = text.replace(secret, "[hidden]")
    return _CONTROL.sub(" ", text).strip()[:length] or None
