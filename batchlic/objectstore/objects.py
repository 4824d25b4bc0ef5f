"""Reads and writes the objects below an address, with errors that say what to do."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from batchlic.errors import NoAccess, StoppedEarly, UsageError

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult, UpdateVersion
    from obstore.store import ObjectStore

    Version = UpdateVersion

P = ParamSpec("P")
R = TypeVar("R")

NO_LIBRARY = "object storage needs a library that is not installed: pip install 'batchlic[object-storage]'"

RETRY_S = 30.0
"""Seconds in which a request that fails is tried again."""
_CONNECT_S, _READ_S, _REQUEST_S = 5, 30, 600
_CHUNK_BYTES = 1 << 20
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class Missing(Exception):
    """There is no such object."""


class Conflict(Exception):
    """An object was created or changed meanwhile."""


class Objects(Protocol):
    """The objects below an address; keys are relative to it. Each method raises what `StoredObjects` does."""

    def read(self, key: str) -> "tuple[bytes, Version]":
        """A small object, and its version. Raises Missing."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """The content of an object. Raises Missing before the first chunk."""

    def write(self, key: str, content: bytes | Iterator[bytes]) -> None:
        """Write an object, or replace it."""

    def write_if(self, key: str, content: bytes, version: "Version | None") -> "Version":
        """Replace an object that still has a version, or create one. Raises Conflict. The new version."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist count as deleted."""

    def list_keys(self, folder: str | None = None) -> list[str]:
        """The keys in a folder and below."""


def _explained(method: Callable[P, R]) -> Callable[P, R]:
    @wraps(method)
    def explained(*given: P.args, **named: P.kwargs) -> R:
        with explain_errors(str(given[0])):
            return method(*given, **named)

    return explained


class StoredObjects:
    """The objects of a store, through obstore. Credentials come from the provider's variables.

    Raises UsageError or NoAccess for what the operator has to change, and StoppedEarly for what may pass.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            import obstore  # noqa: PLC0415 - only for folders in object stores
        except ImportError:
            raise UsageError(f"{url}: {NO_LIBRARY}") from None
        self._obstore = obstore
        with explain_errors(url):
            self._store: ObjectStore = obstore.store.from_url(
                _quoted(url),
                client_options={
                    "allow_http": _allows_http(url),
                    "connect_timeout": timedelta(seconds=_CONNECT_S),
                    "read_timeout": timedelta(seconds=_READ_S),
                    "timeout": timedelta(seconds=_REQUEST_S),
                },
                retry_config={"max_retries": 8, "retry_timeout": timedelta(seconds=RETRY_S)},
            )

    def __str__(self) -> str:
        return self._url

    @_explained
    def read(self, key: str) -> "tuple[bytes, Version]":
        """A small object, and its version. Raises Missing."""
        with _missing(key):
            found = self._obstore.get(self._store, key)
            return bytes(found.bytes()), _version(found.meta)

    def chunks(self, key: str) -> Iterator[bytes]:
        """The content of an object. Raises Missing before the first chunk."""
        with explain_errors(self._url):
            with _missing(key):
                found = self._obstore.get(self._store, key)
            for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)

    @_explained
    def write(self, key: str, content: bytes | Iterator[bytes]) -> None:
        """Write an object, or replace it."""
        self._obstore.put(self._store, key, content)

    @_explained
    def write_if(self, key: str, content: bytes, version: "Version | None") -> "Version":
        """Replace an object that still has a version, or create one. Raises Conflict. The new version."""
        errors = self._obstore.exceptions
        try:
            put = self._obstore.put(self._store, key, content, mode="create" if version is None else version)
        except (errors.AlreadyExistsError, errors.PreconditionError):
            raise Conflict(key) from None
        return _version(put)

    @_explained
    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist count as deleted."""
        if keys:
            self._obstore.delete(self._store, list(keys))

    @_explained
    def list_keys(self, folder: str | None = None) -> list[str]:
        """The keys in a folder and below."""
        return [found["path"] for batch in self._obstore.list(self._store, folder) for found in batch]


def _quoted(url: str) -> str:
    """The URL for an address: in an address, `%` and `#` are characters of a key like others."""
    scheme, _, rest = url.partition("://")
    bucket, slash, path = rest.partition("/")
    return f"{scheme}://{bucket}{slash}{quote(path)}"


def _version(found: "ObjectMeta | PutResult") -> "Version":
    """The version of an object, without what its store does not have."""
    version: Version = {}
    if e_tag := found.get("e_tag"):
        version["e_tag"] = e_tag
    if number := found.get("version"):
        version["version"] = number
    return version


@contextmanager
def _missing(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            raise
        raise Missing(key) from None


def _allows_http(url: str) -> bool:
    """Whether the client may speak HTTP without TLS: to this machine, or if AWS_ALLOW_HTTP says so.

    Raises UsageError for another address without TLS.
    """
    if not url.startswith("s3"):
        return False
    endpoint = next(((name, os.environ[name]) for name in _ENDPOINTS if os.environ.get(name)), None)
    is_allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"true", "1"}
    if endpoint is None or is_allowed:
        return is_allowed
    parts = urlsplit(endpoint[1])
    if parts.scheme != "http":
        return False
    if parts.hostname in {"127.0.0.1", "::1", "localhost"}:
        return True
    raise UsageError(
        f"{endpoint[0]}: http:// would send the files unencrypted: give an https:// address, or allow it "
        "with AWS_ALLOW_HTTP=true"
    )


@contextmanager
def explain_errors(url: str) -> Iterator[None]:
    """Raise an error of obstore as one that says what to do. Its own text may quote requests (promise F)."""
    try:
        yield
    except (UsageError, StoppedEarly, Missing, Conflict):
        raise
    except FileNotFoundError:
        raise UsageError(f"{url}: {_NO_BUCKET}") from None
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        raise _explained_error(url, error) from None


def _explained_error(url: str, error: Exception) -> Exception:
    text, kind = str(error), type(error).__name__
    for sign, what in _SIGNS.items():
        if sign in text:
            return UsageError(f"{url}: {what}")
    if kind in {"PermissionDeniedError", "UnauthenticatedError"} or "403 Forbidden" in text:
        return NoAccess(
            f"{url}: the object store refuses access: check the credentials of the environment, and their "
            "permissions (list, get, put, delete)"
        )
    if any(host in text for host in _METADATA_HOSTS):
        return UsageError(f"{url}: the environment has no credentials for the object store: {_VARIABLES}")
    if kind in {"UnknownConfigurationKeyError", "InvalidPathError", "NotSupportedError"}:
        return UsageError(f"{url}: the client of object stores can't use this address or setting ({kind})")
    status = next((f" (HTTP {code})" for code in _HTTP_ERRORS if f": {code} " in text), "")
    return StoppedEarly(
        f"{url}: the object store does not answer{status}: check the network and its address, then run the "
        "command again"
    )


_METADATA_HOSTS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
"""Where the clients look for the role of a machine or a container, if the environment has no credentials."""
_HTTP_ERRORS = (429, 500, 502, 503, 504)
_VARIABLES = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_… or AZURE_…"
_NO_BUCKET = "there is no such bucket: check the address, the region and the account"
_SIGNS = {
    "NoSuchBucket": _NO_BUCKET,
    "ContainerNotFound": "there is no such container: check the address and the account",
    "bucket does not exist": _NO_BUCKET,
    "InvalidAccessKeyId": f"the object store does not know the access key: {_VARIABLES}",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired: renew the credentials of the environment",
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
    "redirect without LOCATION": "the bucket is in another region: set AWS_REGION",
    "Account must be specified": "the account is missing: set AZURE_STORAGE_ACCOUNT_NAME",
}


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
