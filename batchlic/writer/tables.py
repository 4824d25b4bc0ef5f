"""Parquet files written row group by row group, whole or not at all, in bounded memory."""

from pathlib import Path
from typing import BinaryIO, TypeAlias

import polars as pl

from batchlic.atomic import replacing

Target: TypeAlias = Path | BinaryIO
"""Where a table is written: the path of a file that is whole or absent, or an open file."""


def write_table(target: Target, table: pl.LazyFrame) -> None:
    """Write the rows of `table` as parquet, in the same order, with only a few row groups in memory."""
    if isinstance(target, Path):
        with replacing(target) as temporary:
            _sink(table, temporary)
    else:
        _sink(table, target)


def _sink(table: pl.LazyFrame, target: Target) -> None:
    table.sink_parquet(target, compression="zstd", compression_level=1, maintain_order=True)
