"""What the drivers of all databases have in common, and which one reads which database."""

import os
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Protocol

from batchlic.errors import InventoryError
from batchlic.reader.inputs.databases import Database, Kind


class Cursor(Protocol):
    """The result of a query, as PEP 249 has it."""

    @property
    def description(self) -> Any:  # noqa: ANN401 - sequences of different kinds
        """One sequence for each column, which begins with its name; None if there is no result."""

    def fetchmany(self, size: int, /) -> Any:  # noqa: ANN401
        """At most so many rows, each a sequence of cells; none at the end."""


class Driver(Protocol):
    """A module that reads a kind of database."""

    @property
    def ERRORS(self) -> tuple[type[Exception], ...]:  # noqa: N802 - a constant of the module
        """What the driver raises on purpose."""

    def connected(self, database: Database, timeout: float, /) -> AbstractContextManager[Any]:
        """A connection that can only read, for a block. `timeout`: seconds to wait for the server."""

    def executed(self, connection: Any, query: str, /) -> AbstractContextManager[Cursor]:  # noqa: ANN401
        """Run a query that is a single SELECT, for a block; its rows are of one moment."""

    def reason(self, error: Exception, /) -> str:
        """What the driver says about an error."""


_EXTRAS = {
    Kind.POSTGRESQL: "postgresql",
    Kind.DUCKDB: "duckdb",
    Kind.MYSQL: "mysql",
    Kind.SNOWFLAKE: "snowflake",
}
_SECRETS = ("PGPASSWORD", "PGSSLPASSWORD", "MYSQL_PWD", "SNOWFLAKE_PASSWORD")
"""Environment variables whose values no message shows."""


def driver_of(database: Database) -> Driver:
    """The driver of a database. Raises InventoryError if it is not installed."""
    try:
        return _module(database.kind)
    except ImportError as error:
        extra = _EXTRAS.get(database.kind)
        raise InventoryError(
            f"{database}: to read it, batchlic needs the extra `{extra}` ({error.name or error} is missing): "
            f"pip install 'batchlic[{extra}]', or export the rows as a file first"
        ) from None


def _module(kind: Kind) -> ModuleType:
    if kind is Kind.SQLITE:
        from batchlic.reader.formats.databases import sqlite_files  # noqa: PLC0415 - an extra may be missing

        return sqlite_files
    if kind is Kind.DUCKDB:
        from batchlic.reader.formats.databases import duckdb_files  # noqa: PLC0415

        return duckdb_files
    if kind is Kind.POSTGRESQL:
        from batchlic.reader.formats.databases import postgresql  # noqa: PLC0415

        return postgresql
    if kind is Kind.MYSQL:
        from batchlic.reader.formats.databases import mysql  # noqa: PLC0415

        return mysql
    from batchlic.reader.formats.databases import snowflake  # noqa: PLC0415

    return snowflake


def without_secrets(text: str) -> str:
    """A text without the values of the environment variables that hold passwords (promise F)."""
    for name in _SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    return text
