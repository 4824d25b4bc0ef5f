"""The same table in databases of several kinds, for tests."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import psycopg

Rows: TypeAlias = Sequence[Sequence[Any]]


def sqlite_file(path: Path, rows: Rows, types: str = "imei, iccid, account", table: str = "fleet") -> str:
    """The address of a SQLite file with a table of these rows."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE {table} ({types})")
        marks = ", ".join("?" * len(types.split(",")))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 - of tests
        connection.commit()
    return f"sqlite:///{path}"


def duckdb_file(
    path: Path, rows: Rows, types: str = "imei TEXT, iccid TEXT, account TEXT", table: str = "fleet"
) -> str:
    """The address of a DuckDB file with a table of these rows."""
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute(f"CREATE TABLE {table} ({types})")
        marks = ", ".join("?" * len(types.split(",")))
        for row in rows:
            connection.execute(f"INSERT INTO {table} VALUES ({marks})", list(row))  # noqa: S608
    return f"duckdb:///{path}"


def postgresql_table(
    url: str, rows: Rows, types: str = "imei text, iccid text, account text", table: str = "fleet"
) -> str:
    """The address of a PostgreSQL database that now has a table of these rows."""
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE TABLE {table} ({types})".encode())
        marks = ", ".join(["%s"] * len(types.split(",")))
        insert = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608
        connection.cursor().executemany(insert.encode(), rows)
    return url


Maker: TypeAlias = Callable[..., str]
"""Makes a table `fleet` of rows, with columns of `types` if they are given, and returns its address."""
