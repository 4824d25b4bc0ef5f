"""Opens the database of a ledger: makes a new one, and refuses any other database without a change to it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from batchlic.atomic import explain_disk_errors
from batchlic.database import explain_database_errors, sqlite
from batchlic.errors import RunFolderError
from batchlic.ledger.tables import APPLICATION_ID, SCHEMA_VERSION, metadata

PATIENCE = 300
"""Seconds that a process waits while another one records a run."""


class Identity(NamedTuple):
    """What a database says of itself; both are 0 in a new file."""

    application_id: int
    schema_version: int


NEW = Identity(0, 0)
OWN = Identity(APPLICATION_ID, SCHEMA_VERSION)


def open_ledger(path: Path) -> sa.Engine:
    """Open the ledger at `path`; where there is none, make one for its owner only (mode 0600).

    Raises RunFolderError where the file is damaged, is not a ledger, or has another schema version. Such a
    file stays as it is, byte for byte. Raises StoppedEarly where the disk fails.
    """
    with explain_disk_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    with explain_database_errors(f"the ledger {path}"):
        identity = _read_only_identity(path)
        engine = sqlite(path, patience=PATIENCE)
        if identity == NEW:
            _make_tables(engine, path)
        return engine


def _read_only_identity(path: Path) -> Identity:
    """OWN or NEW. A read-only connection leaves the file as it is, whatever it holds."""
    url = f"file:{quote(str(path.absolute()))}?mode=ro"
    engine = sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(url, uri=True, timeout=PATIENCE), poolclass=NullPool
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")  # one snapshot: another process may be making it
        return _refuse_other(connection, path)


def _make_tables(engine: sa.Engine, path: Path) -> None:
    """Make the tables of a new ledger, unless another process has just made them."""
    with engine.begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if _refuse_other(connection, path) == NEW:
            metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _refuse_other(connection: sa.Connection, path: Path) -> Identity:
    """OWN or NEW. Raises RunFolderError for any other database."""
    pragmas = ("application_id", "user_version")
    identity = Identity(*(int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in pragmas))
    has_tables = bool(connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one())
    if identity == OWN or (identity == NEW and not has_tables):
        return identity
    if identity.application_id != APPLICATION_ID:
        raise RunFolderError(f"{path}: this database is not a ledger; name another file with --ledger")
    raise RunFolderError(
        f"{path}: this ledger has schema version {identity.schema_version}, and this batchlic reads version "
        f"{SCHEMA_VERSION}. Use the batchlic that wrote it, or build a new ledger from its runs: "
        f"batchlic ledger import {path.parent} --ledger NEW_FILE"
    )
