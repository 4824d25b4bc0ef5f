"""The public models of license requests, by the names of the carrier's SDKs, and the check of a request."""

import re
from collections.abc import Sequence

from batchlic.carrier.catalog import MAX_DEVICES_PER_REQUEST
from batchlic.carrier.messages import AssignLicenseRequest, Device, DeviceId, RequestAccepted
from batchlic.errors import UsageError

_NAME_LENGTH = range(3, 33)
_ID = re.compile(r"[0-9]{3,32}")
_KIND = re.compile(r"[A-Z]{3,6}")
_MOST_DIGITS = {"IMEI": 15, "ICCID": 20}
_MAX_IDS = 100
_TRANSACTION = re.compile(r"[0-9]-[0-9]{3,30}")


class LicenseDeviceId(DeviceId, frozen=True):
    """One identifier of a device.

    - `id`: 3 to 32 decimal digits; at most 15 for an IMEI and 20 for an ICCID.
    - `kind`: `IMEI` or `ICCID`, in capitals.
    """


class LicenseDeviceList(Device, frozen=True):
    """One device, whatever the carrier's name for it suggests.

    - `device_ids`: 1 to 100 identifiers of this device: its IMEI, its ICCID, or both.
    - `ipaddress`: optional.
    """


class SecuritySuccessResult(RequestAccepted, frozen=True):
    """The carrier accepted a request. The outcome of each device arrives later, by callback.

    `request_id` is the requestId that all callbacks of the request carry.
    """


class InvalidRequest(UsageError, ValueError):
    """A license request does not follow the carrier's documents. Nothing was sent."""


def check_transaction(x_request_id: str) -> None:
    """Raise InvalidRequest if the carrier's documents do not allow the X-Request-ID."""
    if not _fits(x_request_id, _TRANSACTION):
        raise InvalidRequest(
            f"x_request_id: {x_request_id!r} is not one digit, a dash and 3 to 30 digits, such as 1-202611290"
        )


def check_request(body: AssignLicenseRequest) -> None:
    """Raise InvalidRequest, which names the field, if the carrier's documents do not allow the request."""
    if not isinstance(body, AssignLicenseRequest):
        raise InvalidRequest(f"body: give an AssignLicenseRequest, not {_type(body)}")
    for field in ("account_name", "sku_number"):
        name = getattr(body, field)
        if not isinstance(name, str) or len(name) not in _NAME_LENGTH:
            raise InvalidRequest(f"{field}: {name!r} is not a text of 3 to 32 characters")
    _check_length("devices", body.devices, MAX_DEVICES_PER_REQUEST)
    for number, device in enumerate(body.devices):
        _check_device(f"devices[{number}]", device)


def _check_device(where: str, device: Device) -> None:
    if not isinstance(device, Device):
        raise InvalidRequest(f"{where}: give a LicenseDeviceList, not {_type(device)}")
    if device.ipaddress is not None and not isinstance(device.ipaddress, str):
        raise InvalidRequest(f"{where}.ipaddress: give a text, not {_type(device.ipaddress)}")
    _check_length(f"{where}.device_ids", device.device_ids, _MAX_IDS)
    for number, identifier in enumerate(device.device_ids):
        _check_identifier(f"{where}.device_ids[{number}]", identifier)


def _check_identifier(where: str, identifier: DeviceId) -> None:
    if not isinstance(identifier, DeviceId):
        raise InvalidRequest(f"{where}: give a LicenseDeviceId, not {_type(identifier)}")
    if not _fits(identifier.kind, _KIND):
        raise InvalidRequest(f"{where}.kind: {identifier.kind!r} is not 3 to 6 capital letters, such as IMEI")
    most = _MOST_DIGITS.get(identifier.kind, 32)
    if not _fits(identifier.id, _ID) or len(identifier.id) > most:
        raise InvalidRequest(f"{where}.id: {identifier.id!r} is not a text of 3 to {most} digits")


def _fits(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _check_length(where: str, items: Sequence[object], most: int) -> None:
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise InvalidRequest(f"{where}: give a list, not {_type(items)}")
    if not 1 <= len(items) <= most:
        raise InvalidRequest(f"{where}: {len(items)} items; the carrier takes 1 to {most}")


def _type(value: object) -> str:
    return type(value).__name__
