"""audit.parquet: every attempt in order, each row's hash covering the row and the hash before it."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from batchlic.journal import Attempt, Journal
from batchlic.writer.schemas import AUDIT
from batchlic.writer.tables import write_table

ROWS_PER_FRAME = 10_000

_HASHED = [name for name in AUDIT if name not in {"prev_hash", "hash"}]
_STORED = {name: pl.Int64() if isinstance(kind, pl.Datetime) else kind for name, kind in AUDIT.items()}
UNANSWERED = {
    "outcome": "ambiguous",
    "error_message": "no answer was recorded: the run was interrupted while the request was in flight",
}


def write_audit(path: Path, *, journal: Journal) -> None:
    """Write audit.parquet: one row an attempt, in the order they were made (columns: schemas.AUDIT)."""
    write_table(path, AUDIT, _frames(journal))


def first_hash(run_id: str) -> str:
    """What the first row has as `prev_hash`: SHA-256 of the run id, so that chains of two runs differ."""
    return hashlib.sha256(run_id.encode()).hexdigest()


def hash_of(row: dict[str, Any], prev_hash: str) -> str:
    """SHA-256 of the hash before and of the row's other columns as a JSON array, in the schema's order.

    Times are microseconds since 1970.
    """
    values = msgspec.json.encode([row[name] for name in _HASHED])
    return hashlib.sha256(prev_hash.encode() + b"\n" + values).hexdigest()


def _frames(journal: Journal) -> Iterator[pl.DataFrame]:
    rows = _chained(journal.attempts(), first_hash(journal.identity.run_id))
    while frame := list(islice(rows, ROWS_PER_FRAME)):
        stored = pl.DataFrame(frame, schema=_STORED)
        yield stored.select(pl.col(name).cast(kind) for name, kind in AUDIT.items())


def _chained(attempts: Iterator[Attempt], prev_hash: str) -> Iterator[dict[str, Any]]:
    for attempt in attempts:
        row = attempt._asdict() | (UNANSWERED if attempt.outcome is None else {})
        row["prev_hash"] = prev_hash
        row["hash"] = prev_hash = hash_of(row, prev_hash)
        yield {name: row[name] for name in AUDIT}
