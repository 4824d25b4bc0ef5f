"""Tables in files, opened by polars under exactly the path given.

polars reads `*`, `?` and `[` in a path as a pattern, a leading `~` as the home folder, and `file:` as a URL.
An absolute path, opened without patterns, is a path only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

import polars as pl


def scan_parquet(
    source: Path | IO[bytes],
    *,
    schema: Mapping[str, pl.DataType] | None = None,
    missing_columns: Literal["insert", "raise"] = "raise",
) -> pl.LazyFrame:
    """The rows of a parquet file; `schema` and `missing_columns` as in polars."""
    return pl.scan_parquet(
        exact(source),
        glob=False,
        hive_partitioning=False,
        schema=None if schema is None else dict(schema),
        missing_columns=missing_columns,
    )


def scan_parquets(paths: Sequence[Path], schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """The rows of many parquet files: the columns of `schema`, and the absolute `path` of the file."""
    return pl.scan_parquet(
        [path.absolute() for path in paths],
        glob=False,
        hive_partitioning=False,
        schema=dict(schema),
        extra_columns="ignore",
        include_file_paths="path",
    )


def scan_ipc(source: Path | IO[bytes]) -> pl.LazyFrame:
    """The rows of an Arrow IPC file."""
    return pl.scan_ipc(exact(source), glob=False, hive_partitioning=False)


def scan_csv_as_text(path: Path) -> pl.LazyFrame:
    """The rows of a CSV file with a header; every column is text."""
    return pl.scan_csv(exact(path), glob=False, infer_schema=False)


def exact(source: Path | IO[bytes]) -> Path | IO[bytes]:
    """The source as polars must be given it: a path is made absolute."""
    return source.absolute() if isinstance(source, Path) else source
