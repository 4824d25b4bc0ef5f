"""results.parquet: the device states of a run at the end of its last session."""

from collections import Counter

import polars as pl

from batchlic.chunker import DeviceStatus
from batchlic.writer.device_states import RESULTS
from batchlic.writer.kept import NOTHING_KEPT, Kept
from batchlic.writer.tables import Target, write_table


def write_results(target: Target, states: pl.LazyFrame, kept: Kept = NOTHING_KEPT) -> dict[DeviceStatus, int]:
    """Write results.parquet (columns: RESULTS, then `kept`). Returns the number of devices by status.

    `states` are those of `device_states`. A path is written whole or not at all.
    """
    schema = RESULTS | kept.schema
    counts: list[dict[str, int]] = []

    def count(rows: pl.DataFrame) -> pl.DataFrame:
        counts.append(dict(rows["status"].value_counts().iter_rows()))  # may be called by several threads
        return rows

    write_table(target, states.select(*schema).map_batches(count, schema=schema, streamable=True))
    totals: Counter[str] = sum(map(Counter, counts), Counter())
    return {DeviceStatus(status): totals[status] for status in sorted(totals)}


def count_statuses(states: pl.LazyFrame) -> dict[DeviceStatus, int]:
    """The number of devices by status."""
    counts = states.group_by("status").len().sort("status").collect(engine="streaming")
    return {DeviceStatus(status): count for status, count in counts.iter_rows()}
