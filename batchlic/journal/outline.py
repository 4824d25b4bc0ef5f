"""The outline of a journal: which run it is, how its sessions ended, and whether anything came after."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from batchlic.database import check_format, explain_database_errors, is_database, read_at_rest
from batchlic.errors import RunFolderError
from batchlic.journal.journal import FILE_FORMAT, inspect_journal, refuse_missing
from batchlic.journal.queries import JournalQueries
from batchlic.journal.records import RunIdentity, SessionEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a list of runs needs of a journal, without its requests. `created_at`: microseconds since 1970."""

    identity: RunIdentity
    created_at: int
    session_ends: list[SessionEnd]
    file_hashes: dict[str, str]
    """SHA-256 by file name, for each file that the last session wrote; empty before its end."""
    is_at_rest: bool
    """Whether nothing was recorded since the last session ended: then its files have all that is known."""

    @classmethod
    def of(cls, journal: JournalQueries) -> Self:
        """The outline of an opened journal."""
        return cls(
            identity=journal.identity,
            created_at=journal.created_at,
            session_ends=journal.session_ends(),
            file_hashes=journal.file_hashes(),
            is_at_rest=journal.final_session_end is not None,
        )


def read_outline(path: Path) -> Outline:
    """The outline of the journal at `path`. Writes nothing in its folder, and a session may be at work.

    The pages of a journal that no process uses are not checked, so that many runs are listed fast. Raises
    RunFolderError if the journal is missing or damaged, OtherVersion, NoAccess, or StoppedEarly.
    """
    refuse_missing(path)
    if is_database(path):
        check_format(path, FILE_FORMAT)
    with explain_database_errors(f"the journal {path}", advice="restore it, do not delete it"):
        try:
            outline = read_at_rest(path, _read)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise RunFolderError(f"{path}: the journal can't be read ({error})") from error
    if outline is not None:
        return outline
    with inspect_journal(path) as journal:
        return Outline.of(journal)


def _read(connection: sqlite3.Connection) -> Outline:
    [(identity, created_at)] = connection.execute("SELECT identity, created_at FROM run")
    ends = connection.execute(
        "SELECT started_at, ended_at, exit_code, last_seq, file_hashes FROM session_ends ORDER BY id"
    ).fetchall()
    newest = max(
        connection.execute(f"SELECT max(seq) FROM {table}").fetchone()[0] or 0  # noqa: S608 - constants
        for table in ("intents", "settlements")
    )
    return Outline(
        identity=msgspec.json.decode(identity, type=RunIdentity),
        created_at=int(created_at),
        session_ends=[SessionEnd(*end[:3]) for end in ends],
        file_hashes=msgspec.json.decode(ends[-1][4], type=dict[str, str]) if ends else {},
        is_at_rest=bool(ends) and ends[-1][3] == newest,
    )
