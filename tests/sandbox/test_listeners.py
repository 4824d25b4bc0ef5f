"""Callback listeners: registered, listed, deregistered."""

import pytest

from batchlic.sandbox.app import Sandbox
from tests.sandbox.caller import ACCOUNT, CALLBACKS, caller_of

pytestmark = pytest.mark.anyio

LISTENER = {"name": "CarrierService", "url": "https://erp.example/cb", "username": "u", "password": "p"}
ANSWER = {"accountName": ACCOUNT, "serviceName": "CarrierService"}


async def test_a_listener_is_listed_with_credentials_until_deregistered() -> None:
    async with caller_of(Sandbox()) as caller:
        http, headers = caller.http, caller.headers
        assert (await http.post(CALLBACKS, json=LISTENER, headers=headers)).json() == ANSWER
        moved = LISTENER | {"url": "https://erp.example:9001/cb"}
        assert (await http.post(CALLBACKS, json=moved, headers=headers)).json() == ANSWER
        [listed] = (await http.get(CALLBACKS, headers=headers)).json()
        assert listed == ANSWER | {key: moved[key] for key in ("url", "username", "password")}
        name = f"{CALLBACKS}/name/CarrierService"
        assert (await http.delete(name, headers=headers)).json() == ANSWER
        assert (await http.delete(name, headers=headers)).status_code == 404
        assert (await http.get(CALLBACKS, headers=headers)).json() == []


@pytest.mark.parametrize("wrong", [{"name": "LicenseService"}, {"url": "erp.example"}, {"listener": "x"}])
async def test_a_listener_of_an_unknown_service_or_without_a_url_is_refused(wrong: dict[str, str]) -> None:
    async with caller_of(Sandbox()) as caller:
        answer = await caller.http.post(CALLBACKS, json=LISTENER | wrong, headers=caller.headers)
        assert answer.status_code == 400
        assert (await caller.http.get(CALLBACKS, headers=caller.headers)).json() == []
