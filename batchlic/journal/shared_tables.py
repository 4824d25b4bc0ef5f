"""The journal's tables in a database that holds many runs: those of `tables`, with the number of the run."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import UserDefinedType

from batchlic.journal import tables
from batchlic.journal.sources import Source

metadata = sa.MetaData()


class TransactionId(UserDefinedType[str]):
    """The number of a transaction: https://www.postgresql.org/docs/current/datatype-oid.html."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """The name of the type."""
        return "xid8"


journals = sa.Table(
    "journals",
    metadata,
    sa.Column("number", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("key", sa.Text, nullable=False, unique=True, comment="of the run folder, in its store.json"),
    sa.Column("run_id", sa.Text, nullable=False, index=True),
    sa.Column("folder", sa.Text, nullable=False, comment="path or URL of the run folder when the run began"),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("identity", sa.Text, nullable=False, comment="RunIdentity as JSON"),
)


def _shared(table: sa.Table, *more: sa.Column[str]) -> sa.Table:
    """A table with the columns of `table` and the number of the run, which begins each key."""
    run = sa.Column("run", sa.Integer, primary_key=True, autoincrement=False, comment="journals.number")
    columns = [_copied(column) for column in table.c]
    indexes = [
        sa.Index(index.name, "run", *(column.name for column in index.columns)) for index in table.indexes
    ]
    return sa.Table(table.name, metadata, run, *columns, *more, *indexes)


def _copied(column: sa.Column[object]) -> sa.Column[object]:
    if column.name == "id":
        return sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True)
    key: dict[str, Any] = {"primary_key": True, "autoincrement": False} if column.primary_key else {}
    return sa.Column(column.name, column.type, nullable=column.nullable, comment=column.comment, **key)


def _recorded_in() -> sa.Column[str]:
    return sa.Column(
        "recorded_in",
        TransactionId,
        nullable=False,
        server_default=sa.text("pg_current_xact_id()"),
        comment="orders rows by their commit, for those who watch the run",
    )


session_ends = _shared(tables.session_ends)
intents = _shared(tables.intents)
sa.Index("intents_by_time", intents.c.started_at, postgresql_using="brin")  # for requests of other runs
answers = _shared(tables.answers, _recorded_in())
settlements = _shared(tables.settlements, _recorded_in())

BY_NAME = {table.name: table for table in (session_ends, intents, answers, settlements)}
"""The tables of entries, by the names that they have in `tables`, too."""


def of_run(number: int) -> Source:
    """The rows of one run."""

    def rows(table: sa.Table) -> sa.Subquery:
        return sa.select(*table.c).where(table.c.run == number).subquery(table.name)

    run = sa.select(*journals.c).where(journals.c.number == number).subquery("run")
    return Source(run, rows(session_ends), rows(intents), rows(answers), rows(settlements))
