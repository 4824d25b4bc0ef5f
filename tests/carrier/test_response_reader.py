"""What can be read of a response is read; what is odd ends the connection."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.response_reader import MAX_HEAD, NotHttpError, ResponseReader

BODY = b'{"requestId":"c3f3d17c"}'


def ok(*headers: bytes, body: bytes = BODY, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *headers, b"", b""]) + body


def sized(*headers: bytes, body: bytes = BODY) -> bytes:
    return ok(*headers, b"Content-Length: %d" % len(BODY), body=body)


def chunked(chunks: bytes, *headers: bytes) -> bytes:
    return ok(b"Transfer-Encoding: chunked", *headers, body=chunks)


CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n13\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    status: int | None = 200
    body: bytes = BODY
    complete: bool = True
    reusable: bool = True


ORDINARY = [
    Case("a body with a length", sized()),
    Case("no reason", ok(b"Content-Length: 24", status=b"HTTP/1.1 200")),
    Case("a body in chunks", chunked(CHUNKS)),
    Case("chunks with extensions and capitals", chunked(b"18;a=b\r\n" + BODY + b"\r\n0;x\r\n\r\n")),
    Case("chunks with a trailer", chunked(CHUNKS[:-2] + b"Digest: x\r\n\r\n")),
    Case("no body", ok(b"Content-Length: 0", body=b""), body=b""),
    Case("204", ok(status=b"HTTP/1.1 204 No Content", body=b""), 204, b""),
    Case("304 with a length of 0", ok(b"Content-Length: 0", status=b"HTTP/1.1 304", body=b""), 304, b""),
    Case("100 before it", b"HTTP/1.1 100 Continue\r\n\r\n" + sized()),
    Case("103 with headers before it", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + sized()),
    Case("empty lines before it", b"\r\n\r\n" + sized()),
    Case("line feeds without carriage returns", sized().replace(b"\r\n", b"\n")),
    Case("a header of 64 kB", sized(b"Content-Security-Policy: " + b"x" * 65536)),
    Case("300 headers", sized(*(b"X-%d: y" % number for number in range(300)))),
    Case("small letters", sized().replace(b"Content-Length", b"content-length").replace(b"HTTP", b"http")),
    Case("kept alive by HTTP/1.0", sized(b"Connection: Keep-Alive").replace(b"1.1", b"1.0")),
]
LAST = [
    Case("Connection: close", sized(b"Connection: close"), reusable=False),
    Case("close among other options", sized(b"Connection: x, Close"), reusable=False),
    Case("close in a second header", sized(b"Connection: keep-alive", b"Connection: close"), reusable=False),
    Case("HTTP/1.0", sized().replace(b"1.1", b"1.0"), reusable=False),
    Case("a body until the end of the connection", ok(), reusable=False),
    Case("101", ok(b"Upgrade: h2c", status=b"HTTP/1.1 101 Switching", body=b""), 101, b"", reusable=False),
]
SURPLUS = [
    Case("a second response", sized() + sized(), reusable=False),
    Case("half a second response", sized() + sized()[:9], reusable=False),
    Case("bytes after the length", sized(body=BODY + b"garbage"), reusable=False),
    Case("an empty line after the length", sized(body=BODY + b"\r\n"), reusable=False),
    Case("a second response after the chunks", chunked(CHUNKS + sized()), reusable=False),
    Case("bytes after the chunks", chunked(CHUNKS + b"x"), reusable=False),
    Case("100 after it", sized() + b"HTTP/1.1 100 Continue\r\n\r\n", reusable=False),
    Case(
        "204 with a length",
        ok(b"Content-Length: 24", status=b"HTTP/1.1 204", body=b""),
        204,
        b"",
        reusable=False,
    ),
    Case("204 with a body", ok(status=b"HTTP/1.1 204 No Content"), 204, b"", reusable=False),
]
ODD = [
    Case("a length twice", sized(b"Content-Length: 24"), reusable=False),
    Case("a length twice in one header", ok(b"Content-Length: 24, 24"), reusable=False),
    Case("a length with a zero before it", ok(b"Content-Length: 024", b"Content-Length: 24"), reusable=False),
    Case("a length beside chunks", chunked(CHUNKS, b"Content-Length: 5"), reusable=False),
    Case("chunked twice", chunked(CHUNKS, b"Transfer-Encoding: chunked"), reusable=False),
    Case("a line without a colon", sized(b"no header"), reusable=False),
    Case("a header without a name", sized(b": x"), reusable=False),
    Case("a space before the colon", ok(b"Content-Length : 24"), reusable=False),
    Case("a folded header", sized(b"X-A: b", b"  c: d"), reusable=False),
    Case("a folded length", ok(b"Content-Length:", b" 24"), reusable=False),
    Case("a zero byte", sized(b"X-A: b\0c"), reusable=False),
    Case("an escape character", sized(b"X-A: \x1b[31m"), reusable=False),
    Case("a header name in Latin-1", sized(b"X-\xc4: b"), reusable=False),
    Case("no empty line after the chunks", chunked(CHUNKS[:-2]), reusable=False),
]
LOST = [
    Case("different lengths", sized(b"Content-Length: 9"), body=BODY[:9], complete=False, reusable=False),
    Case("a length that is no number", ok(b"Content-Length: many"), complete=False, reusable=False),
    Case("a negative length", ok(b"Content-Length: -5"), complete=False, reusable=False),
    Case("a length of 5000 digits", ok(b"Content-Length: " + b"9" * 5000), complete=False, reusable=False),
    Case("a length too long", sized(body=BODY[:-1]), body=BODY[:-1], complete=False, reusable=False),
    Case("chunks of unknown size", chunked(b"zz\r\n"), body=b"", complete=False, reusable=False),
    Case("a negative chunk", chunked(b"-5\r\n"), body=b"", complete=False, reusable=False),
    Case("a chunk too long", chunked(b"5\r\nabcdefg\r\n"), body=b"abcde", complete=False, reusable=False),
    Case("chunks cut off", chunked(CHUNKS[:-5]), complete=False, reusable=False),
    Case("a chunk cut off", chunked(b"5\r\nabc"), body=b"abc", complete=False, reusable=False),
    Case("an endless size", chunked(b"1" * 20_000), body=b"", complete=False, reusable=False),
    Case("an unknown coding", ok(b"Transfer-Encoding: gzip"), complete=False, reusable=False),
    Case(
        "a coding below the chunks",
        chunked(CHUNKS, b"Transfer-Encoding: gzip"),
        complete=False,
        reusable=False,
    ),
    Case("headers cut off", b"HTTP/1.1 429 X\r\nRetry-Af", 429, b"", complete=False, reusable=False),
    Case("a status line alone", b"HTTP/1.1 503 X\r\n", 503, b"", complete=False, reusable=False),
    Case(
        "endless headers",
        b"HTTP/1.1 200 X\r\nX: " + b"y" * MAX_HEAD,
        200,
        b"",
        complete=False,
        reusable=False,
    ),
    Case("half a status line", b"HTTP/1.1 42", None, b"", complete=False, reusable=False),
    Case("nothing but 100", b"HTTP/1.1 100 Continue\r\n", None, b"", complete=False, reusable=False),
    Case("nothing", b"", None, b"", complete=False, reusable=False),
]
CASES = [*ORDINARY, *LAST, *SURPLUS, *ODD, *LOST]


def read(*pieces: bytes) -> tuple[ResponseReader, bytes]:
    reader = ResponseReader()
    body = b"".join([reader.feed(piece) for piece in pieces])
    reader.close(clean=True)
    return reader, body


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_response_is_read_as_far_as_it_can_be(case: Case) -> None:
    reader, body = read(case.data)
    status = reader.head.status if reader.head else None
    assert (status, body, reader.complete, reader.idle_s > 0) == (
        case.status,
        case.body,
        case.complete,
        case.reusable,
    )


@given(st.sampled_from([case for case in CASES if len(case.data) < 1000]), st.data())
def test_it_does_not_matter_how_a_response_is_cut_into_pieces(case: Case, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(case.data)))))
    pieces = [case.data[a:b] for a, b in zip([0, *cuts], [*cuts, len(case.data)], strict=True)]
    whole, body = read(case.data)
    pieced, pieced_body = read(*pieces)
    assert (pieced.head, pieced_body, pieced.complete) == (whole.head, body, whole.complete)
    assert pieced.idle_s <= whole.idle_s


@pytest.mark.parametrize(
    "data",
    [b"220 smtp.carrier.test ESMTP\r\n", b"<html>", b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 2000 X\r\n\r\n"],
)
def test_other_protocols_are_refused(data: bytes) -> None:
    with pytest.raises(NotHttpError):
        ResponseReader().feed(data)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"HTTP/1.1 200 X\r\n", b"\r\n\r\n", CHUNKS])))
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    reader = ResponseReader()
    try:
        for piece in pieces:
            reader.feed(piece)
    except NotHttpError:
        return
    reader.close(clean=False)
    assert reader.finished


def test_headers_without_an_end_are_given_up() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 429 X\r\n")
    while not reader.finished:
        reader.feed(b"X: y\r\n" * 1000)
    assert reader.head is not None
    assert (reader.head.status, reader.idle_s) == (429, 0)


def test_a_body_until_the_end_is_cut_off_by_a_reset() -> None:
    reader = ResponseReader()
    reader.feed(ok())
    reader.close(clean=False)
    assert not reader.complete


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"timeout=1", 0.5),
        (b"timeout=1, max=100", 0.5),
        (b'max=100, Timeout = "2"', 1),
        (b"timeout=5", 4),
        (b"timeout=0.5", 0.25),
        (b"timeout=0", 0),
        (b"5", 4),
        (b"timeout=60\r\nKeep-Alive: timeout=3", 2),
        (b"max=100", math.inf),
        (b"timeout=never", math.inf),
    ],
)
def test_a_connection_is_kept_for_less_than_the_server_keeps_it(header: bytes, seconds: float) -> None:
    reader, _ = read(sized(b"Keep-Alive: " + header))
    assert reader.idle_s == seconds


def test_headers_keep_their_order_and_their_repetitions() -> None:
    reader, _ = read(sized(b"Retry-After: 4", b"Retry-After:1 ", b"X-Folded: a", b"\tb"))
    assert reader.head is not None
    assert reader.head.headers[:3] == [(b"Retry-After", b"4"), (b"Retry-After", b"1"), (b"X-Folded", b"a b")]
