"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder.

Errors of the operating system are raised as errors that say what to do.
"""

import errno
import os
import pwd
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from batchlic.errors import BatchlicError, NoAccess, StoppedEarly

_UNFINISHED = ".tmp"
_SCRATCH = ".scratch-"
_REMOVED = ".removed-"

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""The form in which polars quotes an error of the operating system."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an absolute temporary path beside `path`, and move the file there to `path` when the block ends.

    The new file is durable then. After an error, `path` is unchanged and the temporary file is removed. Only
    the owner can read the files (mode 0600). Raises StoppedEarly if the disk fails (full, read-only).
    """
    temporary = path.absolute().with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
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
    """The path of a new version of `path` until it is published together with other files."""
    return path.with_name(f".{path.name}.next")


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """Yield a new folder in `folder` for data too large for memory, and remove it when the block ends."""
    with TemporaryDirectory(dir=folder.absolute(), prefix=_SCRATCH) as scratch:
        yield Path(scratch)


def remove_leftovers(folder: Path, paths: Iterable[Path]) -> None:
    """Remove unfinished versions of these files that a killed process left, and its scratch folders.

    The caller has locked the folder, so that no other process writes there.
    """
    for path in paths:
        for leftover in folder.glob(f".{path.name}.*{_UNFINISHED}*"):
            leftover.unlink(missing_ok=True)
    for leftover in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(leftover)


def remove_whole(folder: Path) -> None:
    """Remove a folder with all that is in it, so that it is whole or gone, also after a kill or power loss.

    The folder is first moved to a hidden name beside it. If the process is killed after that,
    `remove_moved` finishes. Links in the folder are removed, and their targets stay. Raises OSError.
    """
    moved = folder.with_name(f"{_REMOVED}{folder.name}.{os.getpid()}")
    remove_moved(moved)  # of an earlier process with the same number
    folder.rename(moved)
    sync_folder(folder.parent)
    remove_moved(moved)


def remove_moved(moved: Path) -> None:
    """Remove a folder that `remove_whole` has moved. Another process may do so at the same time."""
    while os.path.lexists(moved):
        with suppress(FileNotFoundError):
            shutil.rmtree(moved)


def is_moved(name: str) -> bool:
    """Whether a folder of this name is one that `remove_whole` has moved: nothing in it counts."""
    return name.startswith(_REMOVED)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Raise an error of the operating system about `path` as a StoppedEarly that says what to do."""
    try:
        yield
    except Exception as error:
        code = _code_of(error)
        if not code and not isinstance(error, OSError):
            raise
        reason = os.strerror(code) if code else error
        raise StoppedEarly(
            f"{path}: can't be written ({reason}): {_advice(code)}, then run the command again"
        ) from error


def is_disk_full(error: Exception) -> bool:
    """Whether an error of Python or polars says that a disk, or the quota on it, is full."""
    return _code_of(error) in {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Raise an error of the operating system about reading `path` as an error that says what to do."""
    try:
        yield
    except Exception as error:
        if (code := _code_of(error)) is None:
            raise
        raise read_error(path, code) from error


def read_error(path: Path | str, code: int) -> BatchlicError:
    """The error for a file or folder that can't be opened or read, for the reason `code` (errno).

    It is a StoppedEarly if the same command may succeed later, and otherwise NoAccess.
    """
    reason = os.strerror(code)
    if code in {errno.EACCES, errno.EPERM}:
        return NoAccess(
            f"{path}: can't be opened ({reason}): run the command as {_owner(path)}, or fix the permissions"
        )
    if code in _MAY_PASS:
        return StoppedEarly(f"{path}: can't be read ({reason}): {_advice(code)}, then run the command again")
    return NoAccess(f"{path}: can't be opened ({reason})")


def refuse_undecodable(name: str | Path) -> None:
    """Raise NoAccess for a name that is not UTF-8: parquet, JSON and SQLite can't hold it."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise NoAccess(f"{shown}: this name is not UTF-8: rename the file or folder") from None


_MAY_PASS = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ESTALE}


def _owner(path: Path | str) -> str:
    """The owner of a file, or of the first folder above it that can be examined."""
    for place in (Path(path), *Path(path).absolute().parents):
        try:
            owner = place.stat().st_uid
        except OSError:
            continue
        if owner != os.geteuid():
            try:
                return pwd.getpwuid(owner).pw_name
            except KeyError:
                return f"its owner (uid {owner})"
    return "its owner"


def _code_of(error: Exception) -> int | None:
    """The number of an error of the operating system; None for other errors."""
    in_text = _OS_ERROR.search(str(error))
    return int(in_text[1]) if in_text else getattr(error, "errno", None)


_ADVICE = {
    errno.ENOSPC: "free some space on the disk",
    errno.EDQUOT: "raise the quota or remove files",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "fix the permissions",
    errno.EPERM: "fix the permissions",
}


def _advice(code: int | None) -> str:
    return _ADVICE.get(code or 0, "repair the disk or folder")


def make_private_folder(path: Path) -> None:
    """Create a folder, and missing ones above it. Only the owner can open the new ones (mode 0700).

    `Path.mkdir` would give those above the mode that the umask of the process leaves. Raises OSError.
    """
    for folder in reversed((path, *path.parents)):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)  # raises if it is a file


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: new, renamed and removed files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
