"""Reads one HTTP/1 response from its bytes, and keeps all that can be read of a malformed one.

Common parsers refuse a whole response for one odd header, and then its status is lost. This reader skips what
it does not understand. A response that is odd in any way ends its connection, so a mistake about where it
ends can't reach the next response.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

MAX_HEAD = 512 * 1024
"""Bytes read of a response head. Only the status is kept of a longer one."""

_MAX_LINE = 16 * 1024
"""Bytes read of the line with a chunk's size."""

_PROTOCOL = b"HTTP/"
_STATUS_LINE = re.compile(rb"HTTP/(\d(?:\.\d)?)[ \t]+(\d{3})(?:[ \t]+(.*))?", re.IGNORECASE | re.DOTALL)
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_PLAIN = b"\t\r\n" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_KEEP_ALIVE = re.compile(rb"(?:\btimeout[ \t]*=[ \t]*\"?|^)([0-9]{1,9}(?:\.[0-9]{1,9})?)", re.IGNORECASE)
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive"})
_WITHOUT_BODY = frozenset({101, 204, 304})

_Headers = list[tuple[bytes, bytes]]
_Framing = Mapping[bytes, Sequence[bytes]]


class NotHttpError(ValueError):
    """The bytes do not begin like an HTTP response."""


class Head(NamedTuple):
    """Status line and headers of a response. Header names and values are as they came."""

    status: int
    reason: str
    headers: _Headers


class ResponseReader:
    """Reads one response.

    - `head`: None until it is there. Responses 100 to 199 are skipped, except 101.
    - `finished`: nothing more belongs to this response.
    - `complete`: False if a part of the body is missing, or if its length is in doubt. Final once `finished`.
    - `idle_s`: seconds that the connection may wait for its next request; 0: close it. Final once `finished`.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self.finished = False
        self.complete = True
        self.idle_s = math.inf
        self._buffer = bytearray()
        self._searched = 0
        self._body: _Body = _Sized(0)

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the connection; return those of the body. Raises NotHttpError."""
        if self.head is None and not self.finished:
            self._buffer += data
            data = self._read_head()
        if self.finished:
            body, surplus = b"", data
        elif self.head is None:
            return b""
        else:
            body, surplus = self._body.feed(data)
            self.finished = self._body.ended
            self.complete = self.complete and self._body.whole
        if surplus or not self._body.reusable:
            self.idle_s = 0
        return body

    def close(self, *, clean: bool) -> None:
        """Note that the connection is closed: by the server (`clean`), or by an error."""
        if self.finished:
            return
        if self.head is None:
            self._keep_status()
            return
        self.finished = True
        self.complete = self.complete and clean and isinstance(self._body, _UntilClose)
        self.idle_s = 0

    def _read_head(self) -> bytes:
        """Take a whole head out of the buffer if it is there; return the bytes after it."""
        while True:
            if self._buffer.startswith((b"\r", b"\n")):
                self._buffer = self._buffer.lstrip(b"\r\n")
            if not _PROTOCOL.startswith(self._buffer[: len(_PROTOCOL)].upper()):
                raise NotHttpError("not an HTTP response")
            end = _END_OF_HEAD.search(self._buffer, max(self._searched - 2, 0))
            if end is None:
                self._searched = len(self._buffer)
                if self._searched > MAX_HEAD:
                    self._keep_status()
                return b""
            text, rest = bytes(self._buffer[: end.start()]), self._buffer[end.end() :]
            response = _parse(text)
            if 100 <= response.head.status <= 199 and response.head.status != 101:
                self._buffer, self._searched = rest, 0
                continue
            self.head, self._body, self.complete, self.idle_s = response
            self.finished = self._body.ended
            return bytes(rest)

    def _keep_status(self) -> None:
        """Keep the status of a head that is cut off or too long, if its first line is whole."""
        line, newline, _ = bytes(self._buffer).partition(b"\n")
        found = _STATUS_LINE.fullmatch(line.rstrip(b"\r")) if newline else None
        if found is not None and int(found[2]) >= 200:
            self.head = Head(int(found[2]), _text(found[3]), [])
        self._buffer.clear()
        self.finished, self.complete, self.idle_s = True, False, 0


class _Body(Protocol):
    """Finds the end of a body: `ended` after its last byte, `whole` unless it is damaged."""

    ended: bool
    whole: bool
    reusable: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Split bytes into those of the body and those after it."""


class _Sized:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = length == 0
        self.whole = self.reusable = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        body = data[: self._left]
        self._left -= len(body)
        self.ended = self._left == 0
        return body, data[len(body) :]


class _UntilClose:
    """A body that ends with the connection."""

    def __init__(self) -> None:
        self.ended = self.reusable = False
        self.whole = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""


class _Chunked:
    """A body in chunks (RFC 9112, 7.1). Its last chunk makes it whole, even if the empty line is missing."""

    def __init__(self) -> None:
        self.ended = False
        self.whole = self.reusable = True
        self._buffer = bytearray()
        self._left = 0
        """Bytes left of a chunk."""
        self._read_line = self._read_size

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        self._buffer += data
        body = bytearray()
        while self._buffer and not self.ended:
            if self._left:
                body += (piece := self._buffer[: self._left])
                del self._buffer[: len(piece)]
                self._left -= len(piece)
            elif (end := self._buffer.find(b"\n")) >= 0:
                line = bytes(self._buffer[:end].removesuffix(b"\r"))
                del self._buffer[: end + 1]
                self._read_line(line)
            elif len(self._buffer) > _MAX_LINE:
                self._break_off()
            else:
                break
        if self._read_line == self._read_trailer and not self.ended:
            self.ended, self.reusable = True, False
        return bytes(body), bytes(self._buffer) if self.ended else b""

    def _read_size(self, line: bytes) -> None:
        if size := _CHUNK_SIZE.fullmatch(line):
            self._left = int(size[1], 16)
            self._read_line = self._read_end if self._left else self._read_trailer
        else:
            self._break_off()

    def _read_end(self, line: bytes) -> None:
        self._read_line = self._read_size
        if line:
            self._break_off()

    def _read_trailer(self, line: bytes) -> None:
        self.ended = not line

    def _break_off(self) -> None:
        self.ended, self.whole, self.reusable = True, False, False


class _Response(NamedTuple):
    head: Head
    body: _Body
    is_sure: bool
    """Whether the length of the body is beyond doubt."""
    idle_s: float


def _parse(text: bytes) -> _Response:
    """Read a head. Raises NotHttpError if it has no status."""
    first, *lines = text.split(b"\n")
    found = _STATUS_LINE.fullmatch(first.rstrip(b"\r"))
    if found is None:
        raise NotHttpError("an HTTP response without a status")
    headers, is_odd = _headers(lines)
    framing: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if (key := name.lower()) in _FRAMING:
            framing.setdefault(key, []).append(value)
    status, version = int(found[2]), found[1]
    body, is_sure = _body(status, framing)
    is_odd = is_odd or not is_sure or bool(text.translate(None, _PLAIN)) or _is_odd(status, framing)
    idle_s = 0 if is_odd or not body.reusable else _idle_s(version, framing)
    return _Response(Head(status, _text(found[3]), headers), body, is_sure, idle_s)


def _headers(lines: Sequence[bytes]) -> tuple[_Headers, bool]:
    """All headers that can be read, and whether any line was malformed."""
    headers: _Headers = []
    is_odd = False
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and _NAME.fullmatch(name):
            headers.append((name, value.strip()))
            continue
        is_odd = True
        if line[:1] in {b" ", b"\t"} and headers:  # folded (RFC 9112, 5.2)
            last, begun = headers[-1]
            headers[-1] = (last, (begun + b" " + line.strip()).strip())
        elif colon and name.strip():
            headers.append((name.strip(), value.strip()))
    return headers, is_odd


def _body(status: int, framing: _Framing) -> tuple[_Body, bool]:
    """The body, and whether its length is beyond doubt."""
    if status in _WITHOUT_BODY:
        return _Sized(0), True
    codings = {coding.lower() for coding in _items(framing, b"transfer-encoding")} - {b"identity"}
    if codings:
        return _Chunked() if b"chunked" in codings else _UntilClose(), codings == {b"chunked"}
    lengths = {int(item) if _LENGTH.fullmatch(item) else None for item in _items(framing, b"content-length")}
    known = [length for length in lengths if length is not None]
    if not known:
        return _UntilClose(), not lengths
    return _Sized(min(known)), len(lengths) == 1


def _is_odd(status: int, framing: _Framing) -> bool:
    """Whether clients may disagree about the end of this response."""
    length, coding = framing.get(b"content-length", ()), framing.get(b"transfer-encoding", ())
    if len(length) + len(coding) > 1 or status == 101:
        return True
    if status in _WITHOUT_BODY:
        return bool(coding) or list(length) not in ([], [b"0"])
    return bool(length) and b"," in length[0]


def _idle_s(version: bytes, framing: _Framing) -> float:
    """Seconds to keep the connection: `Keep-Alive: timeout=` minus 1, or half of a short timeout."""
    options = {option.lower() for option in _items(framing, b"connection")}
    if b"close" in options or (version != b"1.1" and b"keep-alive" not in options):
        return 0
    limits = [
        float(found[1]) for value in framing.get(b"keep-alive", ()) if (found := _KEEP_ALIVE.search(value))
    ]
    return min((max(seconds - 1, seconds / 2) for seconds in limits), default=math.inf)


def _items(framing: _Framing, name: bytes) -> list[bytes]:
    """The items of a header's comma-separated lists."""
    if name not in framing:
        return []
    return [item for value in framing.get(name, ()) for part in value.split(b",") if (item := part.strip())]


def _text(reason: bytes | None) -> str:
    return (reason or b"").decode("latin-1")
