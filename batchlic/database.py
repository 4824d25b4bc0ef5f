"""A SQLite file as batchlic keeps it: write-ahead, a commit durable when it returns, trouble explained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from batchlic.errors import RunFolderError, StoppedEarly

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

PATIENCE = 30
"""Seconds that a process waits for another one's commit."""


def sqlite(path: Path, *, patience: int = PATIENCE) -> sa.Engine:
    """The database at `path`; `patience` is in seconds."""
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, connect_args={"check_same_thread": False, "timeout": patience})
    sa.event.listen(engine, "connect", _make_durable)
    return engine


def _make_durable(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """A commit is on the disk when it returns: https://sqlite.org/pragma.html#pragma_synchronous."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


@contextmanager
def explain_database_errors(what: str) -> Iterator[None]:
    """Say what the operator can do about what the database complains of; `what` is what it is to him."""
    try:
        yield
    except sa.exc.OperationalError as error:
        raise StoppedEarly(
            f"{what} can't be written or read ({first_line(error)}): repair that, then resume the run"
        ) from error
    except sa.exc.DatabaseError as error:
        raise RunFolderError(f"{what} is damaged ({first_line(error)}): restore it") from error


def first_line(error: Exception) -> str:
    """What a database error says, without the statement."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
