"""summary.json: one run in figures."""

import shlex
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
    """The run."""
    job: str
    """Name of the job."""
    action: str
    """`assign`, `unassign`, `migrate` or `sync`."""
    carrier: str
    """Base URL of the carrier, or `sandbox`."""
    sources: list[InventoryRows]
    """Each inventory's `name` and `rows`, and the `query` of a database. In a sync, the last one is `ledger`,
    with the devices that only the ledger names."""
    rows_read: int
    """Data rows of all inventories."""
    rejected: dict[str, int]
    """Rejected rows by reason."""
    planned: int
    """Planned devices."""
    statuses: dict[DeviceStatus, int]
    """Devices by status."""
    batches: int
    """Planned batches."""
    requests: dict[str, int]
    """Requests in `total`, and by outcome."""
    started_at: str | None
    """When the first request was sent."""
    finished_at: str | None
    """When the last session ended."""
    devices_per_second: float | None
    """Devices that answers accepted, or refused for good, per second of sending: from a session's first
    request to its last answer, summed over sessions. Settling, callbacks and waiting do not change it. In a
    migration, a device counts after both steps."""
    exit_code: int | None
    """Exit code of the run; null while a session is at work, or after it was killed."""
    unconfirmed: int = 0
    """Devices that are accepted and not confirmed, if the job requires confirmation; otherwise 0."""
    stopped_because: str | None = None
    """Why the run stopped early; null if it did not."""
    notes: list[str] = []
    """Remarks on inventories, license counts and listeners."""


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
        resume = f"batchlic resume {shlex.quote(str(path.parent))}"
        raise RunFolderError(
            f"{path}: is damaged ({error}); move it away, and `{resume}` writes it again"
        ) from error
