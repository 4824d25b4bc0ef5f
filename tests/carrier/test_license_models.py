"""License requests that the carrier's documents do not allow are refused with the field at fault."""

import re
from typing import Any

import pytest

from batchlic.carrier.license_models import (
    InvalidRequest,
    LicenseDeviceId,
    LicenseDeviceList,
    check_request,
    check_transaction,
)
from batchlic.carrier.messages import AssignLicenseRequest

IMEI = LicenseDeviceId(id="864508030109877", kind="IMEI")
DEVICE = LicenseDeviceList(device_ids=[IMEI])


def request(**changed: Any) -> AssignLicenseRequest:  # noqa: ANN401 - wrong types are the point
    fields: dict[str, Any] = {
        "account_name": "0000123456-00001",
        "devices": [DEVICE],
        "sku_number": "SIMSec-IoT",
    }
    return AssignLicenseRequest(**fields | changed)


def with_id(id: Any, kind: Any = "IMEI") -> AssignLicenseRequest:  # noqa: A002, ANN401
    device = LicenseDeviceList(device_ids=[IMEI, LicenseDeviceId(id=id, kind=kind)])
    return request(devices=[DEVICE, device])


@pytest.mark.parametrize(
    "given",
    [
        request(devices=[DEVICE] * 100),
        request(devices=(DEVICE,)),
        with_id("89148000000800139708", "ICCID"),
        with_id("123", "MEID"),
    ],
)
def test_a_documented_request_is_valid(given: AssignLicenseRequest) -> None:
    check_request(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (request(account_name="12"), "account_name: '12' is not a text of 3 to 32 characters"),
        (request(sku_number=None), "sku_number: None is not a text"),
        (request(devices=[]), "devices: 0 items; the carrier takes 1 to 100"),
        (request(devices=[DEVICE] * 101), "devices: 101 items; the carrier takes 1 to 100"),
        (request(devices="864508030109877"), "devices: give a list, not str"),
        (request(devices=["864508030109877"]), "devices[0]: give a LicenseDeviceList, not str"),
        (
            request(devices=[LicenseDeviceList(device_ids=[])]),
            "devices[0].device_ids: 0 items; the carrier takes 1 to 100",
        ),
        (with_id("86450803010987X"), "devices[1].device_ids[1].id: '86450803010987X' is not a text of 3"),
        (with_id(864508030109877), "devices[1].device_ids[1].id: 864508030109877 is not a text of 3"),
        (with_id("8645080301098770"), "id: '8645080301098770' is not a text of 3 to 15 digits"),
        (with_id("891480000008001397080", "ICCID"), "is not a text of 3 to 20 digits"),
        (with_id("123", "imei"), "devices[1].device_ids[1].kind: 'imei' is not 3 to 6 capital letters"),
        ({"accountName": "0000123456-00001"}, "body: give an AssignLicenseRequest, not dict"),
    ],
)
def test_a_request_that_is_not_documented_is_refused(
    given: Any,  # noqa: ANN401
    message: str,
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        check_request(given)


def test_an_invalid_request_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="devices"):
        check_request(request(devices=[]))


@pytest.mark.parametrize("x_request_id", ["1-123", "9-" + "0" * 30])
def test_a_documented_transaction_id_is_valid(x_request_id: str) -> None:
    check_transaction(x_request_id)


@pytest.mark.parametrize("x_request_id", ["", "1-12", "12-345", "a-123", "1-" + "0" * 31, "1-123\n", None])
def test_another_transaction_id_is_refused(x_request_id: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequest, match="x_request_id"):
        check_transaction(x_request_id)
