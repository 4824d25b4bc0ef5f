"""kept.parquet: the columns of the inventories that the job keeps, one row per row of the plan."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from batchlic.atomic import replacing
from batchlic.chunker.batch import ROWS_PER_READ
from batchlic.reader.kept_cells import KeptCells
from batchlic.reader.spool import Spool
from batchlic.reader.streaming import Schema, lazy_frame

_ORDER: Schema = {"ordinal": pl.UInt32()}
_ORDER_BYTES = 64 << 20
"""Bytes of the order of the plan that stay in memory."""


class KeptInPlan:
    """Puts kept cells into the order of the plan. Rows that no inventory has get null cells."""

    def __init__(self, kept: KeptCells, scratch: Path) -> None:
        self._kept = kept
        self._order = Spool(scratch / "order", _ORDER, _ORDER_BYTES)

    def noted(self, rows: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The rows of the plan, after noting their order (column `ordinal`)."""
        for frame in rows:
            if self._kept.schema:
                self._order.append(frame.select("ordinal"))
            yield frame

    def write(self, folder: Path) -> None:
        """Write kept.parquet, whole or not at all, in the order of the plan; remove it if nothing is kept."""
        if not self._kept.schema:
            (folder / "kept.parquet").unlink(missing_ok=True)
            return
        write_kept_file(folder, lazy_frame(lambda: self._kept.in_order(self._order), self._kept.schema))


def write_kept_file(folder: Path, rows: pl.LazyFrame) -> None:
    """Write kept.parquet, whole or not at all. Readers read one row group at a time."""
    with replacing(folder / "kept.parquet") as path:
        rows.sink_parquet(path, compression="zstd", compression_level=1, row_group_size=ROWS_PER_READ)


def with_kept(rejects: pl.LazyFrame, kept: KeptCells) -> pl.LazyFrame:
    """Rejected rows with their kept cells instead of `ordinal`."""
    if not kept.schema:
        return rejects.drop("ordinal")
    schema = dict(rejects.drop("ordinal").collect_schema()) | kept.schema
    return rejects.map_batches(
        lambda rows: rows.drop("ordinal").hstack(kept.at(rows["ordinal"])), schema=schema, streamable=True
    )
