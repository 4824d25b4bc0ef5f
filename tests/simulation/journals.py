"""The journals of simulated runs: in memory, or for a share of the seeds in a store that many runs share.

By default, each eighth seed is simulated on the store. `make soak BACKEND=store` takes the store for all of
them, and BACKEND=file for none. Commits are made inline, in virtual time.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Protocol

import anyio.to_thread
import msgspec
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from batchlic.database import leases
from batchlic.database.leases import Lease
from batchlic.database.postgresql import open_store
from batchlic.journal import Journal, JournalQueries, RunIdentity
from batchlic.journal.databases import SqliteDatabase
from batchlic.journal.journal import Offload, create_tables
from batchlic.journal.shared import SharedDatabase
from batchlic.journal.shared_tables import journals
from tests.stores import take_away

BACKEND = os.environ.get("BACKEND", "")
LEASE_S = 86_400

_stores: list[str] = []


class SimulatedJournals(Protocol):
    """The journal of one simulated run."""

    def session(self, offload: Offload = anyio.to_thread.run_sync) -> Journal:
        """The journal as the next session opens it, which replaces the session before."""

    def read(self) -> JournalQueries:
        """The journal, to read it."""

    def end(self) -> None:
        """End the last session."""


def is_on_store(seed: int) -> bool:
    """Whether the journal of this seed's run is in a store."""
    return BACKEND == "store" or (BACKEND != "file" and seed % 8 == 5)


def use_store(name: str) -> None:
    """Name the store of the simulations in this process."""
    _stores[:] = [name]


def new_journals(seed: int, identity: RunIdentity) -> SimulatedJournals:
    """The journal of a new run."""
    return _InStore(_stores[0], identity) if is_on_store(seed) else _InMemory(identity)


class _InMemory:
    """A SQLite database in memory, which outlives each session."""

    def __init__(self, identity: RunIdentity) -> None:
        self._engine = sa.create_engine("sqlite://", poolclass=StaticPool)
        create_tables(self._engine, identity, created_at=0)

    def session(self, offload: Offload = anyio.to_thread.run_sync) -> Journal:
        return Journal(SqliteDatabase(self._engine), offload=offload)

    def read(self) -> JournalQueries:
        return JournalQueries(SqliteDatabase(self._engine))

    def end(self) -> None:
        """Nothing ends: the database is in this process."""


class _InStore:
    """A run of its own in a store. Each session takes over from the one before, killed or not."""

    def __init__(self, store: str, identity: RunIdentity) -> None:
        self._store, self._key = open_store(store), f"run:{secrets.token_hex(16)}"
        self._number = _create(self._store.engine, self._key, identity)
        self._end_session: Callable[[], None] | None = None

    def session(self, offload: Offload = anyio.to_thread.run_sync) -> Journal:
        self.end()
        database = SharedDatabase(self._store, self._number, held=[self._take()])
        self._end_session = database.close
        return Journal(database, offload=offload)

    def read(self) -> JournalQueries:
        return JournalQueries(SharedDatabase(self._store, self._number))

    def end(self) -> None:
        if self._end_session is not None:
            self._end_session()
        self._end_session = None

    def _take(self) -> Lease:
        take_away(self._store.name, self._key)
        return leases.take(self._store, self._key, what="a run", holder="simulation", lease_s=LEASE_S)


def _create(engine: sa.Engine, key: str, identity: RunIdentity) -> int:
    row = {
        "key": key,
        "run_id": identity.run_id,
        "folder": "",
        "created_at": 0,
        "identity": msgspec.json.encode(identity).decode(),
    }
    with engine.begin() as connection:
        return int(
            connection.execute(journals.insert().values(row).returning(journals.c.number)).scalar_one()
        )
