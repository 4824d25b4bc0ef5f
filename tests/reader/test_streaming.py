"""Frames as a lazy query: read again at each collect, limited and filtered as polars does it."""

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import polars as pl
import pytest

from batchlic.reader.streaming import Schema, lazy_frame

SCHEMA: Schema = {"n": pl.Int64(), "text": pl.String()}


def frames() -> Iterator[pl.DataFrame]:
    for start in range(0, 10, 4):
        numbers = range(start, min(start + 4, 10))
        yield pl.DataFrame({"n": numbers, "text": [str(n) for n in numbers]}, schema=SCHEMA)


PLAIN = pl.concat(frames()).lazy()

Query: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]

QUERIES: list[Query] = [
    lambda rows: rows,
    lambda rows: rows.head(5).filter(pl.col("n") > 2),
    lambda rows: rows.filter(pl.col("n") > 2).head(5),
    lambda rows: rows.slice(3, 4).select("text"),
    lambda rows: rows.select(pl.len()),
    lambda rows: rows.filter(pl.col("text") == "7").select("n"),
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_a_query_over_frames_equals_one_over_a_table(
    query: Query, engine: Literal["streaming", "in-memory"]
) -> None:
    expected = query(PLAIN).collect()
    lazy = query(lazy_frame(frames, SCHEMA))
    for _ in range(2):
        assert lazy.collect(engine=engine).equals(expected)
