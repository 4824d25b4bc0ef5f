"""Answers that common parsers throw away are read; of those that can't be read, the status counts."""

import gzip
from dataclasses import dataclass

import anyio
import msgspec
import pytest

from batchlic.carrier.answers import Outcome, Reply
from batchlic.carrier.http_client import COMMON_HEADERS, Timeouts, open_http_client
from batchlic.carrier.response_reader import MAX_HEAD
from tests.carrier.script import GUID, Exchange, Script, client_of, response, scripted, submission

pytestmark = pytest.mark.anyio

ON_ASYNCIO = pytest.mark.parametrize(
    "anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
"""On trio, httpcore reads the answers, and its parser is stricter."""

BODY = msgspec.json.encode({"requestId": GUID})
LENGTH = f"Content-Length: {len(BODY)}".encode()
CHUNKS = b"34\r\n" + BODY + b"\r\n0\r\n\r\n"


def says(*lines: bytes, body: bytes = BODY) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.raw(b"\r\n".join([*lines, b"", b""]) + body)
        await exchange.stream.aclose()

    return script


LONG = {
    "a header of 9 kB": says(b"HTTP/1.1 200 OK", b"Set-Cookie: a=" + b"x" * 9000, LENGTH),
    "a header of 64 kB": says(b"HTTP/1.1 200 OK", b"Content-Security-Policy: " + b"x" * 65536, LENGTH),
    "a header name of 9 kB": says(b"HTTP/1.1 200 OK", b"X" * 9000 + b": y", LENGTH),
    "a reason of 9 kB": says(b"HTTP/1.1 200 " + b"O" * 9000, LENGTH),
    "150 headers": says(b"HTTP/1.1 200 OK", *(b"X-%d: y" % n for n in range(150)), LENGTH),
    "1000 headers": says(b"HTTP/1.1 200 OK", *(b"X-%d: y" % n for n in range(1000)), LENGTH),
    "20 cookies of 4 kB": says(b"HTTP/1.1 200 OK", *[b"Set-Cookie: a=" + b"x" * 4096] * 20, LENGTH),
    "an equal length": says(b"HTTP/1.1 200 OK", LENGTH, LENGTH),
    "an equal length in one header": says(b"HTTP/1.1 200 OK", LENGTH + b", %d" % len(BODY)),
    "no reason": says(b"HTTP/1.1 200", LENGTH),
}
ODD = {
    "a length beside chunks": says(b"HTTP/1.1 200 OK", LENGTH, b"Transfer-Encoding: chunked", body=CHUNKS),
    "chunked twice": says(b"HTTP/1.1 200 OK", *[b"Transfer-Encoding: chunked"] * 2, body=CHUNKS),
    "a header without a colon": says(b"HTTP/1.1 200 OK", b"no header", LENGTH),
    "a header with a zero byte": says(b"HTTP/1.1 200 OK", b"X-A: b\0c", LENGTH),
    "a header name in Latin-1": says(b"HTTP/1.1 200 OK", b"X-\xc4: b", LENGTH),
    "a space before the colon": says(b"HTTP/1.1 200 OK", LENGTH.replace(b":", b" :")),
    "bytes after the body": says(b"HTTP/1.1 200 OK", LENGTH, body=BODY + b"garbage"),
    "a second status line": says(b"HTTP/1.1 200 OK", LENGTH, body=BODY + b"HTTP/1.1 9"),
    "chunks without an end": says(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", body=CHUNKS[:-2]),
    "bytes after the chunks": says(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", body=CHUNKS + b"x"),
    "HTTP/2 in the status line": says(b"HTTP/2 200", LENGTH),
}


@pytest.mark.parametrize("script", LONG.values(), ids=LONG)
async def test_a_long_head_is_read(script: Script) -> None:
    async with client_of(script) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.request_id) == (Outcome.ACCEPTED, GUID)


@ON_ASYNCIO
@pytest.mark.parametrize("script", ODD.values(), ids=ODD)
async def test_an_odd_answer_is_read(script: Script) -> None:
    async with client_of(script) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.request_id) == (Outcome.ACCEPTED, GUID)


@ON_ASYNCIO
@pytest.mark.parametrize("header", [b"no header", LENGTH, b"X-A: b\0c", b"Transfer-Encoding: identity"])
async def test_an_odd_answer_ends_its_connection(header: bytes) -> None:
    async def take_oddly(exchange: Exchange) -> None:
        await exchange.raw(b"\r\n".join([b"HTTP/1.1 200 OK", header, LENGTH, b"", BODY]))

    async with client_of(take_oddly) as (client, carrier):
        await client.submit(submission())
        await client.submit(submission())
    assert carrier.connections == 2


@dataclass(frozen=True)
class Damaged:
    name: str
    lines: tuple[bytes, ...]
    body: bytes


DAMAGED = [
    Damaged("a broken chunk", (b"Transfer-Encoding: chunked",), b"zz\r\nabc"),
    Damaged("a chunk that is too long", (b"Transfer-Encoding: chunked",), b"3\r\nabcdef\r\n0\r\n\r\n"),
    Damaged("chunks cut off", (b"Transfer-Encoding: chunked",), b"3\r\na"),
    Damaged("a body cut off", (b"Content-Length: 100",), b"{"),
    Damaged("no body", (b"Content-Length: 100",), b""),
    Damaged("a body that is no gzip", (b"Content-Encoding: gzip", b"Content-Length: 3"), b"abc"),
    Damaged("gzip cut off", (b"Content-Encoding: gzip", b"Content-Length: 9"), gzip.compress(b"abc")[:9]),
    Damaged("an unknown compression", (b"Content-Encoding: x-new", b"Content-Length: 3"), b"abc"),
]
DAMAGED_HEADS = [
    Damaged("different lengths", (b"Content-Length: 3", b"Content-Length: 5"), b"abcde"),
    Damaged("a length that is no number", (b"Content-Length: many",), b"abc"),
    Damaged("a negative length", (b"Content-Length: -1",), b"abc"),
    Damaged("a length of 5000 digits", (b"Content-Length: " + b"9" * 5000,), b"abc"),
    Damaged("a coding that nobody knows", (b"Transfer-Encoding: x-new",), b"abc"),
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda damaged: damaged.name)
async def test_a_status_counts_although_its_body_is_lost(damaged: Damaged) -> None:
    script = says(b"HTTP/1.1 429 Words", b"Retry-After: 7", *damaged.lines, body=damaged.body)
    async with client_of(script) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.http_status, answer.retry_after_s) == (Outcome.THROTTLED, 429, 7)


@ON_ASYNCIO
@pytest.mark.parametrize("damaged", DAMAGED_HEADS, ids=lambda damaged: damaged.name)
async def test_a_status_counts_although_nobody_knows_its_body(damaged: Damaged) -> None:
    script = says(b"HTTP/1.1 429 Words", b"Retry-After: 7", *damaged.lines, body=damaged.body)
    async with client_of(script) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.http_status, answer.retry_after_s) == (Outcome.THROTTLED, 429, 7)


@ON_ASYNCIO
@pytest.mark.parametrize("head", [b"HTTP/1.1 429 Words\r\n", b"HTTP/1.1 429 Words\r\nRetry-Af"])
async def test_a_status_counts_although_its_headers_are_cut_off(head: bytes) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.raw(head)
        await exchange.stream.aclose()

    async with client_of(cut) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.http_status) == (Outcome.THROTTLED, 429)


@ON_ASYNCIO
@pytest.mark.parametrize("lines", [(LENGTH, b"Content-Length: 9"), (b"Transfer-Encoding: gzip",)])
async def test_a_body_of_doubtful_length_accepts_nothing(lines: tuple[bytes, ...]) -> None:
    async with client_of(says(b"HTTP/1.1 200 OK", *lines)) as (client, _):
        answer = await client.submit(submission())
    assert answer.outcome is Outcome.AMBIGUOUS


async def test_a_body_that_is_not_compressed_as_it_says_is_read() -> None:
    async with client_of(says(b"HTTP/1.1 200 OK", b"Content-Encoding: gzip", LENGTH)) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.request_id) == (Outcome.ACCEPTED, GUID)


@ON_ASYNCIO
async def test_a_status_line_without_an_end_ends_the_exchange() -> None:
    async def reason_for_ever(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 " + b"x" * 2 * MAX_HEAD)
        await anyio.sleep_forever()

    async with client_of(reason_for_ever) as (client, _):
        answer = await client.submit(submission())
    assert answer.outcome is Outcome.AMBIGUOUS
    assert answer.error_message == "an HTTP response with incomplete headers"


@ON_ASYNCIO
async def test_bytes_that_are_no_http_end_the_exchange_at_once() -> None:
    async def greet(exchange: Exchange) -> None:
        await exchange.raw(b"220 smtp.carrier.test ESMTP\r\n")
        await anyio.sleep_forever()

    async with client_of(greet) as (client, _):
        answer = await client.submit(submission())
    assert answer.outcome is Outcome.AMBIGUOUS


async def reply_to(script: Script) -> Reply:
    async with (
        scripted(script) as carrier,
        open_http_client(carrier.url, transport=None, timeouts=Timeouts(), max_connections=1) as http,
    ):
        return await http.exchange("GET", http.url("/"), COMMON_HEADERS)


async def test_all_headers_of_one_name_are_kept() -> None:
    async def throttle(exchange: Exchange) -> None:
        await exchange.raw(response(429, b"", "Retry-After: 4", "X-A: b", "RETRY-AFTER: 1"))

    reply = await reply_to(throttle)
    assert (reply.headers["retry-after"], reply.headers["x-a"]) == ("4, 1", "b")


async def test_a_header_that_is_not_utf_8_is_kept() -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 400 No\r\nX-A: \xe4\r\nContent-Length: 0\r\n\r\n")

    assert (await reply_to(refuse)).headers["x-a"] == "ä"
