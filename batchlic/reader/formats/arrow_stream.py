"""Reads Arrow IPC streams batch by batch; polars alone reads such a stream as a whole.

A stream is a sequence of messages: the schema, dictionaries, and record batches (Arrow columnar format, "IPC
Streaming Format"). Each batch is decoded as a stream of its own, after the schema and the dictionaries.
"""

import io
import struct
from collections.abc import Iterator
from typing import IO, BinaryIO, NamedTuple

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.inputs.streams import CHUNK_BYTES

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
            while rest := stream.read(CHUNK_BYTES):
                if rest.strip(b"\0"):  # NUL bytes are padding
                    raise joined_error(name)
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


def are_joined(file: IO[bytes]) -> bool:
    """Whether an Arrow IPC file has more than its own batches, which polars would not read.

    The footer of such a file says where the batches are. It follows the last one, and an end of 8 bytes.
    """
    end = file.seek(0, io.SEEK_END) - 10  # the length of the footer, and ARROW1
    try:
        size = struct.unpack("<i", _read_at(file, end, 4))[0]
        footer = _read_at(file, end - size, size)
        ends = [sum(block) for field in _BLOCKS for block in _blocks(footer, field)]
    except (struct.error, OSError, ValueError):
        return False  # polars says what is damaged
    return bool(ends) and end - size > max(ends) + MAX_PADDING


_BLOCKS = (2, 3)
"""Fields of the flatbuffer table `Footer`: the blocks of dictionaries and of batches."""
MAX_PADDING = 128


def _blocks(footer: bytes, field: int) -> list[tuple[int, int, int]]:
    """The offset, the length of the metadata, and the length of the body of each block."""
    place = _place(footer, field)
    if not place:
        return []
    start = place + struct.unpack_from("<I", footer, place)[0]
    count = struct.unpack_from("<I", footer, start)[0]
    return list(struct.iter_unpack("<qi4xq", footer[start + 4 : start + 4 + 24 * count]))


def _read_at(file: IO[bytes], place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _field(table: bytes, number: int, form: str) -> int:
    """A scalar field of the root table of a flatbuffer; 0 if it is absent."""
    place = _place(table, number)
    return int(struct.unpack_from(form, table, place)[0]) if place else 0


def _place(table: bytes, number: int) -> int:
    """Where a field of the root table of a flatbuffer is; 0 if it is absent."""
    root = struct.unpack_from("<I", table)[0]
    fields = root - struct.unpack_from("<i", table, root)[0]
    entry = 4 + 2 * number
    if entry + 2 > struct.unpack_from("<H", table, fields)[0]:
        return 0
    offset = struct.unpack_from("<H", table, fields + entry)[0]
    return int(root + offset) if offset else 0


def _exactly(name: str, stream: BinaryIO, size: int) -> bytes:
    """So many bytes, read in pieces: a damaged size must not allocate memory."""
    content = bytearray()
    while len(content) < size and (piece := stream.read(min(size - len(content), CHUNK_BYTES))):
        content += piece
    if len(content) != size:
        raise _cut_off_error(name)
    return bytes(content)


def joined_error(name: str) -> InventoryError:
    """The error for files that were joined to one."""
    return InventoryError(
        f"{name}: other bytes follow the data, as in files that were joined to one: give the files one by one"
    )


def _cut_off_error(name: str) -> InventoryError:
    return InventoryError(f"{name}: the Arrow stream is damaged or cut off: write it again")
