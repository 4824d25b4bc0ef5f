"""HTTP connections on asyncio, with aiohttp: each request gets its own answer, never an older one.

aiohttp takes bytes that arrive on an idle connection as the answer to the next request. Here, a connection is
used only if nothing arrived since the end of its last answer. An error shows whether anything was sent.

Importing aiohttp is slow, so only commands that send requests import this module.
"""

import asyncio
import functools
import select
import ssl
import time
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, cast

import aiohttp
import httpx
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpVersion11, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict, CIMultiDictProxy

from batchlic.carrier.http_client import ProxyRefused
from batchlic.carrier.idle_time import IdleTime
from batchlic.carrier.rate_limits import read_retry_after
from batchlic.carrier.response_reader import NotHttpError, ResponseReader

_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())


def pooled_transport(
    context: ssl.SSLContext, proxy: httpx.Proxy | None, *, max_connections: int, keepalive_s: float
) -> AiohttpTransport:
    """A transport with at most `max_connections`, each kept open for `keepalive_s` seconds without use.

    A request may have the extension `received`, which is called for all bytes that arrive. A response has the
    extension `exchange`, an `Exchange`.
    """

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(context, limit=max_connections, keepalive_s=keepalive_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_exchange_once,),
            request_class=_Request,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )

    return _Transport(verify=context, proxy=proxy, client=session)


class Exchange:
    """One request and its answer, on one connection."""

    def __init__(self, received: Callable[[], None]) -> None:
        self.received = received
        self.reader = ResponseReader()
        self.connection: _Connection | None = None
        self.is_sent = False
        """Whether a byte of the request may have left."""

    @property
    def is_complete(self) -> bool:
        """Whether the body of the answer was read to its end."""
        return self.reader.finished and self.reader.complete

    def discard_connections(self) -> None:
        """Close the connection of this exchange at once, and all other open ones after their answers."""
        if self.connection is not None:
            self.connection.discard_connections()


_exchange: ContextVar[Exchange] = ContextVar("exchange")


class _Transport(AiohttpTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(request.extensions.get("received", lambda: None))
        _exchange.set(exchange)
        response = await super().handle_async_request(request)
        response.extensions["exchange"] = exchange
        return response


class _Connection(ResponseHandler):
    """A connection for one request at a time. Bytes that no request asked for close it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        all_connections: "weakref.WeakSet[_Connection]",
        idle_time: IdleTime,
    ) -> None:
        super().__init__(loop)
        self._exchange: Exchange | None = None
        self._awaits_answer = self._has_answer = self._is_closed_by_server = False
        self._idle_time = idle_time
        self._was_idle_s = 0.0
        self._idle_since: tuple[float, float] | None = None
        self._idle_s = 0.0
        self._poll: select.poll | None = None
        self._all_connections = all_connections
        all_connections.add(self)

    @property
    def is_new(self) -> bool:
        """Whether no answer has arrived on this connection yet."""
        return self._idle_since is None

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent: the connection is open and has no unsolicited bytes."""
        # The bytes in a new connection's socket may belong to its TLS handshake.
        return self.is_connected() and (self.is_new or not (self._is_expired() or self._is_readable()))

    def failure(self) -> BaseException:
        """Why the connection is not usable."""
        return self.exception() or ConnectionAbortedError("the connection broke before the request was sent")

    def begin(self, exchange: Exchange) -> None:
        """Start an exchange."""
        self._has_answer = False
        self._was_idle_s = self._idle_for()
        self._exchange = exchange
        exchange.connection = self

    def mark_sent(self) -> None:
        """Note that the request leaves now."""
        if self._exchange is not None:
            self._exchange.is_sent = True

    def start_timeout(self) -> None:
        """Expect the answer: aiohttp calls this when the whole request was written."""
        self.mark_sent()
        self._awaits_answer = True
        if self._exchange is not None:  # without one, this is the CONNECT to a proxy
            self._parser = cast("Any", _Parser(self, self._loop, self._exchange.reader))

    def data_received(self, data: bytes) -> None:
        if data and not self._awaits_answer:
            self.abort()
            self.set_exception(ConnectionAbortedError("the server sent data before the request"))
            return
        if data and self._exchange is not None:
            self._has_answer = True
            self._exchange.received()
        super().data_received(data)

    def eof_received(self) -> None:
        self._is_closed_by_server = True
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        is_closed_by_server = self._is_closed_by_server or exc is not None
        if self._awaits_answer and is_closed_by_server and not (self.is_new or self._has_answer):
            self._idle_time.was_too_long(self._was_idle_s)
        if isinstance(self._parser, _Parser):
            for message in self._parser.close(clean=exc is None):
                self.feed_data(message)
        super().connection_lost(exc)

    def answered(self, idle_s: float) -> None:
        """Note the end of the answer; the connection may be kept for `idle_s` seconds."""
        self._awaits_answer = False
        self._idle_s = idle_s
        self._idle_since = time.monotonic(), time.time()
        if idle_s <= 0:
            self.force_close()

    def retire(self) -> None:
        """Close the connection: at once, or after the answer that it waits for."""
        self.force_close()
        if not self._awaits_answer and not self.is_new:
            self.abort()

    def discard_connections(self) -> None:
        """Close this connection at once, even if another request uses it by now, and retire all others."""
        for connection in self._all_connections:
            connection.retire()
        self.abort()

    def _is_expired(self) -> bool:
        return self._idle_for() > min(self._idle_s, self._idle_time.most_s)

    def _idle_for(self) -> float:
        """Seconds since the last answer, by the wall clock, too: that runs while a machine is suspended."""
        monotonic, wall = self._idle_since or (0.0, 0.0)
        return max(time.monotonic() - monotonic, time.time() - wall)

    def _is_readable(self) -> bool:
        """Whether bytes, or the end of the connection, wait in the socket."""
        if self._poll is None and self.transport is not None:
            self._poll = select.poll()
            self._poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return self._poll is not None and bool(self._poll.poll(0))


class _Parser:
    """Replaces aiohttp's own parser: gives aiohttp what a ResponseReader reads."""

    def __init__(
        self, connection: _Connection, loop: asyncio.AbstractEventLoop, reader: ResponseReader
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._payload = StreamReader(connection, 2**16, loop=loop)
        self._has_head = False

    def feed_data(self, data: bytes) -> tuple[Sequence[tuple[RawResponseMessage, StreamReader]], bool, bytes]:
        """Return the message once its head is there. The protocol never changes; no bytes are left."""
        if self._payload.is_eof():
            return (), False, b""
        try:
            body = self._reader.feed(data)
        except NotHttpError as error:
            raise HttpProcessingError(message=str(error)) from error
        if self._reader.finished and self._reader.head is None:
            raise HttpProcessingError(message="an HTTP response with incomplete headers")
        return self._messages(body), False, b""

    def close(self, *, clean: bool) -> Sequence[tuple[RawResponseMessage, StreamReader]]:
        """The connection is closed; return the message if its status is known only now."""
        self._reader.close(clean=clean)
        return self._messages()

    def feed_eof(self) -> None:
        """Do nothing: `close` handles the end."""

    def pause_reading(self) -> None:
        """Do nothing: only a parser that decompresses has something to pause."""

    def _messages(self, body: bytes = b"") -> Sequence[tuple[RawResponseMessage, StreamReader]]:
        head = self._reader.head
        if head is None:
            return ()
        if body:
            self._payload.feed_data(body, len(body))
        should_close = self._reader.idle_s <= 0
        if self._reader.finished and not self._payload.is_eof():
            self._connection.answered(self._reader.idle_s)
            self._payload.feed_eof()
        if self._has_head:
            return ()
        self._has_head = True
        message = RawResponseMessage(
            version=HttpVersion11,
            code=head.status,
            reason=head.reason,
            headers=_NO_HEADERS,
            raw_headers=tuple(head.headers),
            should_close=should_close,
            compression=None,
            upgrade=False,
            chunked=False,
        )
        return [(message, self._payload)]


class _Request(aiohttp.ClientRequest):
    """A request that leaves only on a connection that is still usable."""

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        connection = cast("_Connection", conn.protocol)
        if not connection.is_usable:
            connection.set_exception(connection.failure())
            return
        connection.mark_sent()
        await super().write_bytes(writer, conn, content_length)


class _Connector(aiohttp.TCPConnector):
    """Gives usable connections only. Raises httpx.ConnectError or ProxyError: nothing was sent."""

    def __init__(self, context: ssl.SSLContext, *, limit: int, keepalive_s: float) -> None:
        super().__init__(ssl=context, limit=limit, keepalive_timeout=keepalive_s)
        connections = weakref.WeakSet[_Connection]()
        self._factory = cast(
            "functools.partial[ResponseHandler]",
            functools.partial(_Connection, self._loop, connections, IdleTime()),
        )

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        try:
            while True:
                connection = await super().connect(req, traces, timeout)
                protocol = cast("_Connection", connection.protocol)
                if protocol.is_usable:
                    protocol.begin(_exchange.get())
                    return connection
                failure = protocol.failure()
                connection.close()
                if protocol.is_new:
                    raise failure  # noqa: TRY301 - reported like all others
        except aiohttp.ClientHttpProxyError as error:
            headers = {name.lower(): value for name, value in (error.headers or {}).items()}
            raise ProxyRefused(f"{error.status} {error.message}", read_retry_after(headers)) from error
        except Exception as error:
            raise httpx.ConnectError(str(error) or "no connection in time") from error


async def _exchange_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Raise httpx.ReadError for every failure after a byte was sent: the request may be executed.

    aiohttp repeats a DELETE when a kept-alive connection breaks, and httpx-aiohttp reports such a break as a
    connect timeout. Neither handles httpx.ReadError, so both pass it on.
    """
    try:
        return await handler(request)
    except (httpx.ConnectError, httpx.ProxyError):
        raise
    except Exception as error:
        message = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        kind = httpx.ReadError if _exchange.get().is_sent else httpx.ConnectError
        raise kind(message or type(error).__name__) from error
