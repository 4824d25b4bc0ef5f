"""Reads text in any encoding as UTF-8 with newlines."""

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO

from batchlic.reader.inputs.streams import CHUNK_BYTES, Opened, with_head


def in_utf8(source: Opened) -> Opened:
    """The text as UTF-8 without byte order marks. The input is UTF-8, UTF-16 or UTF-32."""
    encoding = _wide_encoding(source.head)
    if encoding:
        source = with_head(source.name, _to_utf8(source.stream, encoding), source.files)
    head = source.head
    while head.startswith(codecs.BOM_UTF8):  # programs that add a mark to a text may find one there
        source.stream.read(len(codecs.BOM_UTF8))
        head = head.removeprefix(codecs.BOM_UTF8)
    return source if head is source.head else replace(source, head=head, stored=None)


def _wide_encoding(head: bytes) -> str | None:
    """The encoding of a text with more than one byte for each character; None for any other text."""
    marks = {
        codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
    }
    for mark, encoding in marks.items():
        if head.startswith(mark):
            return encoding
    zeros = [_are_mostly_zeros(head[at:200:4]) for at in range(4)]
    for encoding, expected in _ZEROS.items():
        if zeros == expected:
            return encoding
    return None


_ZEROS = {
    "utf-32-le": [False, True, True, True],
    "utf-32-be": [True, True, True, False],
    "utf-16-le": [False, True, False, True],
    "utf-16-be": [True, False, True, False],
}
"""Which of four bytes are zeros in most of a text."""


def _are_mostly_zeros(content: bytes) -> bool:
    return content.count(0) > len(content) // 2


_CARRIAGE_RETURNS = re.compile(rb"\r+\n|\r")
_NEXT_LINE = "\x85"
"""The newline of mainframes (NEL)."""


def with_newlines(source: Opened) -> Opened:
    """The text with a newline at the end of each line, whatever ends the lines of the input."""
    has_newlines = b"\n" in source.head or b"\r" in source.head
    next_line = _NEXT_LINE.encode("utf-8" if _is_utf8(source.head) else "latin-1")
    if not has_newlines and next_line in source.head:
        chunks = (chunk.replace(next_line, b"\n") for chunk in _read_whole(source.stream, next_line[:1]))
    else:
        chunks = (
            _CARRIAGE_RETURNS.sub(b"\n", plain)
            if b"\r" in (plain := chunk.replace(b"\r\n", b"\n"))
            else plain
            for chunk in _read_whole(source.stream, b"\r")
        )
    return with_head(source.name, chunks, source.files)


def _is_utf8(head: bytes) -> bool:
    """Whether a text that starts like this is UTF-8. Its last character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _read_whole(stream: BinaryIO, edge: bytes) -> Iterator[bytes]:
    """The chunks of a stream, none of which ends with the byte `edge`, except at the end."""
    kept = b""
    while chunk := stream.read(CHUNK_BYTES):
        whole = (kept + chunk).rstrip(edge)
        kept = (kept + chunk)[len(whole) :]
        yield whole
    yield kept


def _to_utf8(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    while chunk := stream.read(CHUNK_BYTES):
        yield decoder.decode(chunk).encode("utf-8", "replace")
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def decoded(content: bytes) -> str:
    """Bytes as text: UTF-8, or else Windows-1252, or else Latin-1."""
    for encoding in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            return content.decode(encoding)
    return content.decode("latin-1")
