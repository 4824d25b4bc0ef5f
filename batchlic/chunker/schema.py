"""The columns of plan.parquet and rejects.parquet, and how the files are written."""

from pathlib import Path

import polars as pl

from batchlic.atomic import replacing
from batchlic.chunker.batch import ROWS_PER_READ
from batchlic.reader.streaming import Column, Schema, schema_of

PLAN_COLUMNS = {
    "batch_id": Column(pl.UInt32(), "From 1, ascending; null for an excluded device, which is in no batch."),
    "source": Column(pl.String(), "The inventory."),
    "row": Column(pl.UInt64(), "The 1-based data row in the inventory."),
    "imei": Column(pl.String(), "Normalized IMEI; null if the row has none."),
    "iccid": Column(pl.String(), "Normalized ICCID; null if the row has none."),
    "account_name": Column(pl.String(), "Account: one per batch."),
    "sku_number": Column(pl.String(), "SKU: one per batch."),
    "held": Column(
        pl.String(),
        "Status of an excluded device: `skipped`, `in_doubt` or (migration) `failed`; null for other "
        "devices.",
    ),
}
"""The columns of every plan.parquet, explained."""

PLAN = schema_of(PLAN_COLUMNS)
"""plan.parquet: one row per planned device.

`batch_id` ascends from 1; null for an excluded device. `source` is the inventory's name as given, and `row`
the 1-based data row in it. `held` is the DeviceStatus of an excluded device; null for other devices.
"""

OTHER_PLAN_COLUMNS = {
    "undoes": Column(
        pl.String(), "Only in a rollback by request: the `X-Request-ID` of the request that the batch undoes."
    ),
    "action": Column(
        pl.String(),
        "Only in a sync: what happens with the device; null for a device that it leaves without a license.",
    ),
    "phase": Column(
        pl.UInt8(),
        "Only in a sync, and in a plan with a canary: the phase of its batch, 1 or 2; null for a device in "
        "no batch. The canary is phase 1. The order of a sync depends on the license counts, too.",
    ),
}
"""The columns that only some plans have, explained."""

UNDOES: Schema = {"undoes": OTHER_PLAN_COLUMNS["undoes"].dtype}
"""An additional column of a plan that undoes requests: the `X-Request-ID` of the request."""

PHASE: Schema = {"phase": OTHER_PLAN_COLUMNS["phase"].dtype}
"""An additional column of a plan that is sent in two phases, 1 and 2; null for a device that is in no batch.

Phase 1 is the canary, if the plan has one.
"""

SYNC: Schema = {"action": OTHER_PLAN_COLUMNS["action"].dtype, **PHASE}
"""Additional columns of a sync's plan: what happens with the device, and in which phase.

`action` is null for a device that the job leaves without a license.
"""

REJECT_COLUMNS = {
    "source": Column(pl.String(), "The inventory."),
    "row": Column(pl.UInt64(), "The 1-based data row in the inventory."),
    "reason": Column(pl.String(), "A code: see the reasons for a reject."),
    "message": Column(pl.String(), "What is wrong, as a sentence."),
    "imei": Column(pl.String(), "The cell as it is in the file."),
    "iccid": Column(pl.String(), "The cell as it is in the file."),
    "account_name": Column(pl.String(), "The cell as it is in the file."),
    "sku_number": Column(pl.String(), "The cell as it is in the file."),
}
"""The columns of rejects.parquet, explained."""

REJECTS = schema_of(REJECT_COLUMNS)
"""rejects.parquet: one row per reject, with its cells as they are in the file. `reason` is a rules.Reason."""


def write_plan_file(folder: Path, rows: pl.LazyFrame) -> None:
    """Write plan.parquet, whole or not at all. Readers read one row group at a time."""
    with replacing(folder / "plan.parquet") as path:
        rows.sink_parquet(path, compression_level=1, row_group_size=ROWS_PER_READ)


def write_rejects_file(folder: Path, rows: pl.LazyFrame) -> None:
    """Write rejects.parquet, whole or not at all. The number of threads does not change its row groups."""
    with replacing(folder / "rejects.parquet") as path:
        rows.sink_parquet(path, row_group_size=ROWS_PER_READ)
