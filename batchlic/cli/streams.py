"""Standard streams that stop nothing: output that can't be written is dropped.

A run goes on when its terminal is gone, its disk is full, or nobody reads its output any more. All output of
Python goes through these streams: messages, logs, tracebacks, and the flush at exit.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from batchlic.atomic import explain_disk_errors

PATIENCE_MS = 1000
"""Longest wait for a reader of stderr: a pipe that nobody reads, or a stopped terminal, stops no run."""

_MAX_WRITE = select.PIPE_BUF
"""Bytes that a pipe takes without waiting once it is writable (pipe(7))."""


def guard_standard_streams() -> None:
    """Replace stdout and stderr by streams that never raise, and closed ones by the null device.

    Call it before any file is opened: a file could take the descriptor of a closed stream, and get output.
    """
    for descriptor in range(3):
        _open_if_closed(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - standard input
    sys.stderr = _text_stream(_Stderr(2), encoding=_encoding_of(sys.stderr), line_buffering=True)
    sys.stdout = _text_stream(_Stdout(1), encoding=_encoding_of(sys.stdout), line_buffering=os.isatty(1))


@contextmanager
def results_on_stdout() -> Iterator[BinaryIO]:
    """Standard output for rows that a command was asked for; a closed pipe (`| head`) is no error.

    Raises StoppedEarly if the rows can't be written: without them, the command has done nothing.
    """
    with explain_disk_errors(Path("standard output")):
        try:
            with os.fdopen(sys.stdout.fileno(), "wb", closefd=False) as stdout:
                yield stdout
        except Exception as error:
            # polars quotes the error of the operating system
            if not isinstance(error, BrokenPipeError) and f"(os error {errno.EPIPE})" not in str(error):
                raise


class _Stream(io.RawIOBase):
    """A descriptor to write to, which is not closed with the stream."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def _is_writable_within(self, milliseconds: int | None) -> bool:
        """Whether a write would not have to wait for a reader; with None, wait for that."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(milliseconds))


class _Stdout(_Stream):
    """Waits for a slow reader. The first output that is lost is reported on stderr."""

    _has_lost = False

    def write(self, data: "memoryview | bytes") -> int:  # type: ignore[override]
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # another process has made the pipe non-blocking
                self._is_writable_within(None)
            except OSError as error:
                if not self._has_lost and not isinstance(error, BrokenPipeError):
                    sys.stderr.write(f"batchlic: stdout can't be written: {error.strerror}\n")
                self._has_lost = True
                return len(data)


class _Stderr(_Stream):
    """Drops messages that nobody reads."""

    _is_stuck = False

    def write(self, data: "memoryview | bytes") -> int:  # type: ignore[override]
        try:
            if self._is_writable_within(0 if self._is_stuck else PATIENCE_MS):
                self._is_stuck = False
                return os.write(self._descriptor, data[:_MAX_WRITE])
            self._is_stuck = True
        except OSError:
            pass  # there is no other place to report it
        return len(data)


def _text_stream(raw: _Stream, *, encoding: str, line_buffering: bool) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering
    )


def _encoding_of(stream: TextIO | None) -> str:
    return (stream and stream.encoding) or "utf-8"


def _open_if_closed(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - the only argument
