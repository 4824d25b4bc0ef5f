"""A scripted carrier on a real socket: it records requests, and answers or breaks as a test says."""

import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET

import anyio
import anyio.abc
import msgspec

from batchlic.carrier.catalog import Action
from batchlic.carrier.client import Carrier, Submission, encode, open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.http_client import Timeouts
from batchlic.carrier.messages import AssignLicenseRequest, Device, DeviceId

GUID = "c3f3d17c-79ff-4b35-82df-94446785b6e0"
LICENSES = "/m2m/v1/devices/license/actions/assign"
LOGIN = "/m2m/v1/session/login"
OAUTH = "/ts/v1/oauth2/token"
IMEIS = ("864508030109877", "490154203237518")

KEYS = Credentials(
    client_id=Secret("key-4711"),
    client_secret=Secret("planted-client-secret"),
    username=Secret("user-4711"),
    password=Secret("planted-password"),
)
TOKENS = Credentials(access_token=Secret("planted-access"), session_token=Secret("planted-session"))


@dataclass(frozen=True)
class Request:
    """What came over the wire, header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Exchange:
    """A request on its connection; a script answers it, or breaks it."""

    request: Request
    stream: anyio.abc.ByteStream

    async def raw(self, data: bytes) -> None:
        await self.stream.send(data)

    async def say(self, status: int, body: object = b"", *headers: str) -> None:
        await self.raw(response(status, body, *headers))

    async def reset(self) -> None:
        raw = self.stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - not Django
        raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        await self.stream.aclose()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class ScriptedCarrier:
    """Logs in whoever asks, `access-1`, `session-1` and so on; license requests go to `script`."""

    script: Script
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    login_script: Script | None = None
    oauth_script: Script | None = None

    def paths(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
        async with stream:
            try:
                while (request := await _read(stream)) is not None:
                    self.requests.append(request)
                    await self._script_of(request)(Exchange(request, stream))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

    def _script_of(self, request: Request) -> Script:
        if request.path == OAUTH:
            return self.oauth_script or self._grant
        if request.path == LOGIN:
            return self.login_script or self._open
        return self.script

    async def _grant(self, exchange: Exchange) -> None:
        await exchange.say(200, {"access_token": f"access-{len(self.paths(OAUTH))}", "expires_in": 3600})

    async def _open(self, exchange: Exchange) -> None:
        await exchange.say(200, {"sessionToken": f"session-{len(self.paths(LOGIN))}"})


def response(status: int, body: object = b"", *headers: str) -> bytes:
    """A whole HTTP response; a body that is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    kind = () if isinstance(body, bytes) else ("Content-Type: application/json",)
    head = (f"HTTP/1.1 {status} Words", f"Content-Length: {len(content)}", *kind, *headers, "", "")
    return "\r\n".join(head).encode() + content


async def take(exchange: Exchange) -> None:
    """Take a license request, as the carrier does."""
    await exchange.say(200, {"requestId": GUID})


@asynccontextmanager
async def scripted(script: Script = take) -> AsyncIterator[ScriptedCarrier]:
    """Serve a scripted carrier on loopback."""
    carrier = ScriptedCarrier(script)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django
        carrier.url = f"http://127.0.0.1:{port}"
        tasks.start_soon(listener.serve, carrier.serve)
        yield carrier
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def client_of(
    script: Script = take, credentials: Credentials = TOKENS, timeouts: Timeouts | None = None
) -> AsyncIterator[tuple[Carrier, ScriptedCarrier]]:
    """A logged-in client beside its scripted carrier."""
    async with (
        scripted(script) as carrier,
        open_client(carrier.url, credentials, timeouts=timeouts) as client,
    ):
        await client.login()
        yield client, carrier


def submission(
    action: Action = Action.ASSIGN, imeis: tuple[str, ...] = IMEIS, x_request_id: str = "1-0123456789"
) -> Submission:
    devices = [Device(device_ids=[DeviceId(id=imei, kind="IMEI")]) for imei in imeis]
    request = AssignLicenseRequest(account_name="0000123456-00001", devices=devices, sku_number="SIMSec-IoT")
    return Submission(action=action, x_request_id=x_request_id, body=encode(request))


async def _read(stream: anyio.abc.ByteStream) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += (chunk := await _receive(stream))
        if not chunk:
            return None
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += await _receive(stream)
    return Request(method, re.sub(r"\?.*", "", path), headers, body)


async def _receive(stream: anyio.abc.ByteStream) -> bytes:
    try:
        return await stream.receive()
    except anyio.EndOfStream:
        return b""
