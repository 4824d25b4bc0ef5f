"""The device states of a run folder, and its rejects."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from batchlic.atomic import explain_read_errors
from batchlic.chunker.schema import REJECTS
from batchlic.errors import RunFolderError
from batchlic.journal import JournalQueries
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of
from batchlic.runs.staging import recorded_path
from batchlic.writer.callback_outcomes import outcomes_of, read_reports
from batchlic.writer.device_states import device_states, state_frames
from batchlic.writer.kept import NOTHING_KEPT, Kept
from batchlic.writer.tables import explain_damage, other_columns, read_table


def states_of(folder: RunFolder, journal: JournalQueries, kept: Kept = NOTHING_KEPT) -> pl.LazyFrame:
    """The state of every planned device (columns: DEVICE_STATES, then those of `kept`).

    The journal must stay open until the query is collected.
    """
    return device_states(folder.plan, journal, outcomes_of(recorded_reports(folder, journal)), kept)


def state_frames_of(
    folder: RunFolder, journal: JournalQueries, kept: Kept = NOTHING_KEPT
) -> Iterator[pl.DataFrame]:
    """The same rows in frames of whole batches."""
    return state_frames(folder.plan, journal, outcomes_of(recorded_reports(folder, journal)), kept)


def recorded_reports(folder: RunFolder, journal: JournalQueries) -> pl.LazyFrame:
    """Everything that the run's callbacks reported (columns: callback_outcomes.OUTCOMES).

    Raises RunFolderError if the file is not the one that the run recorded: a damaged one is not decoded. If
    the caller has not locked the folder, the file may be newer than `journal`.
    """
    path, is_sound = _sound_outcomes(folder, journal)
    if not is_sound:  # unless another process has published it since `journal` was read
        with folder.journal.inspect() as newest:
            path, is_sound = _sound_outcomes(folder, newest)
    if not is_sound:
        raise RunFolderError(
            f"{path}: is not the file that the run recorded: restore it. Or move it away, and `batchlic "
            f"reconcile {folder.path}` makes it again from the store of callbacks"
        )
    return read_reports(path)


def _sound_outcomes(folder: RunFolder, journal: JournalQueries) -> tuple[Path, bool]:
    """Where the outcomes are, and whether they are those that the journal recorded, or missing."""
    path = recorded_path(folder.outcomes, journal)
    with explain_read_errors(path):
        is_there = path.exists()
    return path, not is_there or sha256_of(path) == journal.file_hashes().get(folder.outcomes.name)


def rejects_of(folder: RunFolder) -> pl.LazyFrame:
    """The rejected rows (columns: schema.REJECTS, then those that the job keeps).

    Raises RunFolderError if they are missing or damaged.
    """
    with explain_read_errors(folder.rejects):
        is_planned = folder.rejects.is_file()
    if not is_planned:
        raise RunFolderError(
            f"{folder.path}: there is no {folder.rejects.name}, because the run is not planned yet"
        )
    kept = dict.fromkeys(other_columns(folder.rejects, REJECTS), pl.String())
    rejects = read_table(folder.rejects, REJECTS | kept)
    with explain_damage(folder.rejects, "make it again: `batchlic plan` with the same inventory and options"):
        rejects.select(pl.all().null_count()).collect(engine="streaming")  # decodes every row
    return rejects
