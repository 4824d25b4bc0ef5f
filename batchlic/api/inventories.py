"""What the API accepts as an inventory, and how frames become one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import polars as pl

from batchlic.errors import UsageError
from batchlic.reader.formats.frames import ArrowStream, stored
from batchlic.reader.inputs.frames import known_frames

Table: TypeAlias = pl.DataFrame | pl.LazyFrame | ArrowStream
"""A frame: of polars, or of any library that hands over Arrow streams (pandas, DuckDB, pyarrow)."""

Inventory: TypeAlias = str | PathLike[str] | Table | Sequence[str | PathLike[str] | Table]
"""A path, an address or a frame, or several of them."""


@dataclass(frozen=True, slots=True)
class Inventories:
    """The inventories of a call: `names` as a job has them, and the frames that some of them stand for."""

    names: list[str]
    frames: dict[str, Table]

    @classmethod
    def of(cls, given: Inventory) -> "Inventories":
        """The inventories that an argument stands for. Raises UsageError for a value that is none.

        Also for an empty list: it must not stand for the inventories of a job file.
        """
        several = [given] if isinstance(given, str | PathLike | Table) else list(_items(given))
        if not several:
            raise UsageError("no inventory is given: the list of inventories is empty")
        names: list[str] = []
        frames: dict[str, Table] = {}
        seen: Counter[str] = Counter()
        for one in several:
            if isinstance(one, str | PathLike):
                names.append(fspath(one))
                continue
            if not isinstance(one, Table):
                raise UsageError(f"an inventory is a path, an address or a frame, not a {_kind(one)}")
            if any(one is other for other in frames.values()):
                raise UsageError(f"<{_kind(one)}>: given twice: remove one")
            seen[_kind(one)] += 1
            number = f" {seen[_kind(one)]}" if seen[_kind(one)] > 1 else ""
            names.append(f"<{_kind(one)}{number}>")
            frames[names[-1]] = one
        return cls(names, frames)

    @contextmanager
    def stored(self) -> Iterator[None]:
        """Let the names of the frames stand for their rows in the block, in files that others can't read.

        Raises InventoryError if a frame can't be computed.
        """
        if not self.frames:
            yield
            return
        with TemporaryDirectory(prefix="batchlic-") as folder:
            files = [
                stored(frame, name, Path(folder) / f"{number}.parquet")
                for number, (name, frame) in enumerate(self.frames.items())
            ]
            with known_frames(files):
                yield


def _items(given: object) -> Iterator[object]:
    # Not any iterable: a set has no order, an open file yields its lines, and a table its columns.
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise UsageError(
            f"an inventory is a path, an address or a frame, or a list of them, not a {_kind(given)}"
        )
    yield from given


def _kind(given: object) -> str:
    return type(given).__name__
