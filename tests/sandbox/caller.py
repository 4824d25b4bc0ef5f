"""A caller of the sandbox: plain HTTP requests, without the client of this project."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from batchlic.sandbox.app import Sandbox

ACCOUNT = "0000123456-00001"
SKU = "SIMSec-IoT"
LIFETIME_SKU = "SIMSec-IoT-Lt"
IMEI, OTHER_IMEI, ICCID = "864508030109877", "490154203237518", "89148000000800139708"

LICENSES = "/m2m/v1/devices/license/actions/assign"
COUNTS = "/m2m/v1/accounts/subscriptions/actions/list"
OAUTH = "/ts/v1/oauth2/token"
LOGIN = "/m2m/v1/session/login"
LOGOUT = "/m2m/v1/session/logout"
CALLBACKS = f"/m2m/v1/callbacks/{ACCOUNT}"

GRANT = {"grant_type": "client_credentials"}
KEYS = ("sandbox", "sandbox")
USER = {"username": "sandbox", "password": "sandbox"}


def device(*identifiers: str) -> dict[str, Any]:
    """One device by its identifiers; 15 digits are an IMEI."""
    return {"deviceIds": [{"id": i, "kind": "IMEI" if len(i) == 15 else "ICCID"} for i in identifiers]}


def request_body(*devices: dict[str, Any], sku: str = SKU, account: str = ACCOUNT) -> dict[str, Any]:
    return {"accountName": account, "devices": list(devices), "skuNumber": sku}


class Caller:
    """Logged in on both logins; `headers` go with every call."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.headers: dict[str, str] = {}

    async def log_in(self) -> None:
        token = (await self.http.post(OAUTH, data=GRANT, auth=KEYS)).json()["access_token"]
        self.headers["Authorization"] = f"Bearer {token}"
        session = await self.http.post(LOGIN, json=USER, headers=self.headers)
        self.headers["VZ-M2M-Token"] = session.json()["sessionToken"]

    async def assign(self, body: object, transaction: str | None = None) -> httpx.Response:
        named = {"X-Request-ID": transaction} if transaction else {}
        return await self.http.post(LICENSES, json=body, headers=self.headers | named)

    async def unassign(self, body: object = None, transaction: str | None = "1-0001") -> httpx.Response:
        named = {"X-Request-ID": transaction} if transaction else {}
        return await self.http.request("DELETE", LICENSES, json=body, headers=self.headers | named)

    async def counts(self, sku: str = SKU) -> dict[str, Any]:
        body = {"accountName": ACCOUNT, "skuNumber": sku}
        answer = await self.http.post(COUNTS, json=body, headers=self.headers)
        [counts] = answer.json()["subscriptionList"]
        return dict(counts)


def http_client_of(sandbox: Sandbox, read_timeout_s: float = 5) -> httpx.AsyncClient:
    """A client in process, without a login."""
    return httpx.AsyncClient(
        base_url="http://127.0.0.1/api", transport=sandbox.transport(), timeout=read_timeout_s
    )


@asynccontextmanager
async def caller_of(sandbox: Sandbox, read_timeout_s: float = 5) -> AsyncIterator[Caller]:
    """A caller in process, logged in."""
    async with http_client_of(sandbox, read_timeout_s) as http:
        caller = Caller(http)
        await caller.log_in()
        yield caller


def code_of(answer: httpx.Response) -> str:
    """The error code of an answer of any shape."""
    body = answer.json()
    return str(body.get("errorCode") or body.get("fault", body).get("code"))
