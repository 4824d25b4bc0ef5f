"""The files of a run change together: staged, recorded in the journal, then published.

The record in the journal decides: the SHA-256 of each file. If the process is killed before the record, the
old files stay in place. If it is killed after the record, the next session publishes the staged files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchlic.atomic import explain_disk_errors, explain_read_errors, staged_path, sync_folder
from batchlic.errors import NoAccess
from batchlic.journal import Journal, JournalQueries
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import open_journal, sha256_of


def recorded_path(path: Path, journal: JournalQueries) -> Path:
    """Where a published file is: still beside its place, if its session was killed before publishing it.

    Its session may also be at work, and publish it meanwhile.
    """
    staged = staged_path(path)
    with explain_read_errors(staged):
        if not staged.exists():
            return path
    try:
        return staged if sha256_of(staged) == journal.file_hashes().get(path.name) else path
    except NoAccess:
        if staged.exists():
            raise
        return path


def recovered_journal(folder: RunFolder) -> Journal:
    """The journal of a folder that the caller has locked. Publishes files that a killed session staged.

    Raises RunFolderError that names the files that are left.
    """
    journal = open_journal(folder)
    publish_staged(folder, journal)
    return journal


@contextmanager
def publishing(folder: RunFolder, journal: Journal) -> Iterator[None]:
    """Publish the files that the block stages and records in the journal.

    If the block fails, the staged files are removed: a full disk needs the space.
    """
    try:
        yield
    finally:
        publish_staged(folder, journal)


def remove_report(folder: RunFolder) -> None:
    """Remove report.html before the run changes: if the process is killed, no outdated report is left."""
    with explain_disk_errors(folder.report):
        folder.report.unlink(missing_ok=True)


def publish_staged(folder: RunFolder, journal: Journal) -> None:
    """Move staged files into place if the journal has recorded them, and remove the others.

    The caller has locked the folder. Raises StoppedEarly if the disk fails.
    """
    journal.check_held()  # otherwise the staged files are those of another session
    file_hashes = journal.file_hashes()
    with explain_disk_errors(folder.path):
        for path in folder.published_files:
            staged = staged_path(path)
            if staged.exists() and sha256_of(staged) != file_hashes.get(path.name):
                staged.unlink()
        recorded = [path for path in folder.published_files if staged_path(path).exists()]
        for path in recorded:
            staged_path(path).replace(path)
        if recorded:
            folder.report.unlink(missing_ok=True)  # of the session before
            sync_folder(folder.path)
