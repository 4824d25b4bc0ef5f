"""Reads Arrow IPC streams batch by batch; polars alone reads such a stream as a whole.

A stream is a sequence of messages: the schema, dictionaries, and record batches (Arrow columnar format, "IPC
Streaming Format"). Each batch is decoded as a stream of its own, after the schema and the dictionaries.
"""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import polars as pl

from batchlic.errors import InventoryError

CONTINUATION = b"\xff\xff\xff\xff"
"""Begins each message."""
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_HEADER_TYPE, _BODY_LENGTH = 1, 3
"""Fields of the flatbuffer table `Message`."""
MAX_METADATA_BYTES = 64 << 20


class _Message(NamedTuple):
    type: int
    content: bytes


def frames(name: str, stream: BinaryIO) -> Iterator[pl.DataFrame]:
    """An empty frame with the columns of the stream, then its batches.

    Raises InventoryError if the stream is cut off, and polars' errors if it is damaged.
    """
    context = b""
    for message in _messages(name, stream):
        if message.type == _BATCH:
            yield _decoded(context + message.content)
        elif message.type in {_SCHEMA, _DICTIONARY}:
            context += message.content
            if message.type == _SCHEMA:
                yield _decoded(context)


def _decoded(messages: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(messages + CONTINUATION + bytes(4)))


def _messages(name: str, stream: BinaryIO) -> Iterator[_Message]:
    while len(prefix := stream.read(8)) == 8:
        size = struct.unpack_from("<i", prefix, 4)[0]
        if size == 0:  # the end of the stream
            return
        if not prefix.startswith(CONTINUATION) or not 0 < size <= MAX_METADATA_BYTES:
            raise _cut_off_error(name)
        metadata = _exactly(name, stream, size)
        try:
            body = _field(metadata, _BODY_LENGTH, "<q")
            kind = _field(metadata, _HEADER_TYPE, "<B")
        except struct.error:
            raise _cut_off_error(name) from None
        yield _Message(kind, prefix + metadata + _exactly(name, stream, body))
    if prefix:
        raise _cut_off_error(name)


def _field(table: bytes, number: int, form: str) -> int:
    """A scalar field of the root table of a flatbuffer; 0 if it is absent."""
    root = struct.unpack_from("<I", table)[0]
    fields = root - struct.unpack_from("<i", table, root)[0]
    place = 4 + 2 * number
    if place + 2 > struct.unpack_from("<H", table, fields)[0]:
        return 0
    offset = struct.unpack_from("<H", table, fields + place)[0]
    return int(struct.unpack_from(form, table, root + offset)[0]) if offset else 0


def _exactly(name: str, stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size) if size >= 0 else b""
    if len(content) != size:
        raise _cut_off_error(name)
    return content


def _cut_off_error(name: str) -> InventoryError:
    return InventoryError(f"{name}: the Arrow stream is damaged or cut off: write it again")
