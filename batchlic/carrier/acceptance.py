"""What a 2xx with a requestId says: the request was accepted, partly accepted, or not."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum, auto
from http import HTTPStatus
from typing import TypeAlias

import msgspec

from batchlic.carrier.answers import Reply
from batchlic.carrier.bodies import DECODE_ERRORS, as_words, decode_text, is_service_code, parse
from batchlic.carrier.named_errors import names_error, scalars

Fields: TypeAlias = Sequence[tuple[str, object]]
"""The fields of an object. Names are in lower case, without separators and without a namespace."""

_REQUEST_ID = re.compile(r"[\w.:{}-]{1,128}", re.ASCII)
_NO_REQUEST_ID = re.compile(r"[0{}.:-]+|null|nil|none|undefined|unknown|true|false", re.IGNORECASE)
"""What programs write for a value that they don't have, such as a GUID of zeros."""

_SECOND_ANSWER = re.compile(r"requestid|errorcode|fault|\{|<(?!!--)", re.IGNORECASE)
"""Text after an answer that shows that the server failed after it began the answer. A comment does not."""

_OF = r"(?:http|request|response|resp|result|return|transaction|operation|batch|job|overall)?"
_ERROR = r"(?:errors?|err|faults?|exceptions?)"
_ERROR_CODE = re.compile(rf"{_ERROR}codes?")
_ERROR_FIELD = re.compile(rf"(?:has|is)?{_ERROR}(?:codes?|strings?|responses?)?")
_ERROR_TEXT = re.compile(rf"{_ERROR}(?:messages?|msg|text|descriptions?|details?|reasons?|types?)")
_SUCCESS_FIELD = re.compile(r"(?:is|was)?(?:success|ok|accepted)")
_ENDED_WELL_FIELD = re.compile(r"(?:is|was)?(?:successful|succeeded)")
_STATE_FIELD = re.compile(rf"{_OF}(?:status|state|result|outcome)(?:text)?")
_TEXT_FIELD = re.compile(rf"{_OF}(?:status)?(?:message|msg|description)|detail|title|reason")
_NUMBER_FIELD = re.compile(r"(?:http|request|resp(?:onse)?|result|return)?(?:status|code|statuscode)")

_ERROR_STATUS = re.compile(r"[45]\d\d")
_ERROR_NUMBER = re.compile(r"[3-9]\d\d|[1-9]\d{5}")
"""An HTTP status, or a code of a gateway."""

_ERROR_PHRASES = frozenset(as_words(status.phrase) for status in HTTPStatus if status >= 400)
"""Such as "bad request" or "service unavailable"."""

_STATUS_LINE = re.compile(r"[45]\d\d (?P<phrase>[A-Za-z -]{1,99})")
"""An HTTP status with words, such as "400 Bad Request". In "500 devices accepted" the number is none."""

_MAX_STATE = 500
"""Characters that are read of a state."""

_FAILED = re.compile(
    r"\b(?:fail|error|fault|exception|reject|den(?:y|ied)|declin|refus|abort|invalid|throttl|expired|"
    r"time ?out|timed ?out|un(?:success|accept|author|able|available)|"
    r"not ?(?:success|accept|author|ok\b|valid(?!at)|allowed|found)|(?:ko|nok|false)\b)|"
    r"^(?:(?:request|operation|transaction|order|batch|job) )?cancel"
)
_PARTLY = re.compile(r"\bpart(?:ial|ly\b)|\b(?:with|some)(?: \w{1,20})? (?:error|fail|fault|reject)|^mixed\b")
_NONE = re.compile(r"\b(?:no|none|0|zero|without)\b")
_REQUEST = (
    r"(?:(?:the|your|this) )?(?:licen[cs]e )?(?:request|operation|transaction|batch)"
    r"(?: (?:was|is|has|has been))?"
)
_ENDS = r"(?=$|[.!](?:\s|$)| (?:because|due to)\b)"
_EXPLAINS = r"(?=\s*;|\s*:(?!\s*(?:0|none)\b)| (?:by|with|as|since)\b| - | \((?!0\)))"
_REJECTED = (
    r"(?:not (?:accepted|successful|valid|allowed)|rejected|failed|failure|denied|refused|aborted|"
    r"cancell?ed|invalid|throttled|unsuccessful|error)"
)
_SAYS_FAILED = re.compile(
    rf"{_REQUEST} {_REJECTED}(?:{_ENDS}|{_EXPLAINS})|{_REJECTED}{_ENDS}|{_REQUEST} could not be ",
    re.IGNORECASE,
)
"""A sentence that says that the request failed: "Request rejected", but not "Rejected: 0, accepted: 3"."""

_SAYS_PARTLY = re.compile(
    rf"(?:{_REQUEST} )?part(?:ial(?:ly)?|ly) (?:accept|fail|process|success|complet)[a-z]{{0,4}}{_ENDS}|"
    rf"{_REQUEST} part(?:ially|ly) (?:accepted|failed|processed|completed){_EXPLAINS}",
    re.IGNORECASE,
)
_COUNTED = (
    r"(?:device)?"
    r"(?:devices?|ids?|imeis?|iccids?|lines?|items?|entries|records?|requests?|count|number|total)"
)
_OF_FAILED = re.compile(
    r"(?:(?:num|number|count|total|devices?|lines?)(?:of)?)?"
    r"(?:failed|failures?|rejected|rejections?|invalid|refused|errors?|unsuccessful|unprocessed|ineligible|"
    rf"skipped|not(?:accepted|processed|found)){_COUNTED}?"
)
"""Names of fields for the devices that were not accepted, or for their number."""

_COUNT = re.compile(
    r"(?:failed|failures?|rejected|refused|skipped|pending|queued|waiting|submitted|running|processing|"
    rf"inprogress){_COUNTED}?"
)
"""Names of fields that, with a number, show that a "success" beside them is a number of devices."""

_HOW_MANY = re.compile(r"(?:device)?(?:devices|ids|imeis|iccids|items|count|number)")
_REASON = re.compile(r"(?:fail(?:ure)?|reject(?:ion)?)(?:reasons?|codes?|messages?)")
_SOME = re.compile(r"0*(?:\.0*)?[1-9]|true\b", re.IGNORECASE)
_SUMMARY = re.compile(
    rf"(?:device)?{_OF}(?:summary|counts?|counters|statistics|stats|totals?|results?|responses?|devices)|batch"
)
"""Objects that may count the devices that were not accepted."""

_ENVELOPE = re.compile(rf"{_OF}(?:data|body|meta|header|status)|result|response")
"""Objects that some gateways put around the whole answer, or around a part of it."""

_BY_DEVICE = re.compile(
    r"(?:device)?(?:devices|results?|responses?|outcomes?)|device(?:status(?:es)?|list|items)"
)
_DEVICE_ID = re.compile(r"[0-9]{14,20}")
_DEVICE_FIELDS = frozenset({"device", "deviceid", "deviceids", "imei", "iccid"})


class Acceptance(Enum):
    """What a 2xx says about its request."""

    WHOLE = auto()
    """Accepted: complete, with a requestId, and without an error."""
    PARTIAL = auto()
    """The carrier took the request, but not all of its devices."""
    FAILED = auto()
    """An error beside the requestId, or the answer broke off."""
    NONE = auto()
    """No requestId."""


class _Taken(msgspec.Struct, forbid_unknown_fields=True):
    """An acceptance in the carrier's own form."""

    requestId: str  # noqa: N815 - the carrier's name


_taken = msgspec.json.Decoder(_Taken)


def read_acceptance(reply: Reply, secrets: Collection[str]) -> tuple[Acceptance, str | None]:
    """What a 2xx says about its request, and the requestId. A requestId that is one of `secrets` is none."""
    request_id, fields = _read(reply)
    if not _REQUEST_ID.fullmatch(request_id) or _NO_REQUEST_ID.fullmatch(request_id) or request_id in secrets:
        return Acceptance.NONE, None
    if not reply.complete:
        return Acceptance.FAILED, request_id
    if _has_failed_partly(fields):
        return Acceptance.PARTIAL, request_id
    if _has_failed(fields):
        return Acceptance.FAILED, request_id
    has_code = any(map(is_service_code, scalars([value for _, value in fields])))  # wherever it is
    return Acceptance.PARTIAL if has_code else Acceptance.WHOLE, request_id


def _read(reply: Reply) -> tuple[str, Fields]:
    """The requestId and the fields of the JSON object that the body begins with; empty if there is none."""
    try:
        return _taken.decode(reply.body).requestId.strip(), ()
    except DECODE_ERRORS:
        pass
    try:
        value, rest = parse(decode_text(reply.body, reply.headers.get("content-type", "")))
    except DECODE_ERRORS:
        return "", ()
    if not isinstance(value, dict) or _SECOND_ANSWER.search(rest):
        return "", ()
    ids = [inner for name, inner in value.items() if name.lower() == "requestid"]
    return (ids[0].strip(), _fields(value)) if len(ids) == 1 and isinstance(ids[0], str) else ("", ())


def _fields(value: Mapping[str, object]) -> Fields:
    return [
        (re.sub(r"[^a-z0-9]", "", name.lower().rpartition(":")[2]), inner) for name, inner in value.items()
    ]


# -- failures ------------------------------------------------------------------------------------------


def _has_failed(fields: Fields) -> bool:
    """Whether an answer says that the request failed, although it has a requestId."""
    return _says_failure(fields, _ERROR_NUMBER) or any(_says_failure(inner) for inner in _envelopes(fields))


def _says_failure(fields: Fields, number: re.Pattern[str] = _ERROR_STATUS) -> bool:
    """Whether an object says that what it is about failed: the request, or one device."""
    if any(says(value) for names, says in _FAILURES for name, value in fields if names.fullmatch(name)):
        return True
    if any(number.fullmatch(_text(value)) for name, value in fields if _NUMBER_FIELD.fullmatch(name)):
        return True
    if not any(_COUNT.fullmatch(name) and _text(value).isdecimal() for name, value in fields) and any(
        _text(value) == "0" for name, value in fields if _SUCCESS_FIELD.fullmatch(name)
    ):
        return True
    has_code = any(_ERROR_CODE.fullmatch(name) and value not in (None, "") for name, value in fields)
    return not has_code and any(names_error(value) for name, value in fields if _ERROR_TEXT.fullmatch(name))


def _is_false(value: object) -> bool:
    return _text(value).lower() in {"false", "no"}


def _is_status_line(value: object) -> bool:
    found = _STATUS_LINE.fullmatch(_text(value))
    return found is not None and _is_failed_state(found["phrase"])


def _is_failed_state(value: object) -> bool:
    state = _state(value)
    return state in _ERROR_PHRASES or (_says(_FAILED, state) and not _says(_PARTLY, state))


def _is_failed_sentence(value: object) -> bool:
    text = _text(value)
    return _SAYS_FAILED.match(text) is not None or as_words(text) in _ERROR_PHRASES


def _state(value: object) -> str:
    """The first words of a state. A longer text may go on about how failures are reported."""
    first = re.split(r" - |[,;(]|[.!](?=\s)", _text(value)[:_MAX_STATE], maxsplit=1)[0]
    return " ".join(as_words(first).split()[:5])


def _says(words: re.Pattern[str], state: str) -> bool:
    """Whether a state has these words, without a word such as "no" in front of them."""
    found = words.search(state)
    return found is not None and not _NONE.search(state, 0, found.end())


def _text(value: object) -> str:
    return str(value).strip() if isinstance(value, str | int | float) else ""


_FAILURES: Sequence[tuple[re.Pattern[str], Callable[[object], bool]]] = (
    (_ERROR_FIELD, names_error),
    (_SUCCESS_FIELD, _is_false),
    (_ENDED_WELL_FIELD, _is_false),
    (_STATE_FIELD, _is_failed_state),
    (_TEXT_FIELD, _is_failed_sentence),
    (_NUMBER_FIELD, is_service_code),
    (_NUMBER_FIELD, _is_status_line),
)
"""Names of fields, and which of their values say that what the object is about failed."""


# -- failures of some devices --------------------------------------------------------------------------


def _has_failed_partly(fields: Fields) -> bool:
    """Whether an answer says that some devices were not accepted.

    Only the answer itself, its envelopes, summaries and lists count: other objects in it may be about
    anything.
    """
    return any(
        any(_is_partly(name, value) for name, value in part)
        or _has_failed_devices(part)
        or any(
            _says_failure(of_device)
            for device in _devices(part)
            for of_device in (device, *_envelopes(device))
        )
        for part in (fields, *_envelopes(fields))
    )


def _is_partly(name: str, value: object) -> bool:
    if _STATE_FIELD.fullmatch(name):
        return _says(_PARTLY, _state(value))
    return _TEXT_FIELD.fullmatch(name) is not None and _SAYS_PARTLY.match(_text(value)) is not None


def _has_failed_devices(fields: Fields) -> bool:
    return any(
        (_OF_FAILED.fullmatch(name) and _are_some(value)) or (_REASON.fullmatch(name) and names_error(value))
        for part in _with_summaries(fields)
        for name, value in part
    )


def _are_some(failed: object) -> bool:
    """Whether a field for failed devices names some: a number, a list, or an object with one of these."""
    if isinstance(failed, dict):
        inner = ((name, value) for name, value in _fields(failed) if not isinstance(value, dict))
        is_named = any(map(_DEVICE_ID.fullmatch, failed))
        return is_named or any(_HOW_MANY.fullmatch(name) and _are_some(value) for name, value in inner)
    return names_error(failed) if isinstance(failed, list) else _SOME.match(_text(failed)) is not None


def _with_summaries(fields: Fields) -> Iterator[Fields]:
    """An object, and the objects in it that count or list devices."""
    waiting = [fields]
    while waiting:
        yield (part := waiting.pop())
        named = ((name, value) for name, value in part if isinstance(value, dict))
        waiting.extend(
            _fields(value) for name, value in named if _SUMMARY.fullmatch(name) or _OF_FAILED.fullmatch(name)
        )


def _envelopes(fields: Fields) -> Iterator[Fields]:
    return (_fields(value) for name, value in fields if _ENVELOPE.fullmatch(name) and isinstance(value, dict))


def _devices(fields: Fields) -> Iterator[Fields]:
    """The objects that report devices one by one: those of lists, and those under a device's identifier."""
    for name, value in fields:
        if isinstance(value, list):
            items = (_fields(one) for one in value if isinstance(one, dict))
            yield from (one for one in items if _BY_DEVICE.fullmatch(name) or _is_of_device(one))
        elif isinstance(value, dict):
            reports = (report for key, report in value.items() if _DEVICE_ID.fullmatch(key))
            yield from (_fields(one) if isinstance(one, dict) else [("status", one)] for one in reports)


def _is_of_device(item: Fields) -> bool:
    return any(
        name in _DEVICE_FIELDS or (name == "id" and _DEVICE_ID.fullmatch(_text(value)))
        for name, value in item
    )
