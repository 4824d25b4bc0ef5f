"""Unpacks inventories, by their content: gzip, zstd, bz2, xz, and the files in zip and tar archives."""

import bz2
import gzip
import lzma
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from batchlic.errors import InventoryError
from batchlic.reader.inputs import streams
from batchlic.reader.inputs.addresses import Download
from batchlic.reader.inputs.left_out import is_left_out
from batchlic.reader.inputs.streams import Opened, Readable, chunks, damaged_error, in_a_file, with_head

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_LAYERS = 5
"""Files in files: gzip in gzip, gzip in zip, and so on."""

_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], AbstractContextManager[Readable]]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"\x28\xb5\x2f\xfd": zstd.ZstdFile,
    b"BZh": lambda stream: nullcontext(_Decompressed(stream, bz2.BZ2Decompressor)),
    b"\xfd7zXZ\x00": lambda stream: nullcontext(_Decompressed(stream, lzma.LZMADecompressor)),
}
"""The first bytes of compressed files, and how to decompress them."""
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""The second one starts an archive without files."""
_TAR, _TAR_AT = b"ustar", 257


def opened(name: str | Download, files: ExitStack) -> Iterator[Opened]:
    """Open an input as `streams.opened` does, and unpack it.

    Yields one input, or each file of an archive, to be read before the next one. A zip that is yielded is a
    workbook. Raises InventoryError.
    """
    yield from _unpacked(streams.opened(name, files), layers=0)


def _unpacked(outer: Opened, layers: int) -> Iterator[Opened]:
    if layers > MAX_LAYERS:
        raise InventoryError(f"{outer.name}: packed more than {MAX_LAYERS} times: unpack it first")
    for magic, decompress in _DECOMPRESSORS.items():
        if outer.head.startswith(magic):
            inner = outer.files.enter_context(decompress(outer.stream))
            plain = with_head(outer.name, chunks(outer.name, inner), outer.files)
            yield from _unpacked(replace(plain, notes=outer.notes, inside=outer.inside), layers + 1)
            return
    if outer.head.startswith(ZIP):
        outer = replace(outer, stored=in_a_file(outer))
        if not _is_workbook(outer):
            yield from _files(outer, _zip_members(outer), layers)
            return
    elif outer.head[_TAR_AT:].startswith(_TAR):
        members, links = _tar_members(outer)
        yield from _files(outer, members, layers, links)
        return
    yield outer


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive: its name, and how to open it."""

    name: str
    open: Callable[[], AbstractContextManager[Readable]]


def _files(
    archive: Opened, members: Sequence[_Member], layers: int, links: Sequence[str] = ()
) -> Iterator[Opened]:
    """The inventories in an archive. A single one has the name of the archive."""
    read = [member for member in members if not is_left_out(member.name)]
    left_out = ", ".join([*(member.name for member in members if is_left_out(member.name)), *links])
    names = Counter(member.name for member in read)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise InventoryError(
            f"{archive.name}: two files in this archive are called {twice!r}: unpack it, and keep one of them"
        )
    if not read:
        listed = f": {left_out} is no inventory" if left_out else ""
        raise InventoryError(f"{archive.name}: there is no inventory in this archive{listed}")
    notes = (*archive.notes, *([f"{archive.name}: left out: {left_out}"] if left_out else []))
    for member in read:
        name = archive.name if len(read) == 1 else f"{archive.name}/{member.name}"
        inside = f"{archive.inside}/{member.name}"
        with ExitStack() as files:
            try:
                content = files.enter_context(member.open())
            except (*streams.DAMAGED, OSError, ValueError, tarfile.TarError) as error:
                raise damaged_error(name, error) from None
            inner = with_head(name, chunks(name, content), files)
            yield from _unpacked(replace(inner, notes=notes, inside=inside), layers + 1)
        notes = ()


class _Decompressed:
    """The content of compressed streams, one after another. Python's own files ignore what follows them."""

    def __init__(
        self, stream: BinaryIO, decompressor: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
    ) -> None:
        self._stream = stream
        self._new = decompressor
        self._current = decompressor()

    def read(self, size: int, /) -> bytes:
        """Some bytes; none at the end. Raises EOFError, OSError or LZMAError if the file is damaged."""
        content = b""
        while not content:
            compressed = b""
            if self._current.eof:
                compressed = self._current.unused_data.lstrip(b"\0")  # padding
                while not compressed:
                    if not (chunk := self._stream.read(streams.CHUNK_BYTES)):
                        return b""
                    compressed = chunk.lstrip(b"\0")
                self._current = self._new()
            elif self._current.needs_input and not (compressed := self._stream.read(streams.CHUNK_BYTES)):
                raise EOFError("the compressed file ends before its end")
            content = self._current.decompress(compressed, size)
        return content


# -- zip ------------------------------------------------------------------------------------------------


def _zip(outer: Opened) -> zipfile.ZipFile:
    try:
        archive = outer.files.enter_context(zipfile.ZipFile(in_a_file(outer)))
        is_whole = _is_whole(archive)
    except (*streams.DAMAGED, OSError, ValueError) as error:
        raise damaged_error(outer.name, error) from None
    if not is_whole:
        raise _joined_error(outer.name, "zip archive or workbook")
    return archive


_END, _END_BYTES = b"PK\x05\x06", 22
"""The last record of a zip, before its comment."""


def _is_whole(archive: zipfile.ZipFile) -> bool:
    """Whether the file begins and ends with the archive. `zipfile` reads the last one of several."""
    members = archive.infolist()
    if archive.fp is None or (members and min(member.header_offset for member in members) > 0):
        return False
    archive.fp.seek(archive.start_dir)
    directory = archive.fp.read()
    end = directory.rfind(_END) + _END_BYTES
    return not directory[end + int.from_bytes(directory[end - 2 : end], "little") :].strip(b"\0 \t\r\n")


def _joined_error(name: str, kind: str) -> InventoryError:
    return InventoryError(
        f"{name}: other bytes come before or after the {kind}, as in files that were joined to one: give the "
        f"files one by one"
    )


def _is_workbook(outer: Opened) -> bool:
    """Whether a zip is a spreadsheet. Raises InventoryError for other documents."""
    names = [name.replace("\\", "/").lstrip("/").lower() for name in _zip(outer).namelist()]
    if any(name.startswith("xl/") for name in names) or {"content.xml", "mimetype"} <= set(names):
        return True
    for document, advice in _DOCUMENTS.items():
        if any(name.startswith(document) for name in names):
            raise InventoryError(f"{outer.name}: {advice}")
    return False


_DOCUMENTS = {
    "word/": "a Word document: save its table as CSV or XLSX",
    "ppt/": "a PowerPoint document: save its table as CSV or XLSX",
    "encrypted-package": "a workbook with a password: save it without one in a spreadsheet program",
    "index/document.iwa": "an Apple Numbers document: export it as CSV or XLSX",
    "index.zip": "an Apple Numbers document: export it as CSV or XLSX",
}


def _zip_members(outer: Opened) -> list[_Member]:
    archive = _zip(outer)
    return [
        _Member(member.filename, partial(archive.open, member))
        for member in archive.infolist()
        if not member.filename.endswith("/")
    ]


# -- tar ------------------------------------------------------------------------------------------------


def _tar_members(outer: Opened) -> tuple[list[_Member], list[str]]:
    """The files in a tar archive, and the names of links and the like, which have no content."""
    stored = in_a_file(outer)
    file = outer.files.enter_context(stored.open("rb")) if isinstance(stored, Path) else stored
    try:
        archive = outer.files.enter_context(tarfile.TarFile(fileobj=file))
        members = archive.getmembers()
        _read_end(outer.name, archive, file)
    except (*streams.DAMAGED, OSError, tarfile.TarError) as error:
        raise damaged_error(outer.name, error) from None
    files = [
        _Member(member.name, partial(_extracted, archive, member)) for member in members if member.isfile()
    ]
    links = [f"{member.name} (a link)" for member in members if not member.isfile() and not member.isdir()]
    return files, links


def _read_end(name: str, archive: tarfile.TarFile, file: IO[bytes]) -> None:
    """Raise InventoryError if the archive is not whole: its end is a block of zeros, and more zeros.

    `tarfile` takes a damaged header for the end.
    """
    file.seek(archive.offset)
    if len(rest := file.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
        raise InventoryError(f"{name}: the tar archive is cut off")
    while rest:
        if rest.strip(b"\0"):
            raise _joined_error(name, "tar archive, or it is damaged")
        rest = file.read(streams.CHUNK_BYTES)


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> AbstractContextManager[Readable]:
    return cast("IO[bytes]", archive.extractfile(member))  # it is a file
