"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from batchlic.errors import StoppedEarly

_UNFINISHED = ".tmp"
_SCRATCH = ".scratch-"

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How polars tells what the operating system told it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving without an error it durably becomes `path`.

    After an error `path` is as it was and the temporary file is gone. Files are made for their owner
    only (mode 0600). Raises StoppedEarly where the disk does not do its part (full, read-only).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    with explain_disk_errors(path):
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def staged_path(path: Path) -> Path:
    """Where what is to become `path` waits for what it is to change together with."""
    return path.with_name(f".{path.name}.next")


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """Give a new folder in `folder` for what memory should not hold, and remove it in the end."""
    with TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
        yield Path(scratch)


def remove_leftovers(folder: Path, paths: Iterable[Path]) -> None:
    """Remove what a killed process left of these unfinished, and its scratch folders.

    Only for who holds the folder: nobody else may be writing.
    """
    for path in paths:
        for leftover in folder.glob(f".{path.name}.*{_UNFINISHED}*"):
            leftover.unlink(missing_ok=True)
    for leftover in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(leftover)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Make an error of the operating system about `path` a StoppedEarly that says what to do."""
    try:
        yield
    except Exception as error:
        told = _OS_ERROR.search(str(error))
        if not told and not isinstance(error, OSError):
            raise
        reason = os.strerror(int(told[1])) if told else getattr(error, "strerror", None) or error
        raise StoppedEarly(
            f"{path}: can't be written ({reason}): make room or repair that, then go on with the run"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: new, renamed and removed files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
