"""store.json: the file in a run folder that says which store has the journal, and under which key."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchlic.atomic import explain_read_errors
from batchlic.errors import RunFolderError

STORE_RECORD = "store.json"
LEASE_OF_RUN = "run:"
"""What the key of the lease on a run begins with; the key of the run follows."""


class StoreRecord(msgspec.Struct, frozen=True):
    """The content of the file. `store` is a URL without a password, `key` is random."""

    store: str
    key: str


def read_store_record(path: Path) -> StoreRecord | None:
    """What the file at `path` says; None if there is no file. Raises RunFolderError."""
    with explain_read_errors(path):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    try:
        return msgspec.json.decode(content, type=StoreRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{path}: can't be read ({error}). It says which store has the journal: restore it from a backup"
        ) from error
