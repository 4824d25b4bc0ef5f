"""What a 2xx with a requestId says: the request was accepted, partly accepted, or not."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum, auto

import msgspec

from batchlic.carrier.answers import Reply
from batchlic.carrier.bodies import DECODE_ERRORS, decode_text, parse
from batchlic.carrier.named_errors import names_error

_REQUEST_ID = re.compile(r"[\w.:{}-]{1,128}", re.ASCII)
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
_SUCCESS_FIELDS = ("success", "successful", "ok", "accepted")
_STATE_FIELDS = ("status", "state", "result", "outcome")
_TEXT_FIELDS = ("message", "msg", "description")
_NUMBER_FIELDS = ("code", "status", "statuscode", "httpstatus", "resultcode", "returncode")
_ERROR_NUMBER = re.compile(r"[3-9]\d\d|\d{6}")
"""An HTTP status, or a code of a gateway."""

_STATUS_FIELDS = ("status", "statuscode", "httpstatus")
_ERROR_STATUS = re.compile(r"[45]\d\d")

_FAILED = re.compile(
    r"fail|error|reject|den(?:y|ied)|refus|abort|cancel|invalid|throttl|"
    r"un(?:success|accept|author|able)|not[ _-]?(?:success|accept|author|ok|valid(?!at)|allowed)",
    re.IGNORECASE,
)
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

_PARTLY = re.compile(
    r"(?:(?:accepted|completed?|success(?:ful(?:ly)?)?|processed|ok|request|batch|with|was|is)[ _-]*)*"
    r"part(?:ial(?:ly)?|ly)(?:[ _-]*(?:accept|fail|reject|process|success|complet|error)[a-z]{0,4}){0,2}",
    re.IGNORECASE,
)
_SAYS_PARTLY = re.compile(
    rf"(?:{_REQUEST} )?part(?:ial(?:ly)?|ly) (?:accept|fail|process|success|complet)[a-z]{{0,4}}{_ENDS}|"
    rf"{_REQUEST} part(?:ially|ly) (?:accepted|failed|processed|completed){_EXPLAINS}",
    re.IGNORECASE,
)
_COUNTED = (
    r"_?(?:device_?)?(?:devices?|ids?|imeis?|iccids?|lines?|items?|entries|records?|count|number|total)"
)
_OF_FAILED = re.compile(
    rf"(?:failed|rejected|invalid|refused|unprocessed|not_?accepted)(?:{_COUNTED})?|"
    rf"(?:num|number|count|total)_?(?:of_?)?(?:failed|rejected)(?:{_COUNTED})?|"
    r"(?:devices?_?)?(?:failures?|failed|rejected)|failure_?count"
)
"""Names of fields for the devices that were not accepted, or for their number."""

_REASON = re.compile(r"failure_?(?:reasons?|codes?|messages?)")
_POSITIVE = re.compile(r"0*(?:\.0*)?[1-9]")
_ENVELOPES = ("data", "result", "response")
"""Objects that some gateways put around the whole answer, or around a part of it."""

_BY_DEVICE = re.compile(r"(?:device_?)?(?:devices|results?|responses?)")
_DEVICE_ID = re.compile(r"[0-9]{14,20}")
_DEVICE_FIELDS = frozenset({"device", "deviceid", "deviceids", "device_id", "imei", "iccid"})


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
    try:
        fields: Mapping[str, object] = {"requestid": _taken.decode(reply.body).requestId}
    except DECODE_ERRORS:
        fields = _read_tolerantly(reply)
    request_id = fields.get("requestid")
    request_id = request_id.strip() if isinstance(request_id, str) else ""
    if not _REQUEST_ID.fullmatch(request_id) or request_id in secrets:
        return Acceptance.NONE, None
    if not reply.complete or _has_failed(fields):
        return Acceptance.FAILED, request_id
    return Acceptance.PARTIAL if _has_failed_partly(fields) else Acceptance.WHOLE, request_id


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
    fields = _by_lower_name(value)
    return fields if len(fields) == len(value) else {}


def _by_lower_name(value: Mapping[object, object]) -> Mapping[str, object]:
    return {str(name).lower(): inner for name, inner in value.items()}


def _has_failed(fields: Mapping[str, object]) -> bool:
    """Whether an answer says that the request failed, although it has a requestId."""
    return (
        _names_failure(fields)
        or _any(_ERROR_NUMBER.fullmatch, fields, _NUMBER_FIELDS)
        or any(_names_failure(inner) or _has_error_status(inner) for inner in _envelopes(fields))
    )


def _names_failure(fields: Mapping[str, object]) -> bool:
    """Whether an object says that what it is about failed: the request, or one device."""
    if fields.get("errorcode") is None and names_error(fields.get("errormessage")):
        return True
    return (
        any(names_error(fields.get(name)) for name in _ERROR_FIELDS)
        or any(fields.get(name) is False for name in _SUCCESS_FIELDS)
        or _any(_FAILED.match, fields, _STATE_FIELDS)
        or _any(_SAYS_FAILED.match, fields, _TEXT_FIELDS)
    )


def _has_error_status(fields: Mapping[str, object]) -> bool:
    return _any(_ERROR_STATUS.fullmatch, fields, _STATUS_FIELDS)


def _has_failed_partly(fields: Mapping[str, object]) -> bool:
    """Whether an answer says that some devices were not accepted.

    Only the answer itself, its envelope and its lists count: other objects in it may be about anything.
    """
    return any(
        _any(_PARTLY.fullmatch, part, _STATE_FIELDS)
        or _any(_SAYS_PARTLY.match, part, _TEXT_FIELDS)
        or _has_failed_devices(part)
        or any(_names_failure(device) or _has_error_status(device) for device in _devices(part))
        for part in (fields, *_envelopes(fields))
    )


def _has_failed_devices(fields: Mapping[str, object]) -> bool:
    return any(
        names_error(value) if _REASON.fullmatch(name) else _are_some(value)
        for name, value in fields.items()
        if _OF_FAILED.fullmatch(name) or _REASON.fullmatch(name)
    )


def _are_some(failed: object) -> bool:
    """Whether a field for failed devices names some. An object counts only by its own such fields."""
    if isinstance(failed, dict):
        return _has_failed_devices(_by_lower_name(failed))
    if isinstance(failed, list):
        return names_error(failed)
    return failed is True or _POSITIVE.match(str(failed).strip()) is not None


def _envelopes(fields: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    inner = (fields.get(name) for name in _ENVELOPES)
    return (_by_lower_name(value) for value in inner if isinstance(value, dict))


def _devices(fields: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The objects of the lists that report devices one by one."""
    for name, value in fields.items():
        listed = value if isinstance(value, list) else []
        items = (_by_lower_name(one) for one in listed if isinstance(one, dict))
        yield from (one for one in items if _BY_DEVICE.fullmatch(name) or _is_of_device(one))


def _is_of_device(item: Mapping[str, object]) -> bool:
    return bool(_DEVICE_FIELDS & item.keys()) or _DEVICE_ID.fullmatch(str(item.get("id"))) is not None


def _any(
    fits: Callable[[str], re.Match[str] | None], fields: Mapping[str, object], names: Iterable[str]
) -> bool:
    """Whether a text or a number in one of these fields fits."""
    values = (fields.get(name) for name in names)
    return any(fits(str(value).strip()) for value in values if isinstance(value, str | int | float))
