"""Local copies of folders that are elsewhere: messages and records name the address, not the copy."""

import threading

_lock = threading.Lock()
_addresses: dict[str, str] = {}


def stand_for(path: str, address: str) -> None:
    """Remember that the folder at `path` is a copy of the one at `address`, until this process ends."""
    with _lock:
        _addresses[path] = address


def shown(text: str) -> str:
    """Text in which the paths of copies are replaced by the addresses that they stand for."""
    if not _addresses:
        return text
    with _lock:
        known = sorted(_addresses.items(), key=lambda pair: len(pair[0]), reverse=True)
    for path, address in known:
        text = text.replace(path, address)
    return text
