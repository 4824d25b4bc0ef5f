"""SQLite files: durable commits, a format that each file declares, and errors that say what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from batchlic.errors import RunFolderError, StoppedEarly, UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
    from sqlalchemy.pool import ConnectionPoolEntry

PATIENCE = 30
"""Seconds to wait for the commit of another process."""

_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100


@dataclass(frozen=True, slots=True)
class FileFormat:
    """What a SQLite file of batchlic declares in its header.

    `name` is used in messages ("ledger"). `application_id` (32 bits, not 0) is the same in all versions;
    `version` counts the versions of the schema, from 1. `advice` says what to do with a file of another
    version, and `advice_if_foreign` what to do with a file of another kind.
    """

    name: str
    application_id: int
    version: int
    advice: str = "name another file"
    advice_if_foreign: str = "name another file, or move this one away"


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
    header itself.
    """
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

    The function only reads the header (https://sqlite.org/fileformat2.html#the_database_header), so that it
    does not change the file.
    """
    application_id, version = _numbers(_header(path))
    if application_id != file_format.application_id:
        raise RunFolderError(f"{path} is not a batchlic {file_format.name}: {file_format.advice_if_foreign}")
    if version != file_format.version:
        raise RunFolderError(
            f"{path} was written by another version of batchlic (schema {version}; this one reads "
            f"{file_format.version}): use that version of batchlic, or {file_format.advice}"
        )


def _header(path: Path) -> bytes:
    """The first 100 bytes of a file; empty if there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _numbers(header: bytes) -> tuple[int, int]:
    """Application id and version in the header of a SQLite file; zeros for any other file."""
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return 0, 0
    return int.from_bytes(header[68:72]), int.from_bytes(header[60:64])


class Damage(Exception):
    """Damage that a caller of `explain_database_errors` finds in a database that SQLite can read."""


@contextmanager
def explain_database_errors(
    what: str, *, damaged: type[UsageError] = RunFolderError, advice: str = "restore it"
) -> Iterator[None]:
    """Raise database errors as errors that say what to do. `what` names the file, as in "the journal".

    Raises StoppedEarly if the file can't be written or read now. If it is damaged, raises `damaged` with
    `advice`.
    """
    try:
        yield
    except (sa.exc.DatabaseError, sqlite3.DatabaseError, UnicodeDecodeError, Damage) as error:
        if _is_of_the_system(error):
            raise StoppedEarly(
                f"{what} can't be written or read ({first_line(error)}): fix the cause, then resume the run"
            ) from error
        raise damaged(f"{what} is damaged ({first_line(error)}): {advice}") from error


_SYSTEM_ERRORS = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
}
"""Result codes of SQLite whose cause is not the file (https://sqlite.org/rescode.html)."""


def _is_of_the_system(error: Exception) -> bool:
    """Whether the disk, a lock or memory caused the error.

    A damaged file can raise OperationalError, too: without a result code for text that is not UTF-8, and with
    the general code SQLITE_ERROR if a table or column is not found. It raises UnicodeDecodeError if SQLite's
    message quotes such text.
    """
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _SYSTEM_ERRORS


def first_line(error: Exception) -> str:
    """The first line of a database error, without the SQL statement."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
