"""store.json: which store has the journal of the run in a folder, and under which key."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from batchlic.aliases import shown
from batchlic.atomic import explain_disk_errors, sync_folder
from batchlic.errors import UsageError
from batchlic.journal import StorePlace, store_record
from batchlic.journal.store_record import LEASE_OF_RUN, StoreRecord
from batchlic.runs.process import Process, this_process

if TYPE_CHECKING:
    from batchlic.database.leases import Lease


@dataclass(frozen=True, slots=True)
class NamedStore:
    """The store that has the journal of a run, and the run's key there.

    Its methods raise StoppedEarly if the store does not answer, and UsageError if it can't be used.
    """

    store: str
    key: str

    @classmethod
    def of_lease(cls, store: str, key: str) -> Self:
        """The run whose lease has this key."""
        return cls(store, key.removeprefix(LEASE_OF_RUN))

    def place(self, folder: Path) -> StorePlace:
        """Where the journal of the run in `folder` is."""
        return StorePlace(self.store, self.key, shown(str(folder)))

    @contextmanager
    def held(self, folder: Path) -> Iterator[None]:
        """Hold the run until the block ends. Raises RefusedToStart that says who holds it, and until when."""
        with _held(self.store, self._lease_key, what=str(folder)):
            yield

    @property
    def lease(self) -> Lease:
        """The lease on the run that this process holds. Raises KeyError if it does not."""
        from batchlic.database import leases  # noqa: PLC0415 - only runs in a store need it

        return leases.held_here(self.store, self._lease_key)

    @property
    def holder(self) -> Process | None:
        """The process that holds the run now; None if there is none."""
        from batchlic.database import leases  # noqa: PLC0415 - only runs in a store need it
        from batchlic.database.postgresql import open_store  # noqa: PLC0415

        found = leases.holder_of(open_store(self.store), self._lease_key)
        return None if found is None else Process.parse(found.holder)

    @property
    def _lease_key(self) -> str:
        return f"{LEASE_OF_RUN}{self.key}"


@contextmanager
def job_lease(store: str, job: str) -> Iterator[None]:
    """Hold the name of a job in a store. Raises RefusedToStart if a run of that job is at work."""
    with _held(_name(store), f"job:{job}", what=f"job {job}"):
        yield


@contextmanager
def _held(store: str, key: str, *, what: str) -> Iterator[None]:
    from batchlic.database import leases  # noqa: PLC0415 - only runs in a store need it
    from batchlic.database.postgresql import open_store  # noqa: PLC0415

    with leases.held(open_store(store), key, what=what, holder=str(this_process())):
        yield


def refuse_unusable_store(store: str) -> None:
    """Raise StoppedEarly or UsageError if no run could begin in a store now."""
    from batchlic.database import leases  # noqa: PLC0415 - only runs in a store need it
    from batchlic.database.postgresql import open_store  # noqa: PLC0415

    leases.refuse_unwritable(open_store(store))


def read_store_record(path: Path) -> NamedStore | None:
    """The store that the file at `path` names; None if there is no file. Raises RunFolderError."""
    record = store_record.read_store_record(path)
    return None if record is None else NamedStore(record.store, record.key)


def name_store(path: Path, store: str) -> None:
    """Let the folder of a new run name its store, unless it does already. Of two processes, one does.

    Raises UsageError if the folder names another store, and for a URL that is not of a store.
    """
    store = _name(store)
    if read_store_record(path) is None:
        record = StoreRecord(store, secrets.token_hex(16))
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with explain_disk_errors(path):
            new.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
            try:
                os.link(new, path)
                sync_folder(path.parent)
            except FileExistsError:
                pass
            finally:
                new.unlink()
    named = read_store_record(path)
    if named is not None and named.store != store:
        raise UsageError(
            f"{path.parent}: the journal of this run is in {named.store}, and BATCHLIC_STORE or [store] "
            f"names {store}: name the same one, or give another folder with --run-dir"
        )


def _name(store: str) -> str:
    """The name of a store that a job names by its URL, which may be spelled in another way."""
    from batchlic.database.postgresql import name_of, parse  # noqa: PLC0415 - only runs in a store need it

    return name_of(parse(store, what="[store] url"))
