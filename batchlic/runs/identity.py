"""Checks that a folder holds the run of a command: journal, plan, job, inventories and carrier."""

import hashlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from batchlic import aliases
from batchlic.atomic import explain_read_errors, staged_path
from batchlic.chunker import Plan
from batchlic.errors import BatchlicError, InventoryError, RunFolderError, UsageError
from batchlic.job import Approval, Canary, Job
from batchlic.journal import (
    InventoryFile,
    Journal,
    JournalQueries,
    KeptColumns,
    RunIdentity,
)
from batchlic.objectstore.addresses import is_remote
from batchlic.reader.inputs.addresses import Address, Downloaded, fetched, shown
from batchlic.reader.inputs.databases import Database, refuse_without_query
from batchlic.reader.inputs.frames import Frame, frame_of
from batchlic.reader.inputs.sources import expanded
from batchlic.reader.inputs.streams import STDIN
from batchlic.runs.folder import RunFolder, missing_folder
from batchlic.runs.target import Target

_GUARDS = ("inventory.allow_empty", "inventory.min_rows", "inventory.max_change")
_MAY_CHANGE = (
    "limits",
    "ledger",
    "store",
    "metrics",
    "notify",
    "report",
    "sandbox",
    "inventory.files",
    "inventory.keep",
    "inventory.download_timeout",
    *_GUARDS,
    "license.order",
    "sync.max_removals",
    "canary.failures",
    "canary.confirmed",
)
"""Keys of a job that may change between sessions of a run. Inventories are compared by their content. Guards
and columns to keep count only until the run is planned."""


def identify(
    job: Job,
    folder: RunFolder,
    carrier: str,
    plan: Plan,
    *,
    run_id: str,
    inputs: Sequence[InventoryFile] | None = None,
) -> RunIdentity:
    """The identity of a new run. `inputs` are given if the inventories are not to be read again."""
    return RunIdentity(
        run_id=run_id,
        action=job.request_action,
        carrier=carrier,
        job=without_secrets(job).model_dump(mode="json"),
        inputs=inputs_of(job, plan.downloaded) if inputs is None else list(inputs),
        plan_sha256=sha256_of(folder.plan),
        sources=[(source.name, source.rows) for source in plan.sources],
        rows_read=plan.rows_read,
        rejected=dict(plan.rejected),
        planned=plan.planned,
        excluded=dict(plan.excluded),
        batches=plan.batches,
        notes=list(plan.notes),
        to_sku=job.license.to_sku,
        restorable=sorted(job.restorable_skus),
        kept=KeptColumns(columns=list(plan.kept), sha256=sha256_of(folder.kept)) if plan.kept else UNSET,
    )


def job_of(identity: RunIdentity) -> Job:
    """The job of the run. Addresses of inventories lack queries and logins: they are not read again."""
    return Job.model_validate(identity.job)


def recorded_job(folder: RunFolder) -> Job | None:
    """The job of the run in a folder; None if the folder has no run, or if its journal can't be read."""
    try:
        with inspected(folder) as journal:
            return job_of(journal.identity)
    except BatchlicError:
        return None


def without_secrets(job: Job) -> Job:
    """The job as the files of a run may hold it (promise F), for any machine."""
    files = [aliases.shown(shown(name)) for name in job.inventory.files]
    return job.model_copy(update={"inventory": job.inventory.model_copy(update={"files": files})})


def inputs_of(job: Job, downloaded: Sequence[Downloaded] = ()) -> list[InventoryFile]:
    """Size and SHA-256 of each inventory that is a file or a database.

    Files at addresses, and databases, are read again unless they are among `downloaded`.

    Raises InventoryError if one can't be read.
    """
    known = {file.name: file for file in downloaded}
    return [_input(name, known, job) for name in expanded(job.inventory.files).names]


def _input(
    name: str | Address | Database | Frame, downloaded: Mapping[str, Downloaded], job: Job
) -> InventoryFile:
    if isinstance(name, Database):
        return _queried(name, downloaded.get(name.name), job)
    if isinstance(name, Frame):
        return InventoryFile(name=name.name, size=name.size, sha256=name.sha256)
    if isinstance(name, Address):
        file = downloaded.get(name.shown) or fetched(name, job.inventory.download_timeout)
        return InventoryFile(name=file.name, size=file.size, sha256=file.sha256)
    if name == STDIN or is_remote(name):
        return InventoryFile(name=name)
    path = Path(name)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe is read once
            return InventoryFile(name=aliases.shown(name))
        return InventoryFile(name=aliases.shown(name), size=status.st_size, sha256=sha256_of(path))
    except OSError as error:
        raise InventoryError(f"{name}: can't be read: {error.strerror}") from None


def _queried(database: Database, known: Downloaded | None, job: Job) -> InventoryFile:
    if known is None:
        from batchlic.reader.formats.databases.reading import fetched as fetched_rows  # noqa: PLC0415 - polars

        refuse_without_query([database], job.inventory.query)
        known = fetched_rows(database, job.read_options())
    query = job.inventory.query or ""
    return InventoryFile(name=known.name, size=known.size, sha256=known.sha256, query=query)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises NoAccess if it can't be opened."""
    with explain_read_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_of(folder: RunFolder) -> tuple[RunIdentity, int]:
    """The identity of the run in a folder, and when the run began (microseconds since 1970).

    Checks nothing else of the journal. Raises RunFolderError as `inspected` does.
    """
    with _explained(folder):
        return folder.journal.identity()


def open_journal(folder: RunFolder) -> Journal:
    """The journal of a folder that the caller has locked. Raises RunFolderError as `inspected` does."""
    with _explained(folder):
        return folder.journal.open()


@contextmanager
def inspected(folder: RunFolder) -> Iterator[JournalQueries]:
    """The journal of a folder, to read it without any change in the folder.

    Raises RunFolderError that names the files that are left if the journal is lost or damaged.
    """
    with ExitStack() as opened:
        with _explained(folder):
            journal = opened.enter_context(folder.journal.inspect())
        yield journal


@contextmanager
def _explained(folder: RunFolder) -> Iterator[None]:
    """Say what is lost or damaged, and which files have the last known state."""
    try:
        yield
    except RunFolderError as error:
        refuse_without_journal(folder)
        raise RunFolderError(f"{error}{_files_left(folder)}") from error


def refuse_without_journal(folder: RunFolder) -> None:
    """Raise RunFolderError if the folder has no journal: there was no run, or the journal is lost."""
    with explain_read_errors(folder.path):
        if folder.has_journal:
            return
        if not folder.path.is_dir():
            raise missing_folder(folder.path)
    if left_by_a_run(folder):
        raise RunFolderError(f"{folder.journal}: the journal is lost{_files_left(folder)}")
    raise RunFolderError(f"{folder.journal}: there is no journal, so nothing was ever sent from this folder")


def refuse_used(folder: RunFolder) -> None:
    """Raise UsageError or RunFolderError if the folder holds a run, or files of one."""
    if folder.journal.exists():
        raise UsageError(f"{folder.path}: holds a run already; {_what_to_do(folder)}")
    if left_by_a_run(folder):
        refuse_without_journal(folder)


def refuse_other_job(folder: RunFolder, job: Job, identity: RunIdentity) -> None:
    """Raise UsageError that names the differences if `job` is not the job of the run."""
    differences = [*_job_differences(job, identity), *_input_differences(job, identity)]
    if differences:
        raise UsageError(
            f"{folder.path}: holds another run already: {'; '.join(differences)}; {_what_to_do(folder)}"
        )


def refuse_other_carrier(folder: RunFolder, carrier: str, identity: RunIdentity) -> None:
    """Raise UsageError if the run belongs to another carrier."""
    if carrier != identity.carrier:
        raise UsageError(f"{folder.path}: this run talks to {identity.carrier}, not to {carrier}")


def refuse_without_profile(folder: RunFolder, target: Target, identity: RunIdentity) -> None:
    """Raise UsageError if the run used the login of a profile, and now no profile is chosen."""
    if identity.profile is not None and target.profile is None:
        raise UsageError(
            f"{folder.path}: this run used the login of profile {identity.profile}: add --profile "
            f"{identity.profile} (or set BATCHLIC_PROFILE)"
        )


def refuse_changed_plan(folder: RunFolder, identity: RunIdentity) -> None:
    """Raise RunFolderError if the plan is missing or has changed since the run began."""
    if not folder.plan.is_file() or sha256_of(folder.plan) != identity.plan_sha256:
        raise RunFolderError(
            f"{folder.plan}: missing or changed since the run began; the journal is intact. "
            f"{_how_to_restore_plan(identity)}"
        )


def _how_to_restore_plan(identity: RunIdentity) -> str:
    if identity.excluded or identity.is_sync:
        return (
            "Restore it from a backup, or run the inventory again in another folder: the ledger has the "
            "devices that this run recorded"
        )
    inventory = ", ".join(name for name, _ in identity.sources)
    return (
        f"Restore it, or make it again: `batchlic plan --no-ledger` with the same inventory ({inventory}) "
        f"and options gives the same file, byte for byte (SHA-256 {identity.plan_sha256})"
    )


_NEW_TABLES = {"approval": Approval().model_dump(), "canary": Canary().model_dump()}
"""Tables that the journals of earlier versions lack."""


def _job_differences(job: Job, identity: RunIdentity) -> Iterator[str]:
    now, then = dict(_flat(job.model_dump(mode="json"))), dict(_flat({**_NEW_TABLES, **identity.job}))
    now["limits.batch_size"], then["limits.batch_size"] = (
        job.limits.batch_size,
        identity.job["limits"]["batch_size"],
    )
    for key in sorted({*now, *then}):
        if now.get(key) != then.get(key):
            yield f"{key} is {now.get(key)}, was {then.get(key)}"


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{prefix}{key}"
        if name in _MAY_CHANGE:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _input_differences(job: Job, identity: RunIdentity) -> Iterator[str]:
    try:
        now, then = inputs_of(job), identity.inputs
    except InventoryError as error:
        yield f"an inventory can't be compared with the input of the run: {error}"
        return
    if len(now) != len(then):
        yield f"{len(now)} inventories, but the run began with {len(then)}"
        return
    for given, known in zip(now, then, strict=True):
        if given.sha256 is None:
            yield f"{given.name} is not a file, so it can't be compared with the input of the run"
        elif given.sha256 != known.sha256:
            sizes = f" ({given.size:,} bytes, was {known.size:,})" if known.size is not None else ""
            yield f"{given.name} has changed since the run began{sizes}{hint_at_order(given)}"


def hint_at_order(file: InventoryFile) -> str:
    """For a database or a frame: why its rows may differ though its content is the same."""
    if frame_of(file.name) is not None:
        return ", or its rows came in another order (sort them)"
    return (
        ""
        if file.query is msgspec.UNSET
        else ", or its rows came in another order (add ORDER BY to the query)"
    )


def _what_to_do(folder: RunFolder) -> str:
    return f"continue it with `batchlic resume {folder.argument}`, or give another folder with --run-dir"


def left_by_a_run(folder: RunFolder) -> list[Path]:
    """The files, except the journal, that only a run writes: without a journal, they show that it is lost."""
    log = folder.journal_file.with_name(f"{folder.journal_file.name}-wal")
    staged = [staged_path(path) for path in folder.published_files]
    with explain_read_errors(folder.path):
        return [path for path in (*_visible_files(folder), *staged, log) if path.exists()]


def _visible_files(folder: RunFolder) -> tuple[Path, ...]:
    return (*folder.published_files, folder.report, folder.log)


def _files_left(folder: RunFolder) -> str:
    left = [path for path in left_by_a_run(folder) if path in _visible_files(folder)]
    if not left:
        return ""
    dated = ", ".join(
        f"{path.name} of {datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}"
        for path in left
    )
    return (
        f"; the last known state is in {dated}. Restore the journal from a backup: without it, nothing is "
        "sent from this folder, because it might be sent twice"
    )
