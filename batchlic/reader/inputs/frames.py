"""Inventories that are frames of a program, such as DataFrames: their names, and where their rows are."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame, stored as the parquet file `path`. Files and messages call it `name`, as in `<DataFrame>`.

    `size` and `sha256` are those of the text of all rows: the same rows have the same, whatever holds them.
    """

    name: str
    path: Path
    size: int
    sha256: str

    def __str__(self) -> str:
        return self.name


_frames: ContextVar[Mapping[str, Frame]] = ContextVar("frames")


@contextmanager
def known_frames(frames: Iterable[Frame]) -> Iterator[None]:
    """Let the names of these frames stand for them in the block: a job names its inventories."""
    token = _frames.set({frame.name: frame for frame in frames})
    try:
        yield
    finally:
        _frames.reset(token)


def frame_of(name: str) -> Frame | None:
    """The frame that a name stands for; None for any other name."""
    return _frames.get({}).get(name)
