"""What the words of an error are about: the request or a device, a limit of requests or of licenses."""

import msgspec
import pytest

from batchlic.carrier.answers import Answer, Outcome, Reply, TokenKind
from batchlic.carrier.interpretation import answer_from_reply


def licenses(code: str, message: str = "words") -> dict[str, object]:
    return {"errorCode": code, "errorMessage": message, "errorUrl": "https://carrier.test/errors/rate-limit"}


def answer(status: int, body: object, headers: dict[str, str] | None = None) -> Answer:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return answer_from_reply(Reply(status, headers or {}, content))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (409, licenses("409", "Request with this X-Request-ID was already processed")),
        (400, licenses("400", "Duplicate request")),
        (400, licenses("400", "Request 1-0123456789 has already been submitted")),
        (422, licenses("422", "We have already received this request")),
        (403, licenses("403", "Duplicate client request id")),
        (409, licenses("409", "The request was previously submitted.")),
        (409, licenses("409", "A request with the same X-Request-ID is still being processed")),
        (400, licenses("400", "X-Request-ID 1-0123456789 has been used before")),
        (400, licenses("400", "The transaction id must be unique")),
        (412, licenses("412", "Replay detected")),
        (400, licenses("400", "Request replay")),
        (400, licenses("400", "Transaction already committed")),
        (400, licenses("400", "The transaction id has already been consumed")),
        (400, licenses("400", "already submitted")),
        (400, licenses("UnifiedWebService.REQUEST_FAILED.DuplicateTransaction")),
        (400, licenses("UnifiedWebService.REQUEST_FAILED.AlreadyProcessed")),
        (400, licenses("UnifiedWebService.INPUT_INVALID.TransactionId.Duplicate")),
        (422, {"code": "DUPLICATE_REQUEST"}),
        (409, {"message": "Transaction Id already used"}),
        (409, {"error": "idempotency_key_in_use", "message": "words"}),
        (422, {"title": "Idempotency-Key is already used", "detail": "with another body"}),
        (409, b"This request is already in progress"),
        (409, b"<html><h1>409</h1>A request with the same idempotency key is in progress</html>"),
        (500, {"message": "Duplicate transaction"}),
        (200, licenses("0", "Duplicate request")),
        (400, licenses("400", "The request was received earlier. Contact support.")),
        (400, licenses("400", "This request was submitted before; see the device list")),
    ],
    ids=str,
)
def test_a_duplicate_of_the_request_is_ambiguous(status: int, body: object) -> None:
    found = answer(status, body)
    assert (found.outcome, found.is_duplicate) == (Outcome.AMBIGUOUS, True)


@pytest.mark.parametrize(
    ("message", "token"),
    [
        ("The session has ended", TokenKind.SESSION),
        ("Session not found", TokenKind.SESSION),
        ("Session id unknown.", TokenKind.SESSION),
        ("No active session", TokenKind.SESSION),
        ("Token expired", TokenKind.EITHER),
        ("The token has been used. Token is no longer valid", TokenKind.EITHER),
        ("User is not logged in", TokenKind.EITHER),
        ("Please log in again", TokenKind.EITHER),
        ("AuthenticationRequired", TokenKind.EITHER),
        ("Session timeout", TokenKind.SESSION),
        ("Session is not active", TokenKind.SESSION),
        ("Session token could not be found", TokenKind.SESSION),
        ("Session does not exist", TokenKind.SESSION),
        ("Unknown session", TokenKind.SESSION),
        ("The session you are using is no longer valid", TokenKind.SESSION),
        ("The VZ-M2M-Token header is invalid", TokenKind.SESSION),
        ("The token is invalid or has expired", TokenKind.EITHER),
        ("Token inactive", TokenKind.EITHER),
        ("Login expired", TokenKind.EITHER),
        ("Please re-authenticate", TokenKind.EITHER),
    ],
)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_words_about_a_session_or_a_token_reject_it(status: int, message: str, token: TokenKind) -> None:
    found = answer(status, licenses(str(status), message))
    assert found.outcome is Outcome.UNAUTHORIZED
    assert found.rejected is not None
    assert found.rejected.kind in {token, TokenKind.EITHER}


@pytest.mark.parametrize(
    "message",
    [
        "SIM activation token expired for device",
        "Invalid token at position 5",
        "The account was not found",
        "Device 359907100000010 has no active session",
        "Data session not found for ICCID 89148000003762633662",
        "The session of the SIM was closed",
        "Data session timeout",
        "The data session is not active",
        "The activation token of the device is invalid",
    ],
)
def test_other_words_reject_no_token(message: str) -> None:
    assert answer(400, licenses("400", message)).outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"status": 429, "message": "words"}),
        (400, {"statusCode": "429"}),
        (400, licenses("400", "Your request rate is too high")),
        (403, licenses("403", "You exceeded the allowed call volume")),
        (409, licenses("409", "Throughput exceeded")),
    ],
)
def test_more_words_and_fields_of_a_limit_are_throttling(status: int, body: object) -> None:
    assert answer(status, body).outcome is Outcome.THROTTLED


@pytest.mark.parametrize(
    "message",
    [
        "Duplicate request. The device has a license.",
        "The device list was read. Duplicate request",
        "This request was already processed! Your account is fine",
        "No error was found. The request was already processed",
    ],
)
def test_another_sentence_does_not_change_what_a_duplicate_is_about(message: str) -> None:
    found = answer(400, licenses("400", message))
    assert (found.is_duplicate, found.is_inferred) == (True, False)


@pytest.mark.parametrize(
    "body",
    [
        licenses("400", "duplicate device in request"),
        licenses("400", "Duplicate id in request"),
        licenses("400", "Duplicate IMEI 355555050301009 in this request"),
        licenses("400", "Request contains duplicate devices"),
        licenses("400", "Request duplicated identifiers"),
        licenses("400", "IMEI 355555050301009 appears twice in the request"),
        licenses("400", "Device 355555050301009 has a request in progress"),
        licenses("400", "Device 355555050301009 already processed"),
        licenses("400", "Devices in this request have already been processed"),
        licenses("400", "Request failed: SIM already licensed"),
        licenses("400", "Request failed: license already in use"),
        licenses("400", "Idempotency-Key header is required"),
        licenses("400", "Invalid request id"),
        licenses("UnifiedWebService.REQUEST_FAILED.LicenseAlreadyAssigned", "Device already has the license"),
        licenses("UnifiedWebService.INPUT_INVALID.Device.Duplicate", "Request contains a device twice"),
        licenses("UnifiedWebService.REQUEST_FAILED.DeviceInProgress", "line has pending transaction"),
    ],
    ids=lambda body: f"{body['errorCode']} {body['errorMessage']}",
)
def test_a_duplicate_of_a_device_is_a_refusal(body: object) -> None:
    found = answer(400, body)
    assert (found.outcome, found.is_duplicate, found.is_known) == (Outcome.REFUSED, False, False)


@pytest.mark.parametrize(
    ("code", "is_known"),
    [
        ("UnifiedWebService.REQUEST_FAILED.DeviceNotFound", True),
        ("INPUT_INVALID.DeviceState.Invalid", True),
        ("UnifiedWebService.REQUEST_FAILED.AccountNotFound", False),
        ("UnifiedWebService.INPUT_INVALID.NumberofDevices", True),
        ("UnifiedWebService.REQUEST_FAILED.UnexpectedError", False),
        ("UnifiedWebService.REQUEST_FAILED.SomethingNew", False),
        ("UnifiedWebService.INPUT_INVALID.SkuNumber.Invalid", False),
        ("400", False),
        ("900908", False),
    ],
)
def test_only_documented_codes_about_devices_are_known(code: str, is_known: bool) -> None:  # noqa: FBT001
    found = answer(400, licenses(code))
    assert (found.outcome, found.is_known) == (Outcome.REFUSED, is_known)


def test_the_class_of_a_code_is_not_read_as_words() -> None:
    assert answer(400, licenses("UnifiedWebService.INPUT_INVALID.SessionCount")).outcome is Outcome.REFUSED


def test_an_error_code_of_a_gateway_is_no_code_of_the_service() -> None:
    body = {"fault": {"faultstring": "words", "detail": {"errorcode": "messaging.runtime.RouteFailed"}}}
    assert answer(404, body).outcome is Outcome.UNAVAILABLE


def test_a_server_error_in_a_gateway_404_is_no_error_of_the_service() -> None:
    assert answer(404, {"code": "500", "message": "words"}).outcome is Outcome.UNAVAILABLE


def test_a_header_of_a_limiter_says_nothing_about_a_2xx() -> None:
    assert answer(200, b"", {"x-envoy-ratelimited": "true"}).outcome is Outcome.AMBIGUOUS


def test_a_503_whose_body_was_lost_proves_nothing_by_its_wait() -> None:
    lost = answer_from_reply(Reply(503, {"retry-after": "2"}, b"", complete=False))
    assert lost.outcome is Outcome.AMBIGUOUS


OVER_QPS = {"x-mashery-error-code": "ERR_403_DEVELOPER_OVER_QPS"}
OVER_RATE = {"x-mashery-error-code": "ERR_403_DEVELOPER_OVER_RATE"}
USED_UP = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "7"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "wait"),
    [
        (403, licenses("403", "Developer Over Rate"), {"retry-after": "2"}, 2),
        (403, b"<h1>Developer Over Qps</h1>", {"retry-after": "2"}, 2),
        (403, b"", OVER_QPS, None),
        (403, licenses("403"), OVER_RATE, None),
        (403, b"Account Over Queries Per Second Limit", {}, None),
        (403, {"message": "You have exceeded a secondary rate limit. Please wait."}, {}, None),
        (403, {"message": "API rate limit exceeded"}, USED_UP, 7),
        (403, {"message": "Forbidden"}, USED_UP, 7),
        (403, licenses("403"), USED_UP, 7),
        (403, {"message": "Forbidden"}, {"x-ratelimit-remaining-hour": "0"}, None),
        (403, licenses("403"), {"retry-after": "9"}, 9),
        (403, licenses("403", "Quota exceeded"), {}, None),
        (403, {"message": "Rate limit is exceeded. Try again in 5 seconds."}, {}, 5),
        (403, {"message": "Limit exceeded", "retryAfter": 4}, {}, 4),
        (400, {"__type": "ThrottlingException", "message": "Rate exceeded"}, {}, None),
        (400, {"fault": {"detail": {"errorcode": "policies.ratelimit.SpikeArrestViolation"}}}, {}, None),
        (400, licenses("UnifiedWebService.REQUEST_FAILED.TooManyRequests"), {}, None),
        (402, {"message": "You have reached your limit"}, {}, None),
        (503, b"<html>Too many requests</html>", {"retry-after": "3"}, 3),
        (500, b"<soap:Fault><faultstring>Request rate limit exceeded</faultstring></soap:Fault>", {}, None),
        (503, b"", {"x-envoy-ratelimited": "true"}, None),
        (
            403,
            {"fault": {"code": "1"}, "nextAccessTime": 1795288809000},
            {"date": "Sat, 21 Nov 2026 19:20:00 GMT"},
            9,
        ),
        (420, b"", {"retry-after": "2"}, 2),
        (509, b"Bandwidth Limit Exceeded", {}, None),
    ],
    ids=str,
)
def test_a_limit_in_an_unusual_form_is_throttling(
    status: int, body: object, headers: dict[str, str], wait: float | None
) -> None:
    found = answer(status, body, headers)
    assert (found.outcome, found.retry_after_s) == (Outcome.THROTTLED, wait)


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (403, licenses("403", "License limit exceeded"), {}),
        (403, licenses("403", "Account license quota exceeded"), {}),
        (400, licenses("UnifiedWebService.REQUEST_FAILED.LicenseQuotaExceeded", "Quota exceeded"), {}),
        (400, licenses("400", "Number of devices exceeds the limit"), {}),
        (400, licenses("400", "SKU limit reached"), {}),
        (400, licenses("400", "Field length limit exceeded"), {}),
        (413, {"message": "Request size limit exceeded"}, {"retry-after": "3"}),
        (400, licenses("UnifiedWebService.INPUT_INVALID.MaxRequestsExceeded"), {}),
        (400, licenses("400"), USED_UP),
        (404, licenses("UnifiedWebService.REQUEST_FAILED.DeviceNotFound"), USED_UP | {"retry-after": "3"}),
    ],
    ids=str,
)
def test_a_limit_of_something_else_is_a_refusal(status: int, body: object, headers: dict[str, str]) -> None:
    assert answer(status, body, headers).outcome is Outcome.REFUSED


@pytest.mark.parametrize(("status", "reset", "wait"), [(403, "7", 7), (429, "7", None), (429, "3600", 3600)])
def test_a_far_reset_of_a_used_up_quota_is_a_wait(status: int, reset: str, wait: float | None) -> None:
    found = answer(status, b"", {"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset})
    assert (found.outcome, found.retry_after_s) == (Outcome.THROTTLED, wait)


@pytest.mark.parametrize(
    "headers",
    [{"retry-after": "5"}, {"retry-after": "5", "server": "Varnish"}, {"x-envoy-attempt-count": "2"}],
)
def test_a_wait_proves_nothing_beside_a_page_of_a_lost_answer(headers: dict[str, str]) -> None:
    page = b"<html><title>503 Backend fetch failed</title><h3>Guru Meditation:</h3></html>"
    assert answer(503, page, headers).outcome is Outcome.AMBIGUOUS
    assert answer(503, b"<html>Please come back later</html>", headers).outcome is Outcome.AMBIGUOUS


@pytest.mark.parametrize("status", [400, 404, 409, 424])
@pytest.mark.parametrize(
    "body",
    [
        licenses("UnifiedWebService.REQUEST_FAILED.Timeout"),
        licenses("UnifiedWebService.REQUEST_FAILED.UnexpectedError", "I/O error: Read timed out"),
        licenses("400", "Upstream request timeout"),
        licenses("400", "I/O error on POST request: Connection reset"),
        licenses("UnifiedWebService.REQUEST_FAILED.X", "The request was partially processed"),
        licenses("400", "40 of 100 devices were assigned"),
        licenses("400", "Successfully processed 40 out of 100 devices"),
        licenses("400", "Processed 10 of 100, 1 invalid"),
        licenses("400", "40 of 100 devices were assigned: insufficient licenses"),
        licenses("400", "The request for 3 devices timed out"),
        licenses("400", "Partially processed: 2 devices belong to another account"),
        {"message": "Endpoint request timed out"},
        b"<html><h1>Read timed out</h1></html>",
    ],
    ids=str,
)
def test_d_a_refusal_after_a_lost_answer_or_a_part_leaves_doubt(status: int, body: object) -> None:
    found = answer(status, body)
    assert (found.outcome, found.is_inferred) == (Outcome.AMBIGUOUS, False)


@pytest.mark.parametrize(
    "body",
    [
        licenses("UnifiedWebService.INPUT_INVALID.DeviceState.Invalid", "2 of 3 devices were processed"),
        licenses("400", "2 of 3 devices were not found"),
        licenses("400", "2 of 3 devices have already been assigned"),
        licenses("400", "0 of 3 devices were assigned"),
        licenses("400", "Data session timeout"),
        licenses("400", "No license left: 100 of 100 assigned"),
        licenses("400", "Processed 3 of 3 devices, 1 invalid"),
        licenses("400", "3 of 3 devices were processed, 1 is invalid"),
        licenses("400", "Insufficient licenses: 40 of 50 assigned"),
        licenses("400", "2 of 3 devices assigned to another account"),
        licenses("400", "Device timed out"),
        licenses("400", "Device 359907100000010 timed out"),
        licenses("400", "Invalid field timeout"),
        licenses("UnifiedWebService.REQUEST_FAILED.DeviceTimeout"),
    ],
    ids=str,
)
def test_a_refusal_that_names_what_is_wrong_leaves_no_doubt(body: object) -> None:
    assert answer(400, body).outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "Authentication timed out"),
        (400, "Token timed out"),
        (403, "Login timeout"),
        (407, "Proxy connection timed out"),
        (419, "Page timed out"),
        (440, "Time-out"),
    ],
)
def test_a_timeout_of_the_login_leaves_no_doubt(status: int, message: str) -> None:
    assert answer(status, licenses(str(status), message)).outcome is not Outcome.AMBIGUOUS


def test_a_script_of_a_page_says_nothing_about_a_timeout() -> None:
    page = b"<html><script>setTimeout(reload, 5)</script><h1>Access Denied</h1></html>"
    assert answer(403, page).outcome is Outcome.UNAVAILABLE


@pytest.mark.parametrize(
    "body",
    [
        {"devices": [{"id": "355555050301009", "errorCode": "429"}, {"status": "Success"}]},
        {"results": [{"deviceId": "355555050301009", "code": "900901"}]},
        {"data": {"requestId": "c3f3d17c"}, "code": 401},
    ],
    ids=str,
)
def test_d_an_error_of_a_device_is_no_proof_about_the_request(body: object) -> None:
    found = answer(200, body)
    assert found.outcome is Outcome.AMBIGUOUS or found.is_inferred


@pytest.mark.parametrize("body", [{"errorCode": "429"}, {"fault": {"code": "900800"}}], ids=str)
def test_an_error_of_the_request_in_a_200_leaves_no_doubt(body: object) -> None:
    found = answer(200, body)
    assert (found.outcome, found.is_inferred) == (Outcome.THROTTLED, False)


@pytest.mark.parametrize("empty", ["", 0, "null", None])
def test_an_empty_next_access_time_is_no_throttling(empty: object) -> None:
    assert answer(400, licenses("400", "no") | {"nextAccessTime": empty}).outcome is Outcome.REFUSED
    assert answer(200, {"nextAccessTime": empty}).outcome is Outcome.AMBIGUOUS
