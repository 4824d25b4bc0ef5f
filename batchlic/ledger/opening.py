"""The ledger in a SQLite file: creates a missing one, and refuses any other or damaged file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from batchlic.atomic import explain_disk_errors, explain_read_errors, make_private_folder, sync_folder
from batchlic.database import (
    Damage,
    FileFormat,
    check_format,
    explain_database_errors,
    snapshot,
    sqlite,
    write_format,
)
from batchlic.errors import LedgerError, UsageError
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


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A SQLite file that is a ledger, or may become one."""

    location: Path

    def __str__(self) -> str:
        return str(self.location)

    @property
    def runs_dir(self) -> str:
        """Where the runs are from which the ledger can be built again."""
        return str(self.location.parent)

    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.location.exists()

    def require(self) -> None:
        """Raise UsageError if there is no ledger."""
        with explain_read_errors(self.location):
            if not self.location.is_file():
                raise UsageError(f"{self}: there is no ledger here; name it with --ledger")

    def refuse_unwritable(self) -> None:
        """Raise UsageError if the file can't be written, before the carrier is asked anything.

        While the process runs, such an error may pass. At its start, a person has to change something.
        """
        path, place = self.location, self.location.parent
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        advice = "name another place with --ledger or BATCHLIC_STATE_DIR"
        if not place.is_dir() or path.is_dir():
            odd = f"{path} is a folder" if path.is_dir() else f"{place} is not a folder"
            raise UsageError(f"{path}: the ledger can't be written, because {odd}: {advice}")
        for name in filter(os.path.exists, (place, path)):
            if not os.access(name, os.W_OK):
                raise UsageError(
                    f"{path}: the ledger can't be written, because {name} is read-only or belongs to another "
                    f"user: fix its permissions, or {advice}"
                )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn database errors into StoppedEarly, and damage into LedgerError."""
        advice = (
            "restore it from a backup. Or move it away, and build it again from its runs: "
            f"batchlic ledger import RUNS_DIR --ledger {self}"
        )
        with explain_database_errors(f"the ledger {self}", damaged=LedgerError, advice=advice):
            yield

    def open(self) -> FileDatabase:
        """Open the file; if there is none, make one for its owner only (mode 0600).

        Raises LedgerError if the file is damaged. Raises RunFolderError if it is not a ledger or has another
        schema version; such a file stays as it is, byte for byte. Raises StoppedEarly if the disk fails.
        """
        path = self.location
        with self.explained():
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
            return FileDatabase(engine)

    @contextmanager
    def unchanged(self) -> Iterator[FilePlace]:
        """A copy of the file until the block ends, to read it without any change beside it."""
        check_format(self.location, FILE_FORMAT)
        with self.explained(), snapshot(self.location) as copy:
            yield FilePlace(copy)


@dataclass(frozen=True, slots=True)
class FileDatabase:
    """The open file."""

    engine: sa.Engine
    store: None = None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A snapshot: writes of other processes do not change it during the block."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction, while no other process writes."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def close(self) -> None:
        """Close the file."""
        self.engine.dispose()


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
