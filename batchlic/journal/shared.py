"""The journal of one run in a database that machines share (promise K).

Each commit is one statement, so one round trip, and checks in the same transaction that this session still
holds the run: its lease has the newest epoch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from batchlic.database import leases, postgresql
from batchlic.database.leases import Lease, LeaseLost
from batchlic.database.postgresql import OpenConnections, Store
from batchlic.journal import shared_tables
from batchlic.journal.databases import ALL_SEQS
from batchlic.journal.writes import Insertion


class SharedDatabase:
    """The rows of one run in a store, for a session that holds `held`, or for readers if that is empty.

    `seqs` are the numbers that the session may give to entries: sessions that send side by side for one run
    have numbers of their own.
    """

    def __init__(
        self, store: Store, number: int, *, held: Sequence[Lease] = (), seqs: range = ALL_SEQS
    ) -> None:
        self.store = store
        self.number = number
        self.seqs = seqs
        self.source = shared_tables.of_run(number)
        self._held = tuple(held)
        self._process = os.getpid()
        if self._held:  # connections of its own, which are cut if a lease is lost
            self.engine = postgresql.engine(store.name, pool_size=5, max_overflow=20, pool_pre_ping=True)
            connections = OpenConnections(self.engine)
            for lease in self._held:
                lease.on_loss(connections.cut)
        else:
            self.engine = store.engine.execution_options(isolation_level="REPEATABLE READ")

    @cached_property
    def _connection(self) -> sa.Connection:
        """Only for writing, and outside of transactions: each commit is one statement."""
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise LeaseLost if the run is lost, and database errors as errors that say what to do."""
        self.check_held()
        try:
            with self.store.explained("the journal"):
                yield
        except LeaseLost:
            raise
        except Exception:
            self.check_held()  # a lost lease cuts connections, and is the cause then
            raise

    def insert(self, insertions: Sequence[Insertion]) -> None:
        """Commit intents and answers, if this session holds the run.

        If the connection ends meanwhile, this is tried once more on another one: a server, a firewall, or an
        administrator may have ended it, and the answers to requests in flight must not be lost with it.
        """
        with self.explained():
            rows = {name: [row.row for row in insertions if row.table.name == name] for name in _COLUMNS}
            parameters = self._fence_parameters()
            for name, of_table in rows.items():
                columns = list(zip(*of_table, strict=True)) or [()] * len(_COLUMNS[name])
                parameters |= {f"{name}_{index}": list(column) for index, column in enumerate(columns)}
            if not self._is_recorded(parameters):
                leases.lose_all(self._held)

    def _is_recorded(self, parameters: dict[str, Any]) -> bool:
        """Execute the insertion; False if this session does not hold the run any more."""
        try:
            return self._execute(_INSERT, parameters)
        except sa.exc.DBAPIError as error:
            self.check_held()  # a lost lease cuts connections
            if not error.connection_invalidated:
                raise
            try:
                return self._execute(_INSERT_AGAIN, parameters)
            except sa.exc.DBAPIError as error_again:
                raise error from error_again

    def _execute(self, statement: str, parameters: dict[str, Any]) -> bool:
        with self._connection.begin():  # of SQLAlchemy alone: it restores a connection after an error
            return bool(self._connection.exec_driver_sql(statement, parameters).scalar())

    def insert_rows(self, table: sa.Table, rows: Sequence[dict[str, object]]) -> None:
        """Commit rows of another table, if this session holds the run."""
        shared = shared_tables.BY_NAME[table.name]
        with self.explained(), self.engine.begin() as connection:
            leases.refuse_lost(connection, self._held)
            connection.execute(shared.insert(), [row | {"run": self.number} for row in rows])

    def check_held(self) -> None:
        """Raise LeaseLost if another session may have taken over the run."""
        for lease in self._held:
            lease.check()

    def integrity_errors(self) -> list[str]:
        """None: a server checks its own files."""
        return []

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """Let all queries of the block read the state of one moment.

        https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION
        """
        with self.engine.connect() as first:
            snapshot = first.execute(_EXPORT_SNAPSHOT).scalar_one()

            def use_snapshot(connection: sa.Connection) -> None:
                connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{snapshot}'")

            sa.event.listen(self.engine, "begin", use_snapshot)
            yield

    def close(self) -> None:
        """Close the connections of a session. A forked process leaves those of the other process alone."""
        if self._held and os.getpid() == self._process:
            if "_connection" in self.__dict__:
                self._connection.close()
            self.engine.dispose()

    def _fence_parameters(self) -> dict[str, Any]:
        fences = [lease.fence for lease in self._held]
        return {
            "run": self.number,
            "keys": [key for key, _ in fences],
            "epochs": [epoch for _, epoch in fences],
            "held": len(fences),
        }


def _statement(on_conflict: str = "") -> str:
    """The statement that inserts intents and answers if the epochs are the newest, and returns if it did."""
    inserts = []
    for name, columns in _COLUMNS.items():
        arrays = ", ".join(
            f"%({name}_{index})s::{column.type.compile(dialect=_DIALECT)}[]"
            for index, column in enumerate(columns)
        )
        names = ", ".join(column.name for column in columns)
        inserts.append(
            f"{name}_ AS (INSERT INTO {name} (run, {names}) "  # noqa: S608 - names of our own tables
            f"SELECT %(run)s, new.* FROM fence, unnest({arrays}) AS new {on_conflict})"
        )
    return f"""
        WITH held AS (
            SELECT key FROM leases
            WHERE (key, epoch) IN (SELECT * FROM unnest(%(keys)s::text[], %(epochs)s::bigint[])) FOR SHARE
        ),
        fence AS (SELECT 1 AS held FROM held HAVING count(*) = %(held)s),
        {", ".join(inserts)}
        SELECT count(*) FROM fence
    """  # noqa: S608 - names of our own tables


_DIALECT: sa.Dialect = sa.URL.create("postgresql+psycopg").get_dialect()()

_COLUMNS: dict[str, list[sa.Column[Any]]] = {
    table.name: [column for column in table.c if column.name not in {"run", "recorded_in"}]
    for table in (shared_tables.intents, shared_tables.answers)
}

_INSERT = _statement()

_INSERT_AGAIN = _statement("ON CONFLICT DO NOTHING")
"""The same after a commit whose answer was lost: the entries may be there already."""

_EXPORT_SNAPSHOT = sa.text(
    "SELECT pg_export_snapshot() FROM set_config('idle_in_transaction_session_timeout', '0', true)"
)
"""The transaction lasts as long as somebody reads, but no longer than its connection."""
