"""Parquet files: written whole or not at all, in bounded memory, and read in the columns of this version."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import polars as pl

from batchlic.atomic import explain_read_errors, replacing
from batchlic.errors import RunFolderError
from batchlic.reader.scans import scan_parquet
from batchlic.reader.streaming import Schema

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError)
"""What polars raises for a damaged file."""

Target: TypeAlias = Path | BinaryIO
"""Where a table is written: the path of a file that is whole or absent, or an open file."""


def write_table(target: Target, table: pl.LazyFrame) -> None:
    """Write the rows of `table` as parquet, in the same order, with only a few row groups in memory."""
    if isinstance(target, Path):
        with replacing(target) as temporary:
            _sink(table, temporary)
    else:
        _sink(table, target)


def read_table(path: Path, schema: Schema) -> pl.LazyFrame:
    """The rows of a parquet file with the columns of `schema`, whatever version of batchlic wrote it.

    A column that the file does not have is null, and other dtypes are cast. Raises RunFolderError if the file
    is damaged, and NoAccess if it can't be opened. Collect the rows in `explain_damage`.
    """
    with explain_damage(path):
        table = scan_parquet(path)
        found = table.collect_schema()
        return table.select(
            (pl.col(name) if name in found else pl.lit(None)).cast(kind).alias(name)
            for name, kind in schema.items()
        )


def missing_columns(path: Path, schema: Mapping[str, pl.DataType]) -> list[str]:
    """The columns of `schema` that a parquet file does not have. Raises as `read_table` does."""
    with explain_damage(path):
        found = scan_parquet(path).collect_schema()
        return [name for name in schema if name not in found]


def other_columns(path: Path, schema: Mapping[str, pl.DataType]) -> list[str]:
    """The columns of a parquet file that `schema` does not have. Raises as `read_table` does."""
    with explain_damage(path):
        return [name for name in scan_parquet(path).collect_schema() if name not in schema]


@contextmanager
def explain_damage(path: Path, advice: str = "restore it from a backup") -> Iterator[None]:
    """Raise errors of reading a parquet file as RunFolderError with `advice`, or as NoAccess."""
    with explain_read_errors(path):
        try:
            yield
        except UNREADABLE as error:
            if "(os error " in str(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RunFolderError(f"{path}: is damaged, or not a parquet file ({reason}): {advice}") from error


def _sink(table: pl.LazyFrame, target: Target) -> None:
    table.sink_parquet(target, compression="zstd", compression_level=1, maintain_order=True)
