"""One callback: what the carrier posts, and what of it is kept."""

import re
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from batchlic.carrier.answers import without_service
from batchlic.carrier.messages import Message, SecretMessage

_SUCCEEDED = {"success": True, "failed": False}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs: no database takes all of them."""

_MOST_DIGITS = 32
"""Of an IMEI or ICCID; of other identifiers batchlic has no opinion."""

_LONGEST_TEXT = 500
"""Of what is kept: an index of PostgreSQL takes no row of more than 2,700 bytes."""


class Identifier(Message, frozen=True):
    """One identifier of the device; `kind` comes in any case."""

    id: Annotated[str, Meta(pattern=r"^[0-9A-Za-z]{1,64}\Z")]
    kind: Annotated[str, Meta(pattern=r"^[A-Za-z]{3,16}\Z")]


class FaultResponse(Message, frozen=True):
    """Why it failed, in the carrier's words."""

    faultcode: str | None = None
    faultstring: str | None = None


class Callback(SecretMessage, frozen=True):
    """The body of a callback: the outcome of ONE device; fields that say nothing of it are not read."""

    request_id: Annotated[str, Meta(pattern=r"^[0-9A-Za-z_.:{}-]{1,128}\Z")]
    device_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=100)]
    status: Annotated[str, Meta(pattern=r"^(?i:success|failed)\Z")]
    username: str | None = None
    password: str | None = None
    fault_response: FaultResponse | None = None


class DeviceMessage(NamedTuple):
    """A callback without its credentials, as it is kept; texts are empty where it said nothing.

    `account_name` is that of the address it came to. `further_ids` are identifiers beyond the first IMEI and
    ICCID, as `KIND:digits`. `received_at` is in microseconds since 1970, UTC.
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


def told(callback: Callback, *, account: str, received_at: int) -> DeviceMessage:
    """What is kept of a callback."""
    named = [(identifier.kind.upper(), identifier.id) for identifier in callback.device_ids]
    first = {kind: text for kind, text in reversed(named) if text.isdecimal() and len(text) <= _MOST_DIGITS}
    imei, iccid = first.get("IMEI", ""), first.get("ICCID", "")
    further = [f"{kind}:{digits}" for kind, digits in named if digits not in (imei, iccid)]
    fault = callback.fault_response or FaultResponse()
    return DeviceMessage(
        request_id=callback.request_id,
        imei=imei,
        iccid=iccid,
        further_ids=" ".join(further)[:_LONGEST_TEXT],
        account_name=account,
        succeeded=_SUCCEEDED[callback.status.lower()],
        error_code=without_service(_clean(fault.faultcode)),
        error_message=_clean(fault.faultstring),
        received_at=received_at,
    )


def _clean(text: str | None) -> str:
    return _UNPRINTABLE.sub(" ", text or "")[:_LONGEST_TEXT].strip()
