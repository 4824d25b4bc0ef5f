"""Opens inventories as bytes: files, standard input, downloads, and objects in a cloud store."""

import glob
import gzip
import io
import itertools
import lzma
import os
import select
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol

import polars as pl

from batchlic.errors import InventoryError
from batchlic.objectstore.addresses import is_remote
from batchlic.reader.inputs.addresses import Download

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STDIN = "-"
HEAD_BYTES = 1 << 18
CHUNK_BYTES = 1 << 20
HEARD_WITHIN_MS = 500
"""Longest wait for a pipe before a signal is handled."""

DAMAGED = (
    EOFError,
    RuntimeError,
    NotImplementedError,
    lzma.LZMAError,
    zlib.error,
    zstd.ZstdError,
    zipfile.BadZipFile,
)
"""What decompressing damaged files raises."""


class Readable(Protocol):
    """A file that is read from its start to its end."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The bytes of an input: `stream` has all of them, `head` the first ones.

    `stored` is a file with the same bytes that can seek, if there is one. `files` closes all files of the
    input. `notes` tell the operator what is left out. `inside` is the path in all archives around the input.
    """

    name: str
    head: bytes
    stream: BinaryIO
    files: ExitStack
    stored: Path | IO[bytes] | None = None
    notes: tuple[str, ...] = ()
    inside: str = ""


def opened(name: str | Download, files: ExitStack) -> Opened:
    """Open a file, standard input (`-`), a download or an object in a cloud store. Raises InventoryError."""
    if isinstance(name, Download):
        return with_head(name.name, name.chunks(), files)
    if is_remote(name):
        return with_head(name, _remote_text(name), files)
    if name == STDIN:
        return with_head(name, chunks(name, _awaited(sys.stdin.buffer)), files)
    try:
        file = files.enter_context(open(name, "rb", opener=_open))  # noqa: SIM115 - the stack closes it
    except OSError as error:
        raise InventoryError(f"{name}: can't be read: {error.strerror}") from None
    stored = Path(name) if Path(name).is_file() else None  # a pipe does not seek
    return with_head(name, chunks(name, _awaited(file)), files, stored)


def in_a_file(source: Opened) -> Path | IO[bytes]:
    """A file with the same bytes that can seek: the input itself, or a temporary copy."""
    if source.stored:
        return source.stored
    copy = source.files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    shutil.copyfileobj(source.stream, copy, CHUNK_BYTES)
    copy.seek(0)
    return copy


def _open(name: str, flags: int) -> int:
    """Open a file; on Linux, a named pipe before it has a writer. `_awaited` waits for that, too."""
    is_pipe = sys.platform == "linux" and stat.S_ISFIFO(os.stat(name).st_mode)  # noqa: PTH116 - as opened
    descriptor = os.open(name, flags | os.O_NONBLOCK if is_pipe else flags)
    os.set_blocking(descriptor, True)
    return descriptor


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A file of the system that is read as soon as it has bytes, or ends.

    Python handles a signal between two instructions: one that comes right before a system call waits for its
    end. So no call waits long.
    """

    file: io.BufferedReader
    ready: select.poll

    def read(self, size: int, /) -> bytes:
        """What is there, at most so many bytes."""
        while not self.ready.poll(HEARD_WITHIN_MS):
            pass
        return self.file.read1(size)


def _awaited(file: BinaryIO) -> Readable:
    if not isinstance(file, io.BufferedReader):
        return file  # in memory
    ready = select.poll()
    ready.register(file, select.POLLIN)
    return _Awaited(file, ready)


def _remote_text(name: str) -> Iterator[bytes]:
    """Text in a cloud store, read by polars, which has clients and credentials for the stores."""
    is_empty = True
    try:
        lines = pl.scan_lines(name, name="line")
        for batch in lines.collect_batches(chunk_size=100_000, maintain_order=True, engine="streaming"):
            is_empty = is_empty and batch.is_empty()
            yield "\n".join([*batch["line"], ""]).encode()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InventoryError(
            f"{name}: can't be read from the cloud store ({_first_line(error)}); batchlic reads "
            f"parquet, Arrow IPC and UTF-8 text there, plain, gzip or zstd: download anything else first"
        ) from None
    if is_empty and glob.has_magic(name):
        raise InventoryError(f"{name}: no object matches, or all of them are empty: check the address")


def chunks(name: str, file: Readable) -> Iterator[bytes]:
    """The content of a file. Raises InventoryError if it can't be read or decompressed."""
    try:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    except gzip.BadGzipFile as error:
        raise damaged_error(name, error) from None
    except OSError as error:
        raise InventoryError(f"{name}: can't be read: {error.strerror or error}") from None
    except DAMAGED as error:
        raise damaged_error(name, error) from None


def damaged_error(name: str, error: BaseException) -> InventoryError:
    """The error for a compressed file that can't be read."""
    return InventoryError(f"{name}: the compressed file is damaged, cut off or locked: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def with_head(name: str, content: Iterator[bytes], files: ExitStack, stored: Path | None = None) -> Opened:
    """Read the start of a stream as `head`. The new `stream` still begins with these bytes."""
    start: list[bytes] = []
    while sum(map(len, start)) < HEAD_BYTES and (chunk := next(content, None)) is not None:
        start.append(chunk)
    whole = itertools.chain(start, content)
    stream = io.BufferedReader(_Chunks(whole), CHUNK_BYTES)
    return Opened(name, b"".join(start)[:HEAD_BYTES], stream, files, stored)


class _Chunks(io.RawIOBase):
    """A stream of chunks of bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer from the current chunk, or the next one that is not empty."""
        while not self._rest and (chunk := next(self._chunks, None)) is not None:
            self._rest = memoryview(chunk)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken
