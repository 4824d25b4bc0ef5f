"""The carrier's messages, field for field; msgspec reads and writes them.

Attribute names are the carrier's own in snake case; on the wire they are camel case.
"""

import re
from typing import TypeAlias

import msgspec


class Message(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of all wire types: immutable, camel case on the wire, unset fields left out."""


class SecretMessage(Message, frozen=True):
    """Base of the wire types that hold a secret: their repr shows nothing (promise F)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class DeviceId(Message, frozen=True):
    """One identifier of a device: `id` in decimal digits, `kind` IMEI or ICCID."""

    id: str
    kind: str


class Device(Message, frozen=True):
    """ONE device: `device_ids` holds its identifiers (IMEI, ICCID or both), not several devices."""

    device_ids: list[DeviceId]
    ipaddress: str | None = None


class AssignLicenseRequest(Message, frozen=True):
    """1 to 100 devices of one account to put under one SKU; unassign takes the same body."""

    account_name: str
    devices: list[Device]
    sku_number: str


EncodedDevice: TypeAlias = str
"""A Device as its JSON text; without an `ipaddress` it ends with its identifiers."""

EncodedDevices: TypeAlias = str
"""Devices as they stand in a request: EncodedDevice after EncodedDevice, with commas between."""

_BETWEEN_DEVICES = re.compile(r"(?<=\]\}),")


def split_devices(devices: EncodedDevices) -> list[EncodedDevice]:
    """The devices one by one, as `",".join` had them before."""
    return _BETWEEN_DEVICES.split(devices)


def encode_request(account_name: str, devices: EncodedDevices, sku_number: str) -> bytes:
    """The body of an AssignLicenseRequest of devices that are encoded already: they are many."""
    encoded = msgspec.Raw("[" + devices + "]")
    return msgspec.json.encode({"accountName": account_name, "devices": encoded, "skuNumber": sku_number})


class RequestTaken(Message, frozen=True):
    """The carrier took the request: `request_id` correlates the callbacks to come."""

    request_id: str


class AccessToken(SecretMessage, frozen=True, rename=None):
    """Answer of the OAuth endpoint; snake case on the wire, as OAuth has it."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - the type's name, not a secret
    expires_in: int = 3600
    scope: str = ""


class Login(SecretMessage, frozen=True):
    """Body of the session login."""

    username: str
    password: str


class Session(SecretMessage, frozen=True):
    """Answer of session login and logout."""

    session_token: str


class SubscriptionsRequest(Message, frozen=True):
    """Body of the license counts: one account, optionally one SKU."""

    account_name: str
    sku_number: str | None = None


class Subscription(Message, frozen=True):
    """License counts of one SKU, in licenses."""

    sku_number: str
    license_type: str
    license_purchased: int
    license_assigned: int
    license_available: int


class Subscriptions(Message, frozen=True):
    """License counts of an account."""

    account_name: str
    subscription_list: list[Subscription]


class CallbackRegistration(SecretMessage, frozen=True):
    """Body that registers a listener; `username` and `password` come back in each callback."""

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
    """Answer of registering and deregistering a listener."""

    account_name: str
    service_name: str
