"""The files of a run change together: staged, recorded in the journal, then published.

What counts is the record: the SHA-256 of each file in the journal. A process that is killed before it leaves
the old files in place. One that is killed after it leaves staged files, which the next session publishes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from batchlic.atomic import explain_disk_errors, staged_path, sync_folder
from batchlic.journal import Journal
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import open_journal, sha256_of


def recovered_journal(folder: RunFolder) -> Journal:
    """The journal of a folder that the caller has locked, after publishing what a killed session had staged.

    Raises RunFolderError that says what is salvageable.
    """
    journal = open_journal(folder)
    publish_staged(folder, journal)
    return journal


@contextmanager
def publishing(folder: RunFolder, journal: Journal) -> Iterator[None]:
    """Publish what the block stages and records in the journal.

    If the block fails, the staged files are removed: a full disk needs the room.
    """
    try:
        yield
    finally:
        publish_staged(folder, journal)


def publish_staged(folder: RunFolder, journal: Journal) -> None:
    """Move staged files into place if the journal has recorded them, and remove the others.

    The caller has locked the folder. Raises StoppedEarly where the disk fails.
    """
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
            sync_folder(folder.path)
