"""An answer belongs to its request: bytes that no request asked for are no answer."""

import asyncio
import math
import socket
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import ClientRequest
from aiohttp.connector import Connection

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.carrier.connections import Exchange as ConnectionExchange
from batchlic.carrier.connections import _Connection
from batchlic.carrier.idle_time import IdleTime
from tests.carrier.script import GUID, Exchange, client_of, response, submission

pytestmark = pytest.mark.anyio

ON_ASYNCIO = pytest.mark.parametrize(
    "anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
"""On trio, a connection has one request."""

TAKEN = response(200, {"requestId": GUID})
IN_CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'34\r\n{"requestId":"' + GUID.encode() + b'"}\r\n0\r\n\r\n'
)
UNSOLICITED = {
    "the same answer": TAKEN,
    "another answer": response(200, {"requestId": "8ad8a24c-0000"}),
    "a refusal": response(400, {"errorCode": "400"}),
    "an answer about the time": b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
    "half an answer": TAKEN[:30],
    "a status line": b"HTTP/1.1 200 OK\r\n",
    "100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "an empty line": b"\r\n",
    "one byte": b"x",
    "words": b"220 this is another protocol\r\n",
}


class Carrier:
    """Says `first` to the first request, says `unsolicited`, and refuses all later requests."""

    def __init__(self, first: bytes, unsolicited: bytes) -> None:
        self._first, self._unsolicited = first, unsolicited
        self._requests = 0
        self.may_say_more = anyio.Event()
        self.has_said_more = anyio.Event()

    async def script(self, exchange: Exchange) -> None:
        self._requests += 1
        if self._requests > 1:
            await exchange.say(400, {"errorCode": "REQUEST_FAILED.SomethingNew"})
            return
        await exchange.raw(self._first)
        await self.may_say_more.wait()
        await exchange.raw(self._unsolicited)
        self.has_said_more.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True}), "trio"])
@pytest.mark.parametrize("unsolicited", UNSOLICITED.values(), ids=UNSOLICITED)
@pytest.mark.parametrize("first", [TAKEN, IN_CHUNKS], ids=["sized", "chunked"])
async def test_late_bytes_are_no_answer_to_the_next_request(first: bytes, unsolicited: bytes) -> None:
    carrier = Carrier(first, unsolicited)
    async with client_of(carrier.script) as (client, server):
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED
        carrier.may_say_more.set()
        await carrier.has_said_more.wait()
        answer = await client.submit(submission(x_request_id="1-222"))
    assert (answer.outcome, server.connections) == (Outcome.REFUSED, 2)


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True}), "trio"])
@pytest.mark.parametrize("unsolicited", UNSOLICITED.values(), ids=UNSOLICITED)
@pytest.mark.parametrize("first", [TAKEN, IN_CHUNKS], ids=["sized", "chunked"])
async def test_bytes_after_an_answer_are_no_answer_to_the_next_request(
    first: bytes, unsolicited: bytes
) -> None:
    carrier = Carrier(first + unsolicited, b"")
    carrier.may_say_more.set()
    async with client_of(carrier.script) as (client, server):
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED
        answer = await client.submit(submission(x_request_id="1-222"))
    assert (answer.outcome, server.connections) == (Outcome.REFUSED, 2)


@ON_ASYNCIO
async def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    closed = anyio.Event()

    async def take_one(exchange: Exchange) -> None:
        await exchange.raw(TAKEN)
        if server.connections == 1:
            await exchange.stream.aclose()
            closed.set()

    async with client_of(take_one) as (client, server):
        await client.submit(submission())
        await closed.wait()
        assert (await client.submit(submission(Action.UNASSIGN))).outcome is Outcome.ACCEPTED
    assert server.connections == 2


class Wire(asyncio.Transport):
    """A connection whose bytes only the test delivers."""

    def __init__(self, ours: socket.socket) -> None:
        super().__init__({"socket": ours})
        self._is_closed = False

    def is_closing(self) -> bool:
        return self._is_closed

    def abort(self) -> None:
        self._is_closed = True


@asynccontextmanager
async def connected(
    *, is_used: bool, beside: _Connection | None = None
) -> AsyncIterator[tuple[_Connection, socket.socket]]:
    """A connection, new or after its first answer, and the server's end of it."""
    ours, theirs = socket.socketpair()
    everything = beside._all_connections if beside is not None else weakref.WeakSet[_Connection]()
    with ours, theirs:
        connection = _Connection(asyncio.get_running_loop(), everything, IdleTime())
        connection.connection_made(Wire(ours))
        if is_used:
            ask(connection)
            connection.data_received(TAKEN)
            await connection.read()
        yield connection, theirs


def ask(connection: _Connection) -> ConnectionExchange:
    """Send a request; its answer is yet to come."""
    exchange = ConnectionExchange(lambda: None)
    connection.begin(exchange)
    connection.start_timeout()
    return exchange


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("is_used", [True, False])
async def test_a_connection_with_unsolicited_bytes_is_not_used(*, is_used: bool) -> None:
    async with connected(is_used=is_used) as (connection, _):
        assert connection.is_usable
        connection.data_received(b"x")
        assert not connection.is_usable


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_connection_with_unread_bytes_is_not_used() -> None:
    async with connected(is_used=True) as (connection, theirs):
        assert connection.is_usable
        theirs.send(b"x")
        assert not connection.is_usable


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_connection_with_an_unread_end_is_not_used() -> None:
    async with connected(is_used=True) as (connection, theirs):
        theirs.close()
        assert not connection.is_usable


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_discarding_ends_the_next_request_on_the_connection() -> None:
    async with connected(is_used=False) as (connection, _):
        exchange = ask(connection)
        connection.data_received(TAKEN)
        await connection.read()
        ask(connection)
        exchange.discard_connections()
        assert not connection.is_connected()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_discarding_waits_for_the_answers_on_other_connections() -> None:
    async with (
        connected(is_used=False) as (connection, _),
        connected(is_used=True, beside=connection) as (other, _),
        connected(is_used=True, beside=connection) as (idle, _),
    ):
        ask(other)
        ask(connection).discard_connections()
        assert other.is_connected()
        other.data_received(TAKEN)
        assert other.should_close
        assert not idle.is_connected()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_broken_chunk_ends_the_connection() -> None:
    async with connected(is_used=False) as (connection, _):
        ask(connection)
        connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.data_received(b"zz\r\n")
        await connection.read()
        assert connection.should_close


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_a_body_until_the_end_is_whole_unless_the_connection_breaks(error: Exception | None) -> None:
    async with connected(is_used=False) as (connection, _):
        exchange = ask(connection)
        connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n{}")
        connection.connection_lost(error)
        assert exchange.is_complete is (error is None)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_all_bytes_of_an_answer_end_its_silence() -> None:
    received: list[None] = []
    async with connected(is_used=False) as (connection, _):
        connection.begin(ConnectionExchange(lambda: received.append(None)))
        connection.start_timeout()
        for byte in TAKEN:
            connection.data_received(bytes([byte]))
    assert len(received) == len(TAKEN)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_request_does_not_leave_on_a_new_connection_with_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = _Connection.connection_made

    def connect_and_receive(connection: _Connection, transport: asyncio.BaseTransport) -> None:
        connect(connection, transport)
        connection.data_received(TAKEN)

    monkeypatch.setattr(_Connection, "connection_made", connect_and_receive)
    async with client_of() as (client, carrier):
        answer = await client.submit(submission())
    assert (answer.outcome, carrier.requests) == (Outcome.UNAVAILABLE, [])
    assert answer.error_message == "the server sent data before the request"


@ON_ASYNCIO
async def test_a_request_does_not_leave_after_bytes_in_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    is_readable = iter([False, True])
    monkeypatch.setattr(_Connection, "_is_readable", lambda _: next(is_readable))
    async with client_of() as (client, carrier):
        await client.submit(submission())
        answer = await client.submit(submission())
    assert (answer.outcome, len(carrier.requests)) == (Outcome.UNAVAILABLE, 1)
    assert answer.error_message == "the connection broke before the request was sent"


@ON_ASYNCIO
async def test_a_request_that_left_in_part_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_off(_: object, __: object, connection: Connection, ___: object = None) -> None:
        assert connection.protocol is not None
        connection.protocol.set_exception(BrokenPipeError("broken pipe"))

    monkeypatch.setattr(ClientRequest, "write_bytes", break_off)
    async with client_of() as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.error_message) == (Outcome.AMBIGUOUS, "broken pipe")


@ON_ASYNCIO
async def test_a_request_does_not_leave_after_unsolicited_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with client_of() as (client, carrier):
        await client.submit(submission())
        begin = _Connection.begin

        def begin_too_late(connection: _Connection, exchange: ConnectionExchange) -> None:
            begin(connection, exchange)
            connection.data_received(TAKEN)

        monkeypatch.setattr(_Connection, "begin", begin_too_late)
        answer = await client.submit(submission())
    assert (answer.outcome, len(carrier.requests)) == (Outcome.UNAVAILABLE, 1)
    assert answer.error_message == "the server sent data before the request"


@ON_ASYNCIO
@pytest.mark.parametrize(
    ("keep_alive", "idle_s", "is_kept"),
    [
        ("timeout=1", 0.3, True),
        ("timeout=1", 0.6, False),
        ("timeout=1, max=100", 0.9, False),
        ("timeout=2", 1.1, False),
        ("timeout=3", 2.5, False),
        ("timeout=0", 0.0, False),
        ("timeout=60", 3.0, True),
        ("max=100", 3.0, True),
    ],
)
async def test_a_connection_is_not_used_after_its_keep_alive_timeout(
    keep_alive: str, idle_s: float, monkeypatch: pytest.MonkeyPatch, *, is_kept: bool
) -> None:
    async def take_and_tell(exchange: Exchange) -> None:
        await exchange.say(200, {"requestId": GUID}, "Connection: keep-alive", f"Keep-Alive: {keep_alive}")

    async with client_of(take_and_tell) as (client, carrier):
        await client.submit(submission())
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + idle_s)
        await client.submit(submission())
    assert carrier.connections == (1 if is_kept else 2)


class ClosesIdleConnections:
    """Closes a connection without a word when it is used again after `idle_s` or more."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._answered_at: dict[object, float] = {}

    async def __call__(self, exchange: Exchange) -> None:
        now, stream = time.monotonic(), exchange.stream
        if now - self._answered_at.get(stream, now) >= self._idle_s:
            await stream.aclose()
            return
        await exchange.say(200, {"requestId": GUID})
        self._answered_at[stream] = time.monotonic()


@ON_ASYNCIO
async def test_connections_are_used_for_less_time_after_a_server_closed_one() -> None:
    async with client_of(ClosesIdleConnections(0.2)) as (client, carrier):
        outcomes = []
        for pause_s in (0.0, 0.3, 0.0, 0.3, 0.0, 0.3):
            await anyio.sleep(pause_s)
            outcomes.append((await client.submit(submission())).outcome)
    assert outcomes == [Outcome.ACCEPTED, Outcome.AMBIGUOUS, *[Outcome.ACCEPTED] * 4]
    assert carrier.connections == 4  # a connection that was idle for no time is used again


@pytest.mark.parametrize(("silence_s", "is_kept"), [(0.1, True), (0.3, False)])
@ON_ASYNCIO
async def test_the_idle_time_that_is_safe_is_half_of_what_was_too_long(
    silence_s: float, *, is_kept: bool
) -> None:
    async with client_of(ClosesIdleConnections(0.35)) as (client, carrier):
        outcomes = []
        for pause_s in (0.0, 0.4, 0.0, silence_s):
            await anyio.sleep(pause_s)
            outcomes.append((await client.submit(submission())).outcome)
    assert outcomes[-1] is Outcome.ACCEPTED
    assert carrier.connections == (2 if is_kept else 3)


def test_after_a_break_at_once_each_connection_has_one_request() -> None:
    idle_time = IdleTime()
    idle_time.was_too_long(0.001)
    assert idle_time.most_s == 0.0


def test_a_break_is_forgotten_after_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    idle_time, now = IdleTime(), time.monotonic()
    idle_time.was_too_long(4.0)
    idle_time.was_too_long(6.0)
    assert idle_time.most_s == 2.0
    monkeypatch.setattr(time, "monotonic", lambda: now + 601)
    assert idle_time.most_s == math.inf


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_connection_that_breaks_within_an_answer_was_not_idle_for_too_long() -> None:
    async with connected(is_used=True) as (connection, _):
        ask(connection)
        connection.data_received(TAKEN[:30])
        connection.eof_received()
        connection.connection_lost(None)
        assert connection._idle_time.most_s == math.inf


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_connection_that_the_client_closed_was_not_idle_for_too_long() -> None:
    async with connected(is_used=True) as (connection, _):
        ask(connection)
        connection.connection_lost(None)
        assert connection._idle_time.most_s == math.inf


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_a_connection_has_one_request() -> None:
    async with client_of() as (client, carrier):
        for _ in range(3):
            await client.submit(submission())
    assert carrier.connections == 3
