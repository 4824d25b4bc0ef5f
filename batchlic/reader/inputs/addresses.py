"""Inventories on other machines: which addresses are read, how they are shown, and their downloads."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from batchlic.errors import InventoryError
from batchlic.objectstore.addresses import has_secrets

CHUNK_BYTES = 1 << 20
AGAIN = "run the command again later, or download the file first"
SILENT = (
    f"the server sent nothing for {{timeout:g}} s: {AGAIN}, or allow more time with --download-timeout "
    "(download_timeout in the job's [inventory])"
)

_READ = re.compile(r"(https?|sftp):", re.IGNORECASE)
_OTHER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_FORM = "https://HOST/PATH, http://HOST/PATH or sftp://HOST/PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """A file on another machine. `url`, without its fragment, may hold credentials and is never shown.

    `shown` is scheme, host, port and path: the name of the input in all files and messages (promise F).
    """

    url: str = field(repr=False)
    shown: str

    def __str__(self) -> str:
        return self.shown

    @property
    def parts(self) -> SplitResult:
        """The parts of `url`."""
        return urlsplit(self.url)


def address_of(name: str) -> Address | None:
    """The address that a name is, or None if it is a path. Raises InventoryError for a wrong address."""
    if not (found := _READ.match(name)):
        return None
    scheme = found[1].lower()
    try:
        parts = urlsplit(name)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("")
    if not host:
        raise InventoryError(
            f"{scheme}:…: not a valid address: give {_FORM}, and write special characters of a user name or "
            "password as in %40 for @"
        )
    if scheme == "sftp" and parts.query:
        raise InventoryError("sftp://…: an sftp address has no query: write ? in a path as %3F")
    shown = f"{scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}"
    # A password with an unescaped slash looks like a port and a path: `user:12/34@host`.
    is_doubtful = port is not None and "@" not in parts.netloc and "@" in parts.path
    return Address(name.partition("#")[0], shown + ("/…" if is_doubtful else parts.path))


def other_address_error(name: str) -> InventoryError | None:
    """The error if a name is an address of a kind that is not read."""
    if not (found := _OTHER.search(name)):
        return None
    scheme = found[1].lower()
    if found.start():
        return InventoryError(f"{scheme}://…: not a valid address: remove what stands before {scheme}://")
    advice = "give the path alone" if scheme == "file" else "download the file first, and name it"
    return InventoryError(f"{scheme}://…: batchlic does not read such addresses: {advice}")


def refuse_cloud_secrets(name: str) -> None:
    """Raise InventoryError if the address of an object in a cloud store has a query or a password.

    polars finds no object under a name with `?`, as if it were empty, and ignores a password.
    """
    scheme = name.partition("://")[0]
    if has_secrets(name):
        raise InventoryError(
            f"{scheme}://…: the address of an object has no query, and no password: give "
            f"{scheme}://BUCKET/PATH; credentials come from the environment. A signed address begins with "
            "https://"
        )


def shown(name: str) -> str:
    """An input's name without credentials, for files and messages."""
    return str(address_of(name) or name)


class RemoteFile(Protocol):
    """An open file on another machine. `size` is what the server says, in bytes, or None."""

    size: int | None
    notes: Sequence[str]

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end. Raises InventoryError."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that was read to its end."""

    name: str
    size: int
    sha256: str


class Download:
    """An input at an address, which can be read once. `notes` are for the operator."""

    def __init__(self, name: str, file: RemoteFile) -> None:
        self.name = name
        self.notes = file.notes
        self._file = file
        self._size = 0
        self._digest = hashlib.sha256()

    def chunks(self) -> Iterator[bytes]:
        """What has not been read yet. Raises InventoryError if the file can't be read to its end."""
        while chunk := self._file.read(CHUNK_BYTES):
            self._size += len(chunk)
            self._digest.update(chunk)
            yield chunk
        if self._file.size not in {None, self._size}:
            raise InventoryError(
                f"{self.name}: cut off, or changed while it was read: {self._size:,} bytes came, and the "
                f"server announced {self._file.size:,}. Nothing was planned: run the command again"
            )

    def finish(self) -> Downloaded:
        """Read the rest. Raises InventoryError as `chunks` does."""
        for _ in self.chunks():
            pass
        return Downloaded(self.name, self._size, self._digest.hexdigest())


@contextmanager
def download(address: Address, timeout: float) -> Iterator[Download]:
    """Open the file at an address, for a block. `timeout`: seconds to wait for an answer or for data.

    Raises InventoryError if the file can't be opened, or if the extra `remote` is not installed.
    """
    with _opened(address, timeout) as file:
        yield Download(address.shown, file)


def fetched(address: Address, timeout: float) -> Downloaded:
    """Size and SHA-256 of the file at an address. Raises InventoryError as `download` does."""
    with download(address, timeout) as file:
        return file.finish()


def _opened(address: Address, timeout: float) -> AbstractContextManager[RemoteFile]:
    try:
        if address.parts.scheme == "sftp":
            from batchlic.reader.inputs import sftp_files  # noqa: PLC0415 - the extra may not be installed

            return sftp_files.opened(address, timeout)
        from batchlic.reader.inputs import http_files  # noqa: PLC0415

        return http_files.opened(address, timeout)
    except ModuleNotFoundError as error:
        raise InventoryError(
            f"{address}: to read addresses, batchlic needs the extra `remote` ({error.name} is missing): "
            "pip install 'batchlic[remote]', or download the file first"
        ) from None
