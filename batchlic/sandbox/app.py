"""The carrier as a Starlette app: its endpoints, and two of the sandbox's own to look into the books."""

import random
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import cast

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from batchlic.carrier.messages import RequestTaken
from batchlic.sandbox.bodies import LoginBody, read
from batchlic.sandbox.books import Books, DeviceRecord
from batchlic.sandbox.callbacks import Callbacks
from batchlic.sandbox.config import Fault, SandboxConfig
from batchlic.sandbox.faults import Dice, instead_of, instead_of_executing
from batchlic.sandbox.limits import Gate, Latency, Throttled, quota_headers, throttle_refusal
from batchlic.sandbox.listeners import Listeners
from batchlic.sandbox.logins import Logins
from batchlic.sandbox.refusals import Refusal, gateway_refusal, license_refusal, refusal_answer
from batchlic.sandbox.service import Desk
from batchlic.sandbox.transport import InProcessTransport

Headers = dict[bytes, bytes]

_LOGIN_BODY = msgspec.json.Decoder(LoginBody)
_PRODUCED = re.compile(rb"\*/\*|application/(\*|json)")
_RECORDS_PER_CHUNK = 1000


class Totals(msgspec.Struct, frozen=True):
    """The sandbox in numbers; `requests` counts license requests by status, or by the fault they met.

    `callbacks` counts messages, `callbacks_pending` those that are still to be posted.
    """

    requests: dict[str, int]
    executions: int
    devices: int
    licenses_in_use: dict[str, dict[str, int]]
    most_concurrent: int
    callbacks: dict[str, int]
    callbacks_pending: int


class Sandbox:
    """A carrier with books of its own, reachable in process or, served, over TCP.

    `app` is the ASGI app, `books` the truth about devices and licenses, `tally` counts license requests by
    their status or by the fault that they met, `callbacks` are the outcomes on their way.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig()
        self.books = Books(self.config.licenses)
        self.tally: Counter[str] = Counter()
        self._random = random.Random(f"{self.config.seed}/ids")  # noqa: S311 - reproducible, guards nothing
        self._listeners = Listeners()
        self.callbacks = Callbacks(self.config, self._listeners)
        self._desk = Desk(self.config, self.books, self.callbacks, self._new_id)
        self._logins = Logins(self.config.access_token_s, self.config.session_idle_s, self._new_id)
        self._gate = Gate(self.config)
        self._latency = Latency(self.config)
        self._dice = Dice(self.config.faults, self.config.seed)
        self._epoch: float | None = None
        self.app = Starlette(
            routes=self._routes(),
            exception_handlers={Refusal: _answer_refusal, HTTPException: _answer_http_exception},
            lifespan=lambda _: self.callbacks.delivering(),
        )

    def transport(self) -> InProcessTransport:
        """For `httpx.AsyncClient(transport=…)`: this sandbox, without sockets."""
        return InProcessTransport(self.app)

    def _routes(self) -> list[Route]:
        m2m = "/api/m2m/v1"
        return [
            Route(f"{m2m}/devices/license/actions/assign", self._licenses, methods=["POST", "DELETE"]),
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

    async def _licenses(self, request: Request) -> Response:
        """Assign and unassign: the only endpoint with limits, latency and faults."""
        headers, now = _headers(request), anyio.current_time()
        fault, quota = None, {}
        try:
            access = self._logins.check_access(headers, now)
            quota = await self._enter(now)
            try:
                session = self._logins.check_session(headers, now)
                fault = self._dice.throw()
                self._expire(fault, access, session, now)
                answer = await self._serve(request, headers, fault, now)
            finally:
                self._gate.leave()
        except Refusal as refusal:
            answer = refusal_answer(refusal)
        answer.headers.update(quota)
        self.tally[fault or str(answer.status_code)] += 1
        return answer

    async def _enter(self, now: float) -> dict[str, str]:
        """Let a call in, or throttle it; what its answer says of the quota that is left."""
        try:
            self._gate.enter(now)
        except Throttled as throttled:
            quota = quota_headers(self.config.quota_headers, self._gate.quota(now))
            await _work(self.config.latency_s)
            raise throttle_refusal(self.config, throttled.wait_s, self._wall_clock(), quota) from None
        return quota_headers(self.config.quota_headers, self._gate.quota(now))

    def _expire(self, fault: Fault | None, access: str, session: str, now: float) -> None:
        if fault is Fault.TOKEN_EXPIRED:
            raise self._logins.expire_access(access, now)
        if fault is Fault.SESSION_EXPIRED:
            raise self._logins.expire_session(session, now)

    async def _serve(self, request: Request, headers: Headers, fault: Fault | None, now: float) -> Response:
        """Work, execute, work; so a caller that leaves early may or may not have been served."""
        work_s = self._latency.of(self._gate.inside) / 2
        body = await request.body()
        await _work(work_s)
        if failure := instead_of_executing(fault):
            return failure
        try:
            request_id = self._execute(request.method, headers, body, now + work_s)
            await self.callbacks.post_early(request_id)
            answer = _json(RequestTaken(request_id))
        except Refusal as refusal:
            answer = refusal_answer(refusal)
        await _work(work_s)
        return instead_of(answer, fault, self.config.slow_body_s)

    def _execute(self, method: str, headers: Headers, body: bytes, now: float) -> str:
        x_request_id = headers[b"x-request-id"].decode("latin-1") if b"x-request-id" in headers else None
        if body:
            _demand_json(headers)
        verb = self._desk.unassign if method == "DELETE" else self._desk.assign
        return verb(body, x_request_id, now)

    async def _access_token(self, request: Request) -> Response:
        token = self._logins.access_token(_headers(request), await request.body(), anyio.current_time())
        return _json(msgspec.structs.asdict(token))  # with the fields that the message leaves out by default

    async def _open_session(self, request: Request) -> Response:
        headers, now = _headers(request), anyio.current_time()
        self._logins.check_access(headers, now)
        _demand_json(headers)
        return _json(self._logins.open_session(read(await request.body(), _LOGIN_BODY), now))

    async def _close_session(self, request: Request) -> Response:
        return _json(self._logins.close_session(self._admit(request), anyio.current_time()))

    async def _subscriptions(self, request: Request) -> Response:
        _demand_json(self._admit(request))
        return _json(self._desk.counts(await request.body()))

    async def _list_listeners(self, request: Request) -> Response:
        self._admit(request)
        return _json(self._listeners.of(self._account(request)))

    async def _register_listener(self, request: Request) -> Response:
        _demand_json(self._admit(request))
        return _json(self._listeners.register(self._account(request), await request.body()))

    async def _deregister(self, request: Request) -> Response:
        self._admit(request)
        return _json(self._listeners.deregister(self._account(request), request.path_params["service"]))

    async def _show_books(self, _: Request) -> Response:
        """Every device the sandbox was ever asked about, a JSON object a line."""
        return StreamingResponse(_lines(self.books.records()), media_type="application/x-ndjson")

    async def _show_totals(self, _: Request) -> Response:
        return _json(self.totals())

    def totals(self) -> Totals:
        """What has happened so far, in numbers."""
        accounts = self.books.accounts.values()
        return Totals(
            requests=dict(self.tally),
            executions=len(self.books.executions),
            devices=sum(account.device_count for account in accounts),
            licenses_in_use={account.name: account.in_use for account in accounts},
            most_concurrent=self._gate.most_inside,
            callbacks=dict(self.callbacks.tally),
            callbacks_pending=self.callbacks.pending,
        )

    def _admit(self, request: Request) -> Headers:
        """Check both tokens; returns the headers."""
        headers, now = _headers(request), anyio.current_time()
        self._logins.check_access(headers, now)
        self._logins.check_session(headers, now)
        return headers

    def _account(self, request: Request) -> str:
        return self._desk.account(request.path_params["account"]).name

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _wall_clock(self) -> datetime:
        """The carrier's wall clock; it runs as anyio's does, so also under a mock clock."""
        if self._epoch is None:
            self._epoch = time.time() - anyio.current_time()
        return datetime.fromtimestamp(self._epoch + anyio.current_time(), UTC)


async def _work(seconds: float) -> None:
    if seconds > 0:
        await anyio.sleep(seconds)


def _headers(request: Request) -> Headers:
    headers: Headers = dict(request.scope["headers"])
    if not _PRODUCED.search(headers.get(b"accept", b"*/*")):
        raise license_refusal(406, "Only application/json is produced.")
    return headers


def _demand_json(headers: Headers) -> None:
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise license_refusal(415, "The body must be application/json.")


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


async def _lines(records: Iterator[DeviceRecord]) -> AsyncIterator[bytes]:
    while chunk := list(islice(records, _RECORDS_PER_CHUNK)):
        yield msgspec.json.Encoder().encode_lines(chunk)
        await anyio.lowlevel.checkpoint()  # a million devices take a while, and others want to be served


def _answer_refusal(_: Request, error: Exception) -> Response:
    return refusal_answer(cast("Refusal", error))


def _answer_http_exception(_: Request, error: Exception) -> Response:
    """No such path or method: the gateway answers."""
    status, detail = cast("HTTPException", error).status_code, cast("HTTPException", error).detail
    return refusal_answer(gateway_refusal(status, str(status), detail, "No matching resource found"))
