"""Keeps a local copy and a folder in an object store in step.

The manifest is written last, by a put on the condition that nobody has replaced the manifest that this
process knows. So the folder changes as a whole or not at all, whenever the process is killed, and of two
processes one gets an error. Objects of the manifest before are deleted only after that.
"""

import hashlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from batchlic.atomic import explain_disk_errors, make_private_folder
from batchlic.errors import BatchlicError, RunFolderError, StoppedEarly
from batchlic.objectstore.manifest import MANIFEST, OBJECTS, Manifest, StoredFile, read_manifest
from batchlic.objectstore.objects import Conflict, Missing, Objects, free_space

if TYPE_CHECKING:
    from batchlic.objectstore.objects import Version

ATTEMPTS = 5
"""How often a folder is read again because another process has just replaced its manifest."""
_SMALL_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20
_OF_THIS_MACHINE = (".lock", ".limits.request.json")
_UNFINISHED = ".tmp"
_SCRATCH = ".scratch-"


class Replaced(StoppedEarly):
    """Another session has written the folder meanwhile; nothing of it was overwritten."""


def is_kept(name: str) -> bool:
    """Whether a file of a run folder, or a folder in it, is one that the object store keeps, by its name."""
    is_unfinished = name.startswith(".") and _UNFINISHED in name
    return not (name in _OF_THIS_MACHINE or is_unfinished or name.startswith(_SCRATCH))


@dataclass(frozen=True, slots=True)
class _Held:
    """A file of the local copy that is equal to a stored one, while its `stamp` is the same."""

    stored: StoredFile
    stamp: tuple[int, int, int] | None


class Mirror:
    """A folder in an object store, and its local copy at `folder`. For several threads at once.

    Raises what `Objects` does, and RunFolderError for a damaged folder.
    """

    def __init__(self, objects: Objects, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest()
        self._objects = objects
        self._version: Version | None = None
        self._held: dict[str, _Held] = {}
        self._is_replaced = False
        self._unanswered: set[str] = set()
        self._lock = threading.RLock()

    def __str__(self) -> str:
        return str(self._objects)

    @property
    def exists(self) -> bool:
        """Whether the object store had a manifest when it was read or written last."""
        return self._version is not None

    @property
    def has_files(self) -> bool:
        """Whether the copy has a file that the object store would keep."""
        return any(_files(self.folder))

    # -- from the object store --------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a session: fetch all files, and with them what has replaced an earlier session."""
        with self._lock:
            self.fetch()
            self._is_replaced = False

    def fetch(self, is_wanted: Callable[[str], bool] = lambda _: True) -> None:
        """Make the copy equal to the manifest, as far as files of these names go.

        A folder without a manifest leaves the copy as it is. The files change when all are downloaded: who
        reads the copy meanwhile sees files of one manifest.
        """
        with self._lock:
            for _ in range(ATTEMPTS):
                with suppress(Missing):
                    self._fetch(is_wanted)
                    return
            raise RunFolderError(
                f"{self}: is damaged: {MANIFEST} names an object that does not exist; if a session writes "
                "there now, run the command again"
            )

    def _fetch(self, is_wanted: Callable[[str], bool]) -> None:
        try:
            content, version = self._objects.read(MANIFEST)
        except Missing:
            return
        manifest = read_manifest(content, str(self))
        needed = [
            file
            for file in manifest.files
            if is_wanted(file.name) and not self._is_held(file.name, file.sha256)
        ]
        self._refuse_without_space(sum(file.size for file in needed))
        with ExitStack() as leftovers:
            downloaded = [(file, self._downloaded(file, leftovers)) for file in needed]
            for file, temporary in downloaded:
                path = self.folder / file.name
                with explain_disk_errors(path):
                    temporary.replace(path)
                self._held[file.name] = _Held(file, _stamp(path))
        current = manifest.by_name
        for name, held in list(self._held.items()):
            if name in current and current[name].sha256 == held.stored.sha256:
                self._held[name] = _Held(current[name], held.stamp)
            else:
                (self.folder / name).unlink(missing_ok=True)
                del self._held[name]
        self.manifest, self._version = manifest, version

    def _is_held(self, name: str, sha256: str) -> bool:
        held = self._held.get(name)
        return held is not None and held.stored.sha256 == sha256 and held.stamp == _stamp(self.folder / name)

    def _downloaded(self, file: StoredFile, leftovers: ExitStack) -> Path:
        """The content of a file, beside its place in the copy. `leftovers` removes it if it stays there."""
        path = self.folder / file.name
        temporary = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
        digest = hashlib.sha256()
        with explain_disk_errors(path):
            make_private_folder(path.parent)
            leftovers.callback(temporary.unlink, missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as out:
                for chunk in self._objects.chunks(file.key):
                    digest.update(chunk)
                    out.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise RunFolderError(
                f"{self}/{file.key}: is damaged: it is not the {file.name} that the manifest names"
            )
        return temporary

    def _refuse_without_space(self, size: int) -> None:
        """Raise StoppedEarly if the copy does not fit on its disk."""
        place = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        if size > (free := free_space(place)):
            raise StoppedEarly(
                f"{self}: a local copy needs {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free: give "
                "the temporary folder more space, or name another one with TMPDIR"
            )

    # -- to the object store ----------------------------------------------------------------------------

    def claim(self) -> None:
        """Write the copy, and a new manifest in any case: another process with an older one gets Replaced."""
        with self._lock:
            self._publish(self._stored(None))

    def save(self, names: Collection[str] | None = None) -> None:
        """Write what has changed in the copy: all files, or those with these names; then the manifest.

        Raises Replaced if another process has written the folder since this one read or wrote it.
        """
        with self._lock:
            files = self._stored(names)
            if files != self.manifest.by_name:
                self._publish(files)

    def clean(self) -> None:
        """Delete objects that killed sessions left: no manifest names them, and none will."""
        with self._lock:
            named = {file.key for file in self.manifest.files}
            newest = f"{OBJECTS}/{self.manifest.generation:08}-~"
            left = [key for key in self._objects.list_keys(OBJECTS) if key not in named and key < newest]
            self._objects.delete(left)

    def _stored(self, names: Collection[str] | None) -> dict[str, StoredFile]:
        """The files of the next manifest; what is new or has changed is uploaded."""
        if self._is_replaced:
            raise self._replaced()
        prefix = f"{OBJECTS}/{self.manifest.generation + 1:08}-{secrets.token_hex(8)}"
        stored = {} if names is None else self.manifest.by_name
        for name, path in _files(self.folder):
            if names is None or name in names:
                with suppress(FileNotFoundError):  # replaced or removed at this moment
                    stored[name] = self._uploaded(name, path, f"{prefix}/{name}")
        return stored

    def _uploaded(self, name: str, path: Path, key: str) -> StoredFile:
        """Upload a file unless the object store has it; of a file that grows, what is there at first."""
        if (held := self._held.get(name)) is not None and held.stamp == _stamp(path):
            return held.stored
        stamp = _stamp(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256()
            for chunk in _chunks(file, size):
                digest.update(chunk)
            known = self.manifest.by_name.get(name)
            stored = StoredFile(name, size, digest.hexdigest(), key)
            if known is not None and (known.size, known.sha256) == (size, stored.sha256):
                stored = known
            else:
                file.seek(0)
                is_small = size <= _SMALL_BYTES
                self._objects.write(key, file.read(size) if is_small else _chunks(file, size))
        self._held[name] = _Held(stored, stamp)
        return stored

    def _publish(self, files: dict[str, StoredFile]) -> None:
        """Put the manifest in place if nobody has replaced it, and delete the objects that it replaces."""
        before = self.manifest
        manifest = Manifest(
            generation=before.generation + 1,
            id=secrets.token_hex(16),
            written_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            written_by=f"pid {os.getpid()} on {socket.gethostname()}",
            files=sorted(files.values(), key=lambda file: file.name),
        )
        self._version = self._put(manifest)
        self.manifest = manifest
        self._held = {name: held for name, held in self._held.items() if name in files}
        outdated = {file.key for file in before.files} - {file.key for file in manifest.files}
        with suppress(BatchlicError):  # `clean` deletes them later
            self._objects.delete(sorted(outdated))

    def _put(self, manifest: Manifest) -> "Version":
        """Put a manifest in the place of the known one. Raises Replaced if there is another one.

        A put whose answer is lost may have succeeded. So a manifest of this process that is in place although
        its put seems to have failed is no conflict: it is the same put, repeated, or an earlier one.
        """
        self._unanswered.add(manifest.id)
        expected = self._version
        for _ in range(ATTEMPTS):
            with suppress(Conflict):
                version = self._objects.write_if(MANIFEST, manifest.encoded(), expected)
                self._unanswered.clear()
                return version
            try:
                content, found = self._objects.read(MANIFEST)
            except Missing:
                raise self._replaced() from None
            in_place = read_manifest(content, str(self)).id
            if in_place == manifest.id:
                self._unanswered.clear()
                return found
            if in_place not in self._unanswered:
                raise self._replaced()
            expected = found
        raise self._replaced()

    def _replaced(self) -> Replaced:
        self._is_replaced = True
        return Replaced(
            f"{self}: another session has written this run folder meanwhile; nothing there was overwritten. "
            f"See `batchlic status {self}`"
        )


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files below a folder that an object store keeps, by their paths in it. Links are left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if is_kept(name))
        for name in filter(is_kept, sorted(names)):
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix(), path


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next `size` bytes of a file, or those that there are."""
    while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
        size -= len(chunk)
        yield chunk


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with the content of a file; None if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
