"""The records of a journal: the run's identity, intents, answers, settlements and session ends."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import msgspec

from batchlic.carrier.catalog import Action
from batchlic.chunker.status import DeviceStatus
from batchlic.chunker.step import Step

SANDBOX = "sandbox"
"""The carrier's name in a run with `--sandbox`. The sandbox starts empty, so such a run has no ledger."""

SETTLED_BY_CALLBACK = "a callback"
"""`settled_by` if a callback proves the outcome. No user of an operating system has a name with a space."""


class InventoryFile(msgspec.Struct, frozen=True, kw_only=True):
    """One inventory at the start of the run. Size (bytes) and hash are None if it is not a file.

    Those of a database are of the text of the rows that `query` returned. Unset, the query is not encoded.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    query: str | msgspec.UnsetType = msgspec.UNSET


class LicenseCount(msgspec.Struct, frozen=True, omit_defaults=True):
    """The numbers of licenses of one SKU on one account, at one moment; None where one is unknown.

    `listed_instead`: the SKUs that the carrier lists, if this one is not among them.
    """

    account_name: str
    sku_number: str
    assigned: int | None
    available: int | None
    listed_instead: tuple[str, ...] = ()


class PlanApproval(msgspec.Struct, frozen=True, kw_only=True):
    """The approval of a plan by a second person, who is the owner of its file.

    `approved_at` is ISO 8601 in UTC. `record_sha256` is the hash of plan.json, which has the whole job.
    """

    user: str
    uid: int
    approved_at: str
    plan_sha256: str
    record_sha256: str

    @property
    def approver(self) -> str:
        """The person, for messages and files."""
        return f"{self.user} (uid {self.uid})"


class KeptColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of kept.parquet, and the SHA-256 of the file."""

    columns: list[str]
    sha256: str


class RunIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a run. A session with another identity is refused."""

    run_id: str
    action: Action
    carrier: str
    """Base URL, or `sandbox`. A run never continues with another carrier."""
    job: dict[str, Any]
    """The whole job, so that the run can be resumed without the job file."""
    inputs: list[InventoryFile] = []
    plan_sha256: str
    sources: list[tuple[str, int]]
    """Name and data rows of each inventory."""
    rows_read: int
    rejected: dict[str, int]
    """Rejected rows by reason."""
    planned: int
    excluded: dict[str, int] = {}
    """Planned devices in no batch, by status."""
    batches: int
    notes: list[str] = []
    licenses: list[LicenseCount] = []
    """The counts before anything was sent; empty if the carrier did not report them."""
    to_sku: str | None = None
    """In a migration, the SKU that the devices get. The plan has the SKU that they leave."""
    restorable: list[str] = []
    """In a migration, the SKUs whose step is undone if the other step fails."""
    profile: str | None = None
    """The name of the profile whose login the run used first."""
    retry_of: str | None = None
    """The run id of the run whose failed devices this run sends again."""
    approval: PlanApproval | msgspec.UnsetType = msgspec.UNSET
    """Who approved the plan. Unset, it is not encoded: hashes of earlier identities stay the same."""
    kept: KeptColumns | msgspec.UnsetType = msgspec.UNSET
    """The columns of the inventories that were kept when the run was planned. Unset if there are none."""

    @property
    def kept_columns(self) -> list[str]:
        """The names of the kept columns."""
        return [] if self.kept is msgspec.UNSET else self.kept.columns

    @property
    def is_sync(self) -> bool:
        """Whether the run syncs: then each batch has an action of its own, and `action` is assign."""
        return bool(self.job.get("action") == "sync")

    @property
    def job_action(self) -> str:
        """The action of the job: assign, unassign, migrate or sync."""
        if self.is_sync:
            return "sync"
        return self.action.value if self.to_sku is None else "migrate"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One request before it is sent. `started_at`: microseconds since 1970, UTC."""

    batch_id: int
    step: Step | None = None
    """In a migration, the step of the batch; None in other runs."""
    part: str
    x_request_id: str
    attempt: int
    action: Action
    device_count: int
    request_sha256: str
    pace_rps: float | None
    started_at: int


class Attempt(NamedTuple):
    """An intent with its answer. Without a recorded answer, the fields of the answer are None.

    Times are microseconds since 1970 in UTC, `duration_ms` milliseconds, `retry_after_s` seconds.
    `is_refusal`: the service refused the request. If its devices may not be the reason, the outcome is
    unavailable, and the request is sent again.
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
    is_refusal: bool | None = None


class Part(NamedTuple):
    """Some devices of a batch, as row ranges (`part`); empty for all devices."""

    batch_id: int
    step: str | None
    part: str
    device_count: int


SETTLEMENTS = (DeviceStatus.ACCEPTED, DeviceStatus.FAILED, DeviceStatus.PENDING)
"""Possible decisions about a device in doubt. Accepted: the request was executed. Failed: the request was not
executed, and nothing more is sent. Pending: send the request again, executed or not."""


class Settlement(NamedTuple):
    """One decision about devices in doubt. `settled_at`: microseconds since 1970, UTC.

    `status` is one of SETTLEMENTS. `seq` is the place among the attempts: the decision is about earlier ones.
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
    """The end of one session of a run. Times: microseconds since 1970, UTC."""

    started_at: int
    ended_at: int
    exit_code: int


class Sending(NamedTuple):
    """The devices that the carrier's answers have settled, and the seconds in which they were sent."""

    devices: int
    seconds: float

    @property
    def devices_per_second(self) -> float | None:
        """The speed of the sending; None before the first answer."""
        return round(self.devices / self.seconds, 1) if self.seconds > 0 and self.devices else None


class LostAnswers(NamedTuple):
    """The number of requests for a part of a batch whose answers are not known."""

    batch_id: int
    part: str
    requests: int
