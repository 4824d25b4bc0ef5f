"""Journals on both backends: a SQLite file, or a run in a store that many runs share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchlic.database import leases
from batchlic.database.leases import Lease
from batchlic.database.postgresql import open_store
from batchlic.journal import FilePlace, Journal, JournalPlace, JournalQueries, StorePlace
from tests.journal.builders import CREATED_AT, identity


@dataclass
class Backend:
    """Where a test keeps its journals. `store` is the name of the store; None for files."""

    folder: Path
    store: str | None
    _held: dict[str, ExitStack] = field(default_factory=dict)

    def place(self, name: str = "journal") -> JournalPlace:
        """Where the journal of a run is. The test holds a run in a store until it ends."""
        if self.store is None:
            return FilePlace(self.folder / f"{name}.db")
        place = StorePlace(self.store, f"{self.folder} {name}", str(self.folder))
        if name not in self._held:
            self._held[name] = ExitStack()
            self._held[name].enter_context(holding(place))
        return place

    @contextmanager
    def new_journal(self, name: str = "journal", **changes: Any) -> Iterator[Journal]:  # noqa: ANN401
        """A new journal, whose identity has some other fields."""
        with closing(self.place(name).create(identity(**changes), created_at=CREATED_AT)) as journal:
            yield journal

    @contextmanager
    def reopened(self, name: str = "journal") -> Iterator[Journal]:
        """The journal as a later session opens it."""
        with closing(self.place(name).open()) as journal:
            yield journal

    def seen(self, name: str = "journal") -> list[tuple[int, str | None]]:
        """Number and outcome of each attempt, as other processes read them."""
        with self.place(name).inspect() as other:
            return [(attempt.seq, attempt.outcome) for attempt in other.attempts()]

    def end(self) -> None:
        """Release what this test holds."""
        for held in self._held.values():
            held.close()


@contextmanager
def holding(place: StorePlace, lease_s: float = 30) -> Iterator[Lease]:
    """Hold a run in a store, as a session does."""
    store = open_store(place.store)
    with leases.held(
        store, place.lease_key, what=place.folder, holder="pid 1 on host, since now", lease_s=lease_s
    ) as lease:
        yield lease


def new_place(store: str) -> StorePlace:
    """The place of a new run in a store."""
    return StorePlace(store, secrets.token_hex(8), "runs/one")


@contextmanager
def session(place: StorePlace, **changes: Any) -> Iterator[tuple[Journal, Lease]]:  # noqa: ANN401
    """The first session of a new run in a store: its journal and its lease."""
    with (
        holding(place) as lease,
        closing(place.create(identity(**changes), created_at=CREATED_AT)) as journal,
    ):
        yield journal, lease


def figures(journal: JournalQueries) -> tuple[int, int, int]:
    """Three counts of the attempts, which agree at any moment: by history, by outcome and one by one."""
    history, outcomes = len(list(journal.history())), sum(journal.outcomes().values())
    return history, outcomes, len(list(journal.attempts()))
