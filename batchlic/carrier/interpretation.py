"""Turns an HTTP response, or its absence, into an `Answer`.

What is concluded and why is in tables: `rules`, `words` and `signs`; docs/reference/answers.md shows them.
Every exchange gives an `Answer`, however malformed its body is.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from urllib.parse import urlsplit

import httpx

from batchlic.carrier.acceptance import Acceptance, read_acceptance
from batchlic.carrier.already import Asked, says_already
from batchlic.carrier.answers import Answer, Outcome, RejectedToken, Reply
from batchlic.carrier.bodies import Body, Form, as_words, read_body
from batchlic.carrier.conclusions import (
    AMBIGUOUS,
    BAD_TOKEN,
    FAILURES,
    PARTIAL,
    PERHAPS_THROTTLED,
    THROTTLED,
    TOO_MANY,
    Conclusion,
)
from batchlic.carrier.hiding import hide
from batchlic.carrier.http_client import ProxyRefused
from batchlic.carrier.named_errors import names_error
from batchlic.carrier.rate_limits import (
    is_number,
    is_quota_used_up,
    read_quota,
    read_retry_after,
    read_wait_in_words,
    with_milliseconds,
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
    PERHAPS_EXECUTED,
    REQUEST_WORDS,
    TOKEN_WORDS,
    TOO_MANY_REQUESTS,
)

FAR_RESET_S = 60.0
"""A quota that is used up for more than so many seconds is a wait; the limiter handles shorter ones."""

_NOT_EXECUTED = frozenset({Outcome.THROTTLED, Outcome.UNAUTHORIZED, Outcome.UNAVAILABLE})
_SIGNS_OF_ACCEPTANCE = ("requestId", "request_id", "id", "deviceId", "imei", "iccid")
"""Names of fields. With one of these, a 2xx may be about an accepted request, or about single devices."""

_MAX_TEXT = 500
_MAX_CODE = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
_WAIT_FIELDS = (
    "nextAccessTime",
    *("retryAfter", "retry_after", "retry-after", "retryAfterSeconds", "retry_after_seconds"),
    *("retryAfterSecs", "retryAfterInSeconds", "retry_after_in_seconds", "waitSeconds", "wait_seconds"),
)
_MILLISECOND_FIELDS = (
    *("retryAfterMs", "retry_after_ms", "retryAfterMillis", "retry_after_millis", "retryAfterMilliseconds"),
    *("retryAfterInMs", "retryAfterInMillis", "waitMs", "wait_ms"),
)
_UNITLESS_FIELDS = ("waitTime", "wait_time", "wait", "retryIn", "retry_in")
"""Fields that different programs fill with seconds or milliseconds: they count if the value has a unit."""


def answer_from_error(error: httpx.RequestError, *, secrets: Collection[str] = ()) -> Answer:
    """Interpret an exchange that brought no status. `secrets` are hidden in the message (promise F)."""
    rule = next(rule for rule in BY_ERROR if isinstance(error, rule.error))
    return Answer(
        outcome=rule.conclusion.outcome,
        error_message=_clean(str(error) or type(error).__name__, secrets, _MAX_TEXT),
        retry_after_s=error.retry_after_s if isinstance(error, ProxyRefused) else None,
    )


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
    is_success = 200 <= reply.status < 300
    acceptance, request_id = read_acceptance(reply, secrets) if is_success else (Acceptance.NONE, None)
    quota = read_quota(reply.headers)
    if acceptance is Acceptance.WHOLE:
        if quota is not None and quota.limit == 0:  # contradicts the acceptance
            quota = None
        return Answer(outcome=Outcome.ACCEPTED, http_status=reply.status, request_id=request_id, quota=quota)
    body = read_body(reply)
    concluded = PARTIAL if acceptance is Acceptance.PARTIAL else conclude(reply, body)
    if (
        is_success
        and concluded.outcome in _NOT_EXECUTED
        and (request_id is not None or any(map(body.first, _SIGNS_OF_ACCEPTANCE)))
    ):
        concluded = concluded._replace(is_inferred=True)
    request = asked() if concluded.outcome is Outcome.REFUSED else None
    return Answer(
        outcome=concluded.outcome,
        http_status=reply.status,
        request_id=request_id,
        error_code=_clean(body.code, secrets, _MAX_CODE),
        error_message=_clean(_text(reply, body, acceptance), secrets, _MAX_TEXT),
        retry_after_s=_wait(reply, body, concluded),
        blame=concluded.blame,
        named_devices=_named_devices(body.text, request.identifiers) if request else (),
        is_known=concluded.is_known,
        is_duplicate=concluded.is_duplicate,
        is_inferred=concluded.is_inferred,
        is_partial=concluded.is_partial,
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
        or next((rule.conclusion for rule in PERHAPS_EXECUTED if rule.fits(reply.status, body.words)), None)
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
        or names_error(body.first("nextAccessTime"))
        or (reply.status >= 400 and "x-envoy-ratelimited" in reply.headers)
        or (reply.status in RETRY_LATER and read_retry_after(reply.headers) is not None)
        or (_may_be_limit(reply, body) and is_quota_used_up(reply.headers))
    )
    if not is_limit:
        return None
    return PERHAPS_THROTTLED if reply.status in FAILURES or NAMES_ID.search(said) else THROTTLED


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
    wait = read_retry_after(reply.headers, *_hints(body))
    if wait is not None or concluded.outcome is not Outcome.THROTTLED:
        return wait
    if (wait := read_wait_in_words(body.plain)) is not None:
        return wait
    quota = read_quota(reply.headers)
    if quota is None or quota.remaining != 0 or quota.reset_s is None:
        return None
    return quota.reset_s if reply.status != 429 or quota.reset_s > FAR_RESET_S else None


def _hints(body: Body) -> Iterator[object]:
    """The values of the fields for a wait."""
    yield from (body.first(field) for field in _WAIT_FIELDS)
    yield from (with_milliseconds(body.first(field)) for field in _MILLISECOND_FIELDS)
    yield from (value for field in _UNITLESS_FIELDS if not is_number(value := body.first(field)))


def _text(reply: Reply, body: Body, acceptance: Acceptance) -> str:
    if acceptance is Acceptance.PARTIAL:
        what = f"HTTP {reply.status} with a requestId, but not all devices were accepted"
        return f"{what}: {body.message}" if body.message else what
    return body.message or _description(reply, body, acceptance)


def _description(reply: Reply, body: Body, acceptance: Acceptance) -> str:
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
            if reply.status >= 300:
                return f"{status} without an error text"
            is_failure = acceptance is Acceptance.FAILED
            return (
                f"{status} with a requestId and an error" if is_failure else f"{status} without a requestId"
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


def _clean(text: str, secrets: Collection[str], length: int) -> str | None:
    return _CONTROL.sub(" ", hide(text, secrets)).strip()[:length] or None
