"""Words of a duplicate: about this request, perhaps about another one, or about something else."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.answers import Answer, Outcome, Reply
from batchlic.carrier.interpretation import answer_from_reply
from batchlic.pool.remaining import Delivery
from batchlic.pool.verdict import judge
from tests.pool.builders import batch

FORMS: Mapping[str, Callable[[str], str]] = {
    "service": lambda text: json.dumps({"errorCode": "409", "errorMessage": text, "errorUrl": ""}),
    "class": lambda text: json.dumps({"errorCode": "Service.REQUEST_FAILED.X", "errorMessage": text}),
    "message": lambda text: json.dumps({"message": text}),
    "fault": lambda text: json.dumps({"fault": {"code": "1", "message": "Conflict", "description": text}}),
    "problem": lambda text: json.dumps({"title": "Conflict", "detail": text}),
    "XML": lambda text: f"<fault><faultcode>x</faultcode><faultstring>{text}</faultstring></fault>",
    "HTML": lambda text: f"<html><title>Conflict</title><h1>Conflict</h1><p>{text}</p></html>",
    "text": lambda text: text,
}


def answer(status: int, text: str, form: str = "service", headers: dict[str, str] | None = None) -> Answer:
    return answer_from_reply(Reply(status, headers or {}, FORMS[form](text).encode()))


def is_accepted(found: Answer) -> bool:
    """Whether the devices of a request in doubt count as accepted after this answer to its repetition."""
    delivery = replace(Delivery(batch(1)), is_in_doubt=True)
    verdict = judge(delivery, found, is_proven=False, is_resendable=True, trusts_duplicates=True)
    return verdict.answer.outcome is Outcome.ACCEPTED


ABOUT_THIS_REQUEST = [
    "This X-Request-ID was already processed.",
    "Duplicate X-Request-ID value",
    "X-Request-ID 1-0123456789 has been used before",
    "Request id 1-22 already exists",
    "Transaction id 1-123: request is being processed",
    "A request with the same X-Request-ID is still being processed",
    "A request with idempotency key 4f3e-22 already exists",
    "Request not executed because this X-Request-ID was already used",
    "The request 1-0123456789 has been received twice",
    "An identical request has already been accepted",
    "Your request has already been processed and will not be processed again",
    "This is a duplicate of an earlier request",
    "This request is already in progress",
    "duplicate delivery of request 1-0123456789",
    "TRANSACTION_ALREADY_PROCESSED",
]

PERHAPS_ABOUT_ANOTHER_REQUEST = [
    "Duplicate request for this account",
    "Duplicate request for IMEI 355555050301009",
    "Request already processed for another device",
    "Your request may already have been processed",
    "The transaction id must be unique",
    "X-Request-ID must not be reused",
    "Replay detected",
    "ALREADY_PROCESSED",
]

NO_DUPLICATES = [
    "A request was already submitted for this account today",
    "Another request was already submitted for this account",
    "A previous request was already received for this device",
    "Another request is in progress for this account",
    "An earlier transaction for this account is still pending",
    "Account has a request in progress",
    "Request already in progress",
    "No transaction with this request id exists",
    "No duplicate request was found",
    "Transaction id 1-234 no longer exists",
    "Request id 1-23 does not exist",
    "X-Request-ID 1-23 was not already used",
    "X-Request-ID header is required and must be unique",
    "Invalid X-Request-ID: must be unique and have 3 to 32 characters",
    "Duplicate X-Request-ID header",
    "Check whether the request was already processed",
    "If this request was already submitted, contact support",
    "Device already processed (request id 7f3a-22)",
    "Error (request id 7f3a): license already in use",
    "License already in use. Request ID: 7f3a",
    "The request was received before the device became active",
    "Request processed earlier than the contract start date",
    "Duplicate entries in the request body",
    "Duplicate value for request parameter deviceIds",
    "The request is pending approval",
    "Request rejected: order already completed by another user",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", ABOUT_THIS_REQUEST)
def test_a_text_about_this_request_shows_that_it_was_executed(text: str, form: str) -> None:
    for status in (400, 409, 422):
        found = answer(status, text, form)
        assert (found.outcome, found.is_duplicate, found.is_inferred) == (Outcome.AMBIGUOUS, True, False)
        assert is_accepted(found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", PERHAPS_ABOUT_ANOTHER_REQUEST)
def test_d_a_text_that_may_be_about_another_request_leaves_doubt(text: str, form: str) -> None:
    for status in (400, 409, 422):
        found = answer(status, text, form)
        assert (found.outcome, found.is_duplicate) == (Outcome.AMBIGUOUS, True)
        assert not is_accepted(found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", NO_DUPLICATES)
def test_a_text_about_something_else_is_no_duplicate(text: str, form: str) -> None:
    for status in (400, 403, 404, 409, 422, 500, 503):
        found = answer(status, text, form)
        assert not found.is_duplicate
        assert not is_accepted(found)


@pytest.mark.parametrize("status", [420, 429])
@pytest.mark.parametrize("form", FORMS)
def test_a_429_is_throttled_whatever_its_body_says(status: int, form: str) -> None:
    for text in (*ABOUT_THIS_REQUEST, *PERHAPS_ABOUT_ANOTHER_REQUEST, *NO_DUPLICATES, "", "device not found"):
        assert answer(status, text, form).outcome is Outcome.THROTTLED
    for code in ("401", "409", "INPUT_INVALID.DeviceState.Invalid", "REQUEST_FAILED.AccountNotFound"):
        assert answer(status, f'{{"errorCode":"{code}"}}', "text").outcome is Outcome.THROTTLED


LIMITED = [
    "Too many {0} requests",
    "Concurrent {0} request limit exceeded",
    "Maximum number of pending {0} requests reached",
    "Maximum number of {0} transactions for this account reached",
    "Too many {0} requests in progress for this account",
    "Number of running {0} requests exceeds limit",
    "{0} request rate limit exceeded",
    "Max concurrent {0} requests reached",
    "Concurrency limit reached: this {0} request was throttled",
    "Simultaneous {0} requests exceed the maximum",
    "You made this {0} request too often",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["", "concurrent", "license", "duplicate", "bulk assign"])
@pytest.mark.parametrize("text", LIMITED)
def test_a_limit_of_requests_is_throttling_in_every_form(text: str, kind: str, form: str) -> None:
    for status in (400, 403, 409, 429):
        found = answer(status, text.format(kind), form)
        assert found.outcome is Outcome.THROTTLED
        assert not found.is_duplicate


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    [
        "Another request is in progress for this account",
        "A bulk transaction is pending on this account",
        "The account has pending transactions; try again later",
        "Concurrent request",
        "Concurrent modification of the account",
        "Account is locked by another transaction",
        "Too many concurrent requests with the same idempotency key",
    ],
)
def test_another_request_at_work_is_waited_for_but_proves_nothing(text: str, form: str) -> None:
    for status in (400, 403, 409, 423):
        found = answer(status, text, form)
        assert (found.outcome, found.is_duplicate) == (Outcome.THROTTLED, False)
        assert found.is_inferred


def test_a_limit_in_a_header_counts_more_than_words_of_a_duplicate() -> None:
    over_rate = {"x-mashery-error-code": "ERR_403_DEVELOPER_OVER_RATE"}
    assert answer(403, "Duplicate request", headers=over_rate).outcome is Outcome.THROTTLED


_LIMITS = [
    "too many",
    "limit",
    "quota",
    "maximum",
    "exceeded",
    "concurrent",
    "throttled",
    "per second",
    "rate",
]
_OTHER_WORDS = [
    *(
        "this",
        "the",
        "same",
        "a",
        "request",
        "transaction",
        "x-request-id",
        "idempotency",
        "key",
        "duplicate",
    ),
    *(
        "already",
        "processed",
        "in progress",
        "pending",
        "was",
        "is",
        "used",
        "before",
        "repeated",
        "submitted",
    ),
    *("for", "account", ".", "not"),
]


@given(
    st.lists(st.sampled_from(_OTHER_WORDS), max_size=8),
    st.sampled_from(_LIMITS),
    st.lists(st.sampled_from(_OTHER_WORDS), max_size=8),
    st.integers(200, 599),
    st.sampled_from(sorted(FORMS)),
)
def test_no_text_about_a_limit_or_concurrency_is_ever_a_duplicate(
    before: list[str], limit: str, after: list[str], status: int, form: str
) -> None:
    found = answer(status, " ".join([*before, limit, *after]), form)
    assert not found.is_duplicate
    assert not is_accepted(found)


@given(
    st.lists(st.sampled_from(_OTHER_WORDS), max_size=12),
    st.sampled_from([420, 429]),
    st.sampled_from(sorted(FORMS)),
)
def test_no_429_is_ever_a_duplicate(words: list[str], status: int, form: str) -> None:
    assert answer(status, " ".join(words), form).outcome is Outcome.THROTTLED
