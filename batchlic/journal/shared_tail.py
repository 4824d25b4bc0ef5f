"""The answers of a journal in a store as they are recorded, for those who watch a run of another process."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import sqlalchemy as sa

from batchlic.database.postgresql import Store
from batchlic.errors import RunFolderError
from batchlic.journal.records import RunIdentity
from batchlic.journal.shared_tables import answers, intents, journals, settlements
from batchlic.journal.tail import Answered, Settled


class SharedTail:
    """Reads what was committed since it was last asked.

    Transactions do not end in the order in which they began. So rows are read in the order of the numbers of
    their transactions, up to the oldest transaction that has not ended:
    https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT.
    """

    def __init__(self, store: Store, find: Callable[[], int | None], name: str) -> None:
        self._store = store
        self._find = find
        self._name = name
        self._number: int | None = None
        self._ended = "0"
        """All transactions with lower numbers have ended, and were read."""
        self.identity: RunIdentity | None = None
        """The run; None before the first reading."""

    def read(self) -> tuple[list[Answered], list[Settled]]:
        """What was committed since the last reading. Raises RunFolderError or StoppedEarly."""
        if self._number is None:
            self._number = self._find()
            if self._number is None:
                raise RunFolderError(f"{self._name}: there is no journal")
        engine = self._store.engine.execution_options(isolation_level="REPEATABLE READ")
        with self._store.explained("the journal"), engine.connect() as connection:
            if self.identity is None:
                self.identity = self._read_identity(connection)
            ended = str(connection.execute(_OLDEST_OPEN).scalar())
            span = {"run": self._number, "after": self._ended, "before": ended}
            answered = [Answered(*row) for row in connection.execute(_ANSWERS, span)]
            settled = [Settled(*row) for row in connection.execute(_SETTLEMENTS, span)]
        self._ended = ended
        return answered, settled

    def _read_identity(self, connection: sa.Connection) -> RunIdentity:
        query = sa.select(journals.c.identity).where(journals.c.number == self._number)
        try:
            return msgspec.json.decode(connection.execute(query).scalar() or "", type=RunIdentity)
        except (msgspec.MsgspecError, ValueError) as error:
            raise RunFolderError(f"{self._name}: the journal can't be read ({error})") from error


_OLDEST_OPEN = sa.text("SELECT CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text)")


def _in_span(table: sa.Table) -> sa.ColumnElement[bool]:
    after, before = (
        sa.cast(sa.bindparam(name, type_=sa.Text), table.c.recorded_in.type) for name in ("after", "before")
    )
    recorded = table.c.recorded_in
    return (table.c.run == sa.bindparam("run")) & (recorded >= after) & (recorded < before)


_ANSWERS = (
    sa.select(
        intents.c.batch_id,
        intents.c.step,
        intents.c.part,
        intents.c.device_count,
        intents.c.started_at,
        answers.c.duration_ms,
        answers.c.outcome,
        answers.c.final,
        answers.c.http_status,
    )
    .select_from(answers.join(intents, (intents.c.run == answers.c.run) & (intents.c.seq == answers.c.seq)))
    .where(_in_span(answers))
    .order_by(answers.c.recorded_in, answers.c.seq)
)

_SETTLEMENTS = (
    sa.select(*(settlements.c[name] for name in Settled._fields))
    .where(_in_span(settlements))
    .order_by(settlements.c.recorded_in, settlements.c.seq)
)
