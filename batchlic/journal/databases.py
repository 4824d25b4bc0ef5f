"""The database of a journal: a SQLite file of one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import chain
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from batchlic.database import explain_database_errors
from batchlic.journal import tables
from batchlic.journal.sources import OF_FILE, Source
from batchlic.journal.writes import Insertion

ROWS_PER_STATEMENT = 80
"""Keeps a statement under 1,000 values, the limit of older versions of SQLite."""


ALL_SEQS = range(1, 2**63 - 1)


class JournalDatabase(Protocol):
    """Reads and writes the rows of one run, durably."""

    @property
    def source(self) -> Source:
        """The rows of the run."""

    @property
    def engine(self) -> sa.Engine:
        """Connections for queries."""

    @property
    def seqs(self) -> range:
        """The numbers that this session may give to entries of the history."""

    def explained(self) -> AbstractContextManager[None]:
        """Raise database errors as StoppedEarly or RunFolderError."""

    def insert(self, insertions: Sequence[Insertion]) -> None:
        """Commit intents, then answers, all or none. Only one thread at a time calls this."""

    def insert_rows(self, table: sa.Table, rows: Sequence[dict[str, object]]) -> None:
        """Commit rows of another table of the run, all or none."""

    def check_held(self) -> None:
        """Raise LeaseLost if another session may have taken over the run."""

    def integrity_errors(self) -> list[str]:
        """The damage that the database finds in its files."""

    def close(self) -> None:
        """Close all connections."""


class SqliteDatabase:
    """A SQLite file that holds the journal of one run, of which this process is the only writer."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.source = OF_FILE
        self.seqs = ALL_SEQS

    @cached_property
    def connection(self) -> sa.Connection:
        """Only for writing. Queries use other connections, because another thread may commit on this one."""
        return self.engine.connect()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise database errors as StoppedEarly, or as RunFolderError if the file is damaged."""
        with explain_database_errors(f"the journal {self.engine.url.database}"):
            yield

    def insert(self, insertions: Sequence[Insertion]) -> None:
        """Commit intents, then answers."""
        with self._transaction() as connection:
            for table, statement in _STATEMENTS.items():
                rows = [insertion.row for insertion in insertions if insertion.table is table]
                for start in range(0, len(rows), ROWS_PER_STATEMENT):
                    chunk = rows[start : start + ROWS_PER_STATEMENT]
                    # One statement for many rows, because the driver releases the interpreter lock at each.
                    several = statement + f", {statement[statement.rindex('(') :]}" * (len(chunk) - 1)
                    connection.exec_driver_sql(several, tuple(chain.from_iterable(chunk)))

    def insert_rows(self, table: sa.Table, rows: Sequence[dict[str, object]]) -> None:
        """Commit rows of a table."""
        with self._transaction() as connection:
            connection.execute(table.insert(), rows)

    def check_held(self) -> None:
        """Do nothing: the lock of the folder excludes other processes as long as this one lives."""

    def integrity_errors(self) -> list[str]:
        """The errors that SQLite finds in the file, indexes included."""
        with self.explained(), self.engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        return [] if found == ["ok"] else [str(line) for line in found]

    def close(self) -> None:
        """Close the file."""
        if "connection" in self.__dict__:
            self.connection.close()
        self.engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self.explained(), self.connection.begin():
            yield self.connection


_STATEMENTS = {
    table: str(table.insert().compile(dialect=SQLiteDialect(paramstyle="qmark")))
    for table in (tables.intents, tables.answers)
}
"""The statements by table, compiled once for the driver."""
