"""The columns of plan.parquet and rejects.parquet, and how the files are written."""

from pathlib import Path

import polars as pl

from batchlic.atomic import replacing
from batchlic.chunker.batch import ROWS_PER_READ
from batchlic.reader.streaming import Schema

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
"""plan.parquet: one row per planned device.

`batch_id` ascends from 1; null for an excluded device. `source` is the inventory's name as given, and `row`
the 1-based data row in it. `held` is the DeviceStatus of an excluded device; null for other devices.
"""

UNDOES: Schema = {"undoes": pl.String()}
"""An additional column of a plan that undoes requests: the `X-Request-ID` of the request."""

PHASE: Schema = {"phase": pl.UInt8()}
"""An additional column of a plan that is sent in two phases, 1 and 2; null for a device that is in no batch.

Phase 1 is the canary, if the plan has one.
"""

SYNC: Schema = {"action": pl.String(), **PHASE}
"""Additional columns of a sync's plan: what happens with the device, and in which phase.

`action` is null for a device that the job leaves without a license.
"""

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
"""rejects.parquet: one row per reject, with its cells as they are in the file. `reason` is a rules.Reason."""


def write_plan_file(folder: Path, rows: pl.LazyFrame) -> None:
    """Write plan.parquet, whole or not at all. Readers read one row group at a time."""
    with replacing(folder / "plan.parquet") as path:
        rows.sink_parquet(path, compression_level=1, row_group_size=ROWS_PER_READ)


def write_rejects_file(folder: Path, rows: pl.LazyFrame) -> None:
    """Write rejects.parquet, whole or not at all. The number of threads does not change its row groups."""
    with replacing(folder / "rejects.parquet") as path:
        rows.sink_parquet(path, row_group_size=ROWS_PER_READ)
