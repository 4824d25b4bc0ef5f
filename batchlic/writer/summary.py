"""summary.json: one run in figures."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from batchlic.atomic import replacing
from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode, RunFolderError
from batchlic.journal import JournalQueries


class InventoryRows(msgspec.Struct, frozen=True, omit_defaults=True):
    """One inventory: its name and data rows. `query` is the SQL text that read them, if it is a database."""

    name: str
    rows: int
    query: str | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of summary.json. Times are ISO 8601 in UTC, and null before anything was sent."""

    run_id: str
    job: str
    action: str
    carrier: str
    sources: list[InventoryRows]
    rows_read: int
    rejected: dict[str, int]
    planned: int
    statuses: dict[DeviceStatus, int]
    batches: int
    requests: dict[str, int]
    started_at: str | None
    finished_at: str | None
    devices_per_second: float | None
    exit_code: int | None
    """None while a session is at work, or after it was killed."""
    unconfirmed: int = 0
    """Devices that are accepted and not confirmed, if the job requires confirmation."""
    stopped_because: str | None = None
    notes: list[str] = []


STOPS = {
    ExitCode.BUG: "Stopped by an error",
    ExitCode.USAGE: "Stopped early",
    ExitCode.REFUSED: "Refused",
    ExitCode.CREDENTIALS: "Credentials rejected",
    ExitCode.STOPPED: "Stopped early",
}
"""How a run ended that did not finish, by exit code, for people."""

_DONE = (DeviceStatus.ACCEPTED, DeviceStatus.CONFIRMED, DeviceStatus.SKIPPED)


def count_requests(journal: JournalQueries) -> dict[str, int]:
    """The number of requests by outcome, and in total. A request without a recorded answer is ambiguous."""
    found = journal.outcomes()
    counts = {outcome.value: found.get(outcome, 0) for outcome in Outcome}
    counts[Outcome.AMBIGUOUS] += found.get(None, 0)
    return {"total": sum(counts.values()), **counts}


def exit_code_of(
    statuses: Mapping[DeviceStatus, int],
    *,
    rejected: int,
    max_rejects: int,
    require_confirmation: bool = False,
) -> ExitCode:
    """The exit code of a run that was not stopped. With pending devices, the run is resumable."""
    if statuses.get(DeviceStatus.PENDING):
        return ExitCode.STOPPED
    done = sum(statuses.get(status, 0) for status in _DONE)
    if require_confirmation:
        done -= statuses.get(DeviceStatus.ACCEPTED, 0)
    is_complete = done == sum(statuses.values()) and rejected <= max_rejects
    return ExitCode.OK if is_complete else ExitCode.INCOMPLETE


def write_summary(path: Path, summary: Summary) -> None:
    """Write summary.json."""
    encoded = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    with replacing(path) as temporary:
        temporary.write_bytes(encoded + b"\n")


def read_summary(path: Path) -> Summary:
    """The summary in the file. Raises RunFolderError if the file is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Summary)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{path}: is damaged ({error}); move it away, and `batchlic resume {path.parent}` writes it again"
        ) from error
