"""Where a run writes what people read at once: stderr, or nowhere if a program has started the run."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

_screen: ContextVar[TextIO | None] = ContextVar("screen", default=None)


def screen() -> TextIO | None:
    """What to write to. None: `sys.stderr` as it is when something is written; a progress bar replaces it."""
    return _screen.get()


def tell(line: str) -> None:
    """Write a line for people."""
    print(line, file=screen() or sys.stderr)


@contextmanager
def no_screen() -> Iterator[None]:
    """Write nothing for people in the block."""
    token = _screen.set(_Nowhere())
    try:
        yield
    finally:
        _screen.reset(token)


class _Nowhere(io.StringIO):
    """Drops all that is written."""

    def write(self, text: str, /) -> int:
        """Keep nothing."""
        return len(text)
