"""Opens the database of a ledger: makes a new one, and refuses any other database without a change to it."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from batchlic.atomic import explain_disk_errors
from batchlic.database import FileFormat, create_or_check, explain_database_errors, sqlite
from batchlic.ledger.tables import metadata

PATIENCE = 300
"""Seconds that a process waits while another one records a run."""

FILE_FORMAT = FileFormat(
    "ledger",
    application_id=int.from_bytes(b"BLld"),
    version=1,
    advice="build a new ledger from its runs: batchlic ledger import RUNS_DIR --ledger NEW_FILE",
)
"""The version changes with each change of the tables or of the record columns."""


def open_ledger(path: Path) -> sa.Engine:
    """Open the ledger at `path`; if there is none, make one for its owner only (mode 0600).

    Raises RunFolderError if the file is damaged, is not a ledger, or has another schema version. Such a file
    stays as it is, byte for byte. Raises StoppedEarly if the disk fails.
    """
    with explain_disk_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    with explain_database_errors(f"the ledger {path}"):
        create_or_check(path, FILE_FORMAT)
        engine = sqlite(path, patience=PATIENCE)
        _make_tables(engine)
        return engine


def _make_tables(engine: sa.Engine) -> None:
    """Make the tables where they are missing; several processes may do so at once."""
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
