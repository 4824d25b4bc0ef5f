"""Where the journal of a run is: a SQLite file in the run's folder, or a database that machines share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from batchlic.journal import journal, outline, tail
from batchlic.journal.journal import Journal
from batchlic.journal.outline import Outline
from batchlic.journal.queries import JournalQueries
from batchlic.journal.records import RunIdentity
from batchlic.journal.tail import Tail


class JournalPlace(Protocol):
    """Where the journal of one run is. Its text says so in messages.

    Each method raises StoppedEarly or NoAccess if the journal can't be read or written now, RunFolderError if
    it is missing or damaged, and OtherVersion.
    """

    def exists(self) -> bool:
        """Whether there is a journal."""

    def create(self, identity: RunIdentity, *, created_at: int) -> Journal:
        """Create the journal of a new run, durably. `created_at`: microseconds since 1970, UTC."""

    def open(self) -> Journal:
        """Open the journal to write. The caller has locked the run."""

    def inspect(self) -> AbstractContextManager[JournalQueries]:
        """The journal as it is now, to read it. A session may be at work."""

    def identity(self) -> tuple[RunIdentity, int]:
        """The identity of the run, and when it began (microseconds since 1970). Checks nothing else."""

    def outline(self) -> Outline:
        """What a list of runs needs of the journal."""

    def tail(self) -> Tail:
        """Reads what is recorded from now on, for those who watch the run."""


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A SQLite file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path.exists()

    def create(self, identity: RunIdentity, *, created_at: int) -> Journal:
        """Create the file. Only its owner can read it (mode 0600)."""
        return Journal.create(self.path, identity, created_at=created_at)

    def open(self) -> Journal:
        """Open the file. A damaged one is never changed."""
        return Journal.open(self.path)

    def inspect(self) -> AbstractContextManager[JournalQueries]:
        """A copy of one moment. Nothing changes in the folder."""
        return journal.inspect_journal(self.path)

    def identity(self) -> tuple[RunIdentity, int]:
        """The identity in the file itself, whatever its log has."""
        return journal.read_identity(self.path)

    def outline(self) -> Outline:
        """The outline. The pages of a file that no process uses are not checked."""
        return outline.read_outline(self.path)

    def tail(self) -> Tail:
        """Reads a copy each time that the file has changed."""
        return tail.JournalTail(self.path)
