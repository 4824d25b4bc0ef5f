"""The listener: receives callbacks over HTTP and acknowledges each one once it is durable."""

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from batchlic.callbacks.access import Access, is_private
from batchlic.callbacks.bodies import Body, UnreadableBody, decompressed, read_body
from batchlic.callbacks.counts import Counts
from batchlic.callbacks.messages import StoredMessage, stored_message
from batchlic.callbacks.store import StoreError

PATH = "/callbacks/CarrierService"
MAX_BODY = 64 * 1024
"""Bytes, also after decompression. The carrier's messages have less than 1,000."""

_TOO_LARGE = f"the body has more than {MAX_BODY // 1024} KiB"

_BODY_TIMEOUT_S = 10.0
"""Time to receive a body."""

_LOG_INTERVAL_S = 1.0
"""Time between two log lines with the same reason, so that a flood of bad messages does not flood the log."""


class MessageRefused(Exception):
    """A message is refused with `status`. The log gets the `reason`, but nothing of the message itself."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class Listener:
    """The ASGI app of a listener.

    - `keep` returns once a message is durable, or raises StoreError.
    - `check` raises StoreError if the store can't be used.
    - Messages to `path/ACCOUNT` are about that account, messages to `path` about `account` (empty: unknown).
    - Each message with the right credentials and a requestId is kept, even if nothing else in it is readable.
    - While `max_waiting` messages wait for the store, further ones get a 503. The carrier sends them again.
    """

    def __init__(
        self,
        access: Access,
        *,
        keep: Callable[[StoredMessage], Awaitable[None]],
        check: Callable[[], None],
        logger: FilteringBoundLogger,
        path: str = PATH,
        account: str = "",
        max_waiting: int = 1000,
    ) -> None:
        self._access = access
        self._keep = keep
        self._check = check
        self._account = account
        self._max_waiting = max_waiting
        self._counts = Counts()
        self._log = _Log(logger)
        self.app = Starlette(
            routes=[
                Route(path, self._receive, methods=["POST"]),
                Route(f"{path}/{{account:path}}", self._receive, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/ready", self._ready, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
            ],
            middleware=[Middleware(_SingleSlashes)],
        )

    async def _receive(self, request: Request) -> Response:
        counts = self._counts
        counts.received += 1
        if counts.waiting >= self._max_waiting:
            return self._refuse_for_now("too many messages wait for the store")
        counts.waiting += 1
        try:
            message = await self._read(request)
            await self._keep(message)
        except MessageRefused as refusal:
            counts.refused[refusal.status] += 1
            self._log.add(_REFUSED, refusal.reason, self._source(request))
            return Response(status_code=refusal.status, headers={"Connection": "close"})
        except StoreError as error:
            return self._refuse_for_now(str(error))
        finally:
            counts.waiting -= 1
        counts.stored += 1
        counts.last_stored_at = time.time()
        if message.raw:
            counts.unjudged += 1
            self._log.add("message kept as it came", "it reports no success or failure of a device", None)
        return Response(b"{}", media_type="application/json")

    def _refuse_for_now(self, reason: str) -> Response:
        self._counts.refused[503] += 1
        return self._unavailable(reason)

    async def _read(self, request: Request) -> StoredMessage:
        """Return the message of a request that passes all checks; raise MessageRefused otherwise."""
        if not self._access.allows(self._source(request)):
            raise MessageRefused(403, "the source address is not in BATCHLIC_LISTENER_ALLOWED_SOURCES")
        body = _decode(await _read_body(request))
        if not self._access.accepts(body.username, body.password):
            raise MessageRefused(401, "wrong credentials")
        if not body.request_id:
            raise MessageRefused(422, "no requestId")
        return stored_message(
            body,
            account=request.path_params.get("account", "").strip("/") or self._account,
            received_at=time.time_ns() // 1000,
            secrets=[self._access.password.reveal()],
        )

    def _source(self, request: Request) -> str | None:
        peer = request.client.host if request.client else None
        return self._access.source_address(peer, ",".join(request.headers.getlist("x-forwarded-for")))

    def _unavailable(self, reason: str) -> Response:
        self._log.add(_REFUSED, reason, None)
        return Response(status_code=503, headers={"Retry-After": "5"})

    async def _health(self, _: Request) -> Response:
        """Answer 200: the process runs."""
        return Response(status_code=200)

    async def _ready(self, _: Request) -> Response:
        """Answer 200 if the store works and accepts messages."""
        try:
            await anyio.to_thread.run_sync(self._check)
        except StoreError as error:
            return self._unavailable(str(error))
        return Response(status_code=200 if self._counts.waiting < self._max_waiting else 503)

    async def _show_metrics(self, request: Request) -> Response:
        """Answer with the counts of messages, on this machine and in private networks only."""
        source = self._source(request)
        peer = request.client.host if request.client else None
        is_passed_on = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "via"))
        if not is_private(source) or (is_passed_on and source == peer):  # by a proxy that is not trusted
            return Response(status_code=403)
        try:
            from batchlic.callbacks.metrics import CONTENT_TYPE, exposition  # noqa: PLC0415 - an extra
        except ImportError:
            return PlainTextResponse("metrics need prometheus-client: pip install 'batchlic[metrics]'", 501)
        return Response(exposition(self._counts), media_type=CONTENT_TYPE)


class _SingleSlashes:
    """Reads `//callbacks` as `/callbacks`: proxies, and URLs that end with a slash, add slashes to a path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": re.sub("/{2,}", "/", scope["path"])}
        await self._app(scope, receive, send)


async def _read_body(request: Request) -> bytes:
    if int(request.headers.get("content-length", "0")) > MAX_BODY:
        raise MessageRefused(413, _TOO_LARGE)
    body = bytearray()
    try:
        with anyio.fail_after(_BODY_TIMEOUT_S):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise MessageRefused(413, _TOO_LARGE)
    except TimeoutError:
        raise MessageRefused(408, "the body did not arrive in time") from None
    except ClientDisconnect:
        raise MessageRefused(400, "the caller disconnected") from None
    content = decompressed(bytes(body), limit=MAX_BODY)
    if len(content) > MAX_BODY:
        raise MessageRefused(413, _TOO_LARGE)
    return content


def _decode(content: bytes) -> Body:
    try:
        return read_body(content)
    except UnreadableBody as error:
        status, reason = (422, "not a callback") if error.is_json else (400, "not JSON")
        raise MessageRefused(status, reason) from None


_REFUSED = "message refused"


class _Log:
    """Logs what happens to messages: one line per reason and interval, with the number of messages."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger
        self._counts: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}

    def add(self, event: str, reason: str, source: str | None) -> None:
        now = anyio.current_time()
        self._counts[reason] += 1
        if now - self._logged_at.get(reason, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S:
            self._logged_at[reason] = now
            self._logger.warning(event, reason=reason, source=source, count=self._counts.pop(reason))
