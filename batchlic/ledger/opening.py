"""Opens the database of a ledger: creates a missing one, and refuses any other or damaged file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from batchlic.atomic import explain_disk_errors, make_private_folder, sync_folder
from batchlic.database import Damage, FileFormat, check_format, explain_database_errors, sqlite, write_format
from batchlic.errors import LedgerError
from batchlic.ledger.catalog import create_catalog

PATIENCE = 300
"""Seconds that a process waits while another one records a run."""

FILE_FORMAT = FileFormat(
    "ledger",
    application_id=int.from_bytes(b"BLld"),
    version=2,
    tables=frozenset({"runs", "records"}),
    advice="build a new ledger from its runs: batchlic ledger import RUNS_DIR --ledger NEW_FILE",
    advice_if_foreign=(
        "name another file. If it was the ledger, it is damaged: restore it from a backup, or move it away "
        "and build a new one from its runs: batchlic ledger import RUNS_DIR --ledger NEW_FILE"
    ),
)
"""The version changes with each change of the tables or of the record columns."""


def open_ledger(path: Path) -> sa.Engine:
    """Open the ledger at `path`; if there is none, make one for its owner only (mode 0600).

    Raises LedgerError if the file is damaged. Raises RunFolderError if it is not a ledger or has another
    schema version; such a file stays as it is, byte for byte. Raises StoppedEarly if the disk fails.
    """
    with explain_ledger_errors(path):
        with explain_disk_errors(path):
            if not path.exists():
                _make_ledger(path)
            if not path.stat().st_size:
                raise Damage("it is empty")
            check_format(path, FILE_FORMAT)
        engine = sqlite(path, patience=PATIENCE)
        try:
            _check_structure(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine


@contextmanager
def explain_ledger_errors(path: Path) -> Iterator[None]:
    """Turn database errors of the ledger at `path` into StoppedEarly, and damage into LedgerError."""
    advice = (
        "restore it from a backup. Or move it away, and build it again from its runs: "
        f"batchlic ledger import RUNS_DIR --ledger {path}"
    )
    with explain_database_errors(f"the ledger {path}", damaged=LedgerError, advice=advice):
        yield


def _check_structure(engine: sa.Engine) -> None:
    """Raise Damage if pages are damaged or lost: a writer would spread the damage. `Catalog` checks the rows.

    This reads the whole file once: 80 MB for ten million devices. Decoding its records takes much longer.
    """
    with engine.connect() as connection:
        result = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
    if result != "ok":
        raise Damage(result.splitlines()[-1])


def _make_ledger(path: Path) -> None:
    """Make a ledger beside `path` and link it there; a ledger that another process made first stays.

    So a file without tables is never a new ledger: it is damaged.
    """
    make_private_folder(path.parent)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        new = Path(folder) / path.name
        os.close(os.open(new, os.O_CREAT | os.O_RDWR, 0o600))
        write_format(new, FILE_FORMAT)
        engine = sqlite(new)
        try:
            with engine.begin() as connection:
                create_catalog(connection)
        finally:
            engine.dispose()
        try:
            path.hardlink_to(new)
        except FileExistsError:
            return
        sync_folder(path.parent)
