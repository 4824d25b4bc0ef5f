"""summary.json: one run in figures, as its files tell them."""

from pathlib import Path

import msgspec
import polars as pl

from batchlic.atomic import replacing
from batchlic.carrier.answers import Outcome
from batchlic.errors import ExitCode, RunFolderError
from batchlic.journal import Journal


class InventoryRows(msgspec.Struct, frozen=True):
    """One inventory: its name and data rows."""

    name: str
    rows: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of summary.json; times are ISO 8601 in UTC, null before anything was sent."""

    run_id: str
    job: str
    action: str
    carrier: str
    sources: list[InventoryRows]
    rows_read: int
    rejected: dict[str, int]
    planned: int
    statuses: dict[str, int]
    batches: int
    requests: dict[str, int]
    started_at: str | None
    finished_at: str | None
    devices_per_second: float | None
    exit_code: int | None
    """None while the run is at work, or after it was killed."""
    stopped_because: str | None = None
    notes: list[str] = []


def count_statuses(results: Path) -> dict[str, int]:
    """Status: devices, as results.parquet has them."""
    counts = pl.scan_parquet(results).group_by("status").len().sort("status").collect()
    return dict(counts.iter_rows())


def count_requests(journal: Journal) -> dict[str, int]:
    """Outcome: requests, and their total; a request without a recorded answer is ambiguous."""
    found = journal.outcomes()
    counts = {outcome.value: found.get(outcome, 0) for outcome in Outcome}
    counts[Outcome.AMBIGUOUS] += found.get(None, 0)
    return {"total": sum(counts.values()), **counts}


def exit_code_of(statuses: dict[str, int], *, rejected: int, max_rejects: int) -> ExitCode:
    """What a run ends with that was not stopped; devices still to be sent make it resumable."""
    if statuses.get("pending"):
        return ExitCode.STOPPED
    good = sum(statuses.get(status, 0) for status in ("accepted", "confirmed", "skipped"))
    is_complete = good == sum(statuses.values()) and rejected <= max_rejects
    return ExitCode.OK if is_complete else ExitCode.INCOMPLETE


def write_summary(path: Path, summary: Summary) -> None:
    """Write summary.json."""
    encoded = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    with replacing(path) as temporary:
        temporary.write_bytes(encoded + b"\n")


def read_summary(path: Path) -> Summary:
    """The summary as it stands in the file. Raises RunFolderError where it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Summary)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{path}: is damaged ({error}); move it away, and `batchlic resume {path.parent}` writes it again"
        ) from error
