"""The body of a callback, and the message that the store keeps of it."""

import re
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from batchlic.carrier.messages import Message, SecretMessage, strip_service_name

_SUCCEEDED = {"success": True, "failed": False}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates: not every database can store them."""

_MAX_DIGITS = 32
"""Digits of an IMEI or ICCID; other identifiers are not checked."""

_MAX_TEXT = 500
"""Characters of a stored text: an index of PostgreSQL can't hold a row of more than 2,700 bytes."""


class Identifier(Message, frozen=True):
    """One identifier of the device; `kind` has upper or lower case."""

    id: Annotated[str, Meta(pattern=r"^[0-9A-Za-z]{1,64}\Z")]
    kind: Annotated[str, Meta(pattern=r"^[A-Za-z]{3,16}\Z")]


class FaultResponse(Message, frozen=True):
    """The carrier's reason for a failure."""

    faultcode: str | None = None
    faultstring: str | None = None


class Callback(SecretMessage, frozen=True):
    """The body of a callback: the outcome of one device. Other fields of the body are ignored."""

    request_id: Annotated[str, Meta(pattern=r"^[0-9A-Za-z_.:{}-]{1,128}\Z")]
    device_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=100)]
    status: Annotated[str, Meta(pattern=r"^(?i:success|failed)\Z")]
    username: str | None = None
    password: str | None = None
    fault_response: FaultResponse | None = None


class DeviceMessage(NamedTuple):
    """A callback as the store keeps it, without its credentials; missing texts are empty.

    - `account_name`: from the path of the URL that the callback was sent to.
    - `further_ids`: identifiers besides the first IMEI and ICCID, as `KIND:digits`, separated by spaces.
    - `received_at`: microseconds since 1970, UTC.
    """

    request_id: str
    imei: str
    iccid: str
    further_ids: str
    account_name: str
    succeeded: bool
    error_code: str
    error_message: str
    received_at: int


DECODER = msgspec.json.Decoder(Callback)


def device_message(callback: Callback, *, account: str, received_at: int) -> DeviceMessage:
    """Return the message to store for a callback."""
    identifiers = [(identifier.kind.upper(), identifier.id) for identifier in callback.device_ids]
    first = {
        kind: text for kind, text in reversed(identifiers) if text.isdecimal() and len(text) <= _MAX_DIGITS
    }
    imei, iccid = first.get("IMEI", ""), first.get("ICCID", "")
    further = [f"{kind}:{digits}" for kind, digits in identifiers if digits not in (imei, iccid)]
    fault = callback.fault_response or FaultResponse()
    return DeviceMessage(
        request_id=callback.request_id,
        imei=imei,
        iccid=iccid,
        further_ids=" ".join(further)[:_MAX_TEXT],
        account_name=account,
        succeeded=_SUCCEEDED[callback.status.lower()],
        error_code=strip_service_name(_clean(fault.faultcode)),
        error_message=_clean(fault.faultstring),
        received_at=received_at,
    )


def _clean(text: str | None) -> str:
    return _UNPRINTABLE.sub(" ", text or "")[:_MAX_TEXT].strip()
