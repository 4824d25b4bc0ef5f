"""The listener: takes callbacks over HTTP and acknowledges each once it is durable."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.typing import FilteringBoundLogger

from batchlic.callbacks.access import Access
from batchlic.callbacks.messages import DECODER, Callback, DeviceMessage, told
from batchlic.callbacks.store import StoreError
from batchlic.carrier.answers import UNREADABLE

PATH = "/callbacks/CarrierService"
LARGEST_BODY = 64 * 1024
"""Bytes. The carrier's own messages have less than one thousand."""

_PATIENCE = 10.0
"""Seconds that a body may take to come in."""

_NOTE_EVERY = 1.0
"""Seconds between two log lines of the same reason: a flood of bad messages must not become one of logs."""


class Unacceptable(Exception):
    """A message that is not taken: the status it gets, and the reason that is logged, without its text."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class Listener:
    """The ASGI app of a listener.

    `keep` returns once a message is durable and raises StoreError where it can't be; `check` raises that
    where the store is out of order. Messages at `path` are of `account` (empty: not known), those at
    `path/ACCOUNT` are of the account that the path names. More than `most_waiting` messages at a
    time are turned away with 503: the carrier sends them again.
    """

    def __init__(
        self,
        access: Access,
        *,
        keep: Callable[[DeviceMessage], Awaitable[None]],
        check: Callable[[], None],
        logger: FilteringBoundLogger,
        path: str = PATH,
        account: str = "",
        most_waiting: int = 1000,
    ) -> None:
        self._access = access
        self._keep = keep
        self._check = check
        self._account = account
        self._most_waiting = most_waiting
        self._waiting = 0
        self._notes = _Notes(logger)
        self.app = Starlette(
            routes=[
                Route(path, self._receive, methods=["POST"]),
                Route(f"{path}/{{account}}", self._receive, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/ready", self._ready, methods=["GET"]),
            ]
        )

    async def _receive(self, request: Request) -> Response:
        if self._waiting >= self._most_waiting:
            return self._turn_away("more messages than can be kept at a time")
        self._waiting += 1
        try:
            await self._keep(await self._read(request))
        except Unacceptable as refusal:
            self._notes.add(refusal.reason, self._source(request))
            return Response(status_code=refusal.status, headers={"Connection": "close"})
        except StoreError as error:
            return self._turn_away(str(error))
        finally:
            self._waiting -= 1
        return Response(b"{}", media_type="application/json")

    async def _read(self, request: Request) -> DeviceMessage:
        """The message in a request that deserves belief; raises Unacceptable."""
        if not self._access.allows(self._source(request)):
            raise Unacceptable(403, "the source address is not allowed")
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise Unacceptable(415, "not application/json")
        callback = _decoded(await _body(request))
        if not self._access.knows(callback.username, callback.password):
            raise Unacceptable(401, "wrong credentials")
        account = request.path_params.get("account", self._account)
        if len(account) > 32 or not account.isprintable():
            raise Unacceptable(404, "no account can have the name in the path")
        return told(callback, account=account, received_at=time.time_ns() // 1000)

    def _source(self, request: Request) -> str | None:
        peer = request.client.host if request.client else None
        return self._access.source_of(peer, ",".join(request.headers.getlist("x-forwarded-for")))

    def _turn_away(self, reason: str) -> Response:
        self._notes.add(reason, None)
        return Response(status_code=503, headers={"Retry-After": "5"})

    async def _health(self, _: Request) -> Response:
        """The process is alive."""
        return Response(status_code=200)

    async def _ready(self, _: Request) -> Response:
        """The store answers, and there is room for messages."""
        try:
            await anyio.to_thread.run_sync(self._check)
        except StoreError as error:
            return self._turn_away(str(error))
        return Response(status_code=200 if self._waiting < self._most_waiting else 503)


async def _body(request: Request) -> bytes:
    if int(request.headers.get("content-length", "0")) > LARGEST_BODY:
        raise Unacceptable(413, "the body is too large")
    body = bytearray()
    try:
        with anyio.fail_after(_PATIENCE):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > LARGEST_BODY:
                        raise Unacceptable(413, "the body is too large")
    except TimeoutError:
        raise Unacceptable(408, "the body did not come in") from None
    except ClientDisconnect:
        raise Unacceptable(400, "the caller left") from None
    return bytes(body)


def _decoded(body: bytes) -> Callback:
    try:
        return DECODER.decode(body)
    except UNREADABLE as error:
        is_shape = type(error).__name__ == "ValidationError"
        status, reason = (422, "not a callback") if is_shape else (400, "not JSON")
        raise Unacceptable(status, reason) from None


class _Notes:
    """Log lines of what was not taken: one a reason and `_NOTE_EVERY`, with how many it speaks for."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger
        self._since: Counter[str] = Counter()
        self._last: dict[str, float] = {}

    def add(self, reason: str, source: str | None) -> None:
        now = anyio.current_time()
        self._since[reason] += 1
        if now - self._last.get(reason, -_NOTE_EVERY) >= _NOTE_EVERY:
            self._last[reason] = now
            self._logger.warning("not taken", reason=reason, source=source, count=self._since.pop(reason))
