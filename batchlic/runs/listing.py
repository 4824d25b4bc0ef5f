"""The runs below a folder in figures: for a list on a terminal, for pages, and for metrics."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from batchlic.atomic import is_moved, read_error, staged_path
from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.errors import BatchlicError, ExitCode, NoAccess, OtherVersion, RunFolderError, UsageError
from batchlic.figures import time_in_files
from batchlic.journal import JournalQueries, Outline, RunIdentity
from batchlic.objectstore.copies import problem_of
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import refuse_changed_plan, refuse_without_journal, sha256_of
from batchlic.runs.plan_record import read_plan_record
from batchlic.runs.process import Process
from batchlic.runs.states import state_frames_of
from batchlic.writer.outcomes import count_statuses
from batchlic.writer.summary import Summary, count_requests, read_summary


class RunState(StrEnum):
    """What a run does, or how it ended."""

    AT_WORK = "at_work"
    """A process has locked its folder."""
    FINISHED = "finished"
    STOPPED = "stopped"
    """Its last session ended early, or left devices to send: the run can be resumed."""
    INTERRUPTED = "interrupted"
    """Its last process was killed, or the machine stopped: the run can be resumed."""
    PLANNED = "planned"
    """There is a plan, and nothing was sent."""
    DAMAGED = "damaged"
    """A file that is needed is lost or damaged."""
    OTHER_VERSION = "other_version"
    """Another version of batchlic wrote the journal."""
    UNREADABLE = "unreadable"
    """The folder or a file can't be opened now: its permissions, or the disk."""


UNKNOWN = frozenset({RunState.DAMAGED, RunState.OTHER_VERSION, RunState.UNREADABLE})
"""The states of runs that can't be read. Their `problem` says why."""


class ListedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run in figures. Times are ISO 8601 in UTC. Figures that are not known are null or empty."""

    run_dir: str
    state: RunState
    problem: str | None = None
    """Why the run can't be read, or why its figures are from its journal instead of summary.json."""
    run_id: str | None = None
    job: str | None = None
    """The name of the job, or the action of a job without a name."""
    job_key: str | None = None
    """The same text for all runs of one job at one carrier: those can be compared."""
    action: str | None = None
    carrier: str | None = None
    began_at: str | None = None
    ended_at: str | None = None
    """When the last session ended; null while a session is at work, or after it was killed."""
    seconds: float | None = None
    """How long its sessions took, without the time between them. Of an interrupted run: the time in which
    requests were sent and answered."""
    rows_read: int | None = None
    rejected: dict[str, int] = {}
    planned: int | None = None
    statuses: dict[DeviceStatus, int] = {}
    requests: dict[str, int] = {}
    """As in summary.json."""
    throttled_share: float | None = None
    """Share of the requests that the carrier throttled, from 0 to 1; null before the first request."""
    devices_per_second: float | None = None
    exit_code: int | None = None
    """Null while a session is at work, or after it was killed."""
    stopped_because: str | None = None
    process: "AtWork | None" = None

    @property
    def needs_attention(self) -> bool:
        """Whether the run has an exit code other than 0, was interrupted, or can't be read."""
        if self.state in {RunState.AT_WORK, RunState.PLANNED}:
            return False
        return self.exit_code != ExitCode.OK

    @property
    def shown_statuses(self) -> dict[DeviceStatus, int]:
        """The devices by status; of a run at work without those whose answer may still come."""
        if self.state is not RunState.AT_WORK:
            return self.statuses
        return {status: devices for status, devices in self.statuses.items() if status not in _UNDECIDED}


_UNDECIDED = {DeviceStatus.PENDING, DeviceStatus.IN_DOUBT}


class AtWork(msgspec.Struct, frozen=True, kw_only=True):
    """The process that works on a run. `since` is ISO 8601 in UTC."""

    pid: int
    host: str
    since: str


class RecordedLedger(msgspec.Struct, frozen=True):
    """The ledger of a run, if it uses one."""

    path: str | None = None
    use: bool = True


class RecordedLimits(msgspec.Struct, frozen=True):
    """The limits of a run that count after its end."""

    require_confirmation: bool = False


class RecordedJob(msgspec.Struct, frozen=True):
    """The job of a run as its journal has it, without what only a session needs."""

    name: str | None = None
    license: dict[str, Any] = {}
    ledger: RecordedLedger = RecordedLedger()
    limits: RecordedLimits = RecordedLimits()


def recorded_job(identity: RunIdentity) -> RecordedJob:
    """The job of a run. Raises RunFolderError if the journal holds none that can be read."""
    try:
        return msgspec.convert(identity.job, RecordedJob)
    except msgspec.ValidationError as error:
        raise RunFolderError(f"run {identity.run_id}: its job can't be read ({error})") from error


def list_runs(folder: Path, *, since: datetime | None = None, failed: bool = False) -> list[ListedRun]:
    """The runs in `folder` and below, newest first, after those that can't be read. Links are not followed.

    `since` leaves out the runs that began earlier, and `failed` those that need no attention. A run that
    can't be read is listed with its problem, whenever it began. Raises UsageError if there is no such folder,
    and NoAccess if `folder` itself can't be opened. Writes nothing.
    """
    earliest = None if since is None else time_in_files(round(since.timestamp() * 1e6))
    listed = (listed_run(run) for run in find_runs(folder))
    chosen = [run for run in listed if _is_since(run, earliest) and (run.needs_attention or not failed)]
    newest_first = sorted(chosen, key=lambda run: (run.began_at or "", run.run_dir), reverse=True)
    return sorted(newest_first, key=lambda run: run.began_at is not None)


def last_runs(runs: Iterable[ListedRun], of: ListedRun, *, count: int = 30) -> list[ListedRun]:
    """The last `count` of the `runs` that have the same job as `of`, up to this one, oldest first."""
    if of.job_key is None or of.began_at is None:
        return [of]
    same = [run for run in runs if run.job_key == of.job_key and (run.began_at or "") <= of.began_at]
    return sorted(same, key=lambda run: run.began_at or "")[-count:]


# -- finding them ---------------------------------------------------------------------------------------


def find_runs(folder: Path) -> Iterator[RunFolder | ListedRun]:
    """The run folders in `folder` and below; a ListedRun for a folder that can't be opened."""
    paths = [folder]
    while paths:
        path = paths.pop()
        try:
            names, inner = _entries(path)
            run = RunFolder(path)
        except FileNotFoundError:
            if path is folder:
                raise UsageError(f"{path}: there is no such folder") from None
            continue  # removed meanwhile
        except (OSError, NoAccess) as error:
            explained = read_error(path, error.errno or 0) if isinstance(error, OSError) else error
            if path is folder:
                raise explained from error
            yield _unread(path, explained)
            continue
        if (problem := problem_of(path)) is not None:
            yield _unread(path, problem)
        elif _is_run(run, names):
            yield run
        paths += [path / name for name in inner if not name.startswith(".")]


def _entries(path: Path) -> tuple[set[str], list[str]]:
    """The names in a folder, and those of its folders. Raises OSError."""
    with os.scandir(path) as entries:
        found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    return set(found), [name for name, is_folder in found.items() if is_folder]


def moved_folders(folder: Path) -> Iterator[Path]:
    """The folders below `folder` that a killed process has moved aside in order to remove them."""
    for path, names, _ in os.walk(folder):
        yield from (Path(path) / name for name in sorted(names) if is_moved(name) and _is_own(path, name))
        names[:] = [name for name in names if not name.startswith(".")]


def _is_own(path: str, name: str) -> bool:
    return not Path(path, name).is_symlink()


def _is_run(folder: RunFolder, names: set[str]) -> bool:
    """Whether a folder with these files holds a run, has lost its journal, or is planned."""
    if folder.journal_file.name in names or (folder.store_record.name in names and _may_have_run(folder)):
        return True
    files = (*folder.published_files, folder.log)
    left = names & {path.name for path in files}
    has_lock = folder.lock.name in names
    if len(left) + has_lock > 1:  # one file of such a name may be anybody's
        return bool(left)
    return has_lock and (folder.plan.name in names or folder.process is not None)


def _may_have_run(folder: RunFolder) -> bool:
    """Whether the store has the run, or can't be asked: then the list says why."""
    try:
        return folder.has_run
    except BatchlicError:
        return True


# -- their figures --------------------------------------------------------------------------------------


def listed_run(found: RunFolder | ListedRun) -> ListedRun:
    """The figures of a run. Raises nothing: a problem is part of the result.

    If nothing was recorded since the last session ended, the figures are those of summary.json, if it is the
    file that the session wrote (by its hash in the journal). Otherwise they are counted in the journal.
    """
    if isinstance(found, ListedRun):
        return found
    process: Process | None = None
    try:
        process = found.process  # before the journal is read: a run that ends meanwhile is at its end there
        return _listed(found, process)
    except (BatchlicError, OSError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        return _unread(found.path, error, process)


def _listed(folder: RunFolder, process: Process | None) -> ListedRun:
    if not folder.journal.exists():
        return _without_journal(folder, process)
    outline = folder.journal.outline()
    run: dict[str, Any] = _described(folder, outline.identity, outline.created_at, process)
    if process is None and outline.is_at_rest:
        end = outline.session_ends[-1]
        is_finished = end.exit_code in {ExitCode.OK, ExitCode.INCOMPLETE}
        run |= {
            "state": RunState.FINISHED if is_finished else RunState.STOPPED,
            "ended_at": time_in_files(end.ended_at),
            "seconds": _seconds(outline),
            "exit_code": end.exit_code,
        }
    if outline.is_at_rest and (summary := _recorded_summary(folder, outline.file_hashes)) is not None:
        run |= {"stopped_because": summary.stopped_because}
        run |= _figures(summary.statuses, summary.requests, summary.devices_per_second)
        return ListedRun(**run)
    with folder.journal.inspect() as journal:
        sending = journal.sending()
        statuses = _statuses(folder, journal, outline)
        run |= _figures(statuses, count_requests(journal), sending.devices_per_second)
        if outline.is_at_rest:
            run["problem"] = f"{folder.summary}: is not the file that the run wrote; see `audit --verify`"
        elif process is None:
            run["seconds"] = round(sending.seconds, 3)
    return ListedRun(**run)


def _described(
    folder: RunFolder, identity: RunIdentity, created_at: int, process: Process | None
) -> dict[str, Any]:
    """The fields that the identity of a run has, and its state if it is not at rest."""
    return {
        "run_dir": str(folder.path),
        "state": RunState.AT_WORK if process else RunState.INTERRUPTED,
        "process": _at_work(process),
        "run_id": identity.run_id,
        "job": recorded_job(identity).name or identity.job_action,
        "job_key": None if identity.retry_of else _job_key(identity),
        "action": identity.job_action,
        "carrier": identity.carrier,
        "began_at": time_in_files(created_at),
        "seconds": _seconds_at_work(process),
        "rows_read": identity.rows_read,
        "rejected": identity.rejected,
        "planned": identity.planned,
    }


def _job_key(identity: RunIdentity) -> str:
    """A job without a name is the same if it does the same, as for the guards of a job."""
    job = recorded_job(identity)
    targets = [] if job.name else [job.license.get(key) for key in ("account", "sku", "from_sku", "to_sku")]
    return msgspec.json.encode([identity.carrier, identity.job_action, job.name, *targets]).decode()


def _figures(
    statuses: Mapping[DeviceStatus, int], requests: Mapping[str, int], devices_per_second: float | None
) -> dict[str, Any]:
    total = requests["total"]
    return {
        "statuses": dict(statuses),
        "requests": dict(requests),
        "throttled_share": round(requests[Outcome.THROTTLED] / total, 4) if total else None,
        "devices_per_second": devices_per_second,
    }


def _recorded_summary(folder: RunFolder, file_hashes: Mapping[str, str]) -> Summary | None:
    """The summary that the last session wrote, published or not; None if it is lost or has changed.

    The session may publish it meanwhile: so the first place is the last one, too.
    """
    recorded = file_hashes.get(folder.summary.name)
    for path in (folder.summary, staged_path(folder.summary), folder.summary):
        try:
            if path.exists() and sha256_of(path) == recorded:
                return read_summary(path)
        except RunFolderError:
            continue  # of another version
        except NoAccess:
            if path.exists():
                raise
    return None


def _statuses(folder: RunFolder, journal: JournalQueries, outline: Outline) -> dict[DeviceStatus, int]:
    """Devices by status. The plan is read only for migrations, and if callbacks have reported outcomes."""
    identity = outline.identity
    statuses: Counter[DeviceStatus] = Counter()
    if identity.to_sku is not None or folder.outcomes.name in outline.file_hashes:
        refuse_changed_plan(folder, identity)
        for frame in state_frames_of(folder, journal):
            counts = frame["status"].value_counts().iter_rows()
            statuses.update({DeviceStatus(status): devices for status, devices in counts})
    else:
        statuses = count_statuses(journal.history(batches=range(1, identity.batches + 1)))
        statuses.update({DeviceStatus(status): devices for status, devices in identity.excluded.items()})
        statuses[DeviceStatus.PENDING] += identity.planned - statuses.total()
    return {status: statuses[status] for status in sorted(statuses) if statuses[status]}


def _without_journal(folder: RunFolder, process: Process | None) -> ListedRun:
    """A folder that is planned or being planned. Raises RunFolderError if its journal is lost."""
    began_at = process.since if process else _changed_at(folder.plan)
    if process is None:
        if not folder.plan.exists() or any(path.exists() for path in (*folder.session_files, folder.log)):
            refuse_without_journal(folder)
        return ListedRun(
            run_dir=str(folder.path), state=RunState.PLANNED, began_at=began_at, **_planned(folder)
        )
    return ListedRun(
        run_dir=str(folder.path),
        state=RunState.AT_WORK,
        began_at=began_at,
        seconds=_seconds_at_work(process),
        process=_at_work(process),
    )


def _planned(folder: RunFolder) -> dict[str, Any]:
    """What the record of a plan says of its run; nothing if it is missing or damaged."""
    with suppress(BatchlicError):
        record, _ = read_plan_record(folder)
        job = record.planned_job
        return {
            "job": job.name or job.action,
            "action": job.action,
            "carrier": record.carrier,
            "rows_read": record.rows_read,
            "rejected": record.rejected,
            "planned": record.planned,
        }
    return {}


def _unread(path: Path, error: Exception, process: Process | None = None) -> ListedRun:
    match error:
        case OtherVersion():
            state = RunState.OTHER_VERSION
        case RunFolderError() | ValueError() | OverflowError() | pl.exceptions.PolarsError():
            state = RunState.DAMAGED
        case _:
            state = RunState.UNREADABLE
    return ListedRun(
        run_dir=os.fsencode(path).decode(errors="backslashreplace"),
        state=state,
        problem=next(iter(str(error).splitlines()), type(error).__name__),
        process=_at_work(process),
    )


def _changed_at(path: Path) -> str | None:
    try:
        return time_in_files(path.stat().st_mtime_ns // 1000)
    except (OSError, ValueError, OverflowError):
        return None


def _at_work(process: Process | None) -> AtWork | None:
    return process and AtWork(pid=process.pid, host=process.host, since=process.since)


def _seconds(outline: Outline) -> float:
    return round(sum(max(0, end.ended_at - end.started_at) for end in outline.session_ends) / 1e6, 3)


def _seconds_at_work(process: Process | None) -> float | None:
    """Seconds since the process began; None without a process."""
    if process is None:
        return None
    try:
        return max(0.0, round(time.time() - datetime.fromisoformat(process.since).timestamp(), 3))
    except ValueError:
        return None


def _is_since(run: ListedRun, earliest: str | None) -> bool:
    return earliest is None or run.state in UNKNOWN or (run.began_at or "") >= earliest
