"""The runs below a folder, remembered between two requests for a page."""

import hashlib
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from batchlic.objectstore.copies import refresh
from batchlic.runs.folder import RunFolder
from batchlic.runs.listing import ListedRun, RunState, find_runs, last_runs, listed_run

FRESH_S = 1.0
"""Seconds for which a list is shown to everybody who asks for it, at least."""
_LIST_COST_FACTOR = 4
"""A list is made again after so many times the time that making it took."""
_COST_FACTOR = 20
"""A run at work, or one that can't be opened, is read again after so many times the time that this took."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Version = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A run. `key` names it in addresses: its id, or a hash of its folder's path."""

    key: str
    run: ListedRun
    folder: RunFolder | None
    """None if the folder can't be opened."""
    version: Version
    """Changes with the files of the run."""


@dataclass(frozen=True, slots=True)
class Job:
    """The last runs of one job, the oldest first."""

    name: str
    carrier: str
    runs: list[Entry]

    @property
    def last(self) -> Entry:
        """The newest run."""
        return self.runs[-1]


@dataclass(slots=True)
class _Known:
    run: ListedRun
    version: Version
    good_until: float


@dataclass(slots=True)
class _Listed:
    entries: list[Entry] = field(default_factory=list)
    by_key: dict[str, Entry] = field(default_factory=dict)
    good_until: float = 0.0


class Catalog:
    """The runs below a folder. For several threads at once: one of them reads, the others wait for it."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError if there is no such folder, and NoAccess if it can't be opened."""
        self.folder = folder
        next(find_runs(folder), None)
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._listed = _Listed()

    def entries(self) -> list[Entry]:
        """All runs, newest first, after those that can't be read."""
        return self._now().entries

    def find(self, key: str) -> Entry | None:
        """The run that an address names, as it is at this moment."""
        listed = self._now().by_key.get(key)
        if listed is None or listed.folder is None:
            return listed
        with self._lock:
            return Entry(key, *self._entry(listed.folder))

    def jobs(self, count: int = 30) -> list[Job]:
        """The last runs of each job, the job that ran last first."""
        listed = self._now()
        by_dir = {entry.run.run_dir: entry for entry in listed.entries}
        newest: dict[str, ListedRun] = {}
        for entry in listed.entries:
            if entry.run.job_key is not None:
                newest.setdefault(entry.run.job_key, entry.run)
        runs = [entry.run for entry in listed.entries]
        return [
            Job(
                run.job or "",
                run.carrier or "",
                [by_dir[one.run_dir] for one in last_runs(runs, run, count=count)],
            )
            for run in newest.values()
        ]

    def _now(self) -> _Listed:
        with self._lock:
            if time.monotonic() >= self._listed.good_until:
                self._listed = self._read()
            return self._listed

    def _read(self) -> _Listed:
        began = time.monotonic()
        refresh(self.folder)
        found = [self._entry(one) for one in find_runs(self.folder)]
        self._known = {
            run.run_dir: self._known[run.run_dir] for run, _, _ in found if run.run_dir in self._known
        }
        ids = Counter(run.run_id for run, _, _ in found)
        entries = [Entry(_key(run, ids), run, folder, version) for run, folder, version in found]
        entries.sort(key=lambda entry: (entry.run.began_at or "", entry.run.run_dir), reverse=True)
        entries.sort(key=lambda entry: entry.run.began_at is not None)
        now = time.monotonic()
        good_until = now + max(FRESH_S, _LIST_COST_FACTOR * (now - began))
        return _Listed(entries, {entry.key: entry for entry in entries}, good_until)

    def _entry(self, found: RunFolder | ListedRun) -> tuple[ListedRun, RunFolder | None, Version]:
        """A run, its folder, and the version of its files. The caller holds the lock."""
        if isinstance(found, ListedRun):
            return found, None, ()
        version = _version(found)
        known = self._known.get(str(found.path))
        if known is None or known.version != version or time.monotonic() >= known.good_until:
            began = time.monotonic()
            run = listed_run(found)
            cost = time.monotonic() - began
            is_settled = run.process is None and run.state is not RunState.UNREADABLE
            wait = float("inf") if is_settled else _COST_FACTOR * cost
            known = self._known[str(found.path)] = _Known(run, version, time.monotonic() + max(FRESH_S, wait))
        return known.run, found, version


def _key(run: ListedRun, ids: Counter[str | None]) -> str:
    """The run's id if it can stand in an address and is the only one; otherwise a hash of its folder."""
    if run.run_id is not None and ids[run.run_id] == 1 and _PLAIN_ID.fullmatch(run.run_id):
        return run.run_id
    return f"folder-{hashlib.sha256(run.run_dir.encode(errors='replace')).hexdigest()[:16]}"


def _version(folder: RunFolder) -> Version:
    process = folder.process
    if process is not None:  # its files change all the time
        return (process,)
    files = (
        folder.journal_file,
        folder.journal_file.with_name(f"{folder.journal_file.name}-wal"),
        folder.plan,
        folder.rejects,
    )
    return tuple(_stat(path) for path in (*files, *folder.published_files))


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
