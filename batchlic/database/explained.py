"""Database errors as errors that say what to do, for SQLite and PostgreSQL alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from batchlic.errors import RunFolderError, StoppedEarly, UsageError


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
        if is_of_the_system(error):
            raise StoppedEarly(
                f"{what} can't be written or read ({first_line(error)}): fix the cause, then run the command "
                "again"
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


def is_of_the_system(error: Exception) -> bool:
    """Whether the disk, a lock, memory, or a server caused the error.

    No error of a server is damage of a file: the server keeps its own files.

    A damaged file can raise OperationalError, too: without a result code for text that is not UTF-8, and with
    the general code SQLITE_ERROR if a table or column is not found. It raises UnicodeDecodeError if SQLite's
    message quotes such text.
    """
    cause = getattr(error, "orig", None) or error
    if not isinstance(cause, sqlite3.Error | UnicodeDecodeError) and isinstance(error, sa.exc.DBAPIError):
        return True
    code = getattr(cause, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _SYSTEM_ERRORS


def first_line(error: Exception) -> str:
    """The first line of a database error, without the SQL statement."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
