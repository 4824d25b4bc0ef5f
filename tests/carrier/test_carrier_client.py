"""The public clients: what they send, what they return, and the error for each other answer."""

import html
import json
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from anyio.from_thread import BlockingPortal

import batchlic
from batchlic import (
    AssignLicenseRequest,
    AsyncCarrierClient,
    BadRequestError,
    CarrierClient,
    CarrierUnreachable,
    CredentialsRejected,
    ForbiddenError,
    InvalidRequest,
    LicenseDeviceId,
    LicenseDeviceList,
    NotAcceptableError,
    NotFoundError,
    RefusedToStart,
    RequestInDoubt,
    SecurityResultError,
    SecuritySuccessResult,
    TooManyRequestsError,
    UnauthorizedError,
    UnexpectedStatusError,
    UsageError,
)
from batchlic.carrier.client import open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.sandbox.config import SandboxConfig
from tests.carrier.script import (
    GUID,
    LICENSES,
    LOGIN,
    OAUTH,
    Exchange,
    Script,
    ScriptedCarrier,
    scripted,
    take,
)
from tests.forking import serving

ACCOUNT = "0000123456-00001"
LOGINS: dict[str, Any] = {
    "client_id": "key-4711",
    "client_secret": "planted-client-secret",
    "username": "user-4711",
    "password": "planted-password",
}
TOKENS: dict[str, Any] = {"access_token": "planted-access", "session_token": "planted-session"}
SANDBOX: dict[str, Any] = dict.fromkeys(LOGINS, "sandbox")
EXPIRED = {"errorCode": "UnifiedWebService.REQUEST_FAILED.SessionToken.Expired", "errorMessage": "Expired"}


def request(*imeis: str, sku: str = "SIMSec-IoT") -> AssignLicenseRequest:
    devices = [
        LicenseDeviceList(device_ids=[LicenseDeviceId(id=imei, kind="IMEI")])
        for imei in imeis or ("864508030109877",)
    ]
    return AssignLicenseRequest(account_name=ACCOUNT, devices=devices, sku_number=sku)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with serving(SandboxConfig()) as url:
        yield url


@asynccontextmanager
async def at(
    script: Script = take, logins: dict[str, Any] = LOGINS
) -> AsyncIterator[tuple[AsyncCarrierClient, ScriptedCarrier]]:
    """An async client beside its scripted carrier."""
    async with scripted(script) as carrier, AsyncCarrierClient(base_url=carrier.url, **logins) as client:
        yield client, carrier


def saying(status: int, body: object = b"", *headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.say(status, body, *headers)

    return script


async def error_of(script: Script) -> SecurityResultError:
    """The error that the answer of a script raises."""
    async with at(script) as (client, _):
        with pytest.raises(SecurityResultError) as raised:
            await client.assign_license_to_devices(request(), "1-0001")
    return raised.value


def assigned(url: str) -> int:
    """The licenses that the account has assigned in a sandbox."""

    async def count() -> int:
        credentials = Credentials(**{name: Secret(text) for name, text in SANDBOX.items()})
        async with open_client(url, credentials) as carrier:
            await carrier.login()
            [counts] = await carrier.subscriptions(ACCOUNT, "SIMSec-IoT")
        return counts.license_assigned or 0

    return anyio.run(count)


def test_an_assign_returns_status_headers_and_request_id(sandbox: str) -> None:
    with CarrierClient(base_url=sandbox, **SANDBOX) as client:
        answer = client.assign_license_to_devices(request("490154203237518"), "1-0490")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(answer.result, SecuritySuccessResult)
    assert len(answer.result.request_id) == 36


def test_an_unassign_with_a_body_takes_back_its_devices(sandbox: str) -> None:
    before = assigned(sandbox)
    with CarrierClient(base_url=sandbox, **SANDBOX) as client:
        client.assign_license_to_devices(request("864508030100011", "864508030100029"))
        client.unassign_license_to_devices("1-0002", request("864508030100011"))
    assert assigned(sandbox) == before + 1


def test_an_unassign_without_a_body_undoes_its_transaction(sandbox: str) -> None:
    before = assigned(sandbox)
    with CarrierClient(base_url=sandbox, **SANDBOX) as client:
        client.assign_license_to_devices(request("864508030100037", "864508030100045"), "1-0003")
        client.unassign_license_to_devices("1-0003")
    assert assigned(sandbox) == before


@pytest.mark.anyio
async def test_the_blocking_client_works_inside_a_running_event_loop(sandbox: str) -> None:
    with CarrierClient(base_url=sandbox, **SANDBOX) as client:
        answer = client.assign_license_to_devices(request("864508030100052"))
    assert answer.status_code == 200


@pytest.mark.anyio
async def test_the_async_client_sends_requests_at_the_same_time(sandbox: str) -> None:
    answers = []

    async def send(number: int) -> None:
        answers.append(await client.assign_license_to_devices(request(f"86450803011{number:04}")))

    async with (
        AsyncCarrierClient(base_url=sandbox, **SANDBOX) as client,
        anyio.create_task_group() as tasks,
    ):
        for number in range(5):
            tasks.start_soon(send, number)
    assert len({answer.result.request_id for answer in answers}) == 5


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_threads_that_share_a_client_log_in_once() -> None:
    def send_from_threads(url: str) -> list[int]:
        with CarrierClient(base_url=url, **LOGINS) as client, ThreadPoolExecutor(8) as threads:
            sent = [threads.submit(client.assign_license_to_devices, request()) for _ in range(16)]
            return [one.result().status_code for one in sent]

    async def with_another_id(exchange: Exchange) -> None:
        if exchange.request.path == LICENSES:
            await exchange.say(200, {"requestId": f"{len(carrier.requests)}-{GUID}"})
        else:
            await exchange.say(200)

    async with scripted(with_another_id) as carrier:
        statuses = await anyio.to_thread.run_sync(send_from_threads, carrier.url)
    assert statuses == [200] * 16
    assert (len(carrier.paths(OAUTH)), len(carrier.paths(LOGIN))) == (1, 1)


def test_a_closed_client_leaves_no_thread_and_sends_nothing(sandbox: str) -> None:
    before = set(threading.enumerate())
    client = CarrierClient(base_url=sandbox, **SANDBOX)
    client.assign_license_to_devices(request("864508030100060"))
    assert set(threading.enumerate()) != before
    client.close()
    client.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(UsageError, match="the client is closed"):
        client.assign_license_to_devices(request())


def test_a_client_refuses_to_be_used_in_a_forked_process(
    sandbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CarrierClient(base_url=sandbox, **SANDBOX) as client:
        client.assign_license_to_devices(request("864508030100078"))
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 1)
            with pytest.raises(UsageError, match="forked"):
                client.assign_license_to_devices(request())


@pytest.fixture
def _signals_restart_waits() -> Iterator[None]:
    """As polars does: a signal ends no wait for a lock."""
    signal.siginterrupt(signal.SIGINT, False)  # noqa: FBT003
    yield
    signal.siginterrupt(signal.SIGINT, True)  # noqa: FBT003


@pytest.mark.usefixtures("_signals_restart_waits")
def test_ctrl_c_ends_a_wait_for_an_answer() -> None:
    is_raised, raised = threading.Event(), list[bool]()

    def interrupt_when_asked() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            os.kill(os.getpid(), signal.SIGINT)
            raised.append(is_raised.wait(5))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=interrupt_when_asked)
        thread.start()
        port = listener.getsockname()[1]
        with CarrierClient(base_url=f"http://127.0.0.1:{port}", **TOKENS) as client:
            with pytest.raises(KeyboardInterrupt) as interruption:
                client.assign_license_to_devices(request())
            is_raised.set()
        thread.join()
    assert raised == [True]
    assert interruption.value.__notes__ == ["batchlic: the license request may have been executed"]


def test_ctrl_c_as_a_request_begins_leaves_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with CarrierClient(base_url="http://127.0.0.1:1", **TOKENS) as client:
        with pytest.raises(CarrierUnreachable):
            client.assign_license_to_devices(request())  # its background thread runs from now on
        with monkeypatch.context() as patched:
            patched.setattr(BlockingPortal, "start_task_soon", interrupted)
            with pytest.raises(KeyboardInterrupt) as interruption:
                client.assign_license_to_devices(request())
        assert interruption.value.__notes__ == ["batchlic: the license request may have been executed"]


@pytest.mark.anyio
async def test_an_assign_without_an_id_sends_no_such_header() -> None:
    async with at() as (client, carrier):
        await client.assign_license_to_devices(request())
    [sent] = carrier.paths(LICENSES)
    assert "x-request-id" not in sent.headers
    assert msgspec.json.decode(sent.body) == {
        "accountName": ACCOUNT,
        "devices": [{"deviceIds": [{"id": "864508030109877", "kind": "IMEI"}]}],
        "skuNumber": "SIMSec-IoT",
    }


@pytest.mark.anyio
async def test_what_the_documents_do_not_allow_is_not_sent() -> None:
    async with at() as (client, carrier):
        for call in (
            client.assign_license_to_devices(request("86450803010987X")),
            client.assign_license_to_devices(request(), "12-345"),
            client.unassign_license_to_devices("12-345"),
            client.unassign_license_to_devices("1-0001", request("86450803010987X")),
        ):
            with pytest.raises(InvalidRequest):
                await call
    assert not carrier.requests


@pytest.mark.anyio
async def test_the_session_ends_with_the_client() -> None:
    async with at() as (client, carrier):
        await client.assign_license_to_devices(request())
    assert carrier.requests[-1].path == "/m2m/v1/session/logout"


@pytest.mark.anyio
async def test_a_carrier_that_stays_silent_leaves_doubt_after_the_timeout() -> None:
    async with (
        scripted(lambda _: anyio.sleep_forever()) as carrier,
        AsyncCarrierClient(base_url=carrier.url, timeout=0.05, **TOKENS) as client,
    ):
        with pytest.raises(RequestInDoubt, match=r"nothing arrived for 0.05 s"):
            await client.assign_license_to_devices(request())


BY_STATUS = {
    400: BadRequestError,
    403: ForbiddenError,
    404: NotFoundError,
    406: NotAcceptableError,
    429: TooManyRequestsError,
    402: UnexpectedStatusError,
}


@pytest.mark.anyio
@pytest.mark.parametrize("status", BY_STATUS)
async def test_each_status_raises_its_class_with_code_text_and_answer(status: int) -> None:
    body = {"errorCode": f"{status}", "errorMessage": "Refused.", "errorUrl": "https://x.example"}
    error = await error_of(saying(status, body))
    assert type(error) is BY_STATUS[status]
    assert (error.status_code, error.error_code, error.error_message) == (status, f"{status}", "Refused.")
    assert (error.request_id, error.x_request_id, error.retry_after) == (None, "1-0001", None)
    assert error.response is not None
    assert msgspec.json.decode(error.response.result) == body
    assert "were not assigned" in str(error)


@pytest.mark.anyio
async def test_a_platform_code_loses_its_service_name() -> None:
    code = "INPUT_INVALID.DeviceState.Invalid"
    body = {"errorCode": f"UnifiedWebService.{code}", "errorMessage": "Not active."}
    assert (await error_of(saying(400, body))).error_code == code


@pytest.mark.anyio
@pytest.mark.parametrize(
    "headers",
    [
        ("Retry-After: 12",),
        ("Retry-After: Sun, 29 Nov 2026 12:00:12 GMT", "Date: Sun, 29 Nov 2026 12:00:00 GMT"),
    ],
)
async def test_a_wait_is_in_seconds_given_as_a_number_or_a_date(headers: tuple[str, ...]) -> None:
    error = await error_of(saying(429, b"<html><body>Slow down</body></html>", *headers))
    assert error.retry_after == 12
    assert "asks to wait 12 s" in str(error)


@pytest.mark.anyio
async def test_a_fault_of_the_gateway_in_xml_has_its_code_and_text() -> None:
    fault = (
        b'<am:fault xmlns:am="http://wso2.org/apimanager"><am:code>900908</am:code>'
        b"<am:message>Resource forbidden</am:message></am:fault>"
    )
    error = await error_of(saying(403, fault, "Content-Type: application/xml"))
    assert isinstance(error, ForbiddenError)
    assert (error.error_code, error.error_message) == ("900908", "Resource forbidden")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html><title>Welcome</title></html>"),
        (200, b"{}"),
        (200, b""),
        (200, b'{"requestId": "' + GUID.encode() + b'", "errorCode": "500"}'),
        (500, b'{"errorCode": "UnifiedWebService.REQUEST_FAILED.UnexpectedError", "errorMessage": "?"}'),
        (502, b"<html><title>502 Bad Gateway</title></html>"),
        (504, b""),
        (503, b'{"message": "Rate limit exceeded"}'),
    ],
)
async def test_an_answer_that_proves_nothing_leaves_the_request_in_doubt(status: int, body: bytes) -> None:
    error = await error_of(saying(status, body))
    assert type(error) is RequestInDoubt
    assert error.status_code == status
    assert "may have been assigned" in str(error)


@pytest.mark.anyio
async def test_a_lost_answer_is_in_doubt_and_the_request_is_sent_once() -> None:
    async with at(Exchange.reset) as (client, carrier):
        with pytest.raises(RequestInDoubt, match="may have been unassigned") as raised:
            await client.unassign_license_to_devices("1-0001")
    assert (raised.value.status_code, raised.value.response) == (None, None)
    assert len(carrier.paths(LICENSES)) == 1


@pytest.mark.anyio
async def test_d_a_rejected_token_beside_a_request_id_is_in_doubt_and_sent_once() -> None:
    async with at(saying(200, {"requestId": GUID} | EXPIRED)) as (client, carrier):
        with pytest.raises(RequestInDoubt) as raised:
            await client.assign_license_to_devices(request())
    assert raised.value.request_id == GUID
    assert len(carrier.paths(LICENSES)) == 1


@pytest.mark.anyio
async def test_without_a_connection_nothing_is_in_doubt() -> None:
    async with scripted() as carrier:
        url = carrier.url
    async with AsyncCarrierClient(base_url=url, **TOKENS) as client:
        with pytest.raises(CarrierUnreachable, match="the request was not sent"):
            await client.assign_license_to_devices(request())


@pytest.mark.anyio
async def test_an_expired_session_is_renewed_once_for_all_requests() -> None:
    async def expire_the_first_session(exchange: Exchange) -> None:
        if exchange.request.path != LICENSES:
            await exchange.say(200)
        elif exchange.request.headers["vz-m2m-token"] == "session-1":
            await exchange.say(400, EXPIRED)
        else:
            await exchange.say(200, {"requestId": f"{len(carrier.requests)}-{GUID}"})

    async with at(expire_the_first_session) as (client, carrier), anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(client.assign_license_to_devices, request())
    assert len(carrier.paths(LOGIN)) == 2


@pytest.mark.anyio
async def test_a_session_that_is_rejected_again_raises_its_status() -> None:
    async with at(saying(401, EXPIRED)) as (client, carrier):
        with pytest.raises(UnauthorizedError) as raised:
            await client.assign_license_to_devices(request())
    assert raised.value.error_code == "REQUEST_FAILED.SessionToken.Expired"
    assert len(carrier.paths(LICENSES)) == 2


@pytest.mark.anyio
async def test_a_ready_made_token_that_is_rejected_is_a_401_and_says_so() -> None:
    async with at(saying(401, EXPIRED), TOKENS) as (client, carrier):
        with pytest.raises(UnauthorizedError, match="BATCHLIC_SESSION_TOKEN is rejected") as raised:
            await client.assign_license_to_devices(request())
    assert isinstance(raised.value, CredentialsRejected)
    assert raised.value.response is not None
    assert len(carrier.paths(LICENSES)) == 1


@pytest.mark.anyio
async def test_g_a_rejected_login_of_the_public_client_is_not_repeated() -> None:
    code = "UnifiedWebService.REQUEST_FAILED.AuthenticationFailed"
    async with at() as (client, carrier):
        carrier.login_script = saying(401, {"errorCode": code, "errorMessage": "Wrong password."})
        for _ in range(3):
            with pytest.raises(CredentialsRejected, match="rejected the session login"):
                await client.assign_license_to_devices(request())
    assert len(carrier.paths(LOGIN)) == 1
    assert not carrier.paths(LICENSES)


@pytest.mark.anyio
@pytest.mark.parametrize("encode", [msgspec.json.encode, json.dumps, html.escape])
async def test_f_no_error_of_the_public_client_shows_a_secret(encode: Callable[[str], str | bytes]) -> None:
    password = 'planted-"pass&é'

    async def echo(exchange: Exchange) -> None:
        sent = exchange.request.headers
        said = encode(f"{sent['authorization']} {sent['vz-m2m-token']} {password}")
        body = said if isinstance(said, bytes) else said.encode()
        await exchange.say(400, body, f"X-Echo: {sent['authorization']}")

    async with at(echo, LOGINS | {"password": password}) as (client, _):
        with pytest.raises(SecurityResultError) as raised:
            await client.assign_license_to_devices(request())
    assert raised.value.response is not None
    assert "[hidden]" in raised.value.response.result
    everything = (raised.value.__dict__, raised.value.response.headers, vars(client))
    shown = "".join(traceback.format_exception(raised.value)) + repr(everything)
    assert not any(secret in shown for secret in ("planted", "access-1", "session-1", *LOGINS.values()))


@pytest.mark.anyio
@pytest.mark.parametrize("sku", ["SIMSec-IoT-Lt", "SIMSec-New"])
async def test_e_an_assign_that_may_be_irrevocable_needs_consent(sku: str) -> None:
    async with scripted() as carrier:
        async with AsyncCarrierClient(base_url=carrier.url, **LOGINS) as client:
            with pytest.raises(RefusedToStart, match=r"irrevocable.*consent_lifetime=True"):
                await client.assign_license_to_devices(request(sku=sku))
        assert not carrier.requests
        async with AsyncCarrierClient(base_url=carrier.url, consent_lifetime=True, **LOGINS) as client:
            assert (await client.assign_license_to_devices(request(sku=sku))).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("sku", ["SIMSec-IoT-Lt", "SIMSEC-IOT-LT", "SIMSec-IoT-Lt "])
async def test_e_a_lifetime_license_is_not_unassigned(sku: str) -> None:
    async with at() as (client, carrier):
        with pytest.raises(RefusedToStart, match="can't be unassigned"):
            await client.unassign_license_to_devices("1-0001", request(sku=sku))
    assert not carrier.requests


@pytest.mark.anyio
async def test_an_async_client_must_be_open_and_opens_once() -> None:
    client = AsyncCarrierClient(**LOGINS)
    with pytest.raises(UsageError, match="async with"):
        await client.assign_license_to_devices(request())
    async with client:
        pass
    with pytest.raises(UsageError, match="make another one"):
        await client.__aenter__()


def test_a_client_from_the_settings_has_their_address_and_login(
    sandbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHLIC_BASE_URL", sandbox)
    for name in SANDBOX:
        monkeypatch.setenv(f"BATCHLIC_{name.upper()}", "sandbox")
    with CarrierClient.from_settings() as client:
        assert client.assign_license_to_devices(request("864508030100086")).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"client_id": "key", "client_secret": "text"}, "set username and password, or session_token"),
        (LOGINS | {"client_id": "a:b"}, "client_id contains a colon"),
        (LOGINS | {"base_url": "http://carrier.example"}, "base_url: http://carrier.example would send"),
        (LOGINS | {"timeout": float("nan")}, "timeout: nan is not above 0"),
        (LOGINS | {"consent_lifetime": "false"}, "consent_lifetime: give True or False"),
    ],
)
def test_an_error_about_an_argument_has_its_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CarrierClient(**arguments)


def test_an_error_can_be_pickled_with_its_fields() -> None:
    answer = batchlic.ApiResponse(429, {}, "Slow down")
    error = TooManyRequestsError("wait", status_code=429, retry_after=3.0, response=answer)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(copy), vars(copy)) == (str(error), vars(error))
