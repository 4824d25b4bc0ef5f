"""Inserts rows into the journal: few statements for many rows, because each request adds two rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from batchlic.carrier.answers import Answer
from batchlic.journal import tables
from batchlic.journal.records import Intent

ROWS_PER_STATEMENT = 80
"""Keeps a statement under 1,000 values, the limit of older versions of SQLite."""


class Insertion(NamedTuple):
    """One row that waits to be committed, with a value for each column of its table."""

    table: sa.Table
    row: tuple[Any, ...]


def intent_row(seq: int, intent: Intent) -> Insertion:
    """The row of an intent with the number `seq`."""
    return Insertion(tables.intents, (seq, *_INTENT_VALUES(intent)))


def answer_row(seq: int, answer: Answer, *, duration_ms: float, final: bool) -> Insertion:
    """The row of the answer to the intent with the number `seq`."""
    row = (
        seq,
        duration_ms,
        answer.outcome.value,
        final,
        answer.http_status,
        answer.request_id,
        answer.error_code,
        answer.error_message,
        answer.retry_after_s,
        answer.blame is not None,
    )
    return Insertion(tables.answers, row)


def insert_rows(connection: sa.Connection, insertions: Sequence[Insertion]) -> None:
    """Insert intents, then answers, in the caller's transaction."""
    for table in _STATEMENTS:
        rows = [insertion.row for insertion in insertions if insertion.table is table]
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            chunk = rows[start : start + ROWS_PER_STATEMENT]
            connection.exec_driver_sql(_statement_for(table, len(chunk)), tuple(chain.from_iterable(chunk)))


_INTENT_VALUES = attrgetter(*(column.name for column in tables.intents.c if column.name != "seq"))

_STATEMENTS = {
    table: str(table.insert().compile(dialect=SQLiteDialect(paramstyle="qmark")))
    for table in (tables.intents, tables.answers)
}
"""The statements by table, compiled once for the driver."""


@cache
def _statement_for(table: sa.Table, rows: int) -> str:
    """One statement for many rows, because the driver releases the interpreter lock at each statement."""
    statement = _STATEMENTS[table]
    row = statement[statement.rindex("(") :]
    return statement + f", {row}" * (rows - 1)
