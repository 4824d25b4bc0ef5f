"""The place of a journal in a database that machines share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import sqlalchemy as sa

from batchlic.database import leases
from batchlic.database.leases import Lease
from batchlic.database.postgresql import Store, open_store
from batchlic.errors import RunFolderError
from batchlic.journal.databases import ALL_SEQS
from batchlic.journal.journal import Journal
from batchlic.journal.outline import Outline
from batchlic.journal.queries import JournalQueries
from batchlic.journal.records import RunIdentity
from batchlic.journal.shared import SharedDatabase
from batchlic.journal.shared_tables import BY_NAME, answers, intents, journals
from batchlic.journal.shared_tail import SharedTail
from batchlic.journal.store_record import LEASE_OF_RUN
from batchlic.objectstore.addresses import is_remote


@dataclass(frozen=True, slots=True)
class StorePlace:
    """The journal with a key in the store with a name. `folder` is that of the run, for messages."""

    store: str
    key: str
    folder: str

    def __str__(self) -> str:
        return f"{self.folder} (journal in {self.store})"

    @property
    def lease_key(self) -> str:
        """The key of the lease that a session of the run holds."""
        return f"{LEASE_OF_RUN}{self.key}"

    def exists(self) -> bool:
        """Whether the store has the journal."""
        return self._find() is not None

    def create(self, identity: RunIdentity, *, created_at: int) -> Journal:
        """Record the new run, if this session still holds it."""
        store, lease = self._opened(), self._lease()
        row = {
            "key": self.key,
            "run_id": identity.run_id,
            "folder": self.folder if is_remote(self.folder) else str(Path(self.folder).absolute()),
            "created_at": created_at,
            "identity": msgspec.json.encode(identity).decode(),
        }
        with store.explained("the journal"), store.engine.begin() as connection:
            leases.refuse_lost(connection, [lease])
            number = connection.execute(
                journals.insert().values(row).returning(journals.c.number)
            ).scalar_one()
        return Journal(SharedDatabase(store, number, held=[lease]))

    def open(self) -> Journal:
        """Open the journal to write. The caller has locked the folder, so this session holds the run."""
        return self.open_held([self._lease()])

    def open_held(self, held: Sequence[Lease], *, seqs: range = ALL_SEQS) -> Journal:
        """Open the journal to write as long as all leases of `held` are. `seqs`: numbers for its entries."""
        return Journal(SharedDatabase(self._opened(), self._number(), held=held, seqs=seqs))

    @contextmanager
    def inspect(self) -> Iterator[JournalQueries]:
        """The journal as it is at one moment, whatever a session records meanwhile."""
        database = SharedDatabase(self._opened(), self._number())
        with ExitStack() as opened:
            with database.explained():
                opened.enter_context(database.at_one_moment())
            yield JournalQueries(database)

    def identity(self) -> tuple[RunIdentity, int]:
        """The identity of the run, and when it began."""
        store = self._opened()
        query = sa.select(journals.c.identity, journals.c.created_at).where(journals.c.key == self.key)
        with store.explained("the journal"), store.engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise self._missing()
        try:
            return msgspec.json.decode(row.identity, type=RunIdentity), int(row.created_at)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise RunFolderError(f"{self}: the journal can't be read ({error})") from error

    def first_folder(self) -> str:
        """Path or URL of the run folder when the run began."""
        store = self._opened()
        query = sa.select(journals.c.folder).where(journals.c.key == self.key)
        with store.explained("the journal"), store.engine.connect() as connection:
            found = connection.execute(query).scalar()
        if found is None:
            raise self._missing()
        return str(found)

    def outline(self) -> Outline:
        """The outline of the journal."""
        with self.inspect() as journal:
            return Outline.of(journal)

    def tail(self) -> SharedTail:
        """Reads what has been committed since it was last asked."""
        return SharedTail(self._opened(), self._find, str(self))

    def request_ids_of_others(self, *, since: int) -> list[str]:
        """The requestIds of other runs in the store, sent at `since` or later.

        `since`: microseconds since 1970, UTC.
        """
        store, number = self._opened(), self._number()
        answered = intents.join(answers, (intents.c.run == answers.c.run) & (intents.c.seq == answers.c.seq))
        query = sa.select(answers.c.request_id).select_from(answered)
        query = query.where(answers.c.request_id.is_not(None), intents.c.started_at >= since)
        with store.explained("the journal"), store.engine.connect() as connection:
            return list(connection.execute(query.where(intents.c.run != number)).scalars())

    def delete(self) -> None:
        """Delete the journal: all entries of the run. The caller has locked the folder."""
        store, lease = self._opened(), self._lease()
        number = self._find()
        with store.explained("the journal"), store.engine.begin() as connection:
            leases.refuse_lost(connection, [lease])
            for table in BY_NAME.values():
                connection.execute(table.delete().where(table.c.run == number))
            connection.execute(journals.delete().where(journals.c.number == number))
            leases.forget_below(connection, self.lease_key)

    def _opened(self) -> Store:
        return open_store(self.store)

    def _lease(self) -> Lease:
        return leases.held_here(self.store, self.lease_key)

    def _find(self) -> int | None:
        """The number of the run; None if the store has no journal of this key."""
        store = self._opened()
        with store.explained("the journal"), store.engine.connect() as connection:
            return connection.execute(sa.select(journals.c.number).where(journals.c.key == self.key)).scalar()

    def _number(self) -> int:
        number = self._find()
        if number is None:
            raise self._missing()
        return number

    def _missing(self) -> RunFolderError:
        return RunFolderError(f"{self}: there is no journal")
