"""Opens inventories as bytes, decompressed by content: gzip, zstd, bz2, xz, or a zip of one file."""

import bz2
import codecs
import gzip
import io
import itertools
import lzma
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO, Protocol

import polars as pl

from batchlic.errors import InventoryError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STDIN = "-"
HEAD_BYTES = 1 << 18
CHUNK_BYTES = 1 << 20

_ZIP = b"PK\x03\x04"
_REMOTE = re.compile(r"(s3|s3a|gs|gcs|az|azure|abfs|abfss|adl)://")
_DAMAGED = (
    EOFError,
    RuntimeError,
    NotImplementedError,
    lzma.LZMAError,
    zlib.error,
    zstd.ZstdError,
    zipfile.BadZipFile,
)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """The decompressed bytes of an input: `stream` has all of them, `head` the first ones.

    `path` is the file with the same bytes, if there is one. `files` closes all files of the input.
    """

    name: str
    head: bytes
    stream: BinaryIO
    files: ExitStack
    path: Path | None = None


def is_remote(name: str) -> bool:
    """Whether a name is the address of an object in a cloud store."""
    return _REMOTE.match(name) is not None


def opened(name: str, files: ExitStack) -> Opened:
    """Open a file, standard input (`-`) or an object in a cloud store. Raises InventoryError."""
    if is_remote(name):
        return _with_head(name, _remote_text(name), files)
    if name == STDIN:
        return _decompressed(_with_head(name, _chunks(name, sys.stdin.buffer), files))
    try:
        file = files.enter_context(Path(name).open("rb"))  # noqa: SIM115 - the stack closes it
    except OSError as error:
        raise InventoryError(f"{name}: can't be read: {error.strerror}") from None
    path = Path(name) if Path(name).is_file() else None  # a pipe does not seek
    return _decompressed(_with_head(name, _chunks(name, file), files, path))


def in_a_file(source: Opened) -> Path | IO[bytes]:
    """A file with the same bytes that can seek: the input itself, or a temporary copy."""
    if source.path:
        return source.path
    copy = source.files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    shutil.copyfileobj(source.stream, copy, CHUNK_BYTES)
    copy.seek(0)
    return copy


def in_utf8(source: Opened) -> Opened:
    """The text as UTF-8 without byte order mark. The input is UTF-8 or UTF-16."""
    head = source.head
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif head[1:200:2].count(0) > len(head[1:200:2]) // 2:
        encoding = "utf-16-le"
    elif head[0:200:2].count(0) > len(head[0:200:2]) // 2:
        encoding = "utf-16-be"
    elif head.startswith(codecs.BOM_UTF8):
        source.stream.read(len(codecs.BOM_UTF8))
        return replace(source, head=head.removeprefix(codecs.BOM_UTF8), path=None)
    else:
        return source
    return _with_head(source.name, _to_utf8(source.stream, encoding), source.files)


def with_newlines(source: Opened) -> Opened:
    """The text with a newline at the end of each line. The input may have carriage returns instead."""
    if b"\n" in source.head or b"\r" not in source.head:
        return source
    chunks = iter(lambda: source.stream.read(CHUNK_BYTES).replace(b"\r", b"\n"), b"")
    return _with_head(source.name, chunks, source.files)


def _to_utf8(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    while chunk := stream.read(CHUNK_BYTES):
        yield decoder.decode(chunk).encode("utf-8", "replace")
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def _decompressed(outer: Opened) -> Opened:
    for magic, decompress in _DECOMPRESSORS.items():
        if outer.head.startswith(magic):
            inner = outer.files.enter_context(decompress(outer.stream))
            return _with_head(outer.name, _chunks(outer.name, inner), outer.files)
    if outer.head.startswith(_ZIP) and not is_workbook(outer.head):
        return _with_head(outer.name, _only_member(outer), outer.files)
    return outer


_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], AbstractContextManager[_Readable]]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"\x28\xb5\x2f\xfd": zstd.ZstdFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
"""The first bytes of compressed files, and how to decompress them."""


def is_workbook(head: bytes) -> bool:
    """Whether a zip file is a spreadsheet and not a compressed inventory."""
    parts = (b"[Content_Types].xml", b"mimetypeapplication/vnd.oasis", b"_rels/.rels")
    return head.startswith(_ZIP) and any(part in head[:4096] for part in parts)


def _only_member(outer: Opened) -> Iterator[bytes]:
    try:
        archive = outer.files.enter_context(zipfile.ZipFile(in_a_file(outer)))
        members = [
            member
            for member in archive.infolist()
            if not member.is_dir() and not member.filename.startswith("__MACOSX/")
        ]
        if len(members) != 1:
            listed = ", ".join(member.filename for member in members[:5]) or "none"
            raise InventoryError(
                f"{outer.name}: a zip of {len(members)} files ({listed}), and not of one file; unpack it, "
                f"and name the inventories"
            )
        yield from _chunks(outer.name, outer.files.enter_context(archive.open(members[0])))
    except (*_DAMAGED, OSError) as error:
        raise _damaged_error(outer.name, error) from None


def _remote_text(name: str) -> Iterator[bytes]:
    """Text in a cloud store, read by polars, which has clients and credentials for the stores."""
    try:
        lines = pl.scan_lines(name, name="line")
        for batch in lines.collect_batches(chunk_size=100_000, maintain_order=True, engine="streaming"):
            yield "\n".join([*batch["line"], ""]).encode()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InventoryError(
            f"{name}: can't be read from the cloud store ({_first_line(error)}); batchlic reads "
            f"parquet, Arrow IPC and UTF-8 text there, plain, gzip or zstd: download anything else first"
        ) from None


def _chunks(name: str, file: _Readable) -> Iterator[bytes]:
    try:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    except gzip.BadGzipFile as error:
        raise _damaged_error(name, error) from None
    except OSError as error:
        raise InventoryError(f"{name}: can't be read: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise _damaged_error(name, error) from None


def _damaged_error(name: str, error: BaseException) -> InventoryError:
    return InventoryError(f"{name}: the compressed file is damaged, cut off or locked: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def _with_head(name: str, chunks: Iterator[bytes], files: ExitStack, path: Path | None = None) -> Opened:
    """Read the start of a stream as `head`. The new `stream` still begins with these bytes."""
    start: list[bytes] = []
    while sum(map(len, start)) < HEAD_BYTES and (chunk := next(chunks, None)) is not None:
        start.append(chunk)
    whole = itertools.chain(start, chunks)
    stream = io.BufferedReader(_Chunks(whole), CHUNK_BYTES)
    return Opened(name, b"".join(start)[:HEAD_BYTES], stream, files, path)


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
