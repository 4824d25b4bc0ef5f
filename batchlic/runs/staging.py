"""The files of a run change together: written aside, sealed in its journal, and only then put in place.

The seal is what counts. A process that is killed before it leaves the files that were there; one that is
killed after it leaves new ones aside, which whoever holds the folder next puts in place.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from batchlic.atomic import staged_path, explain_disk_errors, sync_folder
from batchlic.runs.identity import open_journal, sha256_of
from batchlic.journal import Journal
from batchlic.runs.folder import RunFolder


def recovered_journal(folder: RunFolder) -> Journal:
    """The journal of a folder that the caller holds, its files as they were sealed last.

    Raises RunFolderError that says what is salvageable.
    """
    journal = open_journal(folder)
    publish_staged(folder, journal)
    return journal


@contextmanager
def publishing(folder: RunFolder, journal: Journal) -> Iterator[None]:
    """Let what is written aside take its place once the block has sealed it.

    If that fails, nothing is left aside: a full disk has better use for the room.
    """
    try:
        yield
    finally:
        publish_staged(folder, journal)


def publish_staged(folder: RunFolder, journal: Journal) -> None:
    """Put in place what a killed process had sealed, and remove what it had not.

    The caller holds the folder. Raises StoppedEarly where the disk does not do its part.
    """
    file_hashes = journal.file_hashes()
    with explain_disk_errors(folder.path):
        for path in folder.published_files:
            written = staged_path(path)
            if written.exists() and sha256_of(written) != file_hashes.get(path.name):
                written.unlink()
        sealed = [path for path in folder.published_files if staged_path(path).exists()]
        for path in sealed:
            staged_path(path).replace(path)
        if sealed:
            sync_folder(folder.path)
