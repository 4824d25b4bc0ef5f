"""Where a ledger is: a SQLite file, or a database that machines share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from batchlic.database import postgresql
from batchlic.ledger.opening import FilePlace
from batchlic.ledger.shared import StorePlace


class LedgerDatabase(Protocol):
    """An open ledger."""

    @property
    def store(self) -> postgresql.Store | None:
        """The store that has the ledger; None for a file."""

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """A snapshot: writes of other processes do not change it during the block."""

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """One transaction, while no other process writes."""

    def close(self) -> None:
        """Close what only this ledger uses."""


class LedgerPlace(Protocol):
    """Where a ledger is or will be. Its text says so in messages."""

    @property
    def location(self) -> Path | str:
        """The path of a file, or the name of a store: its URL without a password."""

    @property
    def runs_dir(self) -> str:
        """Where the runs are from which the ledger can be built again, for messages."""

    def exists(self) -> bool:
        """Whether there is a ledger."""

    def require(self) -> None:
        """Raise UsageError if there is no ledger."""

    def refuse_unwritable(self) -> None:
        """Raise UsageError or StoppedEarly if a ledger can't be written here."""

    def explained(self) -> AbstractContextManager[None]:
        """Turn database errors into errors that say what to do, and damage into LedgerError."""

    def open(self) -> LedgerDatabase:
        """Open the ledger, and make one if there is none."""

    def unchanged(self) -> AbstractContextManager[LedgerPlace]:
        """Where to read the ledger, which exists, without any change."""


def place_of(location: Path | str) -> LedgerPlace:
    """The place of a ledger: a path, or the URL of a PostgreSQL database.

    Raises UsageError for any other URL.
    """
    if isinstance(location, str) and "://" in location:
        return StorePlace(postgresql.remember(location, what="--ledger"))
    return FilePlace(Path(location))
