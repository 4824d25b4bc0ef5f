"""The device states of a run folder."""

from collections.abc import Iterator

import polars as pl

from batchlic.journal import JournalQueries
from batchlic.runs.folder import RunFolder
from batchlic.writer.callback_outcomes import read_outcomes
from batchlic.writer.device_states import device_states, state_frames


def states_of(folder: RunFolder, journal: JournalQueries) -> pl.LazyFrame:
    """The state of every planned device (columns: DEVICE_STATES).

    The journal must stay open until the query is collected.
    """
    return device_states(folder.plan, journal, read_outcomes(folder.outcomes))


def state_frames_of(folder: RunFolder, journal: JournalQueries) -> Iterator[pl.DataFrame]:
    """The same rows in frames of whole batches."""
    return state_frames(folder.plan, journal, read_outcomes(folder.outcomes))
