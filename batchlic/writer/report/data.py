"""The data of a report. `batchlic.runs.report` collects it, and `page` shows it.

Texts of inventories and of the carrier are as they came, cut to `SHOWN` characters: the page escapes them.
"""

import msgspec

from batchlic.chunker import DeviceStatus
from batchlic.writer.summary import Summary

SHOWN = 300
"""Characters of a text from outside that a report shows: it may have any length."""


def shown(text: str | None, length: int = SHOWN) -> str | None:
    """A text from outside, cut to the length that a report shows."""
    return text if text is None or len(text) <= length else f"{text[:length]}…"


class Example(msgspec.Struct, frozen=True):
    """One rejected row. `device` is the cell with its identifier."""

    source: str
    row: int
    device: str
    message: str


class Rejects(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that were rejected for one reason, with its explanation of `reader.validation.reasons`."""

    reason: str
    rows: int
    when: str
    advice: str
    examples: list[Example]


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that failed with the same code of the carrier, in a migration in the same step."""

    step: str | None
    http_status: int | None
    error_code: str | None
    settled_by: str | None
    """The user who decided that these devices failed, or `a callback`; None if an answer did."""
    devices: int
    error_message: str | None
    """The message of the first of these devices."""
    examples: list[str]


class StepStatuses(msgspec.Struct, frozen=True):
    """The devices of a migration by the status of one step. Devices without such a request are left out."""

    step: str
    statuses: dict[str, int]


class LicenseChange(msgspec.Struct, frozen=True, kw_only=True):
    """The licenses of one SKU on one account.

    The carrier reported `assigned` and `available` before anything was sent; None if it did not. `change` is
    computed: the licenses that the run assigned, minus those that it unassigned. `in_doubt` are devices whose
    request may have changed one more.
    """

    account_name: str
    sku_number: str
    assigned: int | None
    available: int | None
    change: int
    in_doubt: int

    @property
    def assigned_after(self) -> int | None:
        """The licenses in use after the run, computed."""
        return None if self.assigned is None else self.assigned + self.change

    @property
    def available_after(self) -> int | None:
        """The licenses left after the run, computed."""
        return None if self.available is None else self.available - self.change


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that one request left in doubt. `sent_at` is ISO 8601 in UTC."""

    batch_id: int
    x_request_id: str
    sku_number: str
    sent_at: str
    reason: str
    devices: int
    examples: list[str]


class Doubts(msgspec.Struct, frozen=True, kw_only=True):
    """The devices in doubt, and some of their requests. `earlier` devices are in doubt since another run."""

    devices: int
    requests: int
    earlier: int
    shown: list[Doubt]
    is_lifetime: bool = False
    """Whether sending one of these requests again needs consent, because its license is a Lifetime one."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered in one interval of a run; `start_s` is in seconds after the first request.

    `limiter_rate` is in requests per second: those that the carrier let in over the last 10 seconds.
    """

    start_s: float
    devices_per_s: float
    requests_per_s: float
    throttled: int
    limiter_rate: float | None


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of a run over time. `began_at` is ISO 8601 in UTC, `width_s` the length of an interval.

    `pauses` is the number of pauses that are left out, such as the time between two sessions.
    """

    began_at: str
    width_s: float
    pauses: int
    intervals: list[Interval]


class LatencyBin(msgspec.Struct, frozen=True):
    """The number of requests that were answered within a range of milliseconds."""

    from_ms: float
    to_ms: float
    requests: int


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long the carrier took to answer, in milliseconds."""

    requests: int
    percentiles: dict[str, float]
    bins: list[LatencyBin]


class BatchAttempts(msgspec.Struct, frozen=True):
    """The number of batches that needed so many requests; in a migration, the steps of batches."""

    attempts: str
    batches: int


class Session(msgspec.Struct, frozen=True):
    """One session of the run. Times are ISO 8601 in UTC."""

    started_at: str
    ended_at: str
    exit_code: int


class Link(msgspec.Struct, frozen=True):
    """Another run that this one belongs to, or that belongs to this one."""

    relation: str
    run_id: str
    run_dir: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the report of a run shows. Times are ISO 8601 in UTC."""

    made_at: str
    run_dir: str
    """Absolute path of the run folder, for commands."""
    is_at_work: bool
    summary: Summary
    from_sku: str | None
    to_sku: str | None
    max_rejects: int
    steps: list[StepStatuses]
    rejects: list[Rejects]
    failures: list[Failures]
    other_failures: int
    """Devices that failed with codes that `failures` leaves out."""
    licenses: list[LicenseChange]
    other_licenses: int
    """The accounts and SKUs that `licenses` leaves out, because fewer licenses of them changed."""
    doubts: Doubts
    settled_by: dict[str, int]
    """Devices whose status is a decision, by user or `a callback`."""
    timeline: Timeline | None
    latency: Latency | None
    attempts: list[BatchAttempts]
    sessions: list[Session]
    links: list[Link]

    def devices(self, status: DeviceStatus) -> int:
        """The number of devices with this status."""
        return self.summary.statuses.get(status, 0)
