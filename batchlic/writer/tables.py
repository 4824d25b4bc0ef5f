"""Parquet files written row group by row group, whole or not at all, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from batchlic.atomic import replacing
from batchlic.writer.schemas import Schema


def write_table(path: Path, schema: Schema, frames: Iterator[pl.DataFrame]) -> None:
    """Write `frames` one after another to the parquet file at `path`, never holding more than a few."""

    def source(
        _columns: list[str] | None, _predicate: pl.Expr | None, _rows: int | None, _batch: int | None
    ) -> Iterator[pl.DataFrame]:
        yield from frames

    table = register_io_source(source, schema=schema, validate_schema=True)
    with replacing(path) as temporary:
        table.sink_parquet(temporary, compression="zstd", compression_level=1)
