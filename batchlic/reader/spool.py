"""Stores rows while inventories are read: first in memory, and if they are many, in a scratch folder."""

from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import polars as pl

from batchlic.atomic import explain_disk_errors
from batchlic.reader.scans import scan_ipc
from batchlic.reader.streaming import Schema

FRAME_BYTES = 24 << 20
"""Appended frames are joined to frames of at least this size."""


class Spool:
    """Frames of one schema, appended once, and read back in the same order any number of times.

    If the frames exceed `memory_bytes`, all of them are written to Arrow IPC files in `folder`. Several
    threads may read at once.
    """

    def __init__(self, folder: Path, schema: Schema, memory_bytes: int) -> None:
        self._folder = folder
        self._schema = schema
        self._memory_bytes = memory_bytes
        self._frames: list[pl.DataFrame | Path] = []
        self._heights: list[int] = []
        self._new_frames: list[pl.DataFrame] = []
        self._new_bytes = self._total_bytes = 0
        self._joining = Lock()
        self.height = 0

    @property
    def bytes(self) -> int:
        """The size of all rows in memory."""
        return self._total_bytes + self._new_bytes

    def append(self, frame: pl.DataFrame) -> None:
        """Add a frame."""
        if frame.is_empty():
            return
        self.height += frame.height
        self._new_frames.append(frame)
        self._new_bytes += int(frame.estimated_size())
        if self._new_bytes >= FRAME_BYTES:
            self._join_new_frames()

    def gathered(self, places: pl.Series) -> pl.DataFrame:
        """The rows at these places, which count from 0 and ascend. Only their frames are read, one by one."""
        self._join_new_frames()
        found = [pl.DataFrame(schema=self._schema)]
        start = 0
        for frame, height in zip(self._frames, self._heights, strict=True):
            first, end = (places.search_sorted(place, side="left") for place in (start, start + height))
            if first < end:
                rows = frame if isinstance(frame, pl.DataFrame) else scan_ipc(frame).collect()
                found.append(rows[places[first:end] - start].select(map(_copied, self._schema.items())))
            start += height
        return pl.concat(found)

    def frames(self) -> Iterator[pl.DataFrame]:
        """All frames in order; one empty frame if there are none."""
        self._join_new_frames()
        for frame in self._frames or [pl.DataFrame(schema=self._schema)]:
            yield frame if isinstance(frame, pl.DataFrame) else scan_ipc(frame).collect()

    def lazy(self) -> pl.LazyFrame:
        """All rows in order."""
        self._join_new_frames()
        scans = [
            frame.lazy() if isinstance(frame, pl.DataFrame) else scan_ipc(frame) for frame in self._frames
        ]
        return pl.concat(scans or [pl.LazyFrame(schema=self._schema)])

    def _join_new_frames(self) -> None:
        """Join the new frames to one, and write all frames to the folder if they exceed `memory_bytes`."""
        with self._joining:
            if not self._new_frames:
                return
            self._frames.append(pl.concat(self._new_frames, rechunk=True))
            self._heights.append(sum(frame.height for frame in self._new_frames))
            self._total_bytes += self._new_bytes
            self._new_frames, self._new_bytes = [], 0
            if self._total_bytes > self._memory_bytes:
                self._frames = [self._written(number, frame) for number, frame in enumerate(self._frames)]

    def _written(self, number: int, frame: pl.DataFrame | Path) -> Path:
        if isinstance(frame, Path):
            return frame
        path = self._folder / f"{number}.arrow"
        with explain_disk_errors(path):
            self._folder.mkdir(exist_ok=True)
            frame.write_ipc(path, compression="uncompressed")
        return path


def _copied(column: tuple[str, pl.DataType]) -> pl.Expr:
    """A column with its text copied: a view of a few cells would keep the whole frame in memory."""
    name, dtype = column
    return pl.col(name) + "" if dtype == pl.String else pl.col(name)
