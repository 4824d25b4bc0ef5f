"""A sequence of frames as the source of a lazy query."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import polars as pl
from polars.io.plugins import register_io_source

Schema: TypeAlias = dict[str, pl.DataType]
"""Column: dtype."""

UTC = pl.Datetime("us", "UTC")
"""The times of all tables."""


class Column(NamedTuple):
    """A column of a file of a run: its dtype, and what its values mean (for docs/reference/files.md)."""

    dtype: pl.DataType
    meaning: str


def schema_of(columns: Mapping[str, Column]) -> Schema:
    """The dtypes of the columns, by name."""
    return {name: column.dtype for name, column in columns.items()}


def lazy_frame(frames: Callable[[], Iterator[pl.DataFrame]], schema: Schema) -> pl.LazyFrame:
    """A query over the frames that `frames` makes. It makes them again each time the query is collected.

    The frames have the columns of `schema`, in the same order. Only the frames in use are in memory.
    """

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for frame in frames():
            rows = frame
            if left is not None:  # polars limits first, then filters
                rows = rows.head(left)
                left -= rows.height
            rows = rows if predicate is None else rows.filter(predicate)
            yield rows if columns is None else rows.select(columns)
            if left == 0:
                return

    return register_io_source(source, schema=schema, validate_schema=True)
