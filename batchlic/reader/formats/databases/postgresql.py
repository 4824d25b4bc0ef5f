"""Reads PostgreSQL, by psycopg and a cursor of the server. Imported only if PostgreSQL is read.

ADBC is as fast, but without pyarrow it stops the whole program, and Ctrl-C, while it waits for the server.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.string import TextLoader

from batchlic.reader.formats.databases.drivers import Cursor
from batchlic.reader.inputs.databases import Database

ERRORS = (psycopg.Error,)
_KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Seconds, and failures, after which a server counts as gone: so a slow query has all its time."""
_SETTINGS = (
    "SET LOCAL synchronize_seqscans = off",  # otherwise a table may be read from its middle
    "SET LOCAL cursor_tuple_fraction = 1",  # all rows are read, not the first ones
    "SET LOCAL datestyle = ISO",
)


@contextmanager
def connected(database: Database, timeout: float) -> Iterator[psycopg.Connection[Any]]:
    """Connect, and begin a transaction that reads one snapshot."""
    address = f"postgresql://{database.name.partition('://')[2]}"
    options: dict[str, Any] = {"application_name": "batchlic", **_KEEPALIVES}
    options |= {"connect_timeout": max(2, ceil(timeout))} | conninfo_to_dict(address)
    options["client_encoding"] = "UTF8"  # that of the query, whatever the database has
    connection = psycopg.connect(make_conninfo(**options))
    _read_as_text(connection)
    try:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for setting in _SETTINGS:
            connection.execute(setting)
        yield connection
    finally:
        connection.close()


@contextmanager
def executed(connection: psycopg.Connection[Any], query: str) -> Iterator[Cursor]:
    """Declare a cursor for a query: PostgreSQL does so for one statement, and only for one that reads."""
    cursor = connection.cursor(name="batchlic")
    try:
        cursor.execute(query.encode())
        yield cursor
    finally:
        connection.close()  # first, because a server that is gone could not close the cursor
        cursor.close()


def _read_as_text(connection: psycopg.Connection[Any]) -> None:
    """Read cells as PostgreSQL writes them. Python has no date `infinity` and no JSON `true`, for example.

    A float has an exponent if digits are lost.
    """
    for kind in connection.adapters.types:
        for number in (kind.oid, kind.array_oid):
            if number and kind.name not in {"bool", "bytea"}:
                connection.adapters.register_loader(number, TextLoader)


def reason(error: Exception) -> str:
    """What PostgreSQL says, without the rows that it quotes."""
    diagnosis = error.diag if isinstance(error, psycopg.Error) else None
    if diagnosis is None or diagnosis.message_primary is None:
        return str(error)
    return "; ".join(filter(None, [diagnosis.message_primary, diagnosis.message_hint]))
