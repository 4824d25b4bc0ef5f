"""Reads DuckDB files. Imported only if one is read."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import duckdb

from batchlic.reader.formats.databases.drivers import Cursor
from batchlic.reader.formats.databases.sqlite_files import existing_file
from batchlic.reader.inputs.databases import Database


class NotOneSelect(Exception):
    """The query is not one SELECT."""


ERRORS = (duckdb.Error, NotOneSelect)
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"python_enable_replacements": False}
"""Otherwise a table that does not exist might be a variable of this program."""


@contextmanager
def connected(database: Database, _timeout: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the file to read only."""
    with closing(duckdb.connect(existing_file(database), read_only=True, config=_CONFIG)) as connection:
        yield connection


@contextmanager
def executed(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[Cursor]:
    """Run a query. Raises NotOneSelect for other statements: DuckDB would write files for COPY."""
    statements = connection.extract_statements(query)
    if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
        raise NotOneSelect("it is not a single SELECT")
    yield connection.execute(statements[0])


def reason(error: Exception) -> str:
    """What DuckDB says."""
    return str(error)
