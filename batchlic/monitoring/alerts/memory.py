"""Remembers the last message to each target: one small file for each job, in the state folder.

The file is a convenience. If it is lost or damaged, a message is repeated, or an all-clear is missing.
"""

from pathlib import Path

import msgspec

from batchlic.atomic import make_private_folder, replacing
from batchlic.errors import BatchlicError
from batchlic.monitoring.alerts.troubles import Kind, Trouble

FOLDER = ".notified"
"""Folder in the state folder."""
_FORMAT = 1


class Told(msgspec.Struct):
    """The troubles that were reported to each target, by kind."""

    format: int = _FORMAT
    targets: dict[str, dict[Kind, Trouble]] = {}


def read_told(path: Path | None) -> Told:
    """What was reported last; nothing if that is not known."""
    if path is not None:
        try:
            told = msgspec.json.decode(path.read_bytes(), type=Told)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return Told()
        if told.format == _FORMAT:
            return told
    return Told()


def write_told(path: Path, told: Told) -> str | None:
    """Remember what was reported; returns the reason if that fails."""
    try:
        make_private_folder(path.parent)
        with replacing(path) as temporary:
            temporary.write_bytes(msgspec.json.encode(told))
    except (OSError, BatchlicError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return f"the next run may repeat this message: {reason}"
    return None
