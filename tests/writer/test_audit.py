"""audit.parquet: all attempts in order, in a chain of hashes that one changed value breaks."""

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchlic.writer.audit import write_audit
from tests.writer.builders import JournaledAttempt, journal_of

COLUMNS = {
    "seq": pl.UInt64,
    "batch_id": pl.UInt32,
    "part": pl.String,
    "step": pl.String,
    "x_request_id": pl.String,
    "attempt": pl.UInt32,
    "action": pl.String,
    "device_count": pl.UInt16,
    "started_at": pl.Datetime("us", "UTC"),
    "duration_ms": pl.Float64,
    "http_status": pl.UInt16,
    "outcome": pl.String,
    "error_code": pl.String,
    "error_message": pl.String,
    "retry_after_s": pl.Float64,
    "request_id": pl.String,
    "request_sha256": pl.String,
    "pace_rps": pl.Float64,
    "settled_by": pl.String,
    "reason": pl.String,
    "prev_hash": pl.String,
    "hash": pl.String,
}
HISTORY = [
    JournaledAttempt(1, outcome="throttled", http_status=429),
    JournaledAttempt(2, outcome="refused", http_status=400, error_code="ümlaut"),
    JournaledAttempt(2, [0, 1], outcome=None),
    JournaledAttempt(1, http_status=200, request_id="r-4"),
]
OTHER: dict[str, Any] = {
    "String": "other",
    "UInt64": 9,
    "UInt32": 9,
    "UInt16": 9,
    "Float64": 9.5,
    "Datetime": 10**15 + 1,
}


def audit_of(folder: Path, attempts: list[JournaledAttempt]) -> pl.DataFrame:
    write_audit(folder / "audit.parquet", journal=journal_of(attempts, [10, 10]))
    return pl.read_parquet(folder / "audit.parquet")


def breaks(audit: pl.DataFrame, run_id: str) -> list[int]:
    """Rows at which the chain is broken, recomputed as docs/reference/files.md says."""
    found = []
    prev_hash = hashlib.sha256(run_id.encode()).hexdigest()
    for number, row in enumerate(audit.with_columns(pl.col("started_at").dt.epoch("us")).rows(named=True)):
        values = [value for name, value in row.items() if name not in {"prev_hash", "hash"}]
        encoded = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        computed = hashlib.sha256(f"{prev_hash}\n{encoded}".encode()).hexdigest()
        if (row["prev_hash"], row["hash"]) != (prev_hash, computed):
            found.append(number)
        prev_hash = row["hash"]
    return found


@pytest.mark.parametrize("attempts", [[], HISTORY])
def test_the_columns_are_those_of_the_public_interface(
    tmp_path: Path, attempts: list[JournaledAttempt]
) -> None:
    audit = audit_of(tmp_path, attempts)
    assert (dict(audit.schema), audit.height) == (COLUMNS, len(attempts))


def test_attempts_are_in_the_order_of_their_intents(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, HISTORY)
    assert audit["seq"].to_list() == [1, 2, 3, 4]
    assert audit.select("batch_id", "part", "device_count", "outcome").rows() == [
        (1, "", 10, "throttled"),
        (2, "", 10, "refused"),
        (2, "0-1", 2, "ambiguous"),
        (1, "", 10, "accepted"),
    ]


def test_a_request_without_an_answer_has_a_message(tmp_path: Path) -> None:
    unanswered = audit_of(tmp_path, HISTORY).row(2, named=True)
    assert "no answer was recorded" in unanswered["error_message"]
    assert (unanswered["http_status"], unanswered["duration_ms"]) == (None, None)


def test_the_chain_recomputes_from_the_file_alone(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, HISTORY)
    assert breaks(audit, "run-1") == []
    assert breaks(audit, "another run") == [0]


@pytest.mark.parametrize("column", COLUMNS)
def test_one_changed_value_breaks_the_chain(tmp_path: Path, column: str) -> None:
    audit = audit_of(tmp_path, HISTORY)
    changed = pl.lit(OTHER[str(audit.schema[column].base_type())]).cast(audit.schema[column])
    here = pl.int_range(pl.len()) == 2
    forged = audit.with_columns(pl.when(here).then(changed).otherwise(column).alias(column))
    assert 2 in breaks(forged, "run-1")


def test_a_removed_or_moved_row_breaks_the_chain(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, HISTORY)
    assert breaks(pl.concat([audit[:1], audit[2:]]), "run-1") == [1]
    assert breaks(audit[[0, 2, 1, 3]], "run-1") == [1, 2, 3]
