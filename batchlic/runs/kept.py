"""The columns of the inventories that a run keeps: their names, and where their cells are."""

from collections.abc import Sequence

from msgspec import UNSET

from batchlic.chunker.schema import PLAN, REJECTS, SYNC
from batchlic.errors import UsageError
from batchlic.job import Job
from batchlic.journal import RunIdentity
from batchlic.reader.columns.headers import fold
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of
from batchlic.writer.device_states import DEVICE_STATES
from batchlic.writer.export import COLUMNS
from batchlic.writer.kept import NOTHING_KEPT, Kept

_OWN_COLUMNS = {fold(name): name for name in (*DEVICE_STATES, *REJECTS, *PLAN, *SYNC, *COLUMNS)}


def refuse_own_names(job: Job) -> None:
    """Raise UsageError if a column to keep is called as a column of results, rejects or exports.

    Names are compared as headers are, because exports are inventories of a next run.
    """
    for name in job.read_options().keep:
        if own := _OWN_COLUMNS.get(fold(name)):
            raise UsageError(
                f"--keep {name}: results and rejects have a column {own!r} of their own: keep yours under "
                f"another name, such as --keep inventory_{own}={name}"
            )


def kept_of(folder: RunFolder, identity: RunIdentity) -> Kept:
    """The kept columns of a run; a file that is not the one that the run recorded is not read."""
    if not identity.kept_columns:
        return NOTHING_KEPT
    return Kept(identity.kept_columns, folder.kept if is_recorded(folder, identity) else None)


def is_recorded(folder: RunFolder, identity: RunIdentity) -> bool:
    """Whether kept.parquet is the file that the run recorded. It can be made again as the plan can."""
    if identity.kept is UNSET:
        return True
    return folder.kept.is_file() and sha256_of(folder.kept) == identity.kept.sha256


def with_note_on_kept(notes: Sequence[str], kept: Kept) -> list[str]:
    """The notes of a session, the last one about the kept columns if these are lost now."""
    lost = f"{', '.join(kept.columns)}: null, because kept.parquet is missing or changed since the run began"
    others = [note for note in notes if note != lost]
    return [*others, lost] if kept.columns and kept.path is None else others


def note_on_other_columns(job: Job, identity: RunIdentity) -> list[str]:
    """A note if a job that continues a run would keep other columns."""
    if list(job.read_options().keep) == identity.kept_columns:
        return []
    kept = ", ".join(identity.kept_columns) or "none"
    return [f"columns are kept when a run is planned: this one keeps {kept}, whatever --keep says now"]
