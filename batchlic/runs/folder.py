"""One run's folder: what its files are called, and the locks that keep a second process out."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from batchlic.atomic import explain_disk_errors, remove_leftovers, staged_path, sync_folder
from batchlic.errors import RefusedToStart, RunFolderError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run's files; the folder itself is made by `make`."""

    path: Path

    @property
    def plan(self) -> Path:
        """The device rows to submit, sorted into batches."""
        return self.path / "plan.parquet"

    @property
    def rejects(self) -> Path:
        """The input rows that are not planned."""
        return self.path / "rejects.parquet"

    @property
    def journal(self) -> Path:
        """What was intended, sent and answered."""
        return self.path / "journal.db"

    @property
    def results(self) -> Path:
        """What became of each planned device."""
        return self.path / "results.parquet"

    @property
    def outcomes(self) -> Path:
        """What callbacks told of its devices."""
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
    def log(self) -> Path:
        """What happened, as JSON lines."""
        return self.path / "run.log"

    @property
    def session_files(self) -> tuple[Path, ...]:
        """What each sitting of a run writes when it ends."""
        return self.results, self.audit, self.summary

    @property
    def published_files(self) -> tuple[Path, ...]:
        """What changes together when more becomes known of a run (batchlic.runs.staging)."""
        return self.outcomes, *self.session_files

    @property
    def parent(self) -> Path:
        """The folder that this one lies in."""
        return Path(os.path.abspath(self.path)).parent  # noqa: PTH100 - a link counts as where it is

    def make(self) -> None:
        """Make the folder, for its owner only (mode 0700)."""
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in new:
                sync_folder(folder.parent)  # a journal is only as durable as the names that lead to it
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: can't make the run folder: {error.strerror}; name another with --run-dir"
            ) from error

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A path for a file that is only looked at, and gone afterwards."""
        with TemporaryDirectory(prefix="batchlic-") as folder:
            yield Path(folder) / "scratch.parquet"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; RefusedToStart where another one has it."""
        with _held(self.path / ".lock", f"{self.path}: another batchlic is at work here"):
            unfinished = (
                self.plan,
                self.rejects,
                self.journal,
                *self.published_files,
                *map(staged_path, self.published_files),
            )
            remove_leftovers(self.path, unfinished)
            yield

    @contextmanager
    def job_lock(self, name: str | None) -> Iterator[None]:
        """Hold a job's name among the runs beside this one; a job without a name is nobody's rival.

        Runs that a scheduler starts have folders of their own, so the folder's lock does not part them.
        """
        if name is None:
            yield
            return
        locks = RunFolder(self.parent / ".locks")
        locks.make()
        with _held(locks.path / name, f"job {name}: another batchlic is at work on it"):
            yield


@contextmanager
def _held(lock: Path, trouble: str) -> Iterator[None]:
    """Hold a lock file, which says by whom and since when.

    The lock is the operating system's (flock): it goes with its process, however that ends.
    """
    with explain_disk_errors(lock):
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        raise RefusedToStart(f"{trouble} ({holder}); wait for it or stop it") from None
    try:
        with explain_disk_errors(lock):
            os.ftruncate(descriptor, 0)
            holder = f"pid {os.getpid()}, since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            os.write(descriptor, holder.encode())
        yield
    finally:
        os.close(descriptor)
