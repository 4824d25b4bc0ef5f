"""The folder of a run: the paths of its files, and the locks that exclude a second process."""

import errno
import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchlic.atomic import (
    explain_disk_errors,
    explain_read_errors,
    is_moved,
    make_private_folder,
    read_error,
    refuse_undecodable,
    remove_leftovers,
    staged_path,
    sync_folder,
)
from batchlic.errors import BatchlicError, NoAccess, RefusedToStart, RunFolderError, UsageError
from batchlic.journal import SANDBOX, FilePlace, JournalPlace
from batchlic.journal.store_record import STORE_RECORD
from batchlic.objectstore import copies
from batchlic.runs.process import Process, this_process
from batchlic.runs.store_record import (
    NamedStore,
    job_lease,
    name_store,
    read_store_record,
    refuse_unusable_store,
)

if TYPE_CHECKING:
    from batchlic.database.leases import Lease

_LOCK = ".lock"

_LOOK_S = 0.2
"""Longest time for which a look at a lock holds it, even on a busy machine."""


def is_wanted_in_a_list(name: str) -> bool:
    """Whether a list of runs needs a file of this name: of a run, or of a rollback in its folder."""
    return not name.rpartition("/")[2].lstrip(".").startswith(_LARGE)


def is_wanted_of_others(name: str) -> bool:
    """Whether what compares a run with others needs a file of this name of those."""
    return "/" not in name and is_wanted_in_a_list(name)


_LARGE = ("rejects.", "kept.", "retried.", "results.", "audit.", "report.", "run.log")
"""The beginnings of the names of files that are large, and not needed for the figures of a run."""


def missing_folder(path: Path) -> RunFolderError:
    """The error for a run folder that does not exist."""
    runs = f"batchlic runs {path.parent}" if copies.is_copy(path) else "batchlic runs"
    return RunFolderError(f"{path}: there is no such run folder; `{runs}` lists the runs")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run's files. `make` creates the folder."""

    path: Path

    def __post_init__(self) -> None:
        refuse_undecodable(os.path.abspath(self.path))  # noqa: PTH100 - the name, not the target of a link

    @property
    def plan(self) -> Path:
        """The planned device rows, in batches."""
        return self.path / "plan.parquet"

    @property
    def plan_record(self) -> Path:
        """How the plan came about, for `apply` (batchlic.runs.plan_record)."""
        return self.path / "plan.json"

    @property
    def approvals(self) -> Path:
        """The folder of the approvals of the plan (batchlic.runs.approval)."""
        return self.path / "approvals"

    @property
    def rejects(self) -> Path:
        """The rejected rows, with reasons."""
        return self.path / "rejects.parquet"

    @property
    def kept(self) -> Path:
        """The columns of the inventories that the job keeps, in the order of the plan."""
        return self.path / "kept.parquet"

    @property
    def retried(self) -> Path:
        """The inventory of a retry: the failed devices of another run."""
        return self.path / "retried.parquet"

    @property
    def journal(self) -> JournalPlace:
        """Every intent and answer: in a file, or in the store that the folder names."""
        named = self.named_store
        return FilePlace(self.journal_file) if named is None else named.place(self.path)

    @property
    def journal_file(self) -> Path:
        """The file of the journal, where it is not in a store."""
        return self.path / "journal.db"

    @property
    def store_record(self) -> Path:
        """Names the store that has the journal, and the key of the run there."""
        return self.path / STORE_RECORD

    @property
    def named_store(self) -> NamedStore | None:
        """The store that has the journal; None if the journal is a file. Raises RunFolderError."""
        return read_store_record(self.store_record)

    @property
    def lease(self) -> "Lease | None":
        """The lease on the run, which the caller has locked; None if the journal is a file."""
        named = self.named_store
        return None if named is None else named.lease

    @property
    def has_journal(self) -> bool:
        """Whether there is a journal, or a link in its place."""
        return os.path.lexists(self.journal_file) or self.journal.exists()

    @property
    def has_run(self) -> bool:
        """Whether the folder holds a run."""
        return self.journal_file.is_file() or (self.store_record.is_file() and self.journal.exists())

    @property
    def is_used(self) -> bool:
        """Whether the folder looks like that of a run, even one that can't be read."""
        return any(path.exists() for path in (self.lock, self.journal_file, self.store_record))

    @property
    def argument(self) -> str:
        """The folder in a command that can be pasted into a shell."""
        return shlex.quote(str(self.path))

    def resuming(self, carrier: str | None) -> str:
        """The command that continues the run at its carrier."""
        return f"batchlic resume {self.argument}{' --sandbox' if carrier == SANDBOX else ''}"

    @property
    def results(self) -> Path:
        """The status of each planned device."""
        return self.path / "results.parquet"

    @property
    def outcomes(self) -> Path:
        """The outcomes that callbacks reported."""
        return self.path / "outcomes.parquet"

    @property
    def audit(self) -> Path:
        """Every attempt."""
        return self.path / "audit.parquet"

    @property
    def summary(self) -> Path:
        """The run in figures."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The report for people. It is not published with the other files, because it can be made again."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """The log, as JSON lines."""
        return self.path / "run.log"

    @property
    def limits(self) -> Path:
        """The limits of the session at work, as it publishes them."""
        return self.path / "limits.json"

    @property
    def limits_request(self) -> Path:
        """The limits that somebody wants the session at work to have."""
        return self.path / ".limits.request.json"

    @property
    def lock(self) -> Path:
        """The file that a process locks while it works on the run."""
        return self.path / _LOCK

    @property
    def session_files(self) -> tuple[Path, ...]:
        """The files that each session writes when it ends."""
        return self.results, self.audit, self.summary

    @property
    def published_files(self) -> tuple[Path, ...]:
        """The files that are published together at the end of a session (batchlic.runs.staging)."""
        return self.outcomes, *self.session_files

    @property
    def own_files(self) -> tuple[Path, ...]:
        """The files of the run that nobody else may write."""
        return (
            self.plan,
            self.plan_record,
            self.rejects,
            self.kept,
            self.retried,
            self.journal_file,
            self.store_record,
            *self.published_files,
            self.log,
            self.limits,
            self.limits_request,
            self.lock,
        )

    @property
    def parent(self) -> Path:
        """The parent folder."""
        return Path(os.path.abspath(self.path)).parent  # noqa: PTH100 - the parent of a link, not of its target

    def make(self) -> None:
        """Create the folder. Only the owner can open it (mode 0700). Raises RunFolderError."""
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            make_private_folder(self.path)
            for folder in new:
                sync_folder(folder.parent)  # a journal is durable only if all folders of its path are
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: can't create the run folder: {error.strerror}; give another "
                "one with --run-dir, or another state folder with BATCHLIC_STATE_DIR"
            ) from error

    @contextmanager
    def made(self, store: str | None = None) -> Iterator[None]:
        """Create the folder as `make` does. If the block raises before it leaves a file, remove it again.

        `store` is the name of the store for the journal of a new run. Raises UsageError if the run in the
        folder has its journal elsewhere. If the store can't be used, nothing is created.
        """
        if store is not None and not (self.journal_file.exists() or self.store_record.exists()):
            refuse_unusable_store(store)
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.make()
        try:
            if store is not None and not self.journal_file.exists():
                name_store(self.store_record, store)
            yield
        except BaseException:
            self._remove_unused(new)
            raise

    def _remove_unused(self, new: list[Path]) -> None:
        """Remove those of the `new` folders that hold nothing, apart from the lock."""
        if self.path not in new or not self._is_unused():
            return
        with suppress(OSError, BatchlicError), self.locked():
            if self._is_unused():
                self.lock.unlink(missing_ok=True)
                self.store_record.unlink(missing_ok=True)
                for folder in new:
                    folder.rmdir()

    def _is_unused(self) -> bool:
        with suppress(OSError):
            return {path.name for path in self.path.iterdir()} <= {_LOCK, STORE_RECORD}
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process. Raises RefusedToStart if another process has locked it.

        A run whose journal is in a store is locked by a lease there, which also excludes other machines.
        """
        named = self.named_store
        if named is None and copies.is_copy(self.path):
            if not self.path.is_dir():
                raise missing_folder(self.path)
            raise UsageError(
                f"{self.path}: a run in an object store needs a PostgreSQL database for its journal, because "
                "SQLite and file locks do not work there: set BATCHLIC_STORE and begin a new run"
            )
        with _file_lock(self.lock, _conflict(self)) if named is None else named.held(self.path):
            staged_files = map(staged_path, self.published_files)
            others = (
                self.plan,
                self.plan_record,
                self.rejects,
                self.kept,
                self.journal_file,
                self.report,
                self.limits,
                self.limits_request,
            )
            remove_leftovers(self.path, (*others, *self.published_files, *staged_files))
            with copies.session(self.path):
                yield

    @property
    def process(self) -> Process | None:
        """The process that has locked the folder now; None if there is none, or if that can't be seen.

        This writes nothing. Of a run in a store, it is the holder of the lease.
        """
        if (named := self.named_store) is not None:
            return named.holder
        try:
            descriptor = os.open(self.lock, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Process.parse(os.read(descriptor, 500).decode(errors="replace"))
        except OSError:  # a file system without locks
            return None
        finally:
            os.close(descriptor)
        return None

    def beside(self) -> Iterator["RunFolder"]:
        """The other run folders in the parent folder. Folders of other users are left out.

        A folder whose store does not answer is one of them, so that its readers say what they can't read.
        """
        paths: list[Path] = []
        copies.fetch_beside(self.path, is_wanted_of_others)
        with suppress(OSError):
            paths = sorted(path for path in self.parent.iterdir() if not is_moved(path.name))
        for path in paths:
            with suppress(OSError, NoAccess):
                is_itself = self.path.exists() and self.path.samefile(path)
                if not is_itself and RunFolder(path).may_have_run:
                    yield RunFolder(path)

    @property
    def may_have_run(self) -> bool:
        """Whether the folder holds a run, or has one whose store does not answer or is not known."""
        try:
            return copies.problem_of(self.path) is not None or self.has_run
        except NoAccess:
            raise
        except BatchlicError:
            return True

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Exclude sessions during the block, and write nothing. Raises RefusedToStart if one is at work.

        Of a run in a store, only the beginning of the block is checked: its readers see one moment anyway.
        """
        lock = self.lock
        if (named := self.named_store) is not None and named.holder is not None:
            raise RefusedToStart(f"{_conflict(self)} ({named.holder}); wait for it")
        with ExitStack() as on_exit:
            with explain_read_errors(lock), suppress(FileNotFoundError):  # there is none in a copy of a run
                descriptor = os.open(lock, os.O_RDONLY)
                on_exit.callback(os.close, descriptor)
                _flock(descriptor, fcntl.LOCK_SH, _conflict(self))
            yield

    @contextmanager
    def job_lock(self, name: str | None, store: str | None = None) -> Iterator[None]:
        """Lock the name of a job for all runs in the same parent folder; without a name, lock nothing.

        A scheduler starts each run in a new folder, so the lock of the folder does not stop a second run.
        With a store, the name is locked for all its runs.
        """
        if name is None:
            yield
            return
        if store is not None:
            with job_lease(store, name):
                yield
            return
        locks = RunFolder(self.parent / ".locks")
        locks.make()
        with _file_lock(locks.path / name, f"job {name}: another batchlic process is running this job"):
            yield


def _conflict(folder: RunFolder) -> str:
    return f"{folder.path}: another batchlic process is using this folder"


@contextmanager
def _file_lock(lock: Path, conflict: str) -> Iterator[None]:
    """Lock a file, and write this process into it. If it is locked, raise RefusedToStart with `conflict`.

    The operating system (flock) releases the lock when the process ends, even if the process is killed. A
    program may fork meanwhile: the lock ends with the block, though the other process has it open, too.
    """
    descriptor, process = _open_lock(lock), os.getpid()
    try:
        _flock(descriptor, fcntl.LOCK_EX, conflict)
        if not os.fstat(descriptor).st_nlink:  # a process that was refused has just removed it
            raise RefusedToStart(f"{conflict}; run the command again")
        with explain_disk_errors(lock):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(this_process()).encode())
        yield
    finally:
        if os.getpid() == process:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _open_lock(lock: Path) -> int:
    """Open a lock file. Raises NoAccess if nothing can be written there, or else StoppedEarly."""
    with explain_disk_errors(lock):
        try:
            return os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            if error.errno == errno.EROFS:
                raise NoAccess(f"{lock.parent}: can't be written ({error.strerror})") from error
            if error.errno in {errno.EACCES, errno.EPERM}:
                raise read_error(lock, error.errno) from error
            raise


def _flock(descriptor: int, kind: int, conflict: str) -> None:
    """Lock an open file. If another process has locked it, raise RefusedToStart with `conflict`."""
    if _is_locked_within(descriptor, kind, _LOOK_S):
        return
    if _is_locked_within(descriptor, fcntl.LOCK_SH, 0):  # readers do not name themselves in the file
        raise RefusedToStart(f"{conflict} (`batchlic audit --verify`); wait for it")
    holder = os.read(descriptor, 200).decode(errors="replace").strip()
    raise RefusedToStart(f"{conflict} ({holder}); wait for it or stop it")


def _is_locked_within(descriptor: int, kind: int, seconds: float) -> bool:
    """Lock a file, and try again for some time: `RunFolder.process` locks it for a moment, too."""
    ends_at = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_at:
                return False
            time.sleep(_LOOK_S / 10)
        else:
            return True
