"""What the store keeps of a callback: identifiers, fault and status, in whatever form they come."""

import json
from typing import Any

import polars as pl
import pytest

from batchlic.callbacks.bodies import read_body
from batchlic.callbacks.messages import StoredMessage, stored_message
from batchlic.callbacks.verdicts import CANCELED, FAILURE, ON_HOLD, SUCCESS, verdict_of, with_verdicts
from tests.callbacks.builders import PASSWORD, USERNAME, body

IMEI, ICCID = "864508030109877", "89148000000800139708"
ONE = {"id": IMEI, "kind": "imei"}
FAULT = {"faultcode": "UnifiedWebService.INPUT_INVALID.Device.Account.Invalid", "faultstring": "Not yours."}


def stored(content: object) -> StoredMessage:
    sent = content if isinstance(content, bytes) else json.dumps(content).encode()
    return stored_message(read_body(sent), account="", received_at=0, secrets=[PASSWORD])


# -- identifiers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "further",
    [
        {"id": "+15551234567", "kind": "msisdn"},
        {"id": "555-123-4567", "kind": "mdn"},
        {"id": "555 123 4567", "kind": "mdn"},
        {"id": "", "kind": "iccId"},
        {"id": None, "kind": "iccId"},
        {"id": [], "kind": "iccId"},
        {"id": True, "kind": "iccId"},
        {"id": "not a number", "kind": "imei"},
        {"id": "a@b.example", "kind": "username"},
        {"id": 5551234567, "kind": "mdn"},
        {"id": "8" * 32, "kind": "eid"},
        {"id": "1", "kind": None},
        {"id": "1"},
        {"kind": "mdn"},
        {},
        None,
        "5551234567",
        7,
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_further_identifier_does_no_harm(further: object, is_first: bool) -> None:  # noqa: FBT001 - a case
    message = stored(body(deviceIds=[further, ONE] if is_first else [ONE, further]))
    assert (message.imei, message.iccid, message.raw) == (IMEI, "", "")


@pytest.mark.parametrize(
    "identifier",
    [
        {"id": int(IMEI), "kind": "imei"},
        {"id": float(IMEI), "kind": "imei"},
        {"id": f" {IMEI}\n", "kind": "IMEI "},
        {"id": "86-450803-010987-7", "kind": "Imei"},
        {"ID": IMEI, "Kind": "IMEI"},
    ],
)
def test_an_imei_is_read_in_any_form(identifier: dict[str, object]) -> None:
    assert stored(body(deviceIds=[identifier])).imei == IMEI


def test_an_iccid_of_twenty_digits_is_read_from_a_number() -> None:
    content = json.dumps(body(deviceIds=[{"id": ICCID, "kind": "iccId"}])).replace(f'"{ICCID}"', ICCID)
    assert stored(content.encode()).iccid == ICCID


@pytest.mark.parametrize(
    "fields",
    [
        {"deviceIds": [ONE, {"id": "490154203237518", "kind": "IMEI"}]},
        {"deviceIds": [[ONE], [{"id": "490154203237518", "kind": "IMEI"}]]},
        {"deviceIds": [{"deviceIds": [ONE]}, {"deviceIds": [{"id": "490154203237518", "kind": "imei"}]}]},
        {
            "deviceIds": None,
            "devices": [{"deviceIds": [ONE]}, {"deviceIds": [{"id": 490154203237518, "kind": "imei"}]}],
        },
    ],
)
def test_each_device_of_a_message_is_kept(fields: dict[str, Any]) -> None:
    message = stored(body(**fields))
    assert (message.imei, message.further_ids) == (IMEI, "IMEI:490154203237518")


def test_a_hundred_devices_of_a_message_are_kept() -> None:
    message = stored(body(deviceIds=[{"id": f"{number:015d}", "kind": "imei"} for number in range(100)]))
    assert len(message.further_ids.split()) == 99


def test_a_device_in_an_object_instead_of_a_list_is_read() -> None:
    assert stored(body(deviceIds=ONE)).imei == IMEI


def test_deeply_nested_identifiers_do_no_harm() -> None:
    content = json.dumps(body(deviceIds=0)).replace('"deviceIds": 0', f'"deviceIds": {"[" * 400}{"]" * 400}')
    assert stored(content.encode()).imei == ""


# -- damaged bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + json.dumps(body()).encode(),
        json.dumps(body()).encode("utf-16"),
        json.dumps(body()).encode() + b"\r\n--trailing",
        json.dumps(body(deviceResponse={"text": "a line"})).replace("a line", "a\nline").encode(),
        json.dumps(body(deviceResponse={"text": "é"}), ensure_ascii=False).encode("latin-1"),
        json.dumps(body(deviceResponse={"text": "\ud800"})).encode(),
        json.dumps(body(deviceResponse={"number": float("nan")})).encode(),
        json.dumps([body()]).encode(),
        json.dumps(body(callbackCount="1", maxCallbackThreshold=None)).encode(),
        json.dumps({name: value for name, value in body().items() if name != "deviceResponse"}).encode(),
        json.dumps({name.upper(): value for name, value in body().items()}).encode(),
    ],
)
def test_a_message_that_is_not_quite_json_is_read(content: bytes) -> None:
    message = stored(content)
    assert (message.request_id, message.imei, message.status) == ("r1", IMEI, "Success")


@pytest.mark.parametrize("between", ["", "\n", ",", "\r\n\r\n"])
def test_two_messages_in_one_body_are_kept_and_read_as_none_of_them(between: str) -> None:
    first, second = (json.dumps(body(requestId=name)) for name in ("r1", "r2"))
    message = stored(f"{first}{between}{second}".encode())
    assert (message.imei, message.status) == (stored([body(), body()]).imei, stored([body(), body()]).status)
    assert "r2" in message.raw


@pytest.mark.parametrize("rest", [" // {note}", "<script>if (x) { y }</script>", None])
def test_what_follows_a_message_and_is_none_does_no_harm(rest: str | None) -> None:
    sent = json.dumps(body())
    message = stored(f"{sent}{rest if rest is not None else sent}".encode())
    assert (message.imei, message.status) == (IMEI, "Success")


def test_the_spelling_of_the_carrier_counts_more_than_another_one() -> None:
    assert read_body(json.dumps(body() | {"Username": "x"}).encode()).username == USERNAME


@pytest.mark.parametrize("tries", [1, 2, "3"])
def test_a_message_that_is_sent_again_has_the_same_content(tries: object) -> None:
    again, first = stored(body(deviceIds=[], callbackCount=tries)), stored(body(deviceIds=[]))
    assert again == first


def test_f_no_credential_is_in_what_is_kept_or_shown() -> None:
    content = json.dumps(body(deviceIds=[])).encode()[:-1]
    read = read_body(content)
    for text in (repr(read), repr(stored(content)), repr(stored([body(), body()]))):
        assert PASSWORD not in text
        assert f'"{USERNAME}"' not in text


# -- what is reported -----------------------------------------------------------------------------------


def verdict(message: StoredMessage) -> str:
    return verdict_of(message.status, message.error_code, message.error_message)


CODED = [
    (FAULT, ("INPUT_INVALID.Device.Account.Invalid", "Not yours.")),
    ({"faultcode": "REQUEST_FAILED.X"}, ("REQUEST_FAILED.X", "")),
    ([FAULT], ("INPUT_INVALID.Device.Account.Invalid", "Not yours.")),
    ({"faultcode": "REQUEST_FAILED.X", "faultstring": "Success"}, ("REQUEST_FAILED.X", "Success")),
    ("UnifiedWebService.REQUEST_FAILED.X", ("", "UnifiedWebService.REQUEST_FAILED.X")),
    (
        {"faultstring": "UnifiedWebService.REQUEST_FAILED.X: no"},
        ("", "UnifiedWebService.REQUEST_FAILED.X: no"),
    ),
    ({"faultcode": "env:Server", "faultstring": "INPUT_INVALID.X"}, ("env:Server", "INPUT_INVALID.X")),
    ({"faultcode": "REQUEST_FAILED", "faultstring": "no"}, ("REQUEST_FAILED", "no")),
]
OTHER = [
    ({"faultstring": "no license"}, ("", "no license")),
    ({"faultCode": 400, "FaultString": None}, ("400", "")),
    ("no license", ("", "no license")),
    ({"faultcode": "0", "faultstring": "not active"}, ("0", "not active")),
]


@pytest.mark.parametrize("status", ["Failed", "Completed", "REQUEST_ONHOLD.Review", "", None, 7])
@pytest.mark.parametrize(("fault", "expected"), [*CODED, *OTHER])
def test_a_fault_is_a_failure_whatever_the_status(
    status: object, fault: object, expected: tuple[str, str]
) -> None:
    message = stored(body(status=status, faultResponse=fault))
    assert (message.error_code, message.error_message) == expected
    assert verdict(message) == FAILURE
    assert message.raw == ""


@pytest.mark.parametrize("status", ["Success", " SUCCESS"])
@pytest.mark.parametrize("fault", [fault for fault, _ in CODED])
def test_a_code_of_the_carrier_counts_more_than_the_status(status: str, fault: object) -> None:
    assert verdict(stored(body(status=status, faultResponse=fault))) == FAILURE


@pytest.mark.parametrize("fault", [fault for fault, _ in OTHER])
def test_d_a_success_with_another_fault_settles_nothing(fault: object) -> None:
    message = stored(body(status="Success", faultResponse=fault))
    assert verdict(message) == "status Success with a fault"
    assert message.raw != ""


@pytest.mark.parametrize(
    "fault",
    [
        {"faultcode": "0", "faultstring": "Success"},
        {"faultcode": 0, "faultstring": None},
        {"faultcode": "200", "faultstring": "OK"},
        {"faultcode": "null", "faultstring": "null"},
        {"faultcode": "None", "faultstring": "No error"},
        {"faultstring": "N/A"},
        {"faultcode": "0000", "faultstring": "Request completed successfully."},
        "null",
        [{"faultcode": "0"}],
    ],
    ids=str,
)
def test_d_a_fault_that_names_no_error_is_no_fault(fault: object) -> None:
    assert verdict(stored(body(status="Success", faultResponse=fault))) == SUCCESS
    assert verdict(stored(body(status="Failed", faultResponse=fault))) == FAILURE
    assert verdict(stored(body(status="Parked", faultResponse=fault))) == "unknown status 'Parked'"


@pytest.mark.parametrize("status", ["Success", "Failed", None])
@pytest.mark.parametrize("fault", [None, {}, {"faultcode": "0", "faultstring": "Success"}])
def test_d_an_error_in_the_form_of_answers_is_a_failure(status: object, fault: object) -> None:
    error = {"errorCode": FAULT["faultcode"], "errorMessage": FAULT["faultstring"]}
    message = stored(body(status=status, faultResponse=fault) | error)
    assert (message.error_code, message.error_message) == (
        "INPUT_INVALID.Device.Account.Invalid",
        "Not yours.",
    )
    assert verdict(message) == FAILURE


def test_the_fault_of_a_message_counts_more_than_another_error() -> None:
    message = stored(body(status="Failed", faultResponse=FAULT) | {"errorCode": "500"})
    assert message.error_code == "INPUT_INVALID.Device.Account.Invalid"


@pytest.mark.parametrize("code", [None, "", "0", "SUCCESS"])
def test_an_error_code_that_names_no_error_is_no_failure(code: object) -> None:
    assert verdict(stored(body(status="Success") | {"errorCode": code, "errorMessage": None})) == SUCCESS


@pytest.mark.parametrize(
    "fields",
    [
        {"errorCode": "0", "errorMessage": "License assigned"},
        {"errorCode": "200", "errorMessage": "License assigned"},
        {"errorMessage": "No errors."},
    ],
)
def test_a_text_beside_a_code_that_names_no_error_is_no_failure(fields: dict[str, str]) -> None:
    assert verdict(stored(body(status="Success") | fields)) == SUCCESS


def test_d_a_code_of_the_carrier_in_a_text_beside_another_code_is_a_failure() -> None:
    fields = {"errorCode": "0", "errorMessage": "REQUEST_FAILED.X: no"}
    assert verdict(stored(body(status="Success") | fields)) == FAILURE


def test_messages_in_a_frame_have_the_same_verdicts() -> None:
    faults = [None, *(fault for fault, _ in [*CODED, *OTHER]), {"faultcode": "0", "faultstring": "Success"}]
    statuses = ["Success", "Failed", "Parked", ""]
    messages = [stored(body(status=status, faultResponse=fault)) for status in statuses for fault in faults]
    names = ["status", "error_code", "error_message"]
    frame = pl.DataFrame([message._asdict() for message in messages]).select(names)
    assert with_verdicts(frame)["verdict"].to_list() == [verdict(message) for message in messages]


@pytest.mark.parametrize("fault", [None, {}, [], "", {"faultcode": "", "faultstring": " "}, 0, True])
def test_an_empty_fault_is_no_fault(fault: object) -> None:
    message = stored(body(status="Success", faultResponse=fault))
    assert (message.error_code, message.error_message) == ("", "")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Success", SUCCESS),
        ("SUCCESS", SUCCESS),
        ("success ", SUCCESS),
        ("Failed", FAILURE),
        (" failed", FAILURE),
        ("REQUEST_ONHOLD.Review", ON_HOLD),
        ("UnifiedWebService.REQUEST_ONHOLD.Review", ON_HOLD),
        ("REQUEST_ONHOLD", ON_HOLD),
        ("On Hold", ON_HOLD),
        ("REQUEST_CANCELLED.ByOperator", CANCELED),
        ("request_cancelled.byoperator", CANCELED),
        ("Cancelled", CANCELED),
        ("Completed", "unknown status 'Completed'"),
        ("Successful", "unknown status 'Successful'"),
        ("Failure", "unknown status 'Failure'"),
        ("REQUEST_FAILED.X", "unknown status 'REQUEST_FAILED.X'"),
        ("x" * 90, f"unknown status '{'x' * 50}'"),
        (7, "unknown status '7'"),
        ({"code": "Success"}, "unknown status '(not a text)'"),
        ("", "no status"),
        (None, "no status"),
    ],
)
def test_without_a_fault_only_success_and_failed_decide(status: object, expected: str) -> None:
    message = stored(body(status=status))
    assert verdict(message) == expected
    assert (message.raw == "") == (expected in {SUCCESS, FAILURE})
