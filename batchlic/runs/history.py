"""The history of one device across runs: planned or rejected, sent, answered, settled, called back."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from batchlic.atomic import explain_read_errors, is_moved, read_error
from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus, Step, parse_ranges
from batchlic.chunker.schema import REJECTS
from batchlic.errors import BatchlicError, RunFolderError, UsageError
from batchlic.figures import time_in_files
from batchlic.journal import Event, JournalQueries, RunIdentity, Settlement
from batchlic.journal.store_record import STORE_RECORD
from batchlic.objectstore.copies import problem_of
from batchlic.reader.scans import scan_parquet
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import identity_of, inspected, left_by_a_run, refuse_changed_plan
from batchlic.runs.kept import kept_of
from batchlic.runs.search import is_planned, is_rejected, runs_to_read
from batchlic.runs.states import recorded_reports, rejects_of
from batchlic.writer.callback_outcomes import outcomes_of


class HistoryEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a device.

    `event` is planned, rejected, sent, answered, taken_back, settled or called_back.
    `at` is ISO 8601 in UTC. Fields that do not apply to the event are left out.
    """

    at: str
    event: str
    run_dir: str
    run_id: str
    carrier: str
    """Base URL, or `sandbox`."""
    batch_id: int | None
    action: str
    account_name: str | None
    sku_number: str | None
    source: str | None = None
    row: int | None = None
    x_request_id: str | None = None
    attempt: int | None = None
    outcome: str | None = None
    """For an answer: as in audit.parquet, or `none` if no answer was recorded. For a settlement: accepted,
    failed or resend. For planned: the status of an excluded device."""
    http_status: int | None = None
    request_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    settled_by: str | None = None
    reason: str | None = None
    """For a settlement: how the operator knows. For a rejected row: the code of the reason."""
    message: str | None = None
    """For a rejected row: what is wrong, as a sentence."""
    kept: dict[str, str] = {}
    """For planned and rejected: the cells of the columns that the job keeps, without empty ones."""


def device_history(device: str, runs: Path) -> list[HistoryEvent]:
    """All events of an IMEI or ICCID in the runs below the folder `runs`, in order of time.

    Raises UsageError if there is no run at all. Raises RunFolderError if a run can't be read, because a
    history with gaps would mislead.
    """
    folders = list(_run_folders(runs))
    if not folders:
        raise UsageError(f"{runs}: there is no run in this folder")
    events = [event for folder in runs_to_read(device, folders) for event in _events_of_run(device, folder)]
    return sorted(events, key=lambda event: event.at)


class FoundHistory(msgspec.Struct, frozen=True):
    """The events of a device in the runs that can be read, and why the others can't, as sentences."""

    events: list[HistoryEvent]
    problems: list[str]


def found_history(device: str, folders: Iterable[RunFolder]) -> FoundHistory:
    """The events of an IMEI or ICCID in some runs, in order of time. Runs without a journal have none."""
    events: list[HistoryEvent] = []
    problems: list[str] = []
    for folder in runs_to_read(device, list(folders)):
        try:
            if folder.journal.exists() or left_by_a_run(folder):
                events += _events_of_run(device, folder)
        except (BatchlicError, OSError) as error:
            problems.append(str(error))
    return FoundHistory(sorted(events, key=lambda event: event.at), problems)


def _run_folders(runs: Path) -> Iterator[RunFolder]:
    """The folders below `runs` in which a run was.

    Raises NoAccess if a folder can't be opened, and RunFolderError for a damaged run in an object store.
    """

    def explain(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise read_error(error.filename, error.errno or 0) from error

    for path, folders, files in os.walk(runs, onerror=explain):
        folders[:] = sorted(name for name in folders if not is_moved(name))
        folder = RunFolder(Path(path))
        if (problem := problem_of(folder.path)) is not None:
            raise problem
        if {folder.journal_file.name, STORE_RECORD} & set(files) or left_by_a_run(folder):
            yield folder


def _events_of_run(device: str, folder: RunFolder) -> Iterator[HistoryEvent]:
    run = _Run(folder, *identity_of(folder))
    refuse_changed_plan(folder, run.identity)
    try:
        yield from _rejections(device, run)
        plan = scan_parquet(folder.plan).with_row_index("plan_row")
        for row in plan.filter(is_planned(device)).collect().iter_rows(named=True):
            planned = _PlannedDevice(row, run)
            yield planned.planned()
            if row["batch_id"] is not None:
                first_row = plan.filter(pl.col("batch_id") == row["batch_id"]).select("plan_row").first()
                offset = row["plan_row"] - int(first_row.collect().item())
                with inspected(folder) as journal:
                    yield from planned.requests(journal, offset)
                    yield from planned.callbacks(journal)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RunFolderError(f"{folder.plan}: can't be read ({str(error).splitlines()[0]})") from error


@dataclass(frozen=True, slots=True)
class _Run:
    """A run, and what its journal says at its beginning. `created_at`: microseconds since 1970."""

    folder: RunFolder
    identity: RunIdentity
    created_at: int

    @property
    def fields(self) -> dict[str, object]:
        """The fields that all events of the run share."""
        return {
            "run_dir": str(self.folder.path),
            "run_id": self.identity.run_id,
            "carrier": self.identity.carrier,
            "action": self.identity.job_action,
        }


def _rejections(device: str, run: _Run) -> Iterator[HistoryEvent]:
    """The rows of the inventories that name the device and were rejected, with the reasons."""
    rejects = run.folder.rejects
    with explain_read_errors(rejects):
        if not rejects.exists():
            return
    for row in rejects_of(run.folder).filter(is_rejected(device)).collect().iter_rows(named=True):
        names = ("account_name", "sku_number", "source", "row", "reason", "message")
        fields = run.fields | {name: row[name] for name in names}
        kept = _without_empty(row, [name for name in row if name not in REJECTS])
        yield _event(run.created_at, "rejected", fields | {"batch_id": None, "kept": kept})


def _without_empty(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: row[name] for name in names if row[name] is not None}


class _PlannedDevice:
    """The events of one row of a plan."""

    def __init__(self, row: dict[str, Any], run: _Run) -> None:
        self._row = row
        self._run = run
        placed = {name: row[name] for name in ("batch_id", "account_name", "sku_number")}
        action = {"action": row["action"]} if row.get("action") else {}  # of a device in a sync
        self._common = run.fields | placed | action

    def planned(self) -> HistoryEvent:
        """The event that the run planned or excluded the device."""
        fields = {"source": self._row["source"], "row": self._row["row"], "outcome": self._row.get("held")}
        kept = kept_of(self._run.folder, self._run.identity).rows(self._row["plan_row"], 1)
        cells = {"kept": _without_empty(kept.row(0, named=True), kept.columns) if kept.columns else {}}
        return _event(self._run.created_at, "planned", self._common | fields | cells)

    def requests(self, journal: JournalQueries, offset: int) -> Iterator[HistoryEvent]:
        """The requests, answers and settlements of the device, which is at `offset` in its batch."""
        batch_id = self._row["batch_id"]
        for event in journal.history(batches=range(batch_id, batch_id + 1)):
            if not event.part or offset in parse_ranges(event.part):
                yield from _events_of(event, self._common | self._license_of(event))

    def callbacks(self, journal: JournalQueries) -> Iterator[HistoryEvent]:
        """The callbacks about the device."""
        is_device = pl.col("plan_row") == self._row["plan_row"]
        reports = recorded_reports(self._run.folder, journal).filter(is_device)
        for outcome in outcomes_of(reports).collect().iter_rows(named=True):
            fields = {name: outcome[name] for name in ("request_id", "error_code", "error_message")}
            if outcome["step"] is not None:
                fields |= {"action": outcome["step"]} | self._sku(new=outcome["step"] == Step.ASSIGN)
            at = round(outcome["settled_at"].timestamp() * 1e6)
            yield _event(at, "called_back", self._common | {"outcome": outcome["status"]} | fields)

    def _license_of(self, event: Event) -> dict[str, object]:
        """Action and SKU of a request or settlement in a migration; empty in other runs."""
        if event.step is None:
            return {}
        if isinstance(event, Settlement):
            return {"action": event.step} | self._sku(new=event.step == Step.ASSIGN)
        undoes_new = event.step == Step.RESTORE and event.action == Action.UNASSIGN
        is_about_new = event.step in {Step.ASSIGN, Step.CLEAR} or undoes_new
        return {"action": event.action} | self._sku(new=is_about_new)

    def _sku(self, *, new: bool) -> dict[str, object]:
        return {"sku_number": self._run.identity.to_sku} if new else {}


_SETTLED_AS = {DeviceStatus.PENDING.value: "resend"}


def _events_of(event: Event, fields: dict[str, object]) -> Iterator[HistoryEvent]:
    if isinstance(event, Settlement):
        outcome = _SETTLED_AS.get(event.status, event.status)
        settled = {"outcome": outcome, "settled_by": event.settled_by, "reason": event.reason}
        yield _event(event.settled_at, "settled", fields | settled)
        return
    request = fields | {"x_request_id": event.x_request_id, "attempt": event.attempt}
    yield _event(event.started_at, "sent", request)
    answer = {
        name: getattr(event, name) for name in ("http_status", "request_id", "error_code", "error_message")
    }
    is_taken_back = event.action == Action.UNASSIGN and event.outcome == Outcome.ACCEPTED
    yield _event(
        event.started_at + round((event.duration_ms or 0) * 1000),
        "taken_back" if is_taken_back else "answered",
        request | answer | {"outcome": event.outcome or "none"},
    )


def _event(at: int, event: str, fields: dict[str, object]) -> HistoryEvent:
    return msgspec.convert({"at": time_in_files(at), "event": event, **fields}, HistoryEvent)
