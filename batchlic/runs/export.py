"""Exports rows of a run folder: rejects, devices by status, or all."""

from pathlib import Path
from typing import BinaryIO

import polars as pl

from batchlic.atomic import explain_read_errors
from batchlic.chunker import DeviceStatus
from batchlic.chunker.schema import REJECTS
from batchlic.errors import RunFolderError
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import inspected, left_by_a_run, refuse_changed_plan
from batchlic.runs.kept import kept_of
from batchlic.runs.states import rejects_of, states_of
from batchlic.writer.export import Format, Selection, device_rows, rejected_rows, write_export
from batchlic.writer.resent import PLACES, resent_devices

_STATUSES = {Selection.FAILED: DeviceStatus.FAILED, Selection.IN_DOUBT: DeviceStatus.IN_DOUBT}


def export(folder: RunFolder, selection: Selection, form: Format, to: Path | BinaryIO) -> int:
    """Write rows of a run in their current state, sorted by source and row. Returns the number of rows.

    Raises RunFolderError if the run does not have such rows yet, and UsageError if they do not fit a sheet.
    """
    if selection is Selection.REJECTS:
        return write_export(_rejected(folder), form, to)
    with explain_read_errors(folder.path):
        is_planned_only = folder.path.is_dir() and not folder.journal.exists() and not left_by_a_run(folder)
    if is_planned_only:
        raise RunFolderError(f"{folder.path}: no device has a status yet: this run has sent nothing")
    with inspected(folder) as journal:
        refuse_changed_plan(folder, journal.identity)
        kept = kept_of(folder, journal.identity)
        states = states_of(folder, journal, kept)
        if selection is Selection.RESENT:
            states = states.join(resent_devices(journal).lazy(), on=list(PLACES), how="semi")
        rows = device_rows(states, _STATUSES.get(selection), kept.columns)
        if selection is Selection.ALL:
            rows = pl.concat([rows, _rejected(folder)], how="diagonal_relaxed")
        return write_export(rows, form, to)


def _rejected(folder: RunFolder) -> pl.LazyFrame:
    rejects = rejects_of(folder)
    return rejected_rows(rejects, [name for name in rejects.collect_schema() if name not in REJECTS])
