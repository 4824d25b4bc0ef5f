"""The manifest of a folder in an object store: which files it has, and which objects hold them."""

from pathlib import PurePosixPath

import msgspec

from batchlic.errors import OtherVersion, RunFolderError

MANIFEST = "manifest.json"
OBJECTS = "files"
"""The folder of the objects that hold files."""
FORMAT = 1


class StoredFile(msgspec.Struct, frozen=True):
    """A file of the folder. `name` is its path there, `size` its bytes, and `key` the object that has it."""

    name: str
    size: int
    sha256: str
    key: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The files of the folder. `generation` counts the manifests of the folder, and `id` is random.

    `written_at` is ISO 8601 in UTC. `written_by` is the process that wrote the manifest.
    """

    format: int = FORMAT
    generation: int = 0
    id: str = ""
    written_at: str = ""
    written_by: str = ""
    files: list[StoredFile] = []

    @property
    def by_name(self) -> dict[str, StoredFile]:
        """The files by their names."""
        return {file.name: file for file in self.files}

    def encoded(self) -> bytes:
        """The manifest as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class _Format(msgspec.Struct, frozen=True):
    format: int


def read_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in an object at the address `where`. Raises OtherVersion or RunFolderError."""
    try:
        if msgspec.json.decode(content, type=_Format).format > FORMAT:
            raise OtherVersion(f"{where}/{MANIFEST}: a newer version of batchlic wrote it: upgrade batchlic")
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise RunFolderError(f"{where}/{MANIFEST}: is damaged ({error})") from None
    for file in manifest.files:
        if not (_is_inside(file.name) and _is_inside(file.key) and file.key.startswith(f"{OBJECTS}/")):
            raise RunFolderError(f"{where}/{MANIFEST}: is damaged: it names a file outside of the folder")
    return manifest


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
