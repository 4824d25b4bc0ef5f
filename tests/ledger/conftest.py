"""Ledgers in a file and in a database: tests that ask for `new_ledger` or `location` run on both."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import sqlalchemy as sa

from batchlic.database import postgresql as stores
from tests.postgresql import PostgreSQL

Location: TypeAlias = Path | str
NewLedger: TypeAlias = Callable[[], Location]

_TABLES = "announced, catalog, leases, learned_limits, messages, records, runs"


@pytest.fixture(scope="module")
def store(postgresql: PostgreSQL, request: pytest.FixtureRequest) -> str:
    """The name of a store for the tests of one module."""
    name = stores.remember(postgresql.new_database(request.module.__name__.rpartition(".")[2]))
    stores.open_store(name)
    return name


@pytest.fixture
def empty_store(store: str, postgresql: PostgreSQL) -> str:
    """The name of a store without a ledger."""
    empty(store, postgresql)
    return store


def empty(store: str, postgresql: PostgreSQL) -> None:
    postgresql.execute(f"TRUNCATE {_TABLES}", sa.make_url(store).database or "")


@pytest.fixture(scope="module", params=["file", "store"])
def new_ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewLedger:
    """Gives where a ledger can be made; what it gave before may be gone."""
    if request.param == "file":
        return lambda: tmp_path_factory.mktemp("ledger") / "ledger.db"
    store: str = request.getfixturevalue("store")
    server: PostgreSQL = request.getfixturevalue("postgresql")

    def emptied() -> str:
        empty(store, server)
        return store

    return emptied


@pytest.fixture
def location(new_ledger: NewLedger) -> Location:
    """Where a ledger can be made."""
    return new_ledger()
