"""The carrier as a Starlette app: its endpoints, and two endpoints of the sandbox that show its books."""

import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import cast

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from batchlic.sandbox.auth import Authenticator
from batchlic.sandbox.books import Books, DeviceRecord
from batchlic.sandbox.callbacks import CallbackSender
from batchlic.sandbox.config import Fault, SandboxConfig
from batchlic.sandbox.exchange import Headers, json_response, read_headers, require_json
from batchlic.sandbox.faults import Faults
from batchlic.sandbox.license_endpoint import LicenseEndpoint
from batchlic.sandbox.listeners import Listeners
from batchlic.sandbox.refusals import Refusal, gateway_refusal, lacks_permission, refusal_response
from batchlic.sandbox.request_bodies import LoginBody, decode_body
from batchlic.sandbox.service import LicenseService
from batchlic.sandbox.transport import InProcessTransport

_LOGIN_BODY = msgspec.json.Decoder(LoginBody)
_RECORDS_PER_CHUNK = 1000


class Totals(msgspec.Struct, frozen=True):
    """The sandbox in figures.

    `requests` counts license requests by status, or by the fault that they met, and other requests that met
    a fault. `callbacks` counts messages; `callbacks_pending` counts messages that are not posted yet.
    """

    requests: dict[str, int]
    executions: int
    devices: int
    licenses_in_use: dict[str, dict[str, int]]
    most_concurrent: int
    callbacks: dict[str, int]
    callbacks_pending: int


class Sandbox:
    """A carrier with its own books, reachable in the same process or, when served, over TCP.

    `app` is the ASGI app. `books` is the truth about devices and licenses. `callbacks` posts outcomes.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        config = config or SandboxConfig()
        self.books = Books(config.licenses)
        self._has_permission = config.rules.permission
        self._random = random.Random(f"{config.seed}/ids")  # noqa: S311 - reproducible, guards nothing
        self._listeners = Listeners()
        self.callbacks = CallbackSender(config.callbacks, config.seed, self._listeners)
        self._service = LicenseService(config, self.books, self.callbacks, self._new_id)
        self._authenticator = Authenticator(config.tokens, self._new_id)
        self._faults = Faults(config)
        self._license_endpoint = LicenseEndpoint(
            config, self._service, self._authenticator, self.callbacks, self._faults
        )
        self.app = Starlette(
            routes=self._routes(),
            exception_handlers={Refusal: _answer_refusal, HTTPException: _answer_http_exception},
            lifespan=lambda _: self.callbacks.sending(),
        )

    @property
    def request_counts(self) -> Counter[str]:
        """License requests by status, or by the fault that they met, and logins that met a fault."""
        return self._license_endpoint.request_counts

    def transport(self) -> InProcessTransport:
        """Return a transport for `httpx.AsyncClient` that reaches this sandbox without sockets."""
        return InProcessTransport(self.app)

    def totals(self) -> Totals:
        """Return what has happened so far, in figures."""
        accounts = self.books.accounts.values()
        return Totals(
            requests=dict(self.request_counts),
            executions=len(self.books.executions),
            devices=sum(account.device_count for account in accounts),
            licenses_in_use={account.name: account.in_use for account in accounts},
            most_concurrent=self._license_endpoint.max_in_progress,
            callbacks=dict(self.callbacks.message_counts),
            callbacks_pending=self.callbacks.pending,
        )

    def _routes(self) -> list[Route]:
        m2m = "/api/m2m/v1"
        assign = f"{m2m}/devices/license/actions/assign"
        return [
            Route(assign, self._license_endpoint.handle, methods=["POST", "DELETE"]),
            Route("/api/ts/v1/oauth2/token", self._access_token, methods=["POST"]),
            Route(f"{m2m}/session/login", self._open_session, methods=["POST"]),
            Route(f"{m2m}/session/logout", self._close_session, methods=["POST"]),
            Route(f"{m2m}/accounts/subscriptions/actions/list", self._subscriptions, methods=["POST"]),
            Route(f"{m2m}/callbacks/{{account}}", self._list_listeners, methods=["GET"]),
            Route(f"{m2m}/callbacks/{{account}}", self._register_listener, methods=["POST"]),
            Route(f"{m2m}/callbacks/{{account}}/name/{{service}}", self._deregister, methods=["DELETE"]),
            Route("/sandbox/books", self._show_books, methods=["GET"]),
            Route("/sandbox/totals", self._show_totals, methods=["GET"]),
        ]

    async def _access_token(self, request: Request) -> Response:
        if failure := self._fault_of_login():
            return failure
        token = self._authenticator.access_token(
            read_headers(request), await request.body(), anyio.current_time()
        )
        return json_response(msgspec.structs.asdict(token))  # with the fields that have their default

    async def _open_session(self, request: Request) -> Response:
        if failure := self._fault_of_login():
            return failure
        headers, now = read_headers(request), anyio.current_time()
        self._authenticator.check_access(headers, now)
        require_json(headers)
        login = decode_body(await request.body(), _LOGIN_BODY)
        return json_response(self._authenticator.open_session(login, now))

    async def _close_session(self, request: Request) -> Response:
        headers = self._authenticate(request)
        return json_response(self._authenticator.close_session(headers, anyio.current_time()))

    async def _subscriptions(self, request: Request) -> Response:
        require_json(self._authenticate(request))
        if not self._has_permission:
            raise lacks_permission()
        counts = self._service.counts(await request.body())
        if (answer := self._faults.of_counts(counts)) is None:
            return json_response(counts)
        self.request_counts[Fault.ODD_COUNTS] += 1
        return answer

    async def _list_listeners(self, request: Request) -> Response:
        self._authenticate(request)
        return json_response(self._listeners.of_account(self._account_name(request)))

    async def _register_listener(self, request: Request) -> Response:
        require_json(self._authenticate(request))
        return json_response(self._listeners.register(self._account_name(request), await request.body()))

    async def _deregister(self, request: Request) -> Response:
        self._authenticate(request)
        service = request.path_params["service"]
        return json_response(self._listeners.deregister(self._account_name(request), service))

    async def _show_books(self, _: Request) -> Response:
        """Send a JSON object per line for every device of the books."""
        return StreamingResponse(_json_lines(self.books.records()), media_type="application/x-ndjson")

    async def _show_totals(self, _: Request) -> Response:
        return json_response(self.totals())

    def _fault_of_login(self) -> Response | None:
        """Draw the fault of a login; return its answer."""
        if (met := self._faults.of_login(anyio.current_time())) is None:
            return None
        fault, answer = met
        self.request_counts[fault] += 1
        return answer

    def _authenticate(self, request: Request) -> Headers:
        """Check both tokens; return the headers."""
        headers, now = read_headers(request), anyio.current_time()
        self._authenticator.check_access(headers, now)
        self._authenticator.check_session(headers, now)
        return headers

    def _account_name(self, request: Request) -> str:
        return self._service.account(request.path_params["account"]).name

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))


async def _json_lines(records: Iterator[DeviceRecord]) -> AsyncIterator[bytes]:
    while chunk := list(islice(records, _RECORDS_PER_CHUNK)):
        yield msgspec.json.Encoder().encode_lines(chunk)
        await anyio.lowlevel.checkpoint()  # a million devices take a while; other requests run in between


def _answer_refusal(_: Request, error: Exception) -> Response:
    return refusal_response(cast("Refusal", error))


def _answer_http_exception(_: Request, error: Exception) -> Response:
    """Answer as the gateway does for an unknown path or method."""
    status, detail = cast("HTTPException", error).status_code, cast("HTTPException", error).detail
    return refusal_response(gateway_refusal(status, str(status), detail, "No matching resource found"))
