"""Reads MySQL and MariaDB, by PyMySQL. Imported only if one is read. No test has a server for them."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from math import ceil
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from batchlic.reader.formats.databases.drivers import Cursor
from batchlic.reader.inputs.databases import Database

_pymysql = import_module("pymysql")
_cursors = import_module("pymysql.cursors")
_types = import_module("pymysql.constants.FIELD_TYPE")
ERRORS = (_pymysql.MySQLError, OSError)


def _of_float(text: str) -> str:
    """A FLOAT with an exponent, which the rules reject: it lost digits, and MySQL writes zeros for them."""
    return f"{float(text):E}"


_CONVERSIONS = import_module("pymysql.converters").conversions | {_types.FLOAT: _of_float}


@contextmanager
def connected(database: Database, timeout: float) -> Iterator[Any]:
    """Connect, and begin a transaction that reads one snapshot (of tables of InnoDB)."""
    parts = urlsplit(database.name)
    given = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    connection = _pymysql.connect(
        host=parts.hostname or "localhost",
        port=parts.port or 3306,
        user=unquote(parts.username or "") or os.environ.get("MYSQL_USER"),
        password=os.environ.get("MYSQL_PWD", ""),
        database=unquote(parts.path[1:]) or None,
        connect_timeout=max(1, ceil(timeout)),
        conv=_CONVERSIONS,
        cursorclass=_cursors.SSCursor,  # of the server: rows come as they are fetched
        **given,
    )
    with closing(connection):
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        yield connection


@contextmanager
def executed(connection: Any, query: str) -> Iterator[Cursor]:  # noqa: ANN401 - the driver may not be installed
    """Run a query. The server refuses several statements in one, which no option here allows."""
    cursor = connection.cursor()
    cursor.execute(query)
    try:
        yield cursor
    finally:
        if cursor._result is not None:  # noqa: SLF001 - otherwise PyMySQL reads all rows that are left
            cursor._result.unbuffered_active = False  # noqa: SLF001


def reason(error: Exception) -> str:
    """What MySQL says, after its number."""
    return ": ".join(map(str, error.args)) or type(error).__name__
