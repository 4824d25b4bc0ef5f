"""Errors of the license service itself, and refusals of devices, that only sound like those of a gateway."""

import json

import pytest

from batchlic.carrier.answers import Answer, Outcome, Reply
from batchlic.carrier.interpretation import answer_from_reply
from batchlic.pool.remaining import Delivery
from batchlic.pool.verdict import judge
from tests.pool.builders import LIFETIME, batch


def answer(status: int, body: str, headers: dict[str, str] | None = None) -> Answer:
    return answer_from_reply(Reply(status, headers or {}, body.encode()))


def service_error(code: str, text: str) -> str:
    return json.dumps({"errorCode": f"UnifiedWebService.{code}", "errorMessage": text})


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
@pytest.mark.parametrize(
    "text",
    [
        "provisioning: no healthy upstream",
        "Name resolution failed for hss.example after 40 of 100 devices",
        "downstream answered 429 too many requests after 40 of 100",
        "upstream: rate limit exceeded",
        "Request already processed",
    ],
)
def test_d_words_of_a_failed_service_prove_nothing(status: int, text: str) -> None:
    for code in ("REQUEST_FAILED.UnexpectedError", "REQUEST_FAILED.Timeout", "500"):
        assert answer(status, service_error(code, text)).outcome is Outcome.AMBIGUOUS
    assert answer(status, service_error("REQUEST_FAILED.X", text), {"retry-after": "5"}).outcome is (
        Outcome.AMBIGUOUS
    )


@pytest.mark.parametrize("nested", ['{"code":429}', '{"code":"101503"}', '{"fault":{"code":"303001"}}'])
def test_d_a_code_inside_an_error_of_the_service_proves_nothing(nested: str) -> None:
    body = f'{{"errorCode":"REQUEST_FAILED.UnexpectedError","cause":{nested}}}'
    assert answer(500, body).outcome is Outcome.AMBIGUOUS


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("429", Outcome.THROTTLED),
        ("900801", Outcome.THROTTLED),
        ("UnifiedWebService.REQUEST_FAILED.SessionToken.Expired", Outcome.UNAUTHORIZED),
    ],
)
def test_a_code_of_its_own_decides_at_a_server_error(code: str, outcome: Outcome) -> None:
    assert answer(500, f'{{"errorCode":"{code}","errorMessage":"x"}}').outcome is outcome


FAILED = [408, 500, 502, 503, 504, 507, 521]
NUMBERS = [*range(400, 429), *range(430, 440), 500, 503, *range(900900, 900911), 700700, 101503]
THROTTLING = [429, *range(900800, 900808)]


def for_lifetime(status: int, number: str) -> Outcome:
    """What counts, for a Lifetime license, of an error with a bare number as its code."""
    found = answer(status, f'{{"errorCode":{number},"errorMessage":"x"}}')
    verdict = judge(
        Delivery(batch(1, sku=LIFETIME)), found, is_proven=True, is_resendable=False, trusts_duplicates=True
    )
    return verdict.answer.outcome


@pytest.mark.parametrize("status", FAILED)
@pytest.mark.parametrize("code", NUMBERS)
def test_d_a_number_at_a_5xx_proves_nothing_for_a_lifetime_license(status: int, code: int) -> None:
    assert for_lifetime(status, f"{code}") is Outcome.AMBIGUOUS
    assert for_lifetime(status, f'"{code}"') is Outcome.AMBIGUOUS


@pytest.mark.parametrize("status", FAILED)
@pytest.mark.parametrize("code", THROTTLING)
def test_d_a_number_at_a_5xx_means_throttling_at_most(status: int, code: int) -> None:
    is_lost = code == 429 and status not in {500, 503}
    assert for_lifetime(status, f'"{code}"') is (Outcome.AMBIGUOUS if is_lost else Outcome.THROTTLED)


@pytest.mark.parametrize("status", [408, 500, 502, 503])
@pytest.mark.parametrize(
    "body",
    [
        '{"errorCode":"401"}',
        '{"code":401,"message":"Unauthorized"}',
        '{"errorCode":900901}',
        '{"fault":{"code":"900903","message":"Access Token Expired"}}',
        "<am:fault><am:code>900902</am:code></am:fault>",
    ],
)
def test_d_a_rejected_token_at_a_5xx_is_renewed_and_leaves_doubt(status: int, body: str) -> None:
    found = answer(status, body)
    assert found.outcome is Outcome.AMBIGUOUS
    assert found.rejected is not None


@pytest.mark.parametrize("status", [406, 408])
@pytest.mark.parametrize("body", ["", '{"status":0,"message":"words"}', "<html><h1>words</h1></html>"])
def test_d_an_answer_that_may_follow_the_execution_leaves_doubt(status: int, body: str) -> None:
    found = answer(status, body)
    lifetime, flexible = (
        judge(Delivery(batch(1)), found, is_proven=True, is_resendable=resendable, trusts_duplicates=True)
        for resendable in (False, True)
    )
    assert lifetime.answer.outcome is Outcome.AMBIGUOUS
    assert flexible.answer.outcome is Outcome.UNAVAILABLE


def test_d_a_lost_answer_is_no_limit_whatever_its_page_says() -> None:
    page = "<html><h1>504 Gateway Time-out</h1><p>too many requests upstream</p></html>"
    assert answer(504, page).outcome is Outcome.AMBIGUOUS
    reset = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
    assert answer(503, f"{reset}, too many requests").outcome is Outcome.AMBIGUOUS


@pytest.mark.parametrize(
    ("status", "body", "headers", "is_inferred"),
    [
        (503, "", {"retry-after": "2"}, True),
        (
            503,
            "<title>503 Service Temporarily Unavailable</title> nginx",
            {"retry-after": "1"},
            True,
        ),
        (500, "Too many requests", {}, True),
        (408, "Too many requests", {}, True),
        (408, "", {}, True),
        (408, '{"statusCode":408,"message":"Request Timeout"}', {}, True),
        (406, "", {}, True),
        (406, "<title>406 Not Acceptable</title>", {}, True),
        (406, '{"status":406,"error":"Not Acceptable","path":"/m2m/v1"}', {}, True),
        (503, "no healthy upstream", {}, False),
        (429, "", {}, False),
        (403, "Developer Over Rate", {}, False),
    ],
)
def test_what_the_service_could_send_itself_is_only_inferred(
    status: int, body: str, headers: dict[str, str], *, is_inferred: bool
) -> None:
    found = answer(status, body, headers)
    assert found.outcome in {Outcome.UNAVAILABLE, Outcome.THROTTLED}
    assert found.is_inferred is is_inferred


@pytest.mark.parametrize(
    "text",
    [
        "A transaction is in progress for this device",
        "Device 355555050301009: another request is already in progress",
        "Request already pending for IMEI 355555050301009",
        "Concurrent transactions on the line are not allowed",
        "Ongoing transaction for MDN 5551234567",
    ],
)
@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_device_in_another_transaction_is_no_duplicate(status: int, text: str) -> None:
    found = answer(status, service_error("INPUT_INVALID.Device.Busy", text))
    assert found.outcome is Outcome.REFUSED
    assert not found.is_duplicate


@pytest.mark.parametrize(
    "text",
    [
        "A request with the same X-Request-ID is in progress for these devices",
        "Transaction id 1-123: request is being processed",
        "Another identical request is already in progress",
        "Request with this X-Request-ID is already pending",
    ],
)
def test_a_request_in_progress_is_a_duplicate(text: str) -> None:
    found = answer(409, service_error("REQUEST_FAILED.Conflict", text))
    assert found.is_duplicate
    assert found.outcome is Outcome.AMBIGUOUS


@pytest.mark.parametrize(
    "text",
    [
        "Another transaction is in progress for this account",
        "There is already a pending transaction on this account",
        "A previous request of the customer is still being processed",
        "Concurrent request",
        "Request already in progress",
        "Account 0000123456-00001 has another order in progress",
        "Simultaneous updates are not allowed",
        "The account has an order in progress",
        "Customer 4711: a transaction is already in progress",
    ],
)
def test_d_another_request_in_progress_does_not_prove_that_this_one_is_executed(text: str) -> None:
    for body in (service_error("REQUEST_FAILED.Busy", text), text):
        found = answer(409, body)
        assert (found.outcome, found.is_inferred) == (Outcome.THROTTLED, True)
        assert not found.is_duplicate


@pytest.mark.parametrize(
    "text",
    [
        "Device 355555050301009 exceeded 5 requests per day",
        "Only 5 transactions per day are allowed for a line",
        "Too many license requests for this device",
        "Assignment limit reached",
        "The purchased quantity limit is reached",
        "Throttled device: plan suspended",
        "Limit reached",
    ],
)
def test_a_limit_of_a_device_or_of_licenses_is_no_throttling(text: str) -> None:
    assert answer(400, service_error("REQUEST_FAILED.NotAllowed", text)).outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    "text", ["API quota exceeded", "Request limit exceeded", "You exceeded the rate limit"]
)
def test_a_limit_of_requests_is_throttling_with_a_code_of_the_service(text: str) -> None:
    assert answer(403, service_error("REQUEST_FAILED.NotAllowed", text)).outcome is Outcome.THROTTLED


@pytest.mark.parametrize("filler", ["\n", " ", "<a>", "<a> ", "a:", "&", "]]", "<![CDATA[", "1", "a1"])
@pytest.mark.parametrize("start", ["<fault><code>", "", '{"errorCode":"', "request "])
def test_a_body_of_64_kilobytes_is_read_at_once(filler: str, start: str) -> None:
    """With a pattern that is worse than linear, this test does not end."""
    text = start + filler * (64_000 // len(filler))
    for status in (200, 400, 503):
        assert answer(status, text).outcome is not Outcome.ACCEPTED
