"""An httpx transport that calls an ASGI app in the same process and fails as a real connection would."""

from collections import deque
from collections.abc import MutableMapping
from typing import Any, NamedTuple

import anyio
import httpx
from starlette.responses import Response
from starlette.types import ASGIApp

from batchlic.sandbox.responses import ASKED_WAIT, DROP, REPEAT, REPEAT_AFTER_S


class _Unasked(NamedTuple):
    """An answer that arrives once more, at a time of anyio's clock, where answers to `path` are expected."""

    arrives_at: float
    path: str
    answer: Response


class InProcessTransport(httpx.AsyncBaseTransport):
    """Calls an ASGI app in the caller's own task, on asyncio or trio, with any clock.

    Unlike httpx.ASGITransport, it applies the read timeout between any two parts of the answer, and raises
    httpx's errors when the app drops the connection. The caller gets the complete answer at once.

    An answer that arrives twice (`responses.REPEAT`) is the answer to the next request with the same path,
    which is lost: as if the bytes had arrived just after the caller looked for unread bytes. `aclose` closes
    the connections, so that no answer arrives any more. The extension `responses.ASKED_WAIT` of an httpx
    response is the seconds that the app says the answer asks for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._unasked: deque[_Unasked] = deque()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response, or raise httpx.ReadTimeout, httpx.ReadError or httpx.RemoteProtocolError."""
        await anyio.lowlevel.checkpoint()
        if (stale := self._take_unasked(request.url.path)) is not None:
            return httpx.Response(stale.status_code, headers=stale.raw_headers, content=bytes(stale.body))
        exchange = _Exchange(await request.aread(), request.extensions.get("timeout", {}).get("read"))
        with exchange.until_broken:
            await self._app(exchange.scope_of(request), exchange.receive, exchange.send)
        if exchange.repeated is not None:
            arrives_at = anyio.current_time() + REPEAT_AFTER_S
            self._unasked.append(_Unasked(arrives_at, request.url.path, exchange.repeated))
        return exchange.response()

    async def aclose(self) -> None:
        """Drop the answers that have not arrived."""
        self._unasked.clear()

    def _take_unasked(self, path: str) -> Response | None:
        """Take the oldest answer that has arrived unasked for requests to this path."""
        now = anyio.current_time()
        for unasked in self._unasked:
            if unasked.path == path and unasked.arrives_at <= now:
                self._unasked.remove(unasked)
                return unasked.answer
        return None


class _Exchange:
    """One request and its answer, in place of a connection."""

    def __init__(self, body: bytes, read_timeout_s: float | None) -> None:
        self._body: bytes | None = body
        self._read_timeout_s = read_timeout_s
        self._dropped = False
        self._status: int | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._state: dict[str, Any] = {DROP: self._drop, REPEAT: self._repeat}
        self.repeated: Response | None = None
        self.until_broken = anyio.CancelScope()
        self._wait_for_next_part()

    def scope_of(self, request: httpx.Request) -> MutableMapping[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "server": (request.url.host, request.url.port),
            "client": ("127.0.0.1", 0),
            "state": self._state,
        }

    async def receive(self) -> MutableMapping[str, Any]:
        if self._body is None:
            await anyio.sleep_forever()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self._wait_for_next_part()
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], message["headers"]
        else:
            self._parts.append(message["body"])

    def response(self) -> httpx.Response:
        """Return the answer that the app sent, or raise the error for a missing or broken one."""
        if self._dropped and self._status is None:
            raise httpx.ReadError("The sandbox reset the connection.")
        if self._dropped:
            raise httpx.RemoteProtocolError("The sandbox closed the connection within an answer.")
        if self._status is None or self.until_broken.cancelled_caught:
            raise httpx.ReadTimeout("The sandbox did not answer in time.")
        return httpx.Response(
            self._status,
            headers=self._headers,
            content=b"".join(self._parts),
            extensions={ASKED_WAIT: self._state.get(ASKED_WAIT)},
        )

    def _repeat(self, answer: Response) -> None:
        self.repeated = answer

    def _drop(self) -> None:
        self._dropped = True
        self.until_broken.cancel()

    def _wait_for_next_part(self) -> None:
        if self._read_timeout_s is not None:
            self.until_broken.deadline = anyio.current_time() + self._read_timeout_s
