"""One device's story across all runs: planned, sent, answered, settled, taken back."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalogue import Action
from batchlic.chunker import parse_ranges
from batchlic.errors import RunFolderError, UsageError
from batchlic.journal import Attempt, Event, Journal, RunIdentity, Settlement
from batchlic.journal.steps import Step
from batchlic.runs.folder import RunFolder
from batchlic.writer.results import read_outcomes


class HistoryEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to a device: `event` is planned, sent, answered, taken_back, settled or called_back.

    `at` is ISO 8601 in UTC; what does not belong to the event is left out.
    """

    at: str
    event: str
    run_dir: str
    run_id: str
    batch_id: int | None
    action: str
    account_name: str
    sku_number: str
    source: str | None = None
    row: int | None = None
    x_request_id: str | None = None
    attempt: int | None = None
    outcome: str | None = None
    """Of an answer as in audit.parquet, `none` where none was recorded; of a settlement its verdict; of a
    plan the status of a device that it leaves out."""
    http_status: int | None = None
    request_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    settled_by: str | None = None
    reason: str | None = None


def device_history(device: str, runs: Path) -> list[HistoryEvent]:
    """All that the runs in `runs`, however deep, know of an IMEI or ICCID, in order of time.

    Raises UsageError where there is no run at all, RunFolderError where one can't be read: a story with
    gaps would mislead.
    """
    folders = [RunFolder(path.parent) for path in sorted(runs.rglob("journal.db"))]
    if not folders:
        raise UsageError(f"{runs}: there is no run in this folder")
    events = [event for folder in folders for event in _chapters(device, folder)]
    return sorted(events, key=lambda event: event.at)


def _chapters(device: str, folder: RunFolder) -> Iterator[HistoryEvent]:
    with closing(Journal.open(folder.journal)) as journal:
        try:
            plan = pl.scan_parquet(folder.plan).with_row_index("plan_row")
            places = plan.filter((pl.col("imei") == device) | (pl.col("iccid") == device)).collect()
            for place in places.iter_rows(named=True):
                if place["batch_id"] is None:
                    yield _planned(place, folder, journal)
                    continue
                batch = plan.filter(pl.col("batch_id") == place["batch_id"]).collect()
                is_it = (batch["source"] == place["source"]) & (batch["row"] == place["row"])
                yield from _of_place(place, is_it.arg_true()[0], folder, journal)
                yield from _called_back(place, folder, journal)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise RunFolderError(f"{folder.plan}: can't be read ({str(error).splitlines()[0]})") from error


def _of_place(
    place: dict[str, object], offset: int, folder: RunFolder, journal: Journal
) -> Iterator[HistoryEvent]:
    known = _known(place, folder, journal)
    yield _planned(place, folder, journal)
    batch_id, identity = int(str(place["batch_id"])), journal.identity
    for step in Step if identity.to_sku else [Step.UNASSIGN]:
        for event in journal.history(batches=step.numbers(range(batch_id, batch_id + 1), identity.batches)):
            if not event.part or offset in parse_ranges(event.part):
                yield from _of_event(event, known | _license_of(event, step, identity))


def _license_of(event: Event, step: Step, identity: RunIdentity) -> dict[str, object]:
    """What a request of a migration, or a settlement of one, is about; nothing to add for other runs."""
    if identity.to_sku is None:
        return {}
    if isinstance(event, Settlement):
        action, is_about_new = step.word, step is Step.ASSIGN
    else:
        undoes_new = step is Step.RESTORE and event.action == Action.UNASSIGN
        action, is_about_new = event.action, step in {Step.ASSIGN, Step.CLEAR} or undoes_new
    return {"action": action, **({"sku_number": identity.to_sku} if is_about_new else {})}


def _step_of(outcome: dict[str, object], identity: RunIdentity) -> dict[str, object]:
    """What a callback about a step of a migration is about."""
    if outcome["step"] is None:
        return {}
    is_about_new = outcome["step"] == Step.ASSIGN.word
    return {"action": outcome["step"], **({"sku_number": identity.to_sku} if is_about_new else {})}


def _called_back(place: dict[str, object], folder: RunFolder, journal: Journal) -> Iterator[HistoryEvent]:
    if not folder.outcomes.exists():
        return
    told = read_outcomes(folder.outcomes).filter(pl.col("plan_row") == place["plan_row"]).collect()
    for outcome in told.iter_rows(named=True):
        fields = {name: outcome[name] for name in ("request_id", "error_code", "error_message")}
        at = round(outcome["settled_at"].timestamp() * 1e6)
        said = {"outcome": outcome["status"]} | fields | _step_of(outcome, journal.identity)
        yield _chapter(at, "called_back", _known(place, folder, journal) | said)


def _planned(place: dict[str, object], folder: RunFolder, journal: Journal) -> HistoryEvent:
    origin = {"source": place["source"], "row": place["row"], "outcome": place.get("held")}
    return _chapter(journal.created_at, "planned", _known(place, folder, journal) | origin)


def _known(place: dict[str, object], folder: RunFolder, journal: Journal) -> dict[str, object]:
    identity = journal.identity
    known = {name: place[name] for name in ("batch_id", "account_name", "sku_number")}
    return known | {"run_dir": str(folder.path), "run_id": identity.run_id, "action": identity.job_action}


def _of_event(event: Event, known: dict[str, object]) -> Iterator[HistoryEvent]:
    if isinstance(event, Settlement):
        decided = {"outcome": event.verdict, "settled_by": event.settled_by, "reason": event.reason}
        yield _chapter(event.settled_at, "settled", known | decided)
        return
    request = known | {"x_request_id": event.x_request_id, "attempt": event.attempt}
    yield _chapter(event.started_at, "sent", request)
    answer = {
        name: getattr(event, name) for name in ("http_status", "request_id", "error_code", "error_message")
    }
    yield _chapter(
        event.started_at + round((event.duration_ms or 0) * 1000),
        "taken_back" if _is_taken_back(event) else "answered",
        request | answer | {"outcome": event.outcome or "none"},
    )


def _is_taken_back(attempt: Attempt) -> bool:
    return attempt.action == Action.UNASSIGN and attempt.outcome == Outcome.ACCEPTED


def _chapter(at: int, event: str, fields: dict[str, object]) -> HistoryEvent:
    when = datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="milliseconds")
    return msgspec.convert({"at": when, "event": event, **fields}, HistoryEvent)
