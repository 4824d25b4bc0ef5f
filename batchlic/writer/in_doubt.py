"""The devices of a run that are in doubt, by request, and why."""

import msgspec
import polars as pl

from batchlic.chunker import DeviceStatus, Step
from batchlic.figures import TIME_IN_FILES
from batchlic.writer.audit import UNANSWERED
from batchlic.writer.migrations import STEP_STATUSES


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """The devices that one request left in doubt. `sent_at` is ISO 8601 in UTC."""

    batch_id: int
    x_request_id: str
    sku_number: str
    sent_at: str
    reason: str
    """Why the answer is not known."""
    devices: list[str]
    """IMEI, or the ICCID of a device without IMEI."""


_IS_ABOUT_OLD_SKU = (pl.col("step") == Step.UNASSIGN.value) | (
    (pl.col("step") == Step.RESTORE.value) & (pl.col(STEP_STATUSES[Step.ASSIGN]) == DeviceStatus.FAILED.value)
)
"""Whether the request in doubt is about the SKU that a migration leaves."""


def doubts_in(states: pl.LazyFrame) -> list[Doubt]:
    """The devices in doubt, grouped by request, in the order of their batches."""
    unanswered = pl.when(pl.col("http_status").is_null()).then(pl.lit(UNANSWERED["error_message"]))
    found = (
        states.filter(pl.col("status") == DeviceStatus.IN_DOUBT.value, pl.col("batch_id").is_not_null())
        .group_by("batch_id", "x_request_id", maintain_order=True)
        .agg(
            pl.when(_IS_ABOUT_OLD_SKU).then("from_sku").otherwise("sku_number").first().alias("sku_number"),
            pl.col("last_attempt_at").max().dt.to_string(TIME_IN_FILES).alias("sent_at"),
            pl.coalesce("error_message", unanswered, pl.format("HTTP {}", "http_status"))
            .first()
            .alias("reason"),
            pl.coalesce("imei", "iccid").alias("devices"),
        )
        .collect()
    )
    return [Doubt(**row) for row in found.iter_rows(named=True)]
