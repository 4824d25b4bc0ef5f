"""An answer belongs to its request: what a connection says unasked is nobody's answer."""

import asyncio
import socket
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.carrier.connections import Exchange as ConnectionExchange
from batchlic.carrier.connections import _Connection
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
UNASKED = {
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
    """Says `first` to the first request, says `unasked`, and refuses all later requests."""

    def __init__(self, first: bytes, unasked: bytes) -> None:
        self._first, self._unasked = first, unasked
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
        await exchange.raw(self._unasked)
        self.has_said_more.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True}), "trio"])
@pytest.mark.parametrize("unasked", UNASKED.values(), ids=UNASKED)
@pytest.mark.parametrize("first", [TAKEN, IN_CHUNKS], ids=["sized", "chunked"])
async def test_what_comes_late_is_no_answer_to_the_next_request(first: bytes, unasked: bytes) -> None:
    carrier = Carrier(first, unasked)
    async with client_of(carrier.script) as (client, server):
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED
        carrier.may_say_more.set()
        await carrier.has_said_more.wait()
        answer = await client.submit(submission(x_request_id="1-222"))
    assert (answer.outcome, server.connections) == (Outcome.REFUSED, 2)


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True}), "trio"])
@pytest.mark.parametrize("unasked", UNASKED.values(), ids=UNASKED)
@pytest.mark.parametrize("first", [TAKEN, IN_CHUNKS], ids=["sized", "chunked"])
async def test_what_comes_with_an_answer_is_no_answer_either(first: bytes, unasked: bytes) -> None:
    carrier = Carrier(first + unasked, b"")
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
        connection = _Connection(asyncio.get_running_loop(), everything)
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
async def test_a_connection_that_spoke_unasked_is_not_used(*, is_used: bool) -> None:
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
async def test_distrust_ends_the_next_request_on_the_same_connection() -> None:
    async with connected(is_used=False) as (connection, _):
        exchange = ask(connection)
        connection.data_received(TAKEN)
        await connection.read()
        ask(connection)
        exchange.distrust()
        assert not connection.is_connected()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_distrust_waits_for_the_answers_on_other_connections() -> None:
    async with (
        connected(is_used=False) as (connection, _),
        connected(is_used=True, beside=connection) as (other, _),
        connected(is_used=True, beside=connection) as (idle, _),
    ):
        ask(other)
        ask(connection).distrust()
        assert other.is_connected()
        other.data_received(TAKEN)
        assert other.should_close
        assert not idle.is_connected()


@ON_ASYNCIO
async def test_a_request_does_not_leave_if_its_connection_speaks_just_before(
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
    assert answer.error_message == "the server sent something before the request"


@ON_ASYNCIO
@pytest.mark.parametrize(
    ("told", "idle_s", "is_kept"),
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
async def test_a_connection_is_not_used_after_the_time_that_the_server_told(
    told: str, idle_s: float, monkeypatch: pytest.MonkeyPatch, *, is_kept: bool
) -> None:
    async def take_and_tell(exchange: Exchange) -> None:
        await exchange.say(200, {"requestId": GUID}, "Connection: keep-alive", f"Keep-Alive: {told}")

    async with client_of(take_and_tell) as (client, carrier):
        await client.submit(submission())
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + idle_s)
        await client.submit(submission())
    assert carrier.connections == (1 if is_kept else 2)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_a_connection_has_one_request() -> None:
    async with client_of() as (client, carrier):
        for _ in range(3):
            await client.submit(submission())
    assert carrier.connections == 3
