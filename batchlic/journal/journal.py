"""One run's journal: a SQLite database in write-ahead mode, one writer, grouped commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from heapq import merge
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

import anyio.to_thread
import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from batchlic.atomic import replacing
from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalogue import Action
from batchlic.database import explain_database_errors, first_line, sqlite
from batchlic.errors import RunFolderError
from batchlic.journal import tables
from batchlic.journal.groupcommit import GroupCommit
from batchlic.journal.settlement import Settlement, Verdict

Offload: TypeAlias = Callable[[Callable[[list["Record"]], None], list["Record"]], Awaitable[None]]


SANDBOX = "sandbox"
"""The carrier's name where `--sandbox` starts one: it knows nothing when it begins, so it has no past."""


class InventoryFile(msgspec.Struct, frozen=True, kw_only=True):
    """One inventory as the run began with it; size in bytes and hash are None where it is no file."""

    name: str
    size: int | None = None
    sha256: str | None = None


class LicenseCount(msgspec.Struct, frozen=True):
    """Licenses of one SKU on one account, at one moment."""

    account_name: str
    sku_number: str
    assigned: int
    available: int


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a run this run: resuming with anything else is refused."""

    run_id: str
    action: Action
    carrier: str
    """Base URL, or `sandbox`: a run never goes on against another carrier than it began with."""
    job: dict[str, Any]
    """The job as given, so that it can be resumed without its file."""
    inputs: list[InventoryFile] = []
    plan_sha256: str
    sources: list[tuple[str, int]]
    """Name and data rows of each inventory."""
    rows_read: int
    rejected: dict[str, int]
    """Reason: rows."""
    planned: int
    excluded: dict[str, int] = {}
    """Planned devices that are in no batch, by their status."""
    batches: int
    notes: list[str] = []
    licenses: list[LicenseCount] = []
    """As they were before anything was sent; empty where the carrier did not say."""
    to_sku: str | None = None
    """Of a migration, the SKU to get; its plan has the one to leave."""
    restorable: list[str] = []
    """Of a migration, the SKUs whose step is undone where the other one fails."""

    @property
    def job_action(self) -> str:
        """assign, unassign or migrate."""
        return self.action.value if self.to_sku is None else "migrate"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One request about to be sent; `started_at` in microseconds since 1970, UTC."""

    batch_id: int
    part: str
    x_request_id: str
    attempt: int
    action: Action
    device_count: int
    request_sha256: str
    pace_rps: float | None
    started_at: int


class Attempt(NamedTuple):
    """An intent with its answer: fields of the answer are None where none was recorded.

    Times are microseconds since 1970 in UTC, `duration_ms` milliseconds, `retry_after_s` seconds.
    """

    seq: int
    batch_id: int
    part: str
    x_request_id: str
    attempt: int
    action: str
    device_count: int
    request_sha256: str
    pace_rps: float | None
    started_at: int
    duration_ms: float | None
    outcome: str | None
    final: bool | None
    http_status: int | None
    request_id: str | None
    error_code: str | None
    error_message: str | None
    retry_after_s: float | None


Event: TypeAlias = Attempt | Settlement
"""What a run's history consists of, in the order of `seq`."""


class SessionEnd(NamedTuple):
    """How one sitting of the run ended; times in microseconds since 1970, UTC."""

    started_at: int
    ended_at: int
    exit_code: int


class Record(NamedTuple):
    """One row that waits to be committed, with a value for each column of its table."""

    table: sa.Table
    row: tuple[Any, ...]


class Journal:
    """The journal of one run. Open it with `Journal.create` or `Journal.open`, one process at a time.

    Whatever reads or writes raises StoppedEarly where the disk does not do its part (full, read-only), and
    RunFolderError where the database is damaged.
    """

    def __init__(self, engine: sa.Engine, *, offload: Offload = anyio.to_thread.run_sync) -> None:
        self._engine = engine
        self._connection = engine.connect()
        """The writer's own: reads have theirs, so that they never meet a commit under way in its thread."""
        self._writer: GroupCommit[Record] = GroupCommit(self._commit, offload=offload)
        self._last_seq: int = max(
            self._scalar(sa.select(sa.func.max(table.c.seq))) or 0
            for table in (tables.intents, tables.settlements)
        )

    @classmethod
    def create(cls, path: Path, identity: RunIdentity, *, created_at: int) -> Journal:
        """Make the journal of a new run, for its owner only (mode 0600); durable on return."""
        with explain_database_errors("the journal"), replacing(path) as temporary:
            engine = sqlite(temporary)
            create_tables(engine, identity, created_at=created_at)
            engine.dispose()
        return cls(sqlite(path))

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open the journal of an earlier sitting; RunFolderError where it is missing or damaged.

        A damaged one is left as it is, to the last byte.
        """
        if not path.is_file():
            raise RunFolderError(
                f"{path}: there is no journal here, so nothing was ever sent from this folder"
            )
        damage = _damage_of(path)
        if damage:
            raise RunFolderError(f"{path}: the journal is damaged ({damage}); restore it, do not delete it")
        return cls(sqlite(path))

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()
        self._engine.dispose()

    # -- what a run writes ------------------------------------------------------------------------------

    async def intend(self, intent: Intent) -> int:
        """Make an intent durable and return its number; only then may the request leave (promise B)."""
        self._last_seq += 1
        seq = self._last_seq
        await self._writer.write(Record(tables.intents, (seq, *_INTENT_VALUES(intent))))
        return seq

    async def answer(self, seq: int, answer: Answer, *, duration_ms: float, final: bool) -> None:
        """Make the answer to an intent durable; only then does it count (promise C).

        `final` says that nothing more will be sent for these devices on account of this answer.
        """
        row = (
            seq,
            duration_ms,
            answer.outcome.value,
            final,
            answer.http_status,
            answer.request_id,
            answer.error_code,
            answer.error_message,
            answer.retry_after_s,
        )
        await self._writer.write(Record(tables.answers, row))

    def settle(
        self,
        parts: Iterable[tuple[int, str, int]],
        verdict: Verdict,
        *,
        settled_by: str,
        reason: str,
        settled_at: int,
    ) -> None:
        """Write down what was decided of some parts: batch, row ranges and devices each."""
        decided = [
            Settlement(seq, *part, verdict.value, settled_by, reason, settled_at)
            for seq, part in enumerate(parts, start=self._last_seq + 1)
        ]
        with self._transaction():
            self._connection.execute(tables.settlements.insert(), [row._asdict() for row in decided])
        self._last_seq = decided[-1].seq

    def end(self, ending: SessionEnd, *, file_hashes: Mapping[str, str] | None = None) -> None:
        """Write down how this sitting of the run ended, and the SHA-256 of each file that it left."""
        row = {
            **ending._asdict(),
            "last_seq": self._last_seq,
            "file_hashes": msgspec.json.encode(file_hashes or {}).decode(),
        }
        with self._transaction():
            self._connection.execute(tables.session_ends.insert(), [row])

    # -- what a run reads -------------------------------------------------------------------------------

    @property
    def identity(self) -> RunIdentity:
        """What this journal is the journal of."""
        return msgspec.json.decode(self._scalar(sa.select(tables.run.c.identity)) or "", type=RunIdentity)

    @property
    def created_at(self) -> int:
        """When the run was made, in microseconds since 1970, UTC."""
        return int(self._scalar(sa.select(tables.run.c.created_at)))

    def session_ends(self) -> list[SessionEnd]:
        """The sittings that ended in order; the last one's exit code is the run's."""
        query = sa.select(*(tables.session_ends.c[name] for name in SessionEnd._fields)).order_by(
            tables.session_ends.c.id
        )
        with self._reading() as connection:
            return [SessionEnd(*row) for row in connection.execute(query)]

    @property
    def final_session_end(self) -> SessionEnd | None:
        """The last ending, unless the history goes on after it: then a sitting is at work or was killed."""
        last_seq = self._scalar(
            sa.select(tables.session_ends.c.last_seq).order_by(tables.session_ends.c.id.desc())
        )
        return self.session_ends()[-1] if last_seq == self._last_seq else None

    @property
    def sent_since_end(self) -> bool:
        """Whether anything was about to be sent since the last ending."""
        query = sa.select(tables.intents.c.seq).where(tables.intents.c.seq > _LAST_ENDED).limit(1)
        return self._scalar(query) is not None

    @property
    def settled_since_end(self) -> set[Verdict]:
        """What was decided of devices in doubt since the last ending."""
        query = sa.select(tables.settlements.c.verdict).where(tables.settlements.c.seq > _LAST_ENDED)
        with self._reading() as connection:
            return {Verdict(verdict) for verdict in connection.execute(query.distinct()).scalars()}

    def file_hashes(self) -> dict[str, str]:
        """File: SHA-256, as the last ending left it; empty before that."""
        found = self._scalar(
            sa.select(tables.session_ends.c.file_hashes).order_by(tables.session_ends.c.id.desc())
        )
        return msgspec.json.decode(found or "{}", type=dict[str, str])

    def check(self) -> list[str]:
        """What SQLite finds wrong with the database, indexes included; empty if nothing is."""
        with self._reading() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        return [] if found == ["ok"] else [str(line) for line in found]

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was ever intended."""
        return self._last_seq == 0

    def history(self, *, batches: range | None = None) -> Iterator[Event]:
        """All attempts and settlements in their order, or those of some batches, batch by batch; lazily."""
        attempts = self.attempts(batches=batches)
        if self._scalar(sa.select(tables.settlements.c.seq).limit(1)) is None:
            return attempts
        query = sa.select(*(tables.settlements.c[name] for name in Settlement._fields))
        settlements = map(Settlement._make, self._rows(query, tables.settlements, batches))
        order = attrgetter("seq") if batches is None else attrgetter("batch_id", "seq")
        return merge(attempts, settlements, key=order)

    def attempts(self, *, batches: range | None = None) -> Iterator[Attempt]:
        """All attempts in the order they were made, or those of some batches, batch by batch; read lazily."""
        query = sa.select(*_ATTEMPT_COLUMNS).select_from(tables.intents.outerjoin(tables.answers))
        return map(Attempt._make, self._rows(query, tables.intents, batches))

    def lost_answers(self) -> list[tuple[int, str, int]]:
        """Batch and part of the requests whose answers are not known, and how many of each there are."""
        of_part = tables.intents.c.batch_id, tables.intents.c.part
        lost = tables.answers.c.outcome.is_(None) | (tables.answers.c.outcome == Outcome.AMBIGUOUS.value)
        query = (
            sa.select(*of_part, sa.func.count())
            .select_from(tables.intents.outerjoin(tables.answers))
            .where(lost)
            .group_by(*of_part)
        )
        with self._reading() as connection:
            return [(batch_id, part, count) for batch_id, part, count in connection.execute(query)]

    def request_ids(self, *, doubtful: bool = True) -> list[str]:
        """The requestId of each answer, or of those only that leave no doubt what the carrier did."""
        answered = tables.answers.c
        query = sa.select(answered.request_id).where(answered.request_id.is_not(None))
        if not doubtful:
            query = query.where(answered.outcome != Outcome.AMBIGUOUS.value)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    def outcomes(self) -> Mapping[Outcome | None, int]:
        """How many requests ended how; None counts intents without an answer.

        An intent that ended as throttled without a status never left (promise J), so it was no request.
        """
        outcome, http_status = tables.answers.c.outcome, tables.answers.c.http_status
        may_have_left = (outcome.is_(None), outcome != Outcome.THROTTLED.value, http_status.is_not(None))
        query = (
            sa.select(outcome, sa.func.count())
            .select_from(tables.intents.outerjoin(tables.answers))
            .where(sa.or_(*may_have_left))
            .group_by(outcome)
        )
        with self._reading() as connection:
            return {outcome and Outcome(outcome): count for outcome, count in connection.execute(query)}

    @property
    def retry_not_before(self) -> int:
        """Until when the carrier has told anyone to wait, in microseconds since 1970; 0 if it never has."""
        answers = tables.answers.c
        until = tables.intents.c.started_at + answers.duration_ms * 1000 + answers.retry_after_s * 1_000_000
        return int(self._scalar(sa.select(sa.func.max(until)).select_from(_ANSWERED)) or 0)

    def settled(self) -> tuple[int, int]:
        """Devices accepted, and failed for good: by the carrier's answers, or as was settled last."""
        of_request = tables.intents.c.device_count
        sums = [
            sa.func.coalesce(sa.func.sum(of_request).filter(settled), 0)
            for settled in (tables.answers.c.outcome == Outcome.ACCEPTED.value, tables.answers.c.final)
        ]
        with self._reading() as connection:
            accepted, failed = connection.execute(sa.select(*sums).select_from(_ANSWERED)).one()
            decided = {str(verdict): int(sum_) for verdict, sum_ in connection.execute(_LAST_DECIDED)}
        return (
            int(accepted) + decided.get(Verdict.ACCEPTED.value, 0),
            int(failed) + decided.get(Verdict.FAILED.value, 0),
        )

    # -- how --------------------------------------------------------------------------------------------

    def _commit(self, records: list[Record]) -> None:
        with self._transaction():
            for table in _INSERTIONS:
                rows = [record.row for record in records if record.table is table]
                for start in range(0, len(rows), ROWS_PER_STATEMENT):
                    some = rows[start : start + ROWS_PER_STATEMENT]
                    values = tuple(chain.from_iterable(some))
                    self._connection.exec_driver_sql(_insertion(table, len(some)), values)

    def _rows(self, query: sa.Select[Any], table: sa.Table, batches: range | None) -> Iterator[sa.Row[Any]]:
        if batches is not None:
            query = query.where(table.c.batch_id.between(batches.start, batches.stop - 1))
            query = query.order_by(table.c.batch_id)
        with self._reading() as connection:
            for rows in connection.execute(query.order_by(table.c.seq)).partitions(1000):
                yield from rows

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explain_database_errors("the journal"), self._connection.begin():
            yield

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with explain_database_errors("the journal"), self._engine.connect() as connection:
            yield connection

    def _scalar(self, query: sa.Select[Any]) -> Any:  # noqa: ANN401 - whatever the column holds
        with self._reading() as connection:
            return connection.execute(query).scalar()


def create_tables(engine: sa.Engine, identity: RunIdentity, *, created_at: int) -> None:
    """Make the tables of a new run and write down whose they are; `created_at` in microseconds since 1970."""
    encoded = msgspec.json.encode(identity).decode()
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        connection.execute(
            tables.run.insert(),
            {"run_id": identity.run_id, "created_at": created_at, "identity": encoded},
        )


_INTENT_VALUES = attrgetter(*(column.name for column in tables.intents.c if column.name != "seq"))

_INSERTIONS = {
    table: str(table.insert().compile(dialect=SQLiteDialect(paramstyle="qmark")))
    for table in (tables.intents, tables.answers)
}
"""Made once and given to the driver as they are: two rows a request go this way."""

ROWS_PER_STATEMENT = 90
"""So that the values are fewer than 1,000: older versions of SQLite take no more."""


@cache
def _insertion(table: sa.Table, rows: int) -> str:
    """One statement for many rows.

    The driver lets go of the interpreter at each statement, and has to wait for it again.
    """
    insertion = _INSERTIONS[table]
    row = insertion[insertion.rindex("(") :]
    return insertion + f", {row}" * (rows - 1)


_LAST_ENDED = sa.select(sa.func.coalesce(sa.func.max(tables.session_ends.c.last_seq), 0)).scalar_subquery()

_ANSWERED = tables.intents.join(tables.answers)

_LAST_DECIDED = (
    sa.select(tables.settlements.c.verdict, sa.func.sum(tables.settlements.c.device_count))
    .where(
        tables.settlements.c.seq.in_(
            sa.select(sa.func.max(tables.settlements.c.seq)).group_by(
                tables.settlements.c.batch_id, tables.settlements.c.part
            )
        )
    )
    .group_by(tables.settlements.c.verdict)
)

_ATTEMPT_COLUMNS = [
    (tables.intents.c if name in tables.intents.c else tables.answers.c)[name] for name in Attempt._fields
]


def _damage_of(path: Path) -> str:
    """What is wrong with the journal at `path`; empty if nothing is. Reads only."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            [(verdict,)] = connection.execute("PRAGMA quick_check(1)")
            if verdict != "ok":
                return str(verdict)
            [(identity,)] = connection.execute("SELECT identity FROM run")
            msgspec.json.decode(identity, type=RunIdentity)
    except (sqlite3.DatabaseError, msgspec.MsgspecError, ValueError) as error:
        return first_line(error)
    return ""
