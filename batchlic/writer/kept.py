"""The columns of the inventories that a job keeps, as they are read from kept.parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batchlic.reader.scans import scan_parquet
from batchlic.reader.streaming import Schema


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept columns of a run; without a `path`, kept.parquet is lost, and all cells are null."""

    columns: Sequence[str] = ()
    path: Path | None = None

    @property
    def schema(self) -> Schema:
        """The columns."""
        return dict.fromkeys(self.columns, pl.String())

    def rows(self, start: int, height: int) -> pl.DataFrame:
        """The cells of some rows of the plan."""
        if self.path is None or not self.columns:
            return pl.DataFrame(schema=self.schema).clear(height)
        return scan_parquet(self.path).select(self.columns).slice(start, height).collect()


NOTHING_KEPT = Kept()
