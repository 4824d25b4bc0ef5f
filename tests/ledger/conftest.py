"""Ledgers in a file and in a database: tests that ask for `new_ledger` or `location` run on both."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.stores import empty

Location: TypeAlias = Path | str
NewLedger: TypeAlias = Callable[[], Location]


@pytest.fixture(scope="module", params=["file", "store"])
def new_ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewLedger:
    """Gives where a ledger can be made; what it gave before may be gone."""
    if request.param == "file":
        return lambda: tmp_path_factory.mktemp("ledger") / "ledger.db"
    store: str = request.getfixturevalue("own_store")

    def emptied() -> str:
        empty(store)
        return store

    return emptied


@pytest.fixture
def location(new_ledger: NewLedger) -> Location:
    """Where a ledger can be made."""
    return new_ledger()
