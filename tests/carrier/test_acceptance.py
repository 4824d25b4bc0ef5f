"""What an answer says beside its requestId: nothing against it, a failure, or a failure of some devices."""

from collections.abc import Sequence

import msgspec
import pytest

from batchlic.carrier.answers import Answer, Outcome, Reply
from batchlic.carrier.interpretation import answer_from_reply
from tests.carrier.script import GUID, IMEIS

Said = dict[str, object]
CODE = "UnifiedWebService.INPUT_INVALID.Device.Account.Invalid"

FAILED: Sequence[Said] = (
    {"success": "false"},
    {"success": 0},
    {"isSuccess": False},
    {"isSuccessful": "no"},
    {"succeeded": False},
    {"accepted": 0},
    {"status": False},
    {"hasErrors": True},
    {"isError": "true"},
    {"error_code": "E1"},
    {"error-message": "Device not active"},
    {"errorCode": "", "errorMessage": "Device not active"},
    {"errorDescription": "Device not active"},
    {"exceptionMessage": "java.net.SocketException"},
    {"soap:Fault": {"faultstring": "words"}},
    {"code": CODE},
    {"status_code": 500},
    {"httpStatusCode": "400"},
    {"responseCode": 500},
    {"status": "400 Bad Request"},
    {"status": {"code": 500}},
    {"responseStatus": "FAILED"},
    {"request_status": "Rejected"},
    {"meta": {"code": "400"}},
    {"responseHeader": {"status": "ERROR"}},
    {"status": "KO"},
    {"status": "NOK"},
    {"status": "TIMED_OUT"},
    {"status": "Unavailable"},
    {"status": "ValidationFailed"},
    {"status": "PROCESSING_ERROR"},
    {"status": "Internal Server Error"},
    {"status": "BadRequest"},
    {"status": "Rejected: no license is left"},
    {"statusDescription": "Request failed"},
    {"title": "Bad Request"},
    {"detail": "The request was rejected."},
    {"status": "Canceled"},
    {"status": "REQUEST_CANCELLED"},
    {"status": "notaccepted"},
    {"status": "timedout"},
    {"code": "503 Service Unavailable"},
    {"success": 0, "code": 17},
    {"success": "0", "total": 3},
)
PARTLY: Sequence[Said] = (
    {"results": {"failed": 2}},
    {"results": {"failed": [{"id": IMEIS[0]}]}},
    {"summary": {"accepted": 3, "rejected": "2"}},
    {"data": {"summary": {"failedCount": 1}}},
    {"response": {"counts": {"errors": 2}}},
    {"statistics": {"unsuccessful": 1}},
    {"errorCount": 1},
    {"total_errors": "3"},
    {"devicesNotFound": [IMEIS[0]]},
    {"notProcessed": [IMEIS[0]]},
    {"skipped": 2},
    {"failedDevices": {IMEIS[0]: "not active"}},
    {"failed": {"count": 2}},
    {"status": "COMPLETED_WITH_ERRORS"},
    {"status": "Completed with 2 errors"},
    {"status": "SuccessWithFailures"},
    {"status": "PARTIAL_CONTENT"},
    {"devices": {IMEIS[0]: "Failed", IMEIS[1]: "Accepted"}},
    {"results": {IMEIS[0]: {"status": "Rejected"}}},
    {"deviceStatuses": [{"status": "Failed"}]},
    {"results": [{"deviceIds": [{"id": IMEIS[0]}], "status": "KO"}]},
    {"results": [{"id": IMEIS[0], "code": 404}]},
    {"results": [{"result": {"status": "Failed"}}]},
    {"warnings": [{"code": CODE, "message": "words"}]},
    {"notes": {"first": CODE}},
    {"hasErrors": True, "failedCount": 2},
    {"success": False, "summary": {"accepted": 98, "rejected": 2}},
    {"status": "PARTIAL", "error_message": "2 of 3 devices failed"},
    {"responseStatus": "Failed", "failedDevices": [IMEIS[0]]},
    {"errorCode": "429", "failedDevices": [IMEIS[0]]},
    {"deviceItems": [{"status": "Failed"}]},
    {"success": 0, "failed": 3},
)
FINE: Sequence[Said] = (
    {"results": {"failed": 0, "accepted": 3}},
    {"summary": {"errors": [], "rejected": "0"}},
    {"batch": {"failed": None}},
    {"successful": 0, "failed": 0, "pending": 3},
    {"success": "true", "hasErrors": False, "errorCount": 0},
    {"error_code": "", "error_message": "", "errorUrl": "https://carrier.test/errors"},
    {"status": {"code": 200, "message": "OK"}, "meta": {"code": 0}},
    {"status": "Completed without errors"},
    {"status": "Completed with no errors", "state": "0 failed"},
    {"status": "Accepted - errors are reported by callback"},
    {"status": "Validated", "state": "CA", "requestStatus": "IN_PROGRESS"},
    {"operationCode": "123456", "transactionId": "500"},
    {"title": "OK", "detail": "Accepted", "reason": None},
    {"description": "Errors of devices are reported by callback"},
    {"devices": {IMEIS[0]: "Accepted"}, "failedDevices": {}},
    {"results": {IMEIS[0]: {"status": "Queued", "code": 0}}},
    {"warnings": ["This version of the API ends in 2031"]},
    {"code": "000000", "responseCode": "000000"},
    {"status": "Accepted. Failures are reported by callback"},
    {"success": 0, "failed": 0},
    {"success": 0, "pending": 100},
    {"accepted": 0, "inProgress": "100"},
    {"items": [{"name": "callback", "status": "Failed"}]},
    {"list": [{"success": False}]},
    {"statuses": [{"name": "Failed", "state": "Failed"}]},
    {"error": "No errors found", "errorMessage": "No errors."},
    {"errors": ["No error occurred."], "fault": "No faults detected"},
    {"hasErrors": "N", "error": "n"},
    {"status": "License canceled"},
    {"responseCode": "500 devices accepted"},
    {"status": "Part 1 of 2"},
    {"status": "A" * 500 + " failed"},
)


def answer(said: Said) -> Answer:
    return answer_from_reply(Reply(200, {}, msgspec.json.encode({"requestId": GUID} | said)))


@pytest.mark.parametrize("said", FAILED, ids=str)
def test_d_a_failure_beside_a_request_id_is_no_acceptance(said: Said) -> None:
    found = answer(said)
    assert (found.outcome, found.is_partial, found.request_id) == (Outcome.AMBIGUOUS, False, GUID)


@pytest.mark.parametrize("said", PARTLY, ids=str)
def test_d_a_failure_of_some_devices_is_no_acceptance(said: Said) -> None:
    found = answer(said)
    assert (found.outcome, found.is_partial, found.request_id) == (Outcome.AMBIGUOUS, True, GUID)


def test_d_an_error_in_a_long_answer_with_a_request_id_is_no_proof() -> None:
    said = {"errorCode": "429"} | {f"field{number}": number for number in range(1200)} | {"requestId": GUID}
    found = answer_from_reply(Reply(200, {}, msgspec.json.encode(said)))
    assert (found.request_id, found.is_inferred) == (GUID, True)


@pytest.mark.parametrize("said", FINE, ids=str)
def test_what_says_nothing_against_an_acceptance_leaves_no_doubt(said: Said) -> None:
    assert (answer(said).outcome, answer(said).request_id) == (Outcome.ACCEPTED, GUID)


@pytest.mark.parametrize(
    "request_id", ["null", "None", "undefined", "0", "-", "00000000-0000-0000-0000-000000000000", "unknown"]
)
def test_d_a_placeholder_is_no_request_id(request_id: str) -> None:
    found = answer({"requestId": request_id})
    assert (found.outcome, found.request_id) == (Outcome.AMBIGUOUS, None)


@pytest.mark.parametrize(
    "rest", ["<html><h1>500 Internal Server Error</h1>", '\n{"success":false}', ',{"status":"FAILED"}]']
)
def test_d_an_answer_that_is_followed_by_another_one_is_no_acceptance(rest: str) -> None:
    body = msgspec.json.encode({"requestId": GUID}) + rest.encode()
    assert answer_from_reply(Reply(200, {}, body)).outcome is Outcome.AMBIGUOUS


@pytest.mark.parametrize("rest", ["", "\n", "\n-- end", "<!-- server 7 -->"])
def test_a_note_after_an_acceptance_does_not_matter(rest: str) -> None:
    body = msgspec.json.encode({"requestId": GUID}) + rest.encode()
    assert answer_from_reply(Reply(200, {}, body)).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("name", ["results", "failed", "data"])
def test_an_answer_that_is_nested_deeply_is_read(name: str) -> None:
    body = f'{{"requestId":"{GUID}",' + f'"{name}":{{' * 400 + '"failed":0' + "}" * 401
    assert answer_from_reply(Reply(200, {}, body.encode())).outcome is Outcome.ACCEPTED
