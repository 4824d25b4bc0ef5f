"""How a run stands now: devices, the process at work on it, why it stopped, and the runs linked with it."""

from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import polars as pl

from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode, NoAccess, RunFolderError
from batchlic.figures import time_in_files
from batchlic.journal import JournalQueries
from batchlic.runs.finalize import now, summarize
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import inspected, refuse_changed_plan, sha256_of
from batchlic.runs.live_limits import LimitsInForce, limits_in_force
from batchlic.runs.process import Process
from batchlic.runs.related import RelatedRun, related_runs
from batchlic.runs.staging import recorded_path
from batchlic.runs.states import recorded_reports, state_frames_of
from batchlic.writer.callback_outcomes import UnjudgedMessage, count_undecided, unjudged_messages
from batchlic.writer.device_states import DEVICE_STATES
from batchlic.writer.in_doubt import Doubt, doubts_in
from batchlic.writer.summary import Summary, read_summary

_RATE_SPAN_S = 60
"""Seconds over which the speed of a run at work is averaged."""


class AtWork(msgspec.Struct, frozen=True, kw_only=True):
    """The process that works on a run. `since` is ISO 8601 in UTC.

    `percent` is the share of the planned devices that are not pending, from 0 to 100. `devices_per_second` is
    that of this process in the last minute. `seconds_left` is None if nothing was settled in that minute.
    """

    pid: int
    host: str
    since: str
    percent: int
    devices_per_second: float
    seconds_left: int | None


class LastAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The carrier's answer to the newest request that has one. `at` is ISO 8601 in UTC."""

    at: str
    outcome: str
    http_status: int | None
    error_code: str | None
    error_message: str | None
    x_request_id: str


class StatusReport(Summary, frozen=True, kw_only=True):
    """A summary, and what else is known of a run at this moment."""

    at_work: AtWork | None
    """None if no process works on the run, or if its lock can't be seen."""
    limits: LimitsInForce | None
    """The limits of the session at work; None without one."""
    last_answer: LastAnswer | None
    """None before the first answer, and once the run has finished."""
    related: list[RelatedRun]
    doubts: list[Doubt]
    undecided: dict[str, int]
    """Devices by what callbacks reported of them (`on hold`, `canceled`, an unknown status)."""
    unjudged: list[UnjudgedMessage]
    """Messages about requests of the run that are about no known device."""


def status(folder: RunFolder) -> StatusReport:
    """The state of a run, from plan, journal and the callbacks so far.

    This writes nothing, and does not affect a session at work.
    """
    process = folder.process  # before the journal is read: a run that ends meanwhile is at its end there
    with inspected(folder) as journal:
        refuse_changed_plan(folder, journal.identity)
        states = _states_in_one_pass(folder, journal, since=_rate_since(process))
        summary = summarize(journal, states.statuses, journal.final_session_end)
        summary = as_it_stands(summary, folder, journal)
        reports = recorded_reports(folder, journal)
        is_finished = summary.exit_code in {ExitCode.OK, ExitCode.INCOMPLETE}
        return StatusReport(
            **msgspec.structs.asdict(summary),
            at_work=process and _at_work(process, states),
            limits=limits_in_force(folder),
            last_answer=None if is_finished else _last_answer(journal),
            related=related_runs(folder, journal.identity),
            doubts=doubts_in(states.in_doubt.lazy()),
            undecided=count_undecided(reports),
            unjudged=unjudged_messages(reports),
        )


def _notes_on_missing_outcomes(folder: RunFolder, journal: JournalQueries) -> list[str]:
    is_recorded = folder.outcomes.name in journal.file_hashes()
    if not is_recorded or recorded_path(folder.outcomes, journal).exists():
        return []
    note = (
        f"{folder.outcomes} is missing, so the devices are shown as if no callback had come. Restore it, or "
        f"make it again from the store of callbacks: batchlic reconcile {folder.argument}"
    )
    return [note]


def summary_of(folder: RunFolder) -> Summary:
    """The run in figures: as its last session recorded them, or counted if something has happened since.

    Raises RunFolderError if nothing was sent from the folder, or if a file of the run is missing or damaged.
    """
    with inspected(folder) as journal:
        recorded = _recorded_summary(folder, journal)
    return recorded or status(folder)


class _States(NamedTuple):
    """Devices by status, those in doubt, and the number of those settled lately."""

    statuses: dict[DeviceStatus, int]
    in_doubt: pl.DataFrame
    settled_lately: int


def _rate_since(process: Process | None) -> datetime:
    """When the last minute began, or the session at work if that was later."""
    since = datetime.fromtimestamp(now() / 1e6 - _RATE_SPAN_S, UTC)
    with suppress(ValueError):
        if process is not None:
            return max(since, datetime.fromisoformat(process.since))
    return since


def _states_in_one_pass(folder: RunFolder, journal: JournalQueries, *, since: datetime) -> _States:
    """The states of one moment, though a session may be at work. Lately: since that time."""
    statuses: Counter[str] = Counter()
    in_doubt = [pl.DataFrame(schema=DEVICE_STATES)]
    settled_lately = 0
    for frame in state_frames_of(folder, journal):
        statuses.update(dict(frame["status"].value_counts().iter_rows()))
        in_doubt.append(frame.filter(pl.col("status") == DeviceStatus.IN_DOUBT.value))
        settled_lately += frame.select((pl.col("settled_at") >= since).sum()).item() or 0
    by_status = {DeviceStatus(status): statuses[status] for status in sorted(statuses)}
    return _States(by_status, pl.concat(in_doubt), settled_lately)


def _at_work(process: Process, states: _States) -> AtWork:
    planned = sum(states.statuses.values())
    pending = states.statuses.get(DeviceStatus.PENDING, 0)
    seconds = now() / 1e6 - _rate_since(process).timestamp()
    rate = states.settled_lately / max(1.0, seconds)
    return AtWork(
        pid=process.pid,
        host=process.host,
        since=process.since,
        percent=100 * (planned - pending) // planned if planned else 100,
        devices_per_second=round(rate, 1),
        seconds_left=round(pending / rate) if rate else None,
    )


def _last_answer(journal: JournalQueries) -> LastAnswer | None:
    attempt = journal.last_answer
    if attempt is None:
        return None
    return LastAnswer(
        at=time_in_files(attempt.started_at + round((attempt.duration_ms or 0) * 1000)),
        outcome=attempt.outcome or "none",
        http_status=attempt.http_status,
        error_code=attempt.error_code,
        error_message=attempt.error_message,
        x_request_id=attempt.x_request_id,
    )


def as_it_stands(summary: Summary, folder: RunFolder, journal: JournalQueries) -> Summary:
    """The summary, with what the journal does not have: fields of the last session, and missing files."""
    recorded = _recorded_summary(folder, journal)
    if recorded is not None:
        fields = ("stopped_because", "unconfirmed", "notes")
        summary = msgspec.structs.replace(summary, **{name: getattr(recorded, name) for name in fields})
    missing = _notes_on_missing_outcomes(folder, journal)
    return msgspec.structs.replace(summary, notes=[*summary.notes, *missing])


def _recorded_summary(folder: RunFolder, journal: JournalQueries) -> Summary | None:
    """The summary of the last session, if nothing has happened since; the journal does not have all of it."""
    if journal.final_session_end is None:
        return None
    with suppress(RunFolderError, NoAccess, OSError):
        path = recorded_path(folder.summary, journal)
        if sha256_of(path) == journal.file_hashes().get(folder.summary.name):
            return read_summary(path)
    return None
