"""The addresses of objects and folders in object stores: `s3://BUCKET/PATH`, gs:// and az:// alike."""

import re
from dataclasses import dataclass

from batchlic.errors import UsageError

_REMOTE = re.compile(r"(s3|s3a|gs|gcs|az|azure|abfs|abfss|adl)://")
_KINDS = {"s3a": "s3", "gcs": "gs"}


def is_remote(name: str) -> bool:
    """Whether a name is the address of an object or a folder in an object store."""
    return _REMOTE.match(name) is not None


def has_secrets(name: str) -> bool:
    """Whether an address has a query or a password, which the stores' clients ignore or misread."""
    rest = name.partition("://")[2]
    return "?" in rest or ":" in rest.partition("/")[0].rpartition("@")[0]


@dataclass(frozen=True, slots=True)
class FolderAddress:
    """A folder in an object store. `url` has no slash at its end, and no credentials."""

    url: str

    def __str__(self) -> str:
        return self.url

    @classmethod
    def parse(cls, given: str) -> "FolderAddress":
        """The address that somebody gives. Raises UsageError for a wrong one, without showing its secrets."""
        scheme, _, rest = given.partition("://")
        if has_secrets(given):
            raise UsageError(
                f"{scheme}://…: the address of a run folder has no query, and no password: give "
                f"{scheme}://BUCKET/PATH; credentials come from the environment"
            )
        bucket, *parts = rest.rstrip("/").split("/")
        if not bucket or not parts or any(part in {"", ".", ".."} for part in parts):
            raise UsageError(
                f"{given}: not the address of a folder in an object store: give {scheme}://BUCKET/PATH, "
                "without //, . or .. in it"
            )
        return cls(f"{_KINDS.get(scheme, scheme)}://{'/'.join([bucket, *parts])}")

    @property
    def name(self) -> str:
        """The last part of the path, such as the id of a run."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The folder around this one, or the bucket."""
        return self.url.rpartition("/")[0]
