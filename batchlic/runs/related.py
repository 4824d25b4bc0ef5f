"""The runs that a run is linked with: its rollback, and runs whose inventory is a file in its folder."""

from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from batchlic.chunker import DeviceStatus
from batchlic.errors import BatchlicError
from batchlic.journal import RunIdentity
from batchlic.runs.folder import RunFolder
from batchlic.writer.summary import read_summary

ROLLBACK_FOLDER = "rollback-by-"
"""Start of the name of a rollback's folder, which is in the folder of the run that it takes back."""


class Relation(StrEnum):
    """What another run has to do with this one."""

    ROLLED_BACK_BY = "rolled_back_by"
    ROLLBACK_OF = "rollback_of"
    RETRIED_BY = "retried_by"
    """The other run sends the failed devices of this one again (`batchlic retry`), or it has the same action,
    and its inventory is a file in the folder of this run."""
    RETRY_OF = "retry_of"
    FOLLOWED_BY = "followed_by"
    """As `retried_by`, with another action, such as unassign after assign."""
    FOLLOW_UP_OF = "follow_up_of"


class RelatedRun(msgspec.Struct, frozen=True, kw_only=True):
    """Another run. `statuses` and `exit_code` are those of its summary.json, if it has one."""

    relation: Relation
    run_id: str
    run_dir: str
    action: str
    statuses: dict[DeviceStatus, int] | None = None
    exit_code: int | None = None


def related_runs(folder: RunFolder, identity: RunIdentity) -> list[RelatedRun]:
    """The runs that the run in `folder` is linked with. Runs that can't be read are left out."""
    return [*nested_runs(folder, identity), *_followers(folder, identity)]


def nested_runs(folder: RunFolder, identity: RunIdentity) -> list[RelatedRun]:
    """The same without runs that followed, to find which all runs beside this one must be opened."""
    return [*_origins(folder, identity), *_rollbacks(folder)]


def _origins(folder: RunFolder, identity: RunIdentity) -> Iterator[RelatedRun]:
    """The run that this one rolls back, or those whose files are its inventory."""
    outer = RunFolder(folder.parent)
    if is_rollback(folder):
        yield from _described(outer, Relation.ROLLBACK_OF)
        return
    if identity.retry_of is not None:
        for beside in folder.beside():
            with suppress(BatchlicError, OSError):
                if beside.journal.identity()[0].run_id == identity.retry_of:
                    yield from _described(beside, Relation.RETRY_OF)
        return
    for origin in _sources(folder, identity):
        yield from _described(origin, Relation.RETRY_OF, identity, Relation.FOLLOW_UP_OF)


def _rollbacks(folder: RunFolder) -> Iterator[RelatedRun]:
    with suppress(BatchlicError, OSError):
        for path in sorted(folder.path.glob(f"{ROLLBACK_FOLDER}*")):
            if RunFolder(path).has_run:
                yield from _described(RunFolder(path), Relation.ROLLED_BACK_BY)


def _followers(folder: RunFolder, identity: RunIdentity) -> Iterator[RelatedRun]:
    """The runs beside this one that are retries of it, or whose inventory is a file in its folder."""
    for beside in folder.beside():
        with suppress(BatchlicError, OSError):
            follower, _ = beside.journal.identity()
            if follower.retry_of is not None:
                is_linked = follower.retry_of == identity.run_id
            else:
                is_linked = any(source.path.samefile(folder.path) for source in _sources(beside, follower))
            if is_linked:
                yield from _described(beside, Relation.RETRIED_BY, identity, Relation.FOLLOWED_BY)


def _sources(folder: RunFolder, identity: RunIdentity) -> Iterator[RunFolder]:
    """The run folders in which the inventories of a run are."""
    seen: list[Path] = []
    for given in (Path(file.name) for file in identity.inputs if file.sha256 is not None):
        with suppress(BatchlicError, OSError):
            path = _run_of(given, folder)
            if path is not None and not any(path.samefile(other) for other in (folder.path, *seen)):
                seen.append(path)
                yield RunFolder(path)


def _run_of(file: Path, folder: RunFolder) -> Path | None:
    """The run folder that has a file, or None.

    The path may be relative to a folder that is not known any more, or the runs may have been moved. Then a
    run beside `folder` has the name and the file.
    """
    moved = folder.parent / file.parent.name
    for path in (file.parent, moved) if file.parent.name else ():
        if RunFolder(path).has_run and (path / file.name).is_file():
            return path
    return None


def is_rollback(folder: RunFolder) -> bool:
    """Whether the run in a folder takes back the licenses of the run in the folder above."""
    name = Path(folder.path).absolute().name
    return name.startswith(ROLLBACK_FOLDER) and RunFolder(folder.parent).has_run


def _described(
    other: RunFolder,
    relation: Relation,
    identity: RunIdentity | None = None,
    relation_if_other_action: Relation | None = None,
) -> Iterator[RelatedRun]:
    with suppress(BatchlicError, OSError):
        found, _ = other.journal.identity()
        if identity and relation_if_other_action and found.job_action != identity.job_action:
            relation = relation_if_other_action
        statuses = exit_code = None
        with suppress(BatchlicError, OSError):
            summary = read_summary(other.summary)
            statuses, exit_code = summary.statuses, summary.exit_code
        yield RelatedRun(
            relation=relation,
            run_id=found.run_id,
            run_dir=str(other.path),
            action=found.job_action,
            statuses=statuses,
            exit_code=exit_code,
        )
