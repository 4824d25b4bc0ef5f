"""The local copies of run folders in object stores that this process works on.

Reading and writing of a run goes on in its copy, as in any run folder. A session keeps the object store in
step: it claims the folder before it sends, and saves the copy from time to time and when it ends.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from batchlic.aliases import shown, stand_for
from batchlic.atomic import make_private_folder
from batchlic.errors import BatchlicError, RefusedToStart, RunFolderError, StoppedEarly, UsageError
from batchlic.objectstore.addresses import FolderAddress
from batchlic.objectstore.manifest import MANIFEST, OBJECTS
from batchlic.objectstore.mirror import Mirror, Replaced
from batchlic.objectstore.objects import Objects, StoredObjects

SAVE_EVERY_S = 30.0
"""Seconds between two times when the files that grow during a session are saved."""
SAVE_SHARE = 20
"""Times as long as a save takes, at least, between two of them: a log of many requests is large."""
GROWING = ("run.log", "limits.json")
"""The files that change during a session."""
_READERS = 8


@dataclass
class _Copy:
    """A copy of a run folder. `locks` counts the locks on it that this process holds.

    `is_claimed`: the session of this process may have sent something. `problem` is why the run could not be
    read when all runs around it were.
    """

    address: FolderAddress
    mirror: Mirror
    locks: int = 0
    is_claimed: bool = False
    problem: RunFolderError | None = None

    def update(self, is_wanted: Callable[[str], bool]) -> None:
        """Bring the copy up to date, unless this process writes it. Of a damaged run, keep the problem."""
        self.problem = None
        try:
            if not self.locks:
                self.mirror.fetch(is_wanted)
        except RunFolderError as error:
            self.problem = error
            make_private_folder(self.mirror.folder)

    def save(self) -> None:
        """Save the copy as `Mirror.save` does, but raise StoppedEarly instead of UsageError after a claim.

        A session token may have expired meanwhile. The operator has to renew it, and to resume the run.
        """
        try:
            self.mirror.save()
        except UsageError as error:
            if not self.is_claimed:
                raise
            raise StoppedEarly(f"{error}. Then resume the run: its journal has all that was sent") from None


@dataclass
class _Copies:
    """All copies of this process, and the temporary folders around them, by the address of each."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    roots: dict[str, tempfile.TemporaryDirectory[str]] = field(default_factory=dict)
    by_folder: dict[Path, _Copy] = field(default_factory=dict)


_copies = _Copies()


def open_objects(url: str) -> Objects:
    """The objects below an address."""
    return StoredObjects(url)


def local_run(url: str, is_wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """The local copy of the run folder at `url`, up to date; `is_wanted` says which files are needed.

    The copy does not exist if there is no such run folder. A folder inside a run, such as that of a rollback,
    is in the copy of that run. A copy that a session of this process writes is newer than the object store:
    it stays as it is. Raises UsageError for a wrong address or missing access, and StoppedEarly.
    """
    address = FolderAddress.parse(url)
    with _copies.lock:
        found = next((copy for copy in _copies.by_folder.values() if copy.address == address), None)
        copy = found or _new_copy(address, _root(address.parent) / address.name)
        if not copy.locks:
            copy.mirror.fetch(is_wanted)
        inner = None if copy.mirror.exists else _in_a_run(address)
        return inner or copy.mirror.folder


def _new_copy(address: FolderAddress, folder: Path) -> _Copy:
    stand_for(str(folder), address.url)
    copy = _copies.by_folder[folder] = _Copy(address, Mirror(open_objects(address.url), folder))
    return copy


def _root(url: str) -> Path:
    """The temporary folder that stands for the folder at `url`."""
    if url not in _copies.roots:
        try:
            _copies.roots[url] = tempfile.TemporaryDirectory(prefix="batchlic-", ignore_cleanup_errors=True)
        except OSError as error:
            raise StoppedEarly(
                f"{url}: a local copy needs a temporary folder, and none can be made ({error.strerror}): set "
                "TMPDIR to a folder that can be written"
            ) from None
        stand_for(_copies.roots[url].name, url)
    return Path(_copies.roots[url].name)


def _in_a_run(address: FolderAddress) -> Path | None:
    """The folder in the copy of a run around it; None if there is no such run, or no such folder in it."""
    if "/" not in address.parent.partition("://")[2]:
        return None
    folder = local_run(address.parent) / address.name
    return folder if folder.is_dir() else None


def local_runs(url: str, is_wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """A local folder with the copies of all runs below `url`, up to date. Raises as `local_run` does.

    One damaged run does not keep the others from being read: `problem_of` its copy says why.
    """
    bucket_or_folder = url.rstrip("/")
    if bucket_or_folder.count("/") > 2:
        bucket_or_folder = FolderAddress.parse(url).url
    with _copies.lock:
        root = _root(bucket_or_folder)
        names = [key.removesuffix(MANIFEST).rstrip("/") for key in _manifests(bucket_or_folder)]
        copies = [_copy_below(bucket_or_folder, root, name) for name in names]
        listed = {copy.mirror.folder for copy in copies}
        for folder in [folder for folder in _copies.by_folder if root in folder.parents]:
            copy = _copies.by_folder[folder]
            if folder not in listed and copy.mirror.exists and not copy.locks:  # the run was deleted
                shutil.rmtree(folder, ignore_errors=True)
                del _copies.by_folder[folder]
        with ThreadPoolExecutor(_READERS) as readers:
            list(readers.map(lambda copy: copy.update(is_wanted), copies))
        return root


def _manifests(url: str) -> list[str]:
    """The keys of the manifests below an address."""
    keys = (PurePosixPath(key) for key in open_objects(url).list_keys())
    return [str(key) for key in keys if key.name == MANIFEST and OBJECTS not in key.parts]


def _copy_below(url: str, root: Path, name: str) -> _Copy:
    """The copy of the run `name` in the folder `root` that stands for `url`."""
    folder = root / name
    return _copies.by_folder.get(folder) or _new_copy(FolderAddress(f"{url}/{name}".rstrip("/")), folder)


def refresh(path: Path) -> None:
    """Bring the copies at a path or below up to date, unless this process writes them."""
    url = next((url for url, root in _copies.roots.items() if Path(root.name) == path), None)
    if url is not None:
        local_runs(url)
    elif (copy := _copy_of(path)) is not None and not copy.locks:
        copy.mirror.fetch()


def problem_of(path: Path) -> RunFolderError | None:
    """Why the run could not be read whose copy is at a path; None if it could, and for another folder."""
    copy = _copies.by_folder.get(path.absolute())
    return None if copy is None else copy.problem


def fetch_beside(path: Path, is_wanted: Callable[[str], bool]) -> None:
    """Bring the copies of the runs beside a copy up to date, as far as files of these names go."""
    if (copy := _copy_of(path)) is not None and copy.mirror.folder == path.absolute():
        local_runs(copy.address.parent, is_wanted)


def close() -> None:
    """Remove all copies."""
    with _copies.lock:
        for root in _copies.roots.values():
            root.cleanup()
        _copies.roots.clear()
        _copies.by_folder.clear()


# -- sessions -------------------------------------------------------------------------------------------


def _copy_of(path: Path) -> _Copy | None:
    """The copy that a path is, or in which it is. A path beside a copy is that of a run to be made there."""
    if not _copies.roots:
        return None
    with _copies.lock:
        path = path.absolute()
        for place in (path, *path.parents):
            if place in _copies.by_folder:
                return _copies.by_folder[place]
            if any(Path(root.name) == place.parent for root in _copies.roots.values()):
                return _new_copy(FolderAddress.parse(shown(str(place))), place)
    return None


def address_of(path: Path) -> str:
    """What people and other machines call a folder: its address if it is a copy, and otherwise its path."""
    return shown(str(path.absolute()))


def is_copy(path: Path) -> bool:
    """Whether a folder is the copy of one in an object store, or is inside of it."""
    return _copy_of(path) is not None


@contextmanager
def session(path: Path) -> Iterator[None]:
    """Keep the object store in step with a copy that this process has locked; do nothing for another folder.

    The copy is brought up to date first, and saved at the end. After an error, it is saved only if the folder
    is in the object store already. Raises what `Mirror` does, and RefusedToStart if another process has begun
    a run there since this one made the folder.
    """
    copy = _copy_of(path)
    if copy is None or copy.locks:
        yield
        return
    is_new = not copy.mirror.exists and copy.mirror.has_files
    copy.mirror.begin()
    copy.is_claimed = False
    if is_new and copy.mirror.exists:
        raise RefusedToStart(f"{copy.address}: another session has begun a run there. Nothing was sent")
    copy.locks += 1
    try:
        with _saving(copy.mirror):
            yield
    except StoppedEarly:  # perhaps because another session has taken over
        raise
    except BaseException:
        with suppress(BatchlicError):
            if copy.mirror.exists:
                copy.mirror.save()
        raise
    else:
        copy.save()
        with suppress(BatchlicError):
            copy.mirror.clean()
    finally:
        copy.locks -= 1


def claim(path: Path) -> None:
    """Make the object store durable as the copy is, before a session sends.

    Raises RefusedToStart if another session has written the folder meanwhile.
    """
    if (copy := _copy_of(path)) is not None:
        try:
            copy.mirror.claim()
        except Replaced as error:
            raise RefusedToStart(f"{error}. Nothing was sent") from None
        copy.is_claimed = True


def save(path: Path) -> None:
    """Make the object store durable as the copy is. After a claim, raises nothing but StoppedEarly."""
    if (copy := _copy_of(path)) is not None:
        copy.save()


@contextmanager
def _saving(mirror: Mirror) -> Iterator[None]:
    """Save the files that grow, from time to time, until the block ends. What fails is tried again later."""
    is_over = threading.Event()

    def work() -> None:
        wait = SAVE_EVERY_S
        while not is_over.wait(wait):
            began = time.monotonic()
            with suppress(BatchlicError):
                if mirror.exists:  # only `claim` makes a folder
                    mirror.save(GROWING)
            wait = max(SAVE_EVERY_S, SAVE_SHARE * (time.monotonic() - began))

    thread = threading.Thread(target=work, name="object storage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
