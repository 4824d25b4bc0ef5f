"""The answers of a journal as they are recorded, for those who watch a run of another process."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from batchlic.database import check_format, explain_database_errors, snapshot
from batchlic.errors import RunFolderError
from batchlic.journal.journal import FILE_FORMAT, refuse_missing
from batchlic.journal.records import RunIdentity


class Answered(NamedTuple):
    """One request and its answer. Times are microseconds since 1970 in UTC, `duration_ms` milliseconds."""

    batch_id: int
    step: str | None
    part: str
    device_count: int
    started_at: int
    duration_ms: float
    outcome: str
    final: bool
    http_status: int | None

    @property
    def answered_at(self) -> int:
        """When the answer came."""
        return self.started_at + round(self.duration_ms * 1000)


class Settled(NamedTuple):
    """A decision about some devices in doubt: status, and their place as in an intent."""

    batch_id: int
    step: str | None
    part: str
    device_count: int
    status: str


class Tail(Protocol):
    """Reads what was recorded since it was last asked."""

    @property
    def identity(self) -> RunIdentity | None:
        """The run; None before the first reading."""

    def read(self) -> tuple[list[Answered], list[Settled]]:
        """What was recorded since the last reading, in the order in which it was recorded.

        Raises RunFolderError, NoAccess or StoppedEarly if the journal can't be read.
        """


class JournalTail:
    """Reads what was recorded since it was last asked. Writes nothing in the journal's folder.

    Each reading copies the journal (400 bytes a request), and decodes only what is new. The pages of the
    journal are not checked, so that it can be read once a second.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers, self._settlements = 0, 0
        self._read: tuple[tuple[int, int], ...] | None = None
        self.identity: RunIdentity | None = None
        """The run; None before the first reading."""

    def read(self) -> tuple[list[Answered], list[Settled]]:
        """What was recorded since the last reading, in the order in which it was recorded.

        Raises RunFolderError, NoAccess or StoppedEarly if the journal can't be read.
        """
        refuse_missing(self._path)
        version = self._version()
        if version == self._read:
            return [], []
        check_format(self._path, FILE_FORMAT)
        with explain_database_errors(f"the journal {self._path}"), snapshot(self._path) as copy:
            uri = f"file://{quote(os.fsencode(copy.absolute()))}"
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                found = self._new(connection)
        self._read = version
        return found

    def _new(self, connection: sqlite3.Connection) -> tuple[list[Answered], list[Settled]]:
        if self.identity is None:
            [(identity,)] = connection.execute("SELECT identity FROM run")
            try:
                self.identity = msgspec.json.decode(identity, type=RunIdentity)
            except (msgspec.MsgspecError, ValueError, TypeError) as error:
                raise RunFolderError(f"{self._path}: the journal can't be read ({error})") from error
        answers = connection.execute(_ANSWERS, (self._answers,)).fetchall()
        settlements = connection.execute(_SETTLEMENTS, (self._settlements,)).fetchall()
        self._answers = answers[-1][0] if answers else self._answers
        self._settlements = settlements[-1][0] if settlements else self._settlements
        return [Answered(*row[1:]) for row in answers], [Settled(*row[1:]) for row in settlements]

    def _version(self) -> tuple[tuple[int, int], ...]:
        log = self._path.with_name(f"{self._path.name}-wal")
        found = []
        for path in (self._path, log):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found.append((stat.st_size, stat.st_mtime_ns))
        return tuple(found)


# Rows are only added, so a higher rowid is a later row: https://sqlite.org/autoinc.html.
_ANSWERS = """
SELECT a.rowid, i.batch_id, i.step, i.part, i.device_count, i.started_at, a.duration_ms,
       a.outcome, a.final, a.http_status
FROM answers a JOIN intents i ON i.seq = a.seq WHERE a.rowid > ? ORDER BY a.rowid
"""
_SETTLEMENTS = """
SELECT rowid, batch_id, step, part, device_count, status FROM settlements WHERE rowid > ? ORDER BY rowid
"""
