"""Rows put by while an inventory is read: in memory as long as they are few, then in a scratch folder."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from polars._typing import PolarsDataType
from polars.io.plugins import register_io_source

from batchlic.atomic import explain_disk_errors

FRAME_BYTES = 24 << 20
"""Appended frames are put together to this size."""


class Spool:
    """Frames of one schema, appended, and read back in the same order as often as need be.

    Once there are more than `memory_bytes`, all of them go to Arrow IPC files in `folder`.
    """

    def __init__(self, folder: Path, schema: Mapping[str, PolarsDataType], memory_bytes: int) -> None:
        self._folder = folder
        self._schema = dict(schema)
        self._memory_bytes = memory_bytes
        self._frames: list[pl.DataFrame | Path] = []
        self._fresh: list[pl.DataFrame] = []
        self._fresh_bytes = self._kept_bytes = 0
        self.height = 0

    def append(self, frame: pl.DataFrame) -> None:
        """Put a frame by."""
        if frame.is_empty():
            return
        self.height += frame.height
        self._fresh.append(frame)
        self._fresh_bytes += int(frame.estimated_size())
        if self._fresh_bytes >= FRAME_BYTES:
            self._gather()

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """All frames in order, or only some of their columns."""
        self._gather()
        for frame in self._frames or [pl.DataFrame(schema=self._schema)]:
            if isinstance(frame, pl.DataFrame):
                yield frame if columns is None else frame.select(columns)
            else:
                yield pl.read_ipc(frame, columns=list(columns) if columns else None)

    def lazy(self) -> pl.LazyFrame:
        """All rows in order."""
        self._gather()
        scans = [
            frame.lazy() if isinstance(frame, pl.DataFrame) else pl.scan_ipc(frame) for frame in self._frames
        ]
        return pl.concat(scans or [pl.LazyFrame(schema=self._schema)])

    def _gather(self) -> None:
        """Make one frame of the fresh ones, and let it go to the scratch folder if memory is full."""
        if not self._fresh:
            return
        self._frames.append(pl.concat(self._fresh, rechunk=True))
        self._kept_bytes += self._fresh_bytes
        self._fresh, self._fresh_bytes = [], 0
        if self._kept_bytes > self._memory_bytes:
            self._frames = [self._put_down(at, frame) for at, frame in enumerate(self._frames)]

    def _put_down(self, at: int, frame: pl.DataFrame | Path) -> Path:
        if isinstance(frame, Path):
            return frame
        path = self._folder / f"{at}.arrow"
        with explain_disk_errors(path):
            self._folder.mkdir(exist_ok=True)
            frame.write_ipc(path, compression="uncompressed")
        return path


def streamed(frames: Iterator[pl.DataFrame], schema: Mapping[str, PolarsDataType]) -> pl.LazyFrame:
    """Frames as they come, as the source of one streaming query; it can be collected or sunk once."""

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del predicate, n_rows, batch_size  # queries over such a source neither filter nor limit
        for frame in frames:
            yield frame if columns is None else frame.select(columns)

    return register_io_source(source, schema=dict(schema))
