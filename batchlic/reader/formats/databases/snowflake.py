"""Reads Snowflake, by its connector. Imported only if Snowflake is read. No test has a server for it."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from math import ceil
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from batchlic.reader.formats.databases.drivers import Cursor
from batchlic.reader.inputs.databases import Database

_connector = import_module("snowflake.connector")
ERRORS = (_connector.errors.Error,)


@contextmanager
def connected(database: Database, timeout: float) -> Iterator[Any]:
    """Connect. Snowflake has no read-only transactions: a login with SELECT alone is the safe one."""
    parts = urlsplit(database.name)
    given = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    names = dict(zip(("database", "schema"), filter(None, unquote(parts.path).split("/")), strict=False))
    login = {
        "user": unquote(parts.username or "") or os.environ.get("SNOWFLAKE_USER"),
        "password": os.environ.get("SNOWFLAKE_PASSWORD"),
    }
    options = {**names, **given, **{key: value for key, value in login.items() if value}}
    connection = _connector.connect(account=parts.hostname, login_timeout=max(1, ceil(timeout)), **options)
    with closing(connection):
        yield connection


@contextmanager
def executed(connection: Any, query: str) -> Iterator[Cursor]:  # noqa: ANN401 - the driver may not be installed
    """Run a query. The connector sends a single statement, which reads the tables of one moment."""
    cursor = connection.cursor()
    cursor.execute(query)
    yield cursor


def reason(error: Exception) -> str:
    """What Snowflake says."""
    return str(error)
