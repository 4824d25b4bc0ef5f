"""audit.parquet: every attempt and settlement in order, each row's hash covering it and the hash before."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import polars as pl

from batchlic.journal import Attempt, Journal, Settlement
from batchlic.writer.schemas import AUDIT
from batchlic.writer.tables import write_table

Row: TypeAlias = dict[str, Any]

ROWS_PER_FRAME = 10_000

_HASHED = [name for name in AUDIT if name not in {"prev_hash", "hash"}]
_STORED = {name: pl.Int64() if isinstance(kind, pl.Datetime) else kind for name, kind in AUDIT.items()}
UNANSWERED = {
    "outcome": "ambiguous",
    "error_message": "no answer was recorded: the run was interrupted while the request was in flight",
}


def write_audit(path: Path, *, journal: Journal) -> None:
    """Write audit.parquet: one row an attempt or a settlement, in their order (columns: schemas.AUDIT)."""
    write_table(path, AUDIT, _frames(journal))


def audit_rows(journal: Journal) -> Iterator[Row]:
    """The rows of audit.parquet, times as microseconds since 1970."""
    prev_hash = first_hash(journal.identity.run_id)
    for event in journal.history():
        row = dict.fromkeys(AUDIT) | (
            _of_settlement(event) if isinstance(event, Settlement) else _of_attempt(event)
        )
        row["prev_hash"] = prev_hash
        row["hash"] = prev_hash = hash_of(row, prev_hash)
        yield row


def first_hash(run_id: str) -> str:
    """What the first row has as `prev_hash`: SHA-256 of the run id, so that chains of two runs differ."""
    return hashlib.sha256(run_id.encode()).hexdigest()


def hash_of(row: Row, prev_hash: str) -> str:
    """SHA-256 of the hash before and of the row's other columns as a JSON array, in the schema's order.

    Times are microseconds since 1970.
    """
    values = msgspec.json.encode([row[name] for name in _HASHED])
    return hashlib.sha256(prev_hash.encode() + b"\n" + values).hexdigest()


def chain_breaks(path: Path, run_id: str) -> Iterator[str]:
    """Where the chain of audit.parquet does not hold, in words; what polars raises if it can't be read."""
    table = pl.scan_parquet(path)
    if dict(table.collect_schema()) != AUDIT:
        yield "its columns are not those of an audit"
        return
    table = table.with_columns(pl.col("started_at").cast(pl.Int64))
    expected, start = first_hash(run_id), 0
    while rows := table.slice(start, ROWS_PER_FRAME).collect().to_dicts():
        for row in rows:
            start += 1
            if row["prev_hash"] != expected:
                yield f"row {start:,} (seq {row['seq']}): does not follow on the row before"
            if row["hash"] != hash_of(row, str(row["prev_hash"])):
                yield f"row {start:,} (seq {row['seq']}): its hash is not that of its values"
            expected = row["hash"]


def _frames(journal: Journal) -> Iterator[pl.DataFrame]:
    rows = audit_rows(journal)
    while frame := list(islice(rows, ROWS_PER_FRAME)):
        stored = pl.DataFrame(frame, schema=_STORED)
        yield stored.select(pl.col(name).cast(kind) for name, kind in AUDIT.items())


def _of_attempt(attempt: Attempt) -> Row:
    row = attempt._asdict() | (UNANSWERED if attempt.outcome is None else {})
    del row["final"]
    return row


def _of_settlement(settlement: Settlement) -> Row:
    return {
        "seq": settlement.seq,
        "batch_id": settlement.batch_id,
        "part": settlement.part,
        "action": "settle",
        "device_count": settlement.device_count,
        "started_at": settlement.settled_at,
        "outcome": f"settled_{settlement.verdict}",
        "settled_by": settlement.settled_by,
        "reason": settlement.reason,
    }
