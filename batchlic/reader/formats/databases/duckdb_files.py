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
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": False,  # otherwise an unknown table might be a variable of this program
    "autoinstall_known_extensions": False,  # otherwise a query might download and run code
}
_READ_BY_PYTHON = {"float", "double", "blob"}
"""Types of columns that are not cast to text. The driver can't read times with a zone without pytz, and
changes others: the date `infinity` becomes 9999-12-31, and a month 30 days."""


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
    connection.execute(f"CREATE TEMP VIEW batchlic_query AS {query}")
    rows = connection.sql(query)
    cells = (
        f"#{number}{'' if kind.id in _READ_BY_PYTHON else '::VARCHAR'} AS {_quoted(name)}"
        for number, (name, kind) in enumerate(zip(rows.columns, rows.types, strict=True), start=1)
    )
    yield connection.execute(f"SELECT {', '.join(cells)} FROM batchlic_query")  # noqa: S608 - names are quoted


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def reason(error: Exception) -> str:
    """What DuckDB says."""
    return str(error)
