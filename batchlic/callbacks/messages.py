"""The message that the store keeps of a callback."""

import re
from collections.abc import Collection
from typing import NamedTuple

from batchlic.callbacks.bodies import Body, Fields, as_text, by_lower_name, objects_with_id
from batchlic.callbacks.verdicts import CODE_OF_CARRIER, FAILURE, SUCCESS, verdict_of
from batchlic.carrier.hiding import hide
from batchlic.carrier.messages import strip_service_name
from batchlic.carrier.named_errors import names_error

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates: not every database can store them."""

_NOT_IN_IDENTIFIERS = re.compile(r"[^0-9A-Za-z]")
_MAX_DIGITS = 32
"""Digits of an IMEI or ICCID; other identifiers are not checked."""

_MAX_TEXT = 500
"""Characters of a requestId, an account, a status, a code or an error text that are stored."""


class StoredMessage(NamedTuple):
    """A callback as the store keeps it, without its credentials; missing texts are empty.

    - `imei`, `iccid`: the first of each kind.
    - `further_ids`: all other identifiers, as `KIND:id`, separated by spaces.
    - `account_name`: from the path of the URL that the callback was sent to.
    - `error_code`, `error_message`: from the fault, or from fields of these names; empty if there are none.
    - `raw`: the body; empty if the message names a device and reports its success or failure.
    - `received_at`: microseconds since 1970, UTC.
    """

    request_id: str
    imei: str
    iccid: str
    further_ids: str
    account_name: str
    status: str
    error_code: str
    error_message: str
    raw: str
    received_at: int


def stored_message(
    body: Body, *, account: str, received_at: int, secrets: Collection[str] = ()
) -> StoredMessage:
    """Return the message to store for a callback. `secrets` are hidden in its body (promise F)."""
    fields = body.fields
    imei, iccid, further_ids = _identifiers(fields)
    error_code, error_message = _error(fields)
    status = _clean(_status(fields.get("status")))
    verdict = verdict_of(status, error_code, error_message)
    is_judged = bool(imei or iccid) and verdict in {SUCCESS, FAILURE}
    return StoredMessage(
        request_id=_clean(body.request_id),
        imei=imei,
        iccid=iccid,
        further_ids=further_ids,
        account_name=_clean(account),
        status=status,
        error_code=error_code,
        error_message=error_message,
        raw="" if is_judged else _printable(hide(body.text, secrets)),
        received_at=received_at,
    )


def _identifiers(fields: Fields) -> tuple[str, str, str]:
    """The first IMEI, the first ICCID, and the other identifiers of a message."""
    first = {"IMEI": "", "ICCID": ""}
    further: list[str] = []
    for value in (fields.get("deviceids"), fields.get("devices")):
        for identifier in objects_with_id(value):
            kind = _NOT_IN_IDENTIFIERS.sub("", as_text(identifier.get("kind")) or "").upper()
            text = "".join(_printable(as_text(identifier["id"]) or "").split())
            digits = _NOT_IN_IDENTIFIERS.sub("", text)
            if kind in first and _is_number(digits):
                text = digits
                if not first[kind]:
                    first[kind] = digits
                    continue
            if text and text != first.get(kind):
                further.append(f"{kind}:{text}")
    return first["IMEI"], first["ICCID"], " ".join(dict.fromkeys(further))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS


def _error(fields: Fields) -> tuple[str, str]:
    """The code and the text of a message's fault, or those that the answers to requests have.

    The carrier's pages say that errors of answers also arrive in callbacks. The text beside a code such as 0
    is no error, unless it has a code of the carrier.
    """
    of_answers = {"faultcode": fields.get("errorcode"), "faultstring": fields.get("errormessage")}
    fault, error = _fault(fields.get("faultresponse")), _fault(of_answers)
    code, text = error
    has_error = names_error(code) or (
        names_error(text) and (not code or CODE_OF_CARRIER.search(text) is not None)
    )
    return error if has_error and not any(map(names_error, fault)) else fault


def _fault(value: object) -> tuple[str, str]:
    """The code and the text of a `faultResponse`; both are empty if it holds neither."""
    if isinstance(value, list):
        faults = (_fault(one) for one in value if not isinstance(one, list))
        return next(filter(any, faults), ("", ""))
    if isinstance(value, dict):
        fields = by_lower_name(value)
        code, text = (_clean(as_text(fields.get(name))) for name in ("faultcode", "faultstring"))
        return strip_service_name(code), text
    return "", _clean(value) if isinstance(value, str) else ""


def _status(value: object) -> str:
    if value is None:
        return ""
    text = as_text(value)
    return "(not a text)" if text is None else text


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(" ", text)


def _clean(text: str | None) -> str:
    return _printable(text or "")[:_MAX_TEXT].strip()
