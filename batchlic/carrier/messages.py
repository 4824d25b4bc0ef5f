"""The carrier's JSON messages, field by field; msgspec encodes and decodes them.

Attribute names are the carrier's field names in snake case; the JSON has camel case.
"""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec


class Message(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of all messages: immutable, camel case in JSON, fields with their default left out."""


class SecretMessage(Message, frozen=True):
    """Base of the messages that hold a secret: their repr hides all fields (promise F)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class DeviceId(Message, frozen=True):
    """One identifier of a device: `id` in decimal digits, `kind` IMEI or ICCID."""

    id: str
    kind: str


class Device(Message, frozen=True):
    """One device. `device_ids` are the identifiers of this device (IMEI, ICCID or both)."""

    device_ids: Sequence[DeviceId]
    ipaddress: str | None = None


class AssignLicenseRequest(Message, frozen=True):
    """Body of assign and unassign: 1 to 100 devices of one account, and one SKU.

    - `account_name`: 3 to 32 characters, with leading zeros.
    - `devices`: 1 to 100 devices.
    - `sku_number`: 3 to 32 characters, such as `SIMSec-IoT`.
    """

    account_name: str
    devices: Sequence[Device]
    sku_number: str


EncodedDevice: TypeAlias = str
"""A Device as JSON text. Without an `ipaddress`, the text ends with the identifiers."""

EncodedDevices: TypeAlias = str
"""Devices as in a request: EncodedDevice texts, joined by commas."""

_BETWEEN_DEVICES = re.compile(r"(?<=\]\}),")


def split_devices(devices: EncodedDevices) -> list[EncodedDevice]:
    """Split into single devices; `",".join` is the inverse."""
    return _BETWEEN_DEVICES.split(devices)


def encode_request(account_name: str, devices: EncodedDevices, sku_number: str) -> bytes:
    """Encode an AssignLicenseRequest whose devices are already encoded; faster than encoding them again."""
    encoded = msgspec.Raw("[" + devices + "]")
    return msgspec.json.encode({"accountName": account_name, "devices": encoded, "skuNumber": sku_number})


class RequestAccepted(Message, frozen=True):
    """The carrier accepted the request. Its callbacks will carry the same `request_id`."""

    request_id: str


class AccessToken(SecretMessage, frozen=True, rename=None):
    """Answer of the OAuth endpoint; snake case in JSON, as OAuth requires."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - the type's name, not a secret
    expires_in: int = 3600
    scope: str = ""


class Login(SecretMessage, frozen=True):
    """Body of the session login."""

    username: str
    password: str


class Session(SecretMessage, frozen=True):
    """Answer to session login and logout."""

    session_token: str


class SubscriptionsRequest(Message, frozen=True):
    """Body of a question about license counts: one account, optionally one SKU."""

    account_name: str
    sku_number: str | None = None


class Subscription(Message, frozen=True):
    """License counts of one SKU, in licenses; None: the carrier does not say.

    `sku_number` is empty for an entry that can't be read.
    """

    sku_number: str
    license_type: str
    license_purchased: int | None
    license_assigned: int | None
    license_available: int | None


class Subscriptions(Message, frozen=True):
    """License counts of an account."""

    account_name: str
    subscription_list: list[Subscription]


_COUNT = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d{1,15})")


class ReceivedSubscriptions(Message, frozen=True):
    """Subscriptions as they are received: some gateways send a single entry without its list."""

    subscription_list: list[Any] | dict[str, Any] | None

    def read(self) -> list[Subscription]:
        """The license counts as numbers. An entry without a readable SKU has an empty one, and no counts."""
        listed = self.subscription_list
        entries = [listed] if isinstance(listed, dict) else listed or ()
        return [_subscription(entry) for entry in entries if entry is not None]


def _subscription(entry: object) -> Subscription:
    if not isinstance(entry, dict) or not isinstance(sku := entry.get("skuNumber"), str):
        return Subscription("", "", None, None, None)
    return Subscription(
        sku,
        str(entry.get("licenseType") or ""),
        read_count(entry.get("licensePurchased")),
        read_count(entry.get("licenseAssigned")),
        read_count(entry.get("licenseAvailable")),
    )


def read_count(count: object) -> int | None:
    """A number of licenses as gateways of different kinds write it: 10, 10.0, "10" or "1,000".

    None if it is missing or not a whole number.
    """
    if isinstance(count, float):
        return int(count) if count.is_integer() else None
    if isinstance(count, str):
        whole = count.strip().removesuffix(".0").removesuffix(".00")
        return int(whole.replace(",", "")) if _COUNT.fullmatch(whole) else None
    return count if isinstance(count, int) and not isinstance(count, bool) else None


class CallbackRegistration(SecretMessage, frozen=True):
    """Body that registers a listener. Each callback carries its `username` and `password`."""

    name: str
    url: str
    username: str | None = None
    password: str | None = None


class CallbackListener(SecretMessage, frozen=True):
    """One registered listener."""

    account_name: str
    service_name: str
    url: str
    username: str | None = None
    password: str | None = None


class CallbackService(Message, frozen=True):
    """Answer to registering and deregistering a listener."""

    account_name: str
    service_name: str


_SERVICE_NAME = re.compile(r"^[A-Za-z0-9]+\.(?=[A-Z]+_[A-Z]+\.)")


def strip_service_name(code: str) -> str:
    """Return an error code without the service name and dot in front of it."""
    return _SERVICE_NAME.sub("", code)
