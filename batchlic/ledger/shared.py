"""The ledger in a database that machines share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from batchlic.database import Damage
from batchlic.database.postgresql import Store, open_store
from batchlic.errors import LedgerError, UsageError
from batchlic.ledger.catalog import empty_row
from batchlic.ledger.opening import PATIENCE
from batchlic.ledger.tables import catalog


@dataclass(frozen=True, slots=True)
class StorePlace:
    """The ledger in the store with a name, which is a URL without a password."""

    location: str

    def __str__(self) -> str:
        return self.location

    @property
    def runs_dir(self) -> str:
        """Where the runs are from which the ledger can be built again."""
        return "RUNS_DIR"

    def exists(self) -> bool:
        """Whether the store has a ledger."""
        store = self._store()
        with self.explained(), store.engine.connect() as connection:
            return connection.execute(sa.select(catalog.c.id).limit(1)).first() is not None

    def require(self) -> None:
        """Raise UsageError if the store has no ledger yet."""
        if not self.exists():
            raise UsageError(f"{self}: there is no ledger in this database yet: the first run makes it")

    def refuse_unwritable(self) -> None:
        """Raise UsageError or StoppedEarly if the ledger can't be written, before the carrier is asked."""
        store = self._store()
        with self.explained(), store.engine.begin() as connection:
            connection.execute(sa.select(catalog.c.id).with_for_update(skip_locked=True)).all()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn database errors into those that say what to do, and damage into LedgerError."""
        try:
            with self._store().explained("the ledger"):
                yield
        except Damage as error:
            raise LedgerError(
                f"the ledger in {self} is damaged ({error}): restore the database from a backup. Or build a "
                "new one in another database from its runs: batchlic ledger import RUNS_DIR --ledger NEW_URL"
            ) from error

    def open(self) -> StoreDatabase:
        """Open the ledger; if the store has none yet, one process makes it.

        Raises OtherVersion, and the errors of `explained`.
        """
        store = self._store()
        with self.explained(), store.engine.begin() as connection:
            if connection.execute(sa.select(catalog.c.id).limit(1)).first() is None:
                _make_ledger(connection)
        return StoreDatabase(store)

    @contextmanager
    def unchanged(self) -> Iterator[StorePlace]:
        """The ledger itself: those who read it change nothing."""
        yield self

    def _store(self) -> Store:
        return open_store(self.location)


@dataclass(frozen=True, slots=True)
class StoreDatabase:
    """The ledger of an open store."""

    store: Store

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A snapshot: writes of other processes do not change it during the block."""
        with self.store.engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction, while no other process writes: it holds the row of the catalog."""
        with self.store.engine.begin() as connection:
            connection.execute(_PATIENCE)
            connection.execute(sa.select(catalog.c.id).with_for_update()).all()
            yield connection

    def close(self) -> None:
        """Do nothing: the connections are those of the store."""


_PATIENCE = sa.text(f"SET LOCAL lock_timeout = '{PATIENCE}s'")


def _make_ledger(connection: sa.Connection) -> None:
    """Add the catalog of no rows, unless another process does it at this moment."""
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - takes long

    connection.execute(postgresql.insert(catalog).on_conflict_do_nothing(), empty_row(connection))
