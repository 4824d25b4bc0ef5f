"""The files of a run change together: written aside, sealed in its journal, and only then put in place.

The seal is what counts. A process that is killed before it leaves the files that were there; one that is
killed after it leaves new ones aside, which whoever holds the folder next puts in place.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from batchlic.atomic import aside, disk_trouble_explained, sync_folder
from batchlic.runs.identity import open_journal, sha256_of
from batchlic.journal import Journal
from batchlic.runs.folder import RunFolder


def taken_up(folder: RunFolder) -> Journal:
    """The journal of a folder that the caller holds, its files as they were sealed last.

    Raises RunFolderError that says what is salvageable.
    """
    journal = open_journal(folder)
    mend(folder, journal)
    return journal


@contextmanager
def changing(folder: RunFolder, journal: Journal) -> Iterator[None]:
    """Let what is written aside take its place once the block has sealed it.

    If that fails, nothing is left aside: a full disk has better use for the room.
    """
    try:
        yield
    finally:
        mend(folder, journal)


def mend(folder: RunFolder, journal: Journal) -> None:
    """Put in place what a killed process had sealed, and remove what it had not.

    The caller holds the folder. Raises StoppedEarly where the disk does not do its part.
    """
    seals = journal.seals()
    with disk_trouble_explained(folder.path):
        for path in folder.changing:
            written = aside(path)
            if written.exists() and sha256_of(written) != seals.get(path.name):
                written.unlink()
        sealed = [path for path in folder.changing if aside(path).exists()]
        for path in sealed:
            aside(path).replace(path)
        if sealed:
            sync_folder(folder.path)
