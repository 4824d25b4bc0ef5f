"""The files of a run change together: written aside, sealed in its journal, and only then put in place.

The seal is what counts. A process that is killed before it leaves the files that were there; one that is
killed after it leaves new ones aside, which whoever holds the folder next puts in place.
"""

from batchlic.durable import aside, sync_folder
from batchlic.identity import open_journal, sha256_of
from batchlic.journal import Journal
from batchlic.runfolder import RunFolder


def taken_up(folder: RunFolder) -> Journal:
    """The journal of a folder that the caller holds, its files as they were sealed last.

    Raises RunFolderError that says what is salvageable.
    """
    journal = open_journal(folder)
    mend(folder, journal)
    return journal


def mend(folder: RunFolder, journal: Journal) -> None:
    """Put in place what a killed process had sealed, and remove what it had not.

    The caller holds the folder.
    """
    seals = journal.seals()
    for path in folder.changing:
        written = aside(path)
        if written.exists() and sha256_of(written) != seals.get(path.name):
            written.unlink()
    put_in_place(folder)


def put_in_place(folder: RunFolder) -> None:
    """Let the files that lie aside, all of them sealed, take their places."""
    waiting = [path for path in folder.changing if aside(path).exists()]
    for path in waiting:
        aside(path).replace(path)
    if waiting:
        sync_folder(folder.path)
