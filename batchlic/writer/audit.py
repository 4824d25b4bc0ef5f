"""audit.parquet: the approval of the plan, then every attempt and settlement in order.

A row's hash covers the row and the hash before.
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC as UTC_ZONE
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.journal import Attempt, Event, JournalQueries, Settlement
from batchlic.reader.scans import scan_parquet
from batchlic.reader.streaming import UTC, Column, lazy_frame, schema_of
from batchlic.writer.tables import Target, write_table

Row: TypeAlias = dict[str, Any]

ROWS_PER_FRAME = 10_000

AUDIT_COLUMNS = {
    "seq": Column(
        pl.UInt64(),
        "Number of the attempt or settlement in this run, from 1; 0 for the approval of the plan.",
    ),
    "batch_id": Column(pl.UInt32(), "Number of the batch, as in plan.parquet."),
    "part": Column(pl.String(), "The devices as row ranges in the batch (`0-49,51`); empty for all devices."),
    "step": Column(pl.String(), "Migration: `unassign`, `assign`, `restore` or `clear`; null in other runs."),
    "x_request_id": Column(pl.String(), "`X-Request-ID` of the request."),
    "attempt": Column(
        pl.UInt32(),
        "Number of the attempt, from 1; attempts with other devices do not count.",
    ),
    "action": Column(pl.String(), "`assign`, `unassign`, `settle` or `approve`."),
    "device_count": Column(pl.UInt16(), "Number of devices in the request or the settlement."),
    "started_at": Column(
        UTC,
        "Time just before the request was sent, or time of the settlement or approval.",
    ),
    "duration_ms": Column(pl.Float64(), "Milliseconds to the answer; null if no answer was recorded."),
    "http_status": Column(pl.UInt16(), "HTTP status of the answer."),
    "outcome": Column(
        pl.String(),
        "Of a request: `accepted`, `throttled`, `refused`, `unauthorized`, `unavailable` or "
        "`ambiguous`. `throttled` without `http_status`: the request was not sent, because the carrier "
        "had just asked all workers to wait, or somebody had paused the run. Of a settlement: "
        "`settled_accepted`, `settled_failed` or `settled_resend`. Of an approval: `approved`.",
    ),
    "error_code": Column(pl.String(), "Code from the carrier, or from the network."),
    "error_message": Column(pl.String(), "Message from the carrier, or from the network."),
    "retry_after_s": Column(pl.Float64(), "Seconds that the carrier asked batchlic to wait."),
    "request_id": Column(pl.String(), "The carrier's id of the request."),
    "request_sha256": Column(pl.String(), "SHA-256 of the request's body."),
    "pace_rps": Column(
        pl.Float64(),
        "Requests per second that the carrier let in, over the last 10 s; null before it let any in.",
    ),
    "settled_by": Column(
        pl.String(),
        "Settlement: user of the operating system, or `a callback`. Approval: name and number of the user.",
    ),
    "reason": Column(pl.String(), "Settlement: the reason. Approval: SHA-256 of the approved files."),
    "prev_hash": Column(
        pl.String(),
        "The hash of the row before; that of the first row is SHA-256 of the run id.",
    ),
    "hash": Column(
        pl.String(),
        "SHA-256 over `prev_hash`, a line feed, and the columns before these two as a JSON array in "
        "this order, times as microseconds since 1970.",
    ),
}
"""The columns of audit.parquet, explained."""

AUDIT = schema_of(AUDIT_COLUMNS)
"""audit.parquet: one row per approval, attempt or settlement. docs/reference/files.md explains them."""

UNANSWERED = {
    "outcome": Outcome.AMBIGUOUS.value,
    "error_message": "no answer was recorded: the run was interrupted while the request was in flight",
}
"""The values in the audit for an intent without an answer."""

HASHES = frozenset({"prev_hash", "hash"})
"""The columns of the chain itself."""

_HASHED = [name for name in AUDIT if name not in HASHES]
_STORED = {name: pl.Int64() if isinstance(kind, pl.Datetime) else kind for name, kind in AUDIT.items()}

_SETTLED_AS = {
    DeviceStatus.ACCEPTED: "settled_accepted",
    DeviceStatus.FAILED: "settled_failed",
    DeviceStatus.PENDING: "settled_resend",
}


def audit_table(journal: JournalQueries) -> pl.LazyFrame:
    """The rows of audit.parquet (columns: AUDIT)."""
    return lazy_frame(lambda: _frames(journal), AUDIT)


def write_audit(target: Target, journal: JournalQueries) -> None:
    """Write audit.parquet (columns: AUDIT). A path is written whole or not at all."""
    write_table(target, audit_table(journal))


def audit_rows(journal: JournalQueries) -> Iterator[Row]:
    """The rows of audit.parquet, times as microseconds since 1970."""
    prev_hash = first_hash(journal.identity.run_id)
    for found in chain(_approvals(journal), map(_of_event, journal.history())):
        row = dict.fromkeys(AUDIT) | found
        row["prev_hash"] = prev_hash
        row["hash"] = prev_hash = hash_of(row, prev_hash)
        yield row


def first_hash(run_id: str) -> str:
    """The `prev_hash` of the first row: SHA-256 of the run id, so that the chains of two runs differ."""
    return hashlib.sha256(run_id.encode()).hexdigest()


def hash_of(row: Row, prev_hash: str, columns: Iterable[str] = _HASHED) -> str:
    """SHA-256 of `prev_hash` and the row's other columns as a JSON array, in the schema's order.

    Times are microseconds since 1970. `columns` are those of the version that wrote the row.
    """
    values = msgspec.json.encode([row[name] for name in columns])
    return hashlib.sha256(prev_hash.encode() + b"\n" + values).hexdigest()


def chain_breaks(path: Path, run_id: str) -> Iterator[str]:
    """A message for each place where the chain of audit.parquet is broken.

    Other versions of batchlic may have written other columns, and their hashes cover those. Raises the errors
    of polars if the file can't be read.
    """
    table = scan_parquet(path)
    found = table.collect_schema()
    if not {"seq", *HASHES} <= {*found}:
        yield "its columns are not those of an audit"
        return
    table = table.with_columns(pl.col(pl.Datetime).dt.epoch("us"))
    hashed = [name for name in found if name not in HASHES]
    expected, start = first_hash(run_id), 0
    while rows := table.slice(start, ROWS_PER_FRAME).collect().to_dicts():
        for row in rows:
            start += 1
            if row["prev_hash"] != expected:
                yield f"row {start:,} (seq {row['seq']}): its prev_hash is not the hash of the row before"
            if row["hash"] != hash_of(row, str(row["prev_hash"]), hashed):
                yield f"row {start:,} (seq {row['seq']}): its hash does not match its values"
            expected = row["hash"]


def _frames(journal: JournalQueries) -> Iterator[pl.DataFrame]:
    rows = audit_rows(journal)
    while frame := list(islice(rows, ROWS_PER_FRAME)):
        stored = pl.DataFrame(frame, schema=_STORED)
        yield stored.select(pl.col(name).cast(kind) for name, kind in AUDIT.items())


def _approvals(journal: JournalQueries) -> Iterator[Row]:
    """The row of the approval, if the plan has one. It comes before all requests."""
    approval = journal.identity.approval
    if approval is msgspec.UNSET:
        return
    at = datetime.fromisoformat(approval.approved_at) - datetime.fromtimestamp(0, UTC_ZONE)
    yield {
        "seq": 0,
        "action": "approve",
        "started_at": at // timedelta(microseconds=1),
        "outcome": "approved",
        "settled_by": approval.approver,
        "reason": f"plan.parquet {approval.plan_sha256}, plan.json {approval.record_sha256}",
    }


def _of_event(event: Event) -> Row:
    return _of_settlement(event) if isinstance(event, Settlement) else _of_attempt(event)


def _of_attempt(attempt: Attempt) -> Row:
    row = attempt._asdict() | (UNANSWERED if attempt.outcome is None else {})
    del row["final"]
    return row


def _of_settlement(settlement: Settlement) -> Row:
    return {
        "seq": settlement.seq,
        "step": settlement.step,
        "batch_id": settlement.batch_id,
        "part": settlement.part,
        "action": "settle",
        "device_count": settlement.device_count,
        "started_at": settlement.settled_at,
        "outcome": _SETTLED_AS[DeviceStatus(settlement.status)],
        "settled_by": settlement.settled_by,
        "reason": settlement.reason,
    }
