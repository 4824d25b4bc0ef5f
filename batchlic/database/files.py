"""SQLite files: durable commits, and a format that each file declares."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from batchlic.atomic import explain_disk_errors, explain_read_errors
from batchlic.errors import OtherVersion, RunFolderError, StoppedEarly, UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
    from sqlalchemy.pool import ConnectionPoolEntry

PATIENCE = 30
"""Seconds to wait for the commit of another process."""

_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100
_LOG_HEADER_BYTES = 32
_CHUNK_BYTES = 1 << 20
_MAX_PATH_BYTES = 504
"""SQLite opens no path of 512 bytes (MAX_PATHNAME in os_unix.c), with `-journal` at its end."""
_COPIES = 20
"""Copies of a database that a busy process may spoil before its reader gives up."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What a SQLite file of batchlic declares in its header.

    `name` is used in messages ("ledger"). `application_id` (32 bits, not 0) is the same in all versions;
    `version` counts the versions of the schema, from 1. `advice` says what to do with a file of another
    version, and `advice_if_foreign` what to do with a file of another kind. The first versions of batchlic
    declared nothing: their files are recognized by `tables`.
    """

    name: str
    application_id: int
    version: int
    advice: str = "name another file"
    advice_if_foreign: str = "name another file, or move this one away"
    tables: frozenset[str] = frozenset()


def sqlite(path: Path, *, patience: int = PATIENCE) -> sa.Engine:
    """Return an engine for the SQLite file at `path`. `patience`: seconds to wait for another process."""
    url = sa.URL.create("sqlite", database=str(path.absolute()))
    engine = sa.create_engine(url, connect_args={"check_same_thread": False, "timeout": patience})
    sa.event.listen(engine, "connect", _make_durable)
    return engine


def _make_durable(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Make every commit durable when it returns: https://sqlite.org/pragma.html#pragma_synchronous."""
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA fullfsync = ON")  # on macOS, fsync alone does not reach the disk
    cursor.close()


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


@retry(
    retry=retry_if_exception(_is_locked),
    stop=stop_after_delay(PATIENCE),
    wait=wait_random(0, 0.05),
    reraise=True,
)
def _use_write_ahead_log(cursor: DBAPICursor) -> None:
    """Retry while another connection creates the same file, because SQLite itself does not wait here."""
    cursor.execute("PRAGMA journal_mode = WAL")


def create_or_check(path: Path, file_format: FileFormat) -> None:
    """Create an empty file of this format, or check that an existing one has this format.

    Call this function before `sqlite`, which changes any file that it opens. A missing or empty file is
    created. Raises RunFolderError like `check_format`, and the errors of SQLite.
    """
    header = _header(path)
    was_interrupted = path.with_name(f"{path.name}-journal").exists()
    if not header or (was_interrupted and _numbers(header)[0] == file_format.application_id):
        write_format(path, file_format)
    check_format(path, file_format)


def write_format(path: Path, file_format: FileFormat) -> None:
    """Declare the format in the header of the SQLite file at `path`, if the file is empty.

    The file must not be in write-ahead mode yet: otherwise the log beside it has the format, and not the
    header itself. Raises UsageError as `check_format` does.
    """
    _refuse_long(path)
    with closing(sqlite3.connect(path.absolute(), timeout=PATIENCE, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")  # another process may be creating the same file
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        ((application_id,),) = connection.execute("PRAGMA application_id")
        if not tables and not application_id:
            connection.execute(f"PRAGMA application_id = {file_format.application_id:d}")
            connection.execute(f"PRAGMA user_version = {file_format.version:d}")
        connection.execute("COMMIT")


def check_format(path: Path, file_format: FileFormat) -> None:
    """Raise RunFolderError if the file at `path` is of another kind or another version.

    Raises UsageError if its path is too long for SQLite, which would only say that it can't open the file.
    The function only reads the header (https://sqlite.org/fileformat2.html#the_database_header), so that it
    does not change the file.
    """
    _refuse_long(path)
    application_id, version = _numbers(_header(path))
    if not application_id and file_format.tables and file_format.tables <= _tables(path):
        raise OtherVersion(
            f"{path} was written by an early version of batchlic, whose files declare no version: use that "
            f"version of batchlic, or {file_format.advice}"
        )
    if application_id != file_format.application_id:
        raise RunFolderError(f"{path} is not a batchlic {file_format.name}: {file_format.advice_if_foreign}")
    if version != file_format.version:
        raise OtherVersion(
            f"{path} was written by another version of batchlic (schema {version}; this one reads "
            f"{file_format.version}): use that version of batchlic, or {file_format.advice}"
        )


def _refuse_long(path: Path) -> None:
    length = len(os.path.realpath(os.fsencode(path)))  # pathlib raises in a loop of links
    if length > _MAX_PATH_BYTES:
        raise UsageError(
            f"{path.parent}: this path is too long for SQLite, which opens paths of up to {_MAX_PATH_BYTES} "
            f"bytes ({path.name} would have {length}): choose a folder with a shorter path"
        )


T = TypeVar("T")


def read_at_rest(path: Path, read: Callable[[sqlite3.Connection], T]) -> T | None:
    """What `read` returns of the SQLite file at `path`, if no process has it open for writing; else None.

    A file without a write-ahead log is whole: SQLite removes the log when the last process closes the file.
    So the file is read as it is, without a copy and without a change beside it. The result is None if there
    is a log, or if the file changes meanwhile. Raises the errors of SQLite and of `read`.
    """
    before = _version(path)
    if before.log:
        return None
    uri = f"file://{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            result = read(connection)
    except sqlite3.DatabaseError:
        if _version(path) == before:
            raise
        return None
    return result if _version(path) == before else None


@contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """A private copy of the SQLite file at `path` with its write-ahead log, until the block ends.

    So a database can be read without a change beside it: SQLite itself would make files there, and finish
    the log of a killed process. The copy is of one moment, also while another process writes. Raises
    NoAccess or StoppedEarly if the file can't be read, or not be copied.
    """
    place = _scratch_place()
    with explain_disk_errors(place):
        folder = tempfile.TemporaryDirectory(prefix="batchlic-", dir=place)
    with folder as scratch:
        copy = Path(scratch) / path.name
        for _ in range(_COPIES):
            if _copy(path, copy):
                break
        else:
            raise StoppedEarly(f"{path}: another process changes it too fast to read it: try again")
        yield copy


def _copy(path: Path, copy: Path) -> bool:
    """Copy a database and its log; False if the result is of no single moment.

    Until a log begins again, it has all pages that a checkpoint may have moved to the database meanwhile:
    https://sqlite.org/fileformat2.html#the_write_ahead_log. So the database is copied first. A log begins
    again with another header.
    """
    before = _version(path)
    _copy_file(path, copy)
    _log_of(copy).unlink(missing_ok=True)
    if before.log:
        _copy_file(_log_of(path), _log_of(copy))
    after = _version(path)
    return after.log == before.log and (bool(before.log) or after.stat == before.stat)


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file; nothing, if it is gone."""
    with (
        explain_read_errors(source),
        suppress(FileNotFoundError),
        source.open("rb") as original,
        explain_disk_errors(target),
        target.open("wb") as file,
    ):
        file.writelines(_chunks(original, source))


def _chunks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The content of a file. An error is about `path`, whatever it is copied to."""
    while True:
        with explain_read_errors(path):
            chunk = file.read(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


class _Version(NamedTuple):
    """What tells that a database has changed: its size and time, and the header of its log if it has one."""

    stat: tuple[int, int]
    log: bytes


def _version(path: Path) -> _Version:
    with explain_read_errors(path):
        stat = path.stat()
    return _Version((stat.st_size, stat.st_mtime_ns), _first_bytes(_log_of(path), _LOG_HEADER_BYTES))


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _scratch_place() -> Path:
    """Where temporary files can be: also in a container whose file system is read-only."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        if os.access(_SHARED_MEMORY, os.W_OK):
            return _SHARED_MEMORY
        raise UsageError("there is no folder for temporary files: name one with TMPDIR") from None


_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - files are made there by `tempfile`


def _tables(path: Path) -> set[str]:
    """The tables of a SQLite file, without its log; none if it can't be read. Writes nothing."""
    uri = f"file://{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return set()


def is_database(path: Path) -> bool:
    """Whether a file begins as SQLite files do."""
    return _header(path).startswith(_MAGIC)


def _header(path: Path) -> bytes:
    """The first 100 bytes of a file; empty if there is no file."""
    return _first_bytes(path, _HEADER_BYTES)


def _first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file; empty if there is no file."""
    with explain_read_errors(path):
        try:
            with path.open("rb") as file:
                return file.read(count)
        except FileNotFoundError:
            return b""


def _numbers(header: bytes) -> tuple[int, int]:
    """Application id and version in the header of a SQLite file; zeros for any other file."""
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return 0, 0
    return int.from_bytes(header[68:72]), int.from_bytes(header[60:64])
