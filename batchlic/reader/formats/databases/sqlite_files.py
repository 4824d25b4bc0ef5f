"""Reads SQLite files, by the module of Python."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

from batchlic.errors import InventoryError
from batchlic.reader.formats.databases.drivers import Cursor
from batchlic.reader.inputs.databases import Database

ERRORS = (sqlite3.Error, sqlite3.Warning)
_STEPS = 100_000
"""Instructions of SQLite's virtual machine between two moments at which Python hears signals."""


@contextmanager
def connected(database: Database, timeout: float) -> Iterator[sqlite3.Connection]:
    """Open the file to read only. A writer keeps it locked for at most `timeout` seconds."""
    path = existing_file(database)
    uri = f"file://{quote(os.fsencode(path))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=timeout)) as connection:
        connection.text_factory = bytes  # a cell that is not UTF-8 is the trouble of its row
        connection.set_progress_handler(lambda: 0, _STEPS)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")  # raises if the file is no database
        yield connection


@contextmanager
def executed(connection: sqlite3.Connection, query: str) -> Iterator[Cursor]:
    """Run a query. A SELECT of SQLite reads one snapshot, whoever writes meanwhile."""
    yield connection.execute(query)


def reason(error: Exception) -> str:
    """What SQLite says. Raises KeyboardInterrupt if a signal ended the query, which SQLite hides."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_INTERRUPT:
        raise KeyboardInterrupt from None
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_READONLY_CANTINIT}:
        return "SQLite reads a file in WAL mode only with write access to its folder: copy the file elsewhere"
    return str(error)


def existing_file(database: Database) -> str:
    """The absolute path of a database that is a file. Raises InventoryError if there is none."""
    path = database.path
    if path is None or not path.exists():
        raise InventoryError(f"{database}: there is no such file: check the path")
    if not path.is_file():
        raise InventoryError(f"{database}: is no file: name the file of the database")
    if not os.access(path, os.R_OK):
        raise InventoryError(f"{database}: can't be read: fix the permissions of the file")
    return str(path.absolute())
