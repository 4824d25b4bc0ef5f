"""What a journal holds: who a run is, what it intended, what was answered, settled and left."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import msgspec

from batchlic.carrier.catalog import Action
from batchlic.chunker.status import DeviceStatus
from batchlic.chunker.step import Step

SANDBOX = "sandbox"
"""The carrier's name in a run with `--sandbox`. The sandbox starts empty, so such a run has no ledger."""

SETTLED_BY_CALLBACK = "a callback"
"""Who settled what a callback proves. No user of an operating system has a name with a space."""


class InventoryFile(msgspec.Struct, frozen=True, kw_only=True):
    """One inventory as the run began with it; size in bytes and hash are None where it is no file."""

    name: str
    size: int | None = None
    sha256: str | None = None


class LicenseCount(msgspec.Struct, frozen=True):
    """Licenses of one SKU on one account, at one moment."""

    account_name: str
    sku_number: str
    assigned: int
    available: int


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a run this run: a session with anything else is refused."""

    run_id: str
    action: Action
    carrier: str
    """Base URL, or `sandbox`. A run never continues against another carrier."""
    job: dict[str, Any]
    """The job as given, so that the run can be resumed without the job's file."""
    inputs: list[InventoryFile] = []
    plan_sha256: str
    sources: list[tuple[str, int]]
    """Name and data rows of each inventory."""
    rows_read: int
    rejected: dict[str, int]
    """Reason: rows."""
    planned: int
    excluded: dict[str, int] = {}
    """Status: planned devices that are in no batch."""
    batches: int
    notes: list[str] = []
    licenses: list[LicenseCount] = []
    """The counts before anything was sent; empty where the carrier did not give them."""
    to_sku: str | None = None
    """Of a migration, the SKU to get; its plan has the SKU to leave."""
    restorable: list[str] = []
    """Of a migration, the SKUs whose step is undone where the other step fails."""

    @property
    def job_action(self) -> str:
        """The action of the job: assign, unassign or migrate."""
        return self.action.value if self.to_sku is None else "migrate"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One request about to be sent; `started_at` in microseconds since 1970, UTC."""

    batch_id: int
    step: Step | None = None
    """Of a migration, the step of the batch."""
    part: str
    x_request_id: str
    attempt: int
    action: Action
    device_count: int
    request_sha256: str
    pace_rps: float | None
    started_at: int


class Attempt(NamedTuple):
    """An intent with its answer; the answer's fields are None where no answer was recorded.

    Times are microseconds since 1970 in UTC, `duration_ms` milliseconds, `retry_after_s` seconds.
    """

    seq: int
    batch_id: int
    step: str | None
    part: str
    x_request_id: str
    attempt: int
    action: str
    device_count: int
    request_sha256: str
    pace_rps: float | None
    started_at: int
    duration_ms: float | None
    outcome: str | None
    final: bool | None
    http_status: int | None
    request_id: str | None
    error_code: str | None
    error_message: str | None
    retry_after_s: float | None


class Part(NamedTuple):
    """Some devices of a batch: `part` is row ranges, empty for all of them."""

    batch_id: int
    step: str | None
    part: str
    device_count: int


SETTLEMENTS = (DeviceStatus.ACCEPTED, DeviceStatus.FAILED, DeviceStatus.PENDING)
"""What a device in doubt can be settled as: the request was executed; it was not, and nothing more is sent;
send it again, executed or not."""


class Settlement(NamedTuple):
    """One decision about devices in doubt; `settled_at` in microseconds since 1970, UTC.

    `status` is one of SETTLEMENTS. `seq` is its place among the attempts: it decides about those before it.
    """

    seq: int
    batch_id: int
    step: str | None
    part: str
    device_count: int
    status: str
    settled_by: str
    reason: str
    settled_at: int


Event: TypeAlias = Attempt | Settlement
"""An entry of a run's history, in the order of `seq`."""


class SessionEnd(NamedTuple):
    """How one session of the run ended; times in microseconds since 1970, UTC."""

    started_at: int
    ended_at: int
    exit_code: int


class LostAnswers(NamedTuple):
    """How many requests for a part of a batch have no known answer."""

    batch_id: int
    part: str
    requests: int
