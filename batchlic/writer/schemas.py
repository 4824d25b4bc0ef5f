"""The columns of the files that a run leaves: the one place where they are defined.

The meaning of each column stands in docs/files.md. Times are UTC with microseconds.
"""

from typing import TypeAlias

import polars as pl

Schema: TypeAlias = dict[str, pl.DataType]

UTC = pl.Datetime("us", "UTC")

PLAN: Schema = {
    "batch_id": pl.UInt32(),
    "source": pl.String(),
    "row": pl.UInt64(),
    "imei": pl.String(),
    "iccid": pl.String(),
    "account_name": pl.String(),
    "sku_number": pl.String(),
    "held": pl.String(),
}
"""plan.parquet as a rollback writes it; the chunker writes the same columns."""

REJECTS: Schema = {
    "source": pl.String(),
    "row": pl.UInt64(),
    "reason": pl.String(),
    "message": pl.String(),
    "imei": pl.String(),
    "iccid": pl.String(),
    "account_name": pl.String(),
    "sku_number": pl.String(),
}
"""rejects.parquet: one row an input row that is not planned."""

RESULTS: Schema = {
    "run_id": pl.String(),
    "source": pl.String(),
    "row": pl.UInt64(),
    "imei": pl.String(),
    "iccid": pl.String(),
    "account_name": pl.String(),
    "sku_number": pl.String(),
    "action": pl.String(),
    "batch_id": pl.UInt32(),
    "x_request_id": pl.String(),
    "request_id": pl.String(),
    "status": pl.String(),
    "http_status": pl.UInt16(),
    "error_code": pl.String(),
    "error_message": pl.String(),
    "attempts": pl.UInt32(),
    "first_attempt_at": UTC,
    "last_attempt_at": UTC,
    "settled_at": UTC,
    "settled_by": pl.String(),
    "from_sku": pl.String(),
    "step": pl.String(),
    "unassign_status": pl.String(),
    "assign_status": pl.String(),
    "restore_status": pl.String(),
}
"""results.parquet: one row a planned device."""

AUDIT: Schema = {
    "seq": pl.UInt64(),
    "batch_id": pl.UInt32(),
    "part": pl.String(),
    "x_request_id": pl.String(),
    "attempt": pl.UInt32(),
    "action": pl.String(),
    "device_count": pl.UInt16(),
    "started_at": UTC,
    "duration_ms": pl.Float64(),
    "http_status": pl.UInt16(),
    "outcome": pl.String(),
    "error_code": pl.String(),
    "error_message": pl.String(),
    "retry_after_s": pl.Float64(),
    "request_id": pl.String(),
    "request_sha256": pl.String(),
    "pace_rps": pl.Float64(),
    "settled_by": pl.String(),
    "reason": pl.String(),
    "prev_hash": pl.String(),
    "hash": pl.String(),
}
"""audit.parquet: one row an attempt or a settlement, chained by its hashes."""

OUTCOMES: Schema = {
    "plan_row": pl.UInt32(),
    "step": pl.String(),
    "status": pl.String(),
    "request_id": pl.String(),
    "error_code": pl.String(),
    "error_message": pl.String(),
    "settled_at": UTC,
}
"""outcomes.parquet: one row a device that callbacks told of, of a migration one a step of it.

`plan_row` counts the plan's rows from 0; `step` is null but in a migration.
"""
