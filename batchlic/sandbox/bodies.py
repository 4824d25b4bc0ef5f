"""What the carrier demands of a request's body, and the refusal when it is not so."""

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
"""Kinds of identifier the carrier knows, and how many decimal digits each has at most."""

_SHAPES = frozenset((kind, digits) for kind, most in DIGITS_BY_KIND.items() for digits in range(3, most + 1))

Name = Annotated[str, Meta(min_length=3, max_length=32)]


class Body(msgspec.Struct, frozen=True, gc=False, rename="camel", forbid_unknown_fields=True):
    """Base of all request bodies: camel case, nothing beyond the documented fields."""


class DeviceIdBody(Body, frozen=True, gc=False):
    """One identifier; digits and kind are checked for the whole request at once, which is much faster."""

    id: Annotated[str, Meta(min_length=3, max_length=32)]
    kind: Annotated[str, Meta(min_length=3, max_length=6)]


class DeviceBody(Body, frozen=True, gc=False):
    """One device, by all its identifiers; documents and SDK of the carrier spell the address differently."""

    device_ids: Annotated[list[DeviceIdBody], Meta(min_length=1, max_length=100)]
    ipaddress: str | None = None
    ip_address: str | None = None


class LicenseBody(Body, frozen=True, gc=False):
    """Body of assign and unassign."""

    account_name: Name
    devices: Annotated[list[DeviceBody], Meta(min_length=1, max_length=100)]
    sku_number: Name


class SubscriptionsBody(Body, frozen=True, gc=False):
    """Body of the license counts."""

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


def read(body: bytes, decoder: msgspec.json.Decoder[B]) -> B:
    """Decode a request's body, or raise the Refusal that the carrier would answer with."""
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise _refusal_of(str(error)) from None


def _refusal_of(problem: str) -> Refusal:
    """msgspec ends its message with the JSON path of the field at fault, in backquotes."""
    if problem.endswith(".id`"):
        return platform_refusal("INPUT_INVALID.Device.Identifier.Invalid", problem)
    if problem.endswith(".kind`"):
        return platform_refusal("INPUT_INVALID.Device.Kind.Invalid", problem)
    return license_refusal(400, problem)


def check_identifiers(devices: Iterable[DeviceBody]) -> None:
    """Refuse identifiers of an unknown kind, with anything but ASCII digits, or too long for their kind."""
    identifiers = [identifier for device in devices for identifier in device.device_ids]
    together = "".join([identifier.id for identifier in identifiers])
    shapes = {(identifier.kind, len(identifier.id)) for identifier in identifiers}
    if together.isascii() and together.isdigit() and shapes <= _SHAPES:
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
