"""The cells of the columns to keep, of all rows, in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from batchlic.reader.spool import Spool
from batchlic.reader.streaming import Schema

MEMORY_BYTES = 64 << 20
"""Bytes of cells that stay in memory."""
CHUNK_BYTES = 64 << 20
MAX_CHUNKS = 64
"""Cells are put into another order in chunks of CHUNK_BYTES, or more if there would be too many chunks: each
chunk reads all cells."""
SLICE_ROWS = 50_000
"""Rows in one frame."""


class KeptCells:
    """Text cells of some columns, appended in the order of the rows of all inventories."""

    def __init__(self, scratch: Path, names: Sequence[str]) -> None:
        self.schema: Schema = dict.fromkeys(names, pl.String())
        self._cells = Spool(scratch / "kept", self.schema, MEMORY_BYTES)

    def append(self, rows: pl.DataFrame) -> None:
        """Add the cells of the next rows."""
        self._cells.append(rows)

    def at(self, ordinals: pl.Series) -> pl.DataFrame:
        """The cells of rows by their ordinals, in this order; null cells where the ordinal is null."""
        order = ordinals.arg_sort(nulls_last=True)
        ascending = ordinals.gather(order).drop_nulls()
        found = self._cells.gathered(ascending)
        absent = pl.DataFrame(schema=self.schema).clear(len(ordinals) - len(ascending))
        return pl.concat([found, absent])[order.arg_sort()]

    def in_order(self, ordinals: Spool) -> Iterator[pl.DataFrame]:
        """The cells of rows by their ordinals (one column), in this order, in slices."""
        rows_at_once = self._rows_at_once()
        for frame in ordinals.frames():
            for chunk in frame.iter_slices(rows_at_once):
                yield from self.at(chunk.to_series()).iter_slices(SLICE_ROWS)

    def _rows_at_once(self) -> int:
        rows, size = self._cells.height, self._cells.bytes
        chunks = min(MAX_CHUNKS, 1 + size // CHUNK_BYTES)
        return max(SLICE_ROWS, -(-rows // chunks))
