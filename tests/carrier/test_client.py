"""Requests on the wire: one exchange per submission, with its tokens and ids."""

import msgspec
import pytest

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import Submission
from tests.carrier.script import GUID, KEYS, LICENSES, Exchange, client_of, submission

pytestmark = pytest.mark.anyio


async def test_an_assign_carries_both_tokens_its_id_and_its_devices() -> None:
    async with client_of(credentials=KEYS) as (client, carrier):
        answer = await client.submit(submission())
    request = carrier.requests[-1]
    assert (answer.outcome, answer.request_id, answer.http_status) == (Outcome.ACCEPTED, GUID, 200)
    assert (request.method, request.path) == ("POST", LICENSES)
    assert request.headers["authorization"] == "Bearer access-1"
    assert request.headers["vz-m2m-token"] == "session-1"
    assert request.headers["x-request-id"] == "1-0123456789"
    assert request.headers["content-type"] == "application/json"
    assert msgspec.json.decode(request.body) == {
        "accountName": "0000123456-00001",
        "devices": [
            {"deviceIds": [{"id": "864508030109877", "kind": "IMEI"}]},
            {"deviceIds": [{"id": "490154203237518", "kind": "IMEI"}]},
        ],
        "skuNumber": "SIMSec-IoT",
    }


async def test_an_unassign_without_a_body_undoes_its_transaction() -> None:
    async with client_of() as (client, carrier):
        await client.submit(Submission(Action.UNASSIGN, "1-0123456789", None))
    request = carrier.requests[-1]
    assert (request.method, request.path, request.body) == ("DELETE", LICENSES, b"")
    assert request.headers["x-request-id"] == "1-0123456789"


async def test_cookies_are_not_kept() -> None:
    async def set_a_cookie(exchange: Exchange) -> None:
        await exchange.say(200, {"requestId": GUID}, "Set-Cookie: lb=1; Path=/")

    async with client_of(set_a_cookie) as (client, carrier):
        await client.submit(submission())
        await client.submit(submission())
    assert not any("cookie" in request.headers for request in carrier.requests)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_submissions_share_one_connection() -> None:
    async with client_of() as (client, carrier):
        for _ in range(20):
            await client.submit(submission())
    assert carrier.connections == 1


@pytest.mark.parametrize("action", Action)
async def test_a_broken_kept_alive_connection_is_not_retried_by_the_library(action: Action) -> None:
    async def take_one_then_break(exchange: Exchange) -> None:
        if len(carrier.requests) == 1:
            await exchange.say(200, {"requestId": GUID})
        else:
            await exchange.reset()

    async with client_of(take_one_then_break) as (client, carrier):
        await client.submit(submission())
        answer = await client.submit(submission(action))
    assert answer.outcome is Outcome.AMBIGUOUS
    assert len(carrier.requests) == 2
