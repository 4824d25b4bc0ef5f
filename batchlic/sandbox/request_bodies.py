"""Schemas of request bodies, and the refusals for bodies that don't match them."""

from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from batchlic.sandbox.refusals import Refusal, license_refusal, platform_refusal

DIGITS_BY_KIND = {
    "EID": 32,
    "ESN": 11,
    "ICCID": 20,
    "IMEI": 15,
    "IMSI": 15,
    "MDN": 10,
    "MEID": 18,
    "MIN": 10,
    "MSISDN": 15,
}
"""The carrier's kinds of identifier, and the largest number of decimal digits of each."""

_SHAPES = frozenset((kind, digits) for kind, most in DIGITS_BY_KIND.items() for digits in range(3, most + 1))

Name = Annotated[str, Meta(min_length=3, max_length=32)]


class Body(msgspec.Struct, frozen=True, gc=False, rename="camel", forbid_unknown_fields=True):
    """Base of all request bodies: camel case, and no fields but the documented ones."""


class DeviceIdBody(Body, frozen=True, gc=False):
    """One identifier. `check_identifiers` checks digits and kinds of whole requests: that is faster."""

    id: Annotated[str, Meta(min_length=3, max_length=32)]
    kind: Annotated[str, Meta(min_length=3, max_length=6)]


class DeviceBody(Body, frozen=True, gc=False):
    """One device with all its identifiers. The carrier's documents and SDK spell `ip_address` differently."""

    device_ids: Annotated[list[DeviceIdBody], Meta(min_length=1, max_length=100)]
    ipaddress: str | None = None
    ip_address: str | None = None


class LicenseBody(Body, frozen=True, gc=False):
    """Body of assign and unassign."""

    account_name: Name
    devices: Annotated[list[DeviceBody], Meta(min_length=1, max_length=100)]
    sku_number: Name


class _AccountOfBody(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    account_name: str = ""


_ACCOUNT_OF_BODY = msgspec.json.Decoder(_AccountOfBody)


def account_of(body: bytes) -> str:
    """The account that a license request names; empty if it names none, or is malformed."""
    try:
        return _ACCOUNT_OF_BODY.decode(body).account_name
    except msgspec.MsgspecError:
        return ""


class SubscriptionsBody(Body, frozen=True, gc=False):
    """Body of a question about license counts."""

    account_name: Name
    sku_number: Name | None = None


class LoginBody(Body, frozen=True, gc=False):
    """Body of the session login."""

    username: str
    password: str


class ListenerBody(Body, frozen=True, gc=False):
    """Body that registers a listener."""

    name: str
    url: Annotated[str, Meta(pattern=r"^https?://[^\s/]+")]
    username: str | None = None
    password: str | None = None


B = TypeVar("B", bound=Body)


def decode_body(body: bytes, decoder: msgspec.json.Decoder[B]) -> B:
    """Decode a request body, or raise the Refusal that the carrier would send."""
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise _refusal_of(str(error)) from None


def _refusal_of(problem: str) -> Refusal:
    """The Refusal for a decoding error: msgspec ends its message with the JSON path of the wrong field."""
    if problem.endswith(".id`"):
        return platform_refusal("INPUT_INVALID.Device.Identifier.Invalid", problem)
    if problem.endswith(".kind`"):
        return platform_refusal("INPUT_INVALID.Device.Kind.Invalid", problem)
    return license_refusal(400, problem)


def check_identifiers(devices: Iterable[DeviceBody]) -> None:
    """Raise a Refusal for an identifier of unknown kind, with other characters than digits, or too long."""
    identifiers = [identifier for device in devices for identifier in device.device_ids]
    all_digits = "".join([identifier.id for identifier in identifiers])
    shapes = {(identifier.kind, len(identifier.id)) for identifier in identifiers}
    if all_digits.isascii() and all_digits.isdigit() and shapes <= _SHAPES:
        return
    for identifier in identifiers:
        _check_identifier(identifier)


def _check_identifier(identifier: DeviceIdBody) -> None:
    if identifier.kind not in DIGITS_BY_KIND:
        raise platform_refusal("INPUT_INVALID.Device.Kind.Invalid", f"Unknown kind {identifier.kind}.")
    digits = identifier.id.isascii() and identifier.id.isdigit()
    if not digits or (identifier.kind, len(identifier.id)) not in _SHAPES:
        raise platform_refusal(
            "INPUT_INVALID.Device.Identifier.Invalid", f"{identifier.id} is not a valid {identifier.kind}."
        )
