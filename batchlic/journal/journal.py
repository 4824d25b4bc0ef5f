"""The journal of one run: one writer, grouped commits, and the SQLite file that it is by default."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import anyio.to_thread
import msgspec
import sqlalchemy as sa

from batchlic.atomic import explain_read_errors, replacing
from batchlic.carrier.answers import Answer
from batchlic.chunker.status import DeviceStatus
from batchlic.database import (
    FileFormat,
    check_format,
    explain_database_errors,
    first_line,
    is_database,
    is_of_the_system,
    snapshot,
    sqlite,
    write_format,
)
from batchlic.errors import NoAccess, RunFolderError
from batchlic.journal import tables
from batchlic.journal.databases import JournalDatabase, SqliteDatabase
from batchlic.journal.groupcommit import GroupCommit
from batchlic.journal.queries import JournalQueries
from batchlic.journal.records import SETTLEMENTS, Intent, Part, RunIdentity, SessionEnd, Settlement
from batchlic.journal.writes import Insertion, answer_row, intent_row

FILE_FORMAT = FileFormat(
    "journal",
    application_id=int.from_bytes(b"BLjr"),
    version=2,
    advice="run the inventory again in another folder, if nothing of this run is in doubt",
    advice_if_foreign="restore the journal from a backup, and do not delete this file",
    tables=frozenset({"run", "intents", "answers"}),
)
"""The version changes with every change of the tables or of RunIdentity."""

Offload: TypeAlias = Callable[[Callable[[list[Insertion]], None], list[Insertion]], Awaitable[None]]


class Journal(JournalQueries):
    """The journal of one run. Open it with `Journal.create` or `Journal.open`, one process at a time.

    Each method raises StoppedEarly if the disk can't be read or written (full, read-only), and
    RunFolderError if the database is damaged.
    """

    def __init__(self, database: JournalDatabase, *, offload: Offload = anyio.to_thread.run_sync) -> None:
        super().__init__(database)
        self._last_seq = self._newest_seq()
        self._next_seq = max(database.seqs.start, 1 + self._newest_seq(database.seqs))
        self._group_commit: GroupCommit[Insertion] = GroupCommit(self._commit, offload=offload)

    @classmethod
    def create(cls, path: Path, identity: RunIdentity, *, created_at: int) -> Journal:
        """Create the journal of a new run, durably. Only the owner can read the file (mode 0600)."""
        with explain_database_errors(f"the journal {path}"), replacing(path) as temporary:
            write_format(temporary, FILE_FORMAT)
            engine = sqlite(temporary)
            create_tables(engine, identity, created_at=created_at)
            engine.dispose()
        return cls(SqliteDatabase(sqlite(path)))

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open the journal of an earlier session. Raises RunFolderError if it is missing or damaged.

        This method never changes a damaged journal.
        """
        refuse_missing(path)
        _refuse_damaged(path, read_from=path)
        return cls(SqliteDatabase(sqlite(path)))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def check_held(self) -> None:
        """Raise LeaseLost if another session may have taken over the run: then nothing may be sent."""
        self._database.check_held()

    def catch_up(self) -> None:
        """Take up what other sessions of the same run, which sent shards of it, have recorded meanwhile."""
        self._last_seq = self._newest_seq()
        self._next_seq = max(self._database.seqs.start, 1 + self._newest_seq(self._database.seqs))

    @property
    def next_seq(self) -> int:
        """The number of the next entry."""
        return self._next_seq

    async def intend(self, intent: Intent) -> int:
        """Make an intent durable, and return its number. Only then may the request be sent (promise B)."""
        seq = self._next_seq
        self._next_seq, self._last_seq = seq + 1, max(seq, self._last_seq)
        await self._group_commit.write(intent_row(seq, intent))
        return seq

    async def answer(self, seq: int, answer: Answer, *, duration_ms: float, final: bool) -> None:
        """Make the answer to an intent durable. Only then does it count (promise C).

        `final`: the answer is a refusal, and nothing more is sent for these devices.
        """
        await self._group_commit.write(answer_row(seq, answer, duration_ms=duration_ms, final=final))

    def settle(
        self, parts: Sequence[Part], status: DeviceStatus, *, settled_by: str, reason: str, settled_at: int
    ) -> None:
        """Record a decision about some parts: accepted, failed, or pending (send again)."""
        if status not in SETTLEMENTS:
            raise ValueError(f"a device in doubt can't be settled as {status}")
        settlements = [
            Settlement(
                seq,
                part.batch_id,
                part.step,
                part.part,
                part.device_count,
                status.value,
                settled_by,
                reason,
                settled_at,
            )
            for seq, part in enumerate(parts, start=self._next_seq)
        ]
        self._database.insert_rows(tables.settlements, [row._asdict() for row in settlements])
        self._last_seq = settlements[-1].seq
        self._next_seq = self._last_seq + 1

    def end(self, session_end: SessionEnd, *, file_hashes: Mapping[str, str] | None = None) -> None:
        """Record the end of a session, and the SHA-256 of each file that the session wrote."""
        row = {
            **session_end._asdict(),
            "last_seq": self._newest_seq(),
            "file_hashes": msgspec.json.encode(file_hashes or {}).decode(),
        }
        self._database.insert_rows(tables.session_ends, [row])

    def _commit(self, insertions: list[Insertion]) -> None:
        self._database.insert(insertions)


def create_tables(engine: sa.Engine, identity: RunIdentity, *, created_at: int) -> None:
    """Create the tables of a new run, and record its identity. `created_at`: microseconds since 1970."""
    encoded = msgspec.json.encode(identity).decode()
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        connection.execute(
            tables.run.insert(),
            {"run_id": identity.run_id, "created_at": created_at, "identity": encoded},
        )


@contextmanager
def inspect_journal(path: Path) -> Iterator[JournalQueries]:
    """The journal at `path` as it is now, to read it without any change in its folder.

    The folder may be read-only or belong to another user, and a session may be at work. Raises as
    `Journal.open` does.
    """
    refuse_missing(path)
    with snapshot(path) as copy:
        _refuse_damaged(path, read_from=copy)
        engine = sqlite(copy)
        try:
            yield JournalQueries(SqliteDatabase(engine))
        finally:
            engine.dispose()


def refuse_missing(path: Path) -> None:
    """Raise RunFolderError if there is no journal, and NoAccess if it can't be opened."""
    with explain_read_errors(path):
        try:
            is_file = stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise RunFolderError(f"{path}: there is no journal") from None
    if not is_file:
        raise NoAccess(f"{path}: is not a file")


def _refuse_damaged(path: Path, *, read_from: Path) -> None:
    """Raise RunFolderError if the journal at `path` is damaged, or of another kind or version.

    `read_from` is the journal itself or a copy.
    """
    with explain_database_errors(f"the journal {path}"):
        if is_database(path):
            check_format(path, FILE_FORMAT)  # before SQLite opens the file, which can change its folder
        damage = _damage_of(read_from) if read_from.stat().st_size else "it is empty"
        if not damage:
            damage = _damage_of_identity(read_from)
    if damage:
        raise RunFolderError(f"{path}: the journal is damaged ({damage}); restore it, do not delete it")


def _damage_of(path: Path) -> str:
    """The error that SQLite finds in the file at `path`; empty if there is none. Does not write.

    Raises the errors of the system, which are no damage.
    """
    try:
        with _read_only(path) as connection:
            [(result,)] = connection.execute("PRAGMA quick_check(1)")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if is_of_the_system(error):
            raise
        return first_line(error)
    return "" if result == "ok" else str(result)


def _damage_of_identity(path: Path) -> str:
    """The error of reading the identity of the run; empty if there is none. Does not write."""
    try:
        with _read_only(path) as connection:
            [(identity,)] = connection.execute("SELECT identity FROM run")
            msgspec.json.decode(identity, type=RunIdentity)
    except (sqlite3.DatabaseError, msgspec.MsgspecError, ValueError, TypeError) as error:
        return first_line(error)
    return ""


def read_identity(path: Path) -> tuple[RunIdentity, int]:
    """The identity of the run in the journal at `path`, and when the run began (microseconds since 1970).

    Does not write, and does not check the rest of the journal, so that many runs can be compared. Raises
    RunFolderError if the identity can't be read.
    """
    refuse_missing(path)
    check_format(path, FILE_FORMAT)
    try:
        # The identity never changes, and was in the file itself before any log was beside it.
        with _read_only(path, "mode=ro&immutable=1") as connection:
            [(identity, created_at)] = connection.execute("SELECT identity, created_at FROM run")
            return msgspec.json.decode(identity, type=RunIdentity), int(created_at)
    except (sqlite3.DatabaseError, msgspec.MsgspecError, ValueError, TypeError) as error:
        raise RunFolderError(f"{path}: the journal can't be read ({first_line(error)})") from error


def _read_only(path: Path, how: str = "mode=ro") -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"file://{quote(os.fsencode(path.absolute()))}?{how}", uri=True))
