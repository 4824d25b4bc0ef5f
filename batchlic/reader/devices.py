"""The valid rows of all inventories as integers, in bounded memory."""

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

import polars as pl

from batchlic.reader.spool import Spool
from batchlic.reader.streaming import Schema

DEVICES: Schema = {
    "ordinal": pl.UInt32(),
    "imei_number": pl.Int64(),
    "iccid_number": pl.Int64(),
    "target_code": pl.UInt32(),
}
"""A device row: `ordinal` counts the rows of all inventories from 0, `target_code` is from TargetTable."""

MEMORY_BYTES = 400 << 20
"""Bytes of device rows that stay in memory."""
RANGE_ROWS = 2_000_000
MAX_RANGES = 12
"""Rows are sorted in ranges of their key: RANGE_ROWS in each, or more if there would be too many ranges."""
SAMPLED_ROWS = 100_000
"""Keys that are sampled to choose the bounds of the ranges."""

SLICE_ROWS = 50_000
"""Sorted device rows in one frame."""

PENDING = 0
"""The mark of a row that is neither rejected nor excluded."""
REJECTED = 1
"""The mark of a duplicate or conflict. The marks of planning are greater numbers."""


class DeviceRows:
    """Device rows (columns DEVICES and `more`) in order, each with a mark; many go to `scratch`.

    `name` is that of their folder in `scratch`.
    """

    def __init__(self, scratch: Path, *, name: str = "devices", more: Schema | None = None) -> None:
        self._spool = Spool(scratch / name, DEVICES | (more or {}), MEMORY_BYTES)
        self._marks: pl.Series | None = None
        self._ordinals = 0

    def append(self, rows: pl.DataFrame) -> None:
        """Add rows. Their ordinals ascend, and are greater than those of earlier rows."""
        self._spool.append(rows)
        if rows.height:
            self._ordinals = rows["ordinal"][-1] + 1

    def frames(self) -> Iterator[pl.DataFrame]:
        """All rows in input order."""
        return self._spool.frames()

    def select(self, predicate: pl.Expr, *columns: str | pl.Expr) -> pl.DataFrame:
        """The rows for which `predicate` holds, in input order."""
        return pl.concat(frame.filter(predicate).select(columns) for frame in self.frames())

    def mark(self, ordinals: pl.Series, marks: pl.Series | int) -> None:
        """Give rows a mark (UInt8): one for all of them, or one for each."""
        if self._marks is None:
            self._marks = pl.repeat(PENDING, self._ordinals, dtype=pl.UInt8, eager=True)
        self._marks = self._marks.scatter(ordinals, marks)

    def marks(self, ordinals: pl.Series) -> pl.Series:
        """The mark (UInt8) of each row."""
        if self._marks is None:
            return pl.repeat(PENDING, len(ordinals), dtype=pl.UInt8, eager=True)
        return self._marks.gather(ordinals)

    @property
    def height(self) -> int:
        """The number of rows."""
        return self._spool.height

    def sorted(self, order: pl.Expr, marks: Sequence[int]) -> Iterator[pl.DataFrame]:
        """The rows with one of these marks in ascending `order` (columns DEVICES and `mark`), in slices."""
        for key_range in self.ranges(order):
            rows = self.select(key_range, *DEVICES, order.alias("order"))
            rows = rows.with_columns(mark=self.marks(rows["ordinal"]))
            rows = rows.filter(pl.col("mark").is_in(marks)).sort("order").drop("order")
            yield from rows.iter_slices(SLICE_ROWS)

    def ranges(self, key: pl.Expr) -> list[pl.Expr]:
        """Predicates that divide the rows into ascending ranges of `key`, without rows whose key is null."""
        count = min(MAX_RANGES, ceil(self._spool.height / RANGE_ROWS))
        if count <= 1:
            return [key.is_not_null()]
        step = ceil(self._spool.height / SAMPLED_ROWS)
        keys = pl.concat(frame.gather_every(step).select(key).to_series() for frame in self.frames())
        sample = keys.drop_nulls().sort()
        if sample.is_empty():
            return [key.is_not_null()]
        positions = [len(sample) * number // count for number in range(1, count)]
        bounds = sample.gather(positions).unique().to_list()
        return [
            (key >= low if low is not None else key.is_not_null())
            & (key < high if high is not None else True)
            for low, high in zip([None, *bounds], [*bounds, None], strict=True)
        ]
