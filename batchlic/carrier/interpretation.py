"""Turns an HTTP response, or its absence, into an `Answer`.

What is concluded and why is in tables: `rules`, `words` and `signs`; docs/reference/answers.md shows them.
Every exchange gives an `Answer`, however malformed its body is.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from html import escape
from urllib.parse import urlsplit

import httpx
import msgspec

from batchlic.carrier.already import Asked, says_already
from batchlic.carrier.answers import Answer, Outcome, RejectedToken, Reply
from batchlic.carrier.bodies import DECODE_ERRORS, Body, Form, as_words, decode_text, parse, read_body
from batchlic.carrier.conclusions import (
    AMBIGUOUS,
    BAD_TOKEN,
    FAILURES,
    PERHAPS_THROTTLED,
    THROTTLED,
    TOO_MANY,
    Conclusion,
)
from batchlic.carrier.rate_limits import (
    is_quota_used_up,
    read_quota,
    read_retry_after,
    read_wait_in_words,
)
from batchlic.carrier.rules import BY_ERROR, BY_STATUS, CODE_PATTERNS, RETRY_LATER, by_code
from batchlic.carrier.signs import SIGNS, Sign
from batchlic.carrier.words import (
    DUPLICATE_WORDS,
    LIMIT_HEADERS,
    LIMIT_REACHED,
    LIMITS,
    NAMES_ID,
    OTHER_REQUEST_AT_WORK,
    REQUEST_WORDS,
    TOKEN_WORDS,
    TOO_MANY_REQUESTS,
)

FAR_RESET_S = 60.0
"""A quota that is used up for more than so many seconds is a wait; the limiter handles shorter ones."""

_MAX_TEXT = 500
_MAX_CODE = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
_REQUEST_ID = re.compile(r"[\w.:{}-]{1,128}", re.ASCII)
_WAIT_FIELDS = ("nextAccessTime", "retryAfter", "retry_after", "retryAfterSeconds")
_ERROR_FIELDS = (
    "errorcode",
    "error",
    "errors",
    "fault",
    "faultcode",
    "faultstring",
    "faultresponse",
    "exception",
)
_NO_ERROR = frozenset({"", "0", "00", "200", "ok", "success", "none", "false", "[]", "{}"})
_SUCCESS_FIELDS = ("success", "successful", "ok", "accepted")
_STATE_FIELDS = ("status", "state", "result", "outcome")
_FAILED = re.compile(r"fail|error|reject|den(?:y|ied)|refus|abort|cancel", re.IGNORECASE)
_NUMBER_FIELDS = ("code", "status", "statuscode", "httpstatus", "resultcode", "returncode")
_ERROR_NUMBER = re.compile(r"[3-9]\d\d|\d{6}")
"""An HTTP status, or a code of a gateway."""


class _Taken(msgspec.Struct, forbid_unknown_fields=True):
    """An acceptance in the carrier's own form."""

    requestId: str  # noqa: N815 - the carrier's name


_taken = msgspec.json.Decoder(_Taken)


def answer_from_error(error: httpx.RequestError, *, secrets: Collection[str] = ()) -> Answer:
    """Interpret an exchange that brought no status. `secrets` are hidden in the message (promise F)."""
    rule = next(rule for rule in BY_ERROR if isinstance(error, rule.error))
    message = _clean(str(error) or type(error).__name__, secrets, _MAX_TEXT)
    return Answer(outcome=rule.conclusion.outcome, error_message=message)


def answer_from_reply(
    reply: Reply,
    *,
    asked: Callable[[], Asked | None] = lambda: None,
    secrets: Collection[str] = (),
    token_generation: int = 0,
) -> Answer:
    """Interpret a reply.

    `asked` returns what a license request asks for; it is called only for a refusal. `secrets` are hidden in
    the answer (promise F). `token_generation` is that of the tokens that the request carried.
    """
    request_id, is_sure = _request_id(reply, secrets) if 200 <= reply.status < 300 else (None, False)
    quota = read_quota(reply.headers)
    if is_sure:
        return Answer(outcome=Outcome.ACCEPTED, http_status=reply.status, request_id=request_id, quota=quota)
    body = read_body(reply)
    concluded = conclude(reply, body)
    request = asked() if concluded.outcome is Outcome.REFUSED else None
    return Answer(
        outcome=concluded.outcome,
        http_status=reply.status,
        request_id=request_id,
        error_code=_clean(body.code, secrets, _MAX_CODE),
        error_message=_clean(_text(reply, body), secrets, _MAX_TEXT),
        retry_after_s=_wait(reply, body, concluded),
        blame=concluded.blame,
        named_devices=_named_devices(body.text, request.identifiers) if request else (),
        is_known=concluded.is_known,
        is_duplicate=concluded.is_duplicate,
        is_inferred=concluded.is_inferred,
        says_already=request is not None and not concluded.is_known and says_already(body.words, request),
        rejected=RejectedToken(concluded.rejected, token_generation) if concluded.rejected else None,
        quota=quota,
    )


def conclude(reply: Reply, body: Body) -> Conclusion:
    """What an answer other than an acceptance means: the first table with a matching rule decides."""
    if reply.status in TOO_MANY:
        return THROTTLED
    sign = _by_sign(reply, body)
    return (
        _by_failure_of_service(reply, body)
        or _by_code(reply, body)
        or _by_token(reply, body)
        or _by_duplicate(reply, body)
        or (sign if sign is AMBIGUOUS else None)
        or _by_limit(reply, body)
        or _by_other_request(reply, body)
        or _by_code_pattern(reply, body)
        or sign
        or _by_status(reply, body)
    )


def _by_failure_of_service(reply: Reply, body: Body) -> Conclusion | None:
    """Conclude from the code alone if the service itself failed: its words may be about others behind it."""
    if not body.service_code or reply.status not in FAILURES:
        return None
    found = by_code(body.service_code, reply.status)
    if found is None or found.outcome in {Outcome.REFUSED, Outcome.UNAVAILABLE}:
        return AMBIGUOUS
    return found


def _by_code(reply: Reply, body: Body) -> Conclusion | None:
    """Conclude from the first known code anywhere in the body."""
    return next(filter(None, (by_code(code, reply.status) for code in body.codes)), None)


def _by_token(reply: Reply, body: Body) -> Conclusion | None:
    words = f"{body.words} | {as_words(reply.headers.get('www-authenticate', ''))}"
    found = next((rule.conclusion for rule in TOKEN_WORDS if rule.fits(reply.status, words)), None)
    return found or (BAD_TOKEN if reply.status == 401 else None)


def _by_duplicate(reply: Reply, body: Body) -> Conclusion | None:
    if LIMITS.search(_words_of_headers(reply)):
        return None
    fitting = (rule.conclusion for rule in DUPLICATE_WORDS if rule.fits(reply.status, body.words))
    return next(fitting, None)


def _by_limit(reply: Reply, body: Body) -> Conclusion | None:
    said = f"{body.words} | {_words_of_headers(reply)}"
    is_about_requests = body.service_code.isdecimal() or not body.service_code or REQUEST_WORDS.search(said)
    is_limit = (
        TOO_MANY_REQUESTS.fits(reply.status, said)
        or (is_about_requests and LIMIT_REACHED.fits(reply.status, said))
        or body.first("nextAccessTime") is not None
        or (reply.status >= 400 and "x-envoy-ratelimited" in reply.headers)
        or (reply.status in RETRY_LATER and read_retry_after(reply.headers) is not None)
        or (_may_be_limit(reply, body) and is_quota_used_up(reply.headers))
    )
    if not is_limit:
        return None
    return PERHAPS_THROTTLED if reply.status >= 500 or NAMES_ID.search(said) else THROTTLED


def _words_of_headers(reply: Reply) -> str:
    return " | ".join(as_words(reply.headers.get(name, "")) for name in LIMIT_HEADERS)


def _by_other_request(reply: Reply, body: Body) -> Conclusion | None:
    rule = OTHER_REQUEST_AT_WORK
    return rule.conclusion if rule.fits(reply.status, body.words) else None


def _may_be_limit(reply: Reply, body: Body) -> bool:
    """Whether a used-up quota explains this answer. It also accompanies the last answer within the quota."""
    return reply.status == 403 or (reply.status in RETRY_LATER and not body.service_code)


def _by_code_pattern(reply: Reply, body: Body) -> Conclusion | None:
    if not 400 <= reply.status < 500:
        return None
    code = body.service_code
    return next((rule.conclusion for rule in CODE_PATTERNS if rule.pattern.match(code)), None)


def _by_sign(reply: Reply, body: Body) -> Conclusion | None:
    return next((sign.conclusion for sign in SIGNS if _shows(sign, reply, body)), None)


def _shows(sign: Sign, reply: Reply, body: Body) -> bool:
    return (
        reply.status in sign.statuses
        and (sign.text is None or sign.text.search(body.plain) is not None)
        and (not sign.codes or any(code in sign.codes for code in body.codes))
        and all(
            pattern.search(reply.headers.get(name, "")) is not None
            for name, pattern in (sign.headers or {}).items()
        )
        and (reply.complete or not sign.is_whole_body)
    )


def _by_status(reply: Reply, body: Body) -> Conclusion:
    rule = next((rule for rule in BY_STATUS if reply.status in rule.statuses), None)
    if rule is None:
        return AMBIGUOUS
    return rule.coded if body.service_code else rule.other


def _wait(reply: Reply, body: Body, concluded: Conclusion) -> float | None:
    """Seconds to wait by the best hint: a header, a field of the body, the body's words, a used-up quota."""
    wait = read_retry_after(reply.headers, *(body.first(field) for field in _WAIT_FIELDS))
    if wait is not None or concluded.outcome is not Outcome.THROTTLED:
        return wait
    if (wait := read_wait_in_words(body.plain)) is not None:
        return wait
    quota = read_quota(reply.headers)
    if quota is None or quota.remaining != 0 or quota.reset_s is None:
        return None
    return quota.reset_s if reply.status != 429 or quota.reset_s > FAR_RESET_S else None


def _request_id(reply: Reply, secrets: Collection[str]) -> tuple[str | None, bool]:
    """The requestId of a 2xx, and whether the answer is an acceptance: complete and without an error."""
    try:
        fields: Mapping[str, object] = {"requestid": _taken.decode(reply.body).requestId}
    except DECODE_ERRORS:
        fields = _read_tolerantly(reply)
    request_id = fields.get("requestid")
    request_id = request_id.strip() if isinstance(request_id, str) else ""
    if not _REQUEST_ID.fullmatch(request_id) or request_id in secrets:
        return None, False
    return request_id, reply.complete and not _is_failure(fields)


def _read_tolerantly(reply: Reply) -> Mapping[str, object]:
    """The fields of the JSON object that the body begins with, by their names in lower case.

    Text after the object is ignored, unless it mentions a requestId or an error.
    """
    try:
        value, rest = parse(decode_text(reply.body, reply.headers.get("content-type", "")))
    except DECODE_ERRORS:
        return {}
    if not isinstance(value, dict) or re.search(r"requestid|errorcode|fault", rest, re.IGNORECASE):
        return {}
    fields = {str(name).lower(): inner for name, inner in value.items()}
    return fields if len(fields) == len(value) else {}


def _is_failure(fields: Mapping[str, object]) -> bool:
    """Whether an object says that something failed, although it has a requestId."""
    if "errormessage" in fields and "errorcode" not in fields and _is_error(fields["errormessage"]):
        return True
    return (
        any(_is_error(fields.get(name)) for name in _ERROR_FIELDS)
        or any(fields.get(name) is False for name in _SUCCESS_FIELDS)
        or any(_FAILED.match(str(fields.get(name)).strip()) for name in _STATE_FIELDS)
        or any(_ERROR_NUMBER.fullmatch(str(fields.get(name)).strip()) for name in _NUMBER_FIELDS)
    )


def _is_error(value: object) -> bool:
    return value is not None and str(value).strip().lower() not in _NO_ERROR


def _text(reply: Reply, body: Body) -> str:
    return body.message or _description(reply, body)


def _description(reply: Reply, body: Body) -> str:
    """Describe an answer without an error text. A cut body is not quoted: it may end in half a secret."""
    status = f"HTTP {reply.status}"
    if 300 <= reply.status < 400 and (target := _target(reply.headers.get("location", ""))):
        return f"{status}, redirected to {target}"
    if not reply.complete:
        return f"{status}, broken off after {len(reply.body)} bytes"
    match body.form:
        case Form.EMPTY:
            return f"{status} with an empty body"
        case Form.JSON:
            return (
                f"{status} without a requestId" if reply.status < 300 else f"{status} without an error text"
            )
        case Form.PAGE:
            text = body.title or body.plain
        case _:
            text = body.plain
    kind = reply.headers.get("content-type", "no content type")
    return f"{status}, not an answer of the carrier's API ({kind}): {text or f'{len(reply.body)} bytes'}"


def _target(location: str) -> str:
    """Host and path of a redirect. The rest of the URL may hold a secret (promise F)."""
    try:
        parts = urlsplit(location.strip())
    except ValueError:
        return ""
    return f"{parts.hostname or ''}{parts.path}"


def _named_devices(text: str, identifiers: Iterable[str]) -> tuple[str, ...]:
    numbers = set(re.findall(r"[0-9]+", text))
    return tuple(identifier for identifier in identifiers if identifier in numbers)


def hide(text: str, secrets: Collection[str]) -> str:
    """Replace the secrets in a text, however JSON, HTML or a wrong encoding spells them (promise F)."""
    for secret in secrets:
        for spelling in _spellings(secret):
            text = text.replace(spelling, "[hidden]")
    return text


def _spellings(secret: str) -> set[str]:
    misread = secret.encode(errors="replace").decode("latin-1")
    in_json = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    return {secret, misread, *in_json, escape(secret)}


def _clean(text: str, secrets: Collection[str], length: int) -> str | None:
    return _CONTROL.sub(" ", hide(text, secrets)).strip()[:length] or None
