"""License counts and listeners: requests, answers, and refusals."""

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.client import AccountError
from batchlic.carrier.credentials import Secret
from batchlic.carrier.messages import CallbackListener, CallbackService, Subscription
from batchlic.carrier.refused_questions import RefusalReason
from batchlic.errors import CredentialsRejected
from tests.carrier.script import KEYS, LOGIN, Exchange, client_of

pytestmark = pytest.mark.anyio

ACCOUNT = "0000123456-00001"
SUBSCRIPTIONS = "/m2m/v1/accounts/subscriptions/actions/list"
EXPIRED = {
    "errorCode": "UnifiedWebService.REQUEST_FAILED.SessionToken.Expired",
    "errorMessage": "log in again",
}
COUNTS = {
    "accountName": ACCOUNT,
    "subscriptionList": [
        {
            "skuNumber": "SIMSec-IoT",
            "licenseType": "flexible",
            "licensePurchased": 9000,
            "licenseAssigned": 1000,
            "licenseAvailable": 8000,
        }
    ],
}


def says(status: int, body: object = b"") -> Callable[[Exchange], Awaitable[None]]:
    async def script(exchange: Exchange) -> None:
        await exchange.say(status, body)

    return script


async def test_license_counts_can_be_asked_for_one_sku() -> None:
    async with client_of(says(200, COUNTS)) as (client, carrier):
        counts = await client.subscriptions(ACCOUNT, "SIMSec-IoT")
    assert counts == [Subscription("SIMSec-IoT", "flexible", 9000, 1000, 8000)]
    (request,) = carrier.requests
    assert (request.method, request.path) == ("POST", SUBSCRIPTIONS)
    assert msgspec.json.decode(request.body) == {"accountName": ACCOUNT, "skuNumber": "SIMSec-IoT"}


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        ("10", 10),
        (" 10 ", 10),
        ("1,000", 1000),
        ("1,234,567", 1234567),
        ("10.0", 10),
        (10.0, 10),
        (10, 10),
        (None, None),
        ("many", None),
        ("1.000", None),
        ("1,00", None),
        (10.5, None),
        ("-5", -5),
        ("-1,000", -1000),
    ],
)
async def test_license_counts_are_read_in_all_their_forms(sent: object, count: int | None) -> None:
    body = {"subscriptionList": [{"skuNumber": "S", "licenseAvailable": sent, "new": 1}]}
    async with client_of(says(200, body)) as (client, _):
        assert await client.subscriptions(ACCOUNT) == [Subscription("S", "", None, None, count)]


async def test_an_answer_in_an_unknown_form_is_not_said_to_lack_a_request_id() -> None:
    async with client_of(says(200, {})) as (client, _):
        with pytest.raises(CarrierUnreachable, match="HTTP 200 in an unknown form"):
            await client.subscriptions(ACCOUNT)


async def test_an_answer_with_a_byte_order_mark_is_read() -> None:
    body = b"\xef\xbb\xbf" + msgspec.json.encode(COUNTS)
    async with client_of(says(200, body)) as (client, _):
        assert len(await client.subscriptions(ACCOUNT)) == 1


def knows_accounts_without_dash(*errors: dict[str, str]) -> Callable[[Exchange], Awaitable[None]]:
    """Refuses account names with a dash with these errors, one after another."""
    refusals = iter(errors)

    async def script(exchange: Exchange) -> None:
        name = msgspec.json.decode(exchange.request.body)["accountName"]
        await (exchange.say(400, next(refusals)) if "-" in name else exchange.say(200, COUNTS))

    return script


@pytest.mark.parametrize(
    "error",
    [
        {"errorCode": "UnifiedWebService.REQUEST_FAILED.AccountName"},
        {"errorCode": "UnifiedWebService.INPUT_INVALID.Account.NotDefined"},
        {"errorCode": "400", "errorMessage": "accountName must match ^[A-Za-z0-9]{3,32}$"},
    ],
)
async def test_an_account_refused_by_name_is_asked_for_without_its_dash(error: dict[str, str]) -> None:
    async with client_of(knows_accounts_without_dash(error)) as (client, carrier):
        assert len(await client.subscriptions(ACCOUNT)) == 1
        assert len(await client.subscriptions(ACCOUNT)) == 1
        assert client.counted_as(ACCOUNT) == "000012345600001"
    names = [msgspec.json.decode(request.body)["accountName"] for request in carrier.paths(SUBSCRIPTIONS)]
    assert names == [ACCOUNT, "000012345600001", "000012345600001"]


async def test_an_account_refused_in_both_spellings_is_refused_by_its_own_name() -> None:
    error = {"errorCode": "UnifiedWebService.REQUEST_FAILED.AccountNotFound", "errorMessage": "words"}
    async with client_of(says(400, error)) as (client, carrier):
        with pytest.raises(AccountError, match="AccountNotFound"):
            await client.subscriptions(ACCOUNT)
        assert client.counted_as(ACCOUNT) == ACCOUNT
    assert len(carrier.requests) == 2


async def test_a_refusal_about_something_else_is_not_asked_again() -> None:
    error = {"errorCode": "UnifiedWebService.INPUT_INVALID.SkuNumber.Invalid", "errorMessage": "words"}
    async with client_of(says(400, error)) as (client, carrier):
        with pytest.raises(AccountError, match="SkuNumber"):
            await client.subscriptions(ACCOUNT)
    assert len(carrier.requests) == 1


async def test_listeners_come_without_their_passwords() -> None:
    listener = {
        "accountName": ACCOUNT,
        "serviceName": "CarrierService",
        "url": "https://us.test",
        "username": "u",
    }
    async with client_of(says(200, [listener | {"password": "planted"}])) as (client, carrier):
        listeners = await client.listeners(ACCOUNT)
    assert listeners == [CallbackListener(ACCOUNT, "CarrierService", "https://us.test", "u")]
    assert (carrier.requests[0].method, carrier.requests[0].path) == ("GET", f"/m2m/v1/callbacks/{ACCOUNT}")


async def test_a_listener_is_registered_for_the_outcomes_of_license_requests() -> None:
    service = {"accountName": ACCOUNT, "serviceName": "CarrierService"}
    async with client_of(says(200, service)) as (client, carrier):
        registered = await client.register_listener(ACCOUNT, "https://us.test:9001/x", "u", Secret("p"))
    assert registered == CallbackService(ACCOUNT, "CarrierService")
    assert msgspec.json.decode(carrier.requests[0].body) == {
        "name": "CarrierService",
        "url": "https://us.test:9001/x",
        "username": "u",
        "password": "p",
    }


async def test_a_listener_is_deregistered_by_its_service() -> None:
    service = {"accountName": ACCOUNT, "serviceName": "CarrierService"}
    async with client_of(says(200, service)) as (client, carrier):
        await client.deregister_listener(ACCOUNT)
    (request,) = carrier.requests
    assert (request.method, request.path) == ("DELETE", f"/m2m/v1/callbacks/{ACCOUNT}/name/CarrierService")


async def test_an_account_name_can_not_change_the_url_path() -> None:
    async with client_of(says(200, [])) as (client, carrier):
        await client.listeners("../x?y#z")
    assert carrier.requests[0].path == "/m2m/v1/callbacks/..%2Fx%3Fy%23z"


async def test_a_question_with_an_expired_session_is_asked_again_with_a_new_one() -> None:
    async def once_expired(exchange: Exchange) -> None:
        is_new = exchange.request.headers["vz-m2m-token"] == "session-2"
        await (exchange.say(200, COUNTS) if is_new else exchange.say(400, EXPIRED))

    async with client_of(once_expired, KEYS) as (client, carrier):
        assert len(await client.subscriptions(ACCOUNT)) == 1
    assert len(carrier.paths(LOGIN)) == 2


@pytest.mark.parametrize(
    ("status", "body", "may_be_wrong"),
    [
        (400, EXPIRED, False),
        (401, {"fault": {"code": "900901", "message": "words"}}, False),
        (404, b"", True),
        (200, b"<html>", True),
    ],
)
async def test_an_error_of_the_api_is_no_sign_of_a_wrong_url(
    status: int, body: object, *, may_be_wrong: bool
) -> None:
    async with client_of(says(status, body), KEYS) as (client, _):
        with pytest.raises(CarrierUnreachable) as error:
            await client.subscriptions(ACCOUNT)
    assert error.value.may_be_wrong_url is may_be_wrong


async def test_a_question_with_a_rejected_ready_token_names_the_setting() -> None:
    async with client_of(says(400, EXPIRED)) as (client, _):
        with pytest.raises(CredentialsRejected, match="BATCHLIC_SESSION_TOKEN"):
            await client.subscriptions(ACCOUNT)


async def test_a_wrong_account_is_a_usage_error() -> None:
    error = {
        "errorCode": "UnifiedWebService.REQUEST_FAILED.AccountNotFound",
        "errorMessage": "no such account",
    }
    async with client_of(says(400, error)) as (client, _):
        with pytest.raises(AccountError, match=r"HTTP 400: REQUEST_FAILED.AccountNotFound no such account"):
            await client.subscriptions(ACCOUNT)


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b""), (429, b""), (500, b""), (200, b"<html>"), (200, {"x": 1}), (200, b"[" * 60_000)],
)
async def test_a_carrier_that_does_not_answer_a_question_is_unreachable(status: int, body: object) -> None:
    async with client_of(says(status, body)) as (client, _):
        with pytest.raises(CarrierUnreachable):
            await client.subscriptions(ACCOUNT)


async def test_a_lost_answer_to_a_question_is_reported_as_such() -> None:
    async def reset(exchange: Exchange) -> None:
        await exchange.reset()

    async with client_of(reset) as (client, _):
        with pytest.raises(CarrierUnreachable, match=SUBSCRIPTIONS):
            await client.subscriptions(ACCOUNT)


SERVICE = "UnifiedWebService"


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (404, f"{SERVICE}.REQUEST_FAILED.AccountNotFound", "Account not found"),
        (400, f"{SERVICE}.REQUEST_FAILED.AccountName", "wrong"),
        (400, f"{SERVICE}.INPUT_INVALID.Account.NotDefined", "wrong"),
        (400, "REQUEST_FAILED.NoAccounts", "wrong"),
        (403, f"{SERVICE}.REQUEST_FAILED.AccountNotFound", "wrong"),
        (404, "404", f"There is no account {ACCOUNT}."),
        (400, "400", "The account does not exist"),
    ],
)
async def test_every_way_to_refuse_an_account_is_known(status: int, code: str, text: str) -> None:
    async with client_of(says(status, {"errorCode": code, "errorMessage": text})) as (client, _):
        with pytest.raises(AccountError) as refused:
            await client.subscriptions(ACCOUNT)
    assert refused.value.reason is RefusalReason.ACCOUNT


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"errorCode": "403", "errorMessage": "Forbidden", "errorUrl": ""}),
        (403, {"errorCode": f"{SERVICE}.REQUEST_FAILED.NotAuthorized", "errorMessage": "no"}),
        (403, {"fault": {"code": "900908", "message": "Resource forbidden", "description": "x"}}),
        (403, {"code": "900910", "message": "Insufficient scope"}),
        (403, {"fault": {"code": 900907, "message": "The requested API is temporarily blocked"}}),
        (400, {"errorCode": "REQUEST_FAILED.User", "errorMessage": "The user is not authorized"}),
    ],
)
async def test_every_way_to_refuse_a_permission_is_known(status: int, body: object) -> None:
    async with client_of(says(status, body)) as (client, _):
        with pytest.raises(AccountError) as refused:
            await client.subscriptions(ACCOUNT)
    assert refused.value.reason is RefusalReason.PERMISSION
