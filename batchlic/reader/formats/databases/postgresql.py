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
)


@contextmanager
def connected(database: Database, timeout: float) -> Iterator[psycopg.Connection[Any]]:
    """Connect, and begin a transaction that reads one snapshot."""
    address = f"postgresql://{database.name.partition('://')[2]}"
    options: dict[str, Any] = {"application_name": "batchlic", **_KEEPALIVES}
    options |= {"connect_timeout": max(2, ceil(timeout))} | conninfo_to_dict(address)
    connection = psycopg.connect(make_conninfo(**options))
    for number in ("float4", "float8"):  # as PostgreSQL writes it: with an exponent if digits are lost
        connection.adapters.register_loader(number, TextLoader)
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
    with connection.cursor(name="batchlic") as cursor:
        cursor.execute(query.encode())
        yield cursor


def reason(error: Exception) -> str:
    """What PostgreSQL says, without the rows that it quotes."""
    diagnosis = error.diag if isinstance(error, psycopg.Error) else None
    if diagnosis is None or diagnosis.message_primary is None:
        return str(error)
    return "; ".join(filter(None, [diagnosis.message_primary, diagnosis.message_hint]))
