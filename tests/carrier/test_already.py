"""A refusal with "already" settles the doubt about a request only if it says that just this was done."""

import json

import pytest

from batchlic.carrier.already import Asked
from batchlic.carrier.answers import Outcome, Reply
from batchlic.carrier.catalog import Action
from batchlic.carrier.interpretation import answer_from_reply

IMEI = "864508030109877"


def says_already(
    text: str, action: Action = Action.ASSIGN, sku: str = "SIMSec-IoT", code: str = "400"
) -> bool:
    body = json.dumps({"errorCode": code, "errorMessage": text}).encode()
    found = answer_from_reply(Reply(400, {}, body), asked=lambda: Asked(action, sku, (IMEI,)))
    assert found.outcome is Outcome.REFUSED
    return found.says_already


@pytest.mark.parametrize(
    "text",
    [
        "Device already has the license",
        "The device already has the licence.",
        "The license is already assigned",
        f"license was already assigned to {IMEI}",
        f"IMEI {IMEI} already has this license",
        "SKU SIMSec-IoT is already assigned to the device",
        "The requested license has already been assigned to this SIM",
        "License already active on this line.",
    ],
)
def test_this_license_is_assigned_already(text: str) -> None:
    assert says_already(text)


@pytest.mark.parametrize("code", ["REQUEST_FAILED.LicenseAlreadyAssigned", "LICENSE_ALREADY_ASSIGNED"])
def test_a_code_can_say_that_the_license_is_assigned(code: str) -> None:
    assert says_already("The request failed", code=code)


@pytest.mark.parametrize(
    "text",
    [
        "Device is already deactivated",
        "Device already belongs to another account",
        "Device is already assigned to another account",
        "Another SKU is already assigned to this device",
        "SKU SIMSec-IoT-Lt is already assigned to the device",
        "Device already has a license",
        "Device already has another license",
        "Device already has a different license of this SKU",
        "The license is already assigned to another device",
        "License is already assigned to 490154203237518",
        "The license is already assigned. It belongs to another account.",
        "All licenses are already assigned",
        "The license has already expired",
        "The license was already removed",
        "License already assigned to the maximum number of devices",
        "License not already assigned",
        "The license may already be assigned",
        "Account already suspended",
        "The SIM was already replaced",
        "Device was already ported",
        "Device already registered for this line",
        "Device is not active",
        "Duplicate license in the list",
        "",
    ],
)
def test_already_about_something_else_shows_nothing(text: str) -> None:
    assert not says_already(text)


@pytest.mark.parametrize(
    "code", ["INPUT_INVALID.DeviceState.Invalid", "INPUT_INVALID.Device.Account.Invalid"]
)
def test_a_documented_refusal_of_a_device_is_believed_as_it_is(code: str) -> None:
    assert not says_already("Device already has the license", code=code)


@pytest.mark.parametrize(
    ("text", "is_removed"),
    [
        ("The license was already removed", True),
        ("License has already been unassigned from this device", True),
        ("SKU SIMSec-IoT is already released", True),
        ("Device is already deactivated", False),
        ("Device already has the license", False),
        ("Another license was already removed", False),
        ("The device was already removed from the account", False),
    ],
)
def test_a_removal_is_done_if_this_license_is_removed(text: str, *, is_removed: bool) -> None:
    assert says_already(text, Action.UNASSIGN) == is_removed


def test_a_longer_sku_is_another_one() -> None:
    text = "SKU SIMSec-IoT-Lt is already assigned to the device"
    assert says_already(text, sku="SIMSec-IoT-Lt")
    assert not says_already(text, sku="SIMSec-IoT")
    assert not says_already(text.replace("-Lt", ""), sku="SIMSec-IoT-Lt")
