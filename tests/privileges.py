"""Processes that permissions bind, also where the tests run as root."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of capset(2)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_Data = ctypes.c_uint32 * 6
"""Effective, permitted and inheritable capabilities: the first 32, then the others."""


@contextmanager
def without_privileges() -> Iterator[None]:
    """Let this thread access only what its user may access; root keeps its own files, as any owner does."""
    before = _capabilities()
    lowered = _Data(*before)
    lowered[0] = lowered[3] = 0
    _call("capset", lowered)
    try:
        yield
    finally:
        _call("capset", before)


def drop_privileges() -> None:
    """Do this for good, for this process."""
    _call("capset", _Data())


def _capabilities() -> "ctypes.Array[ctypes.c_uint32]":
    found = _Data()
    _call("capget", found)
    return found


def _call(name: str, data: "ctypes.Array[ctypes.c_uint32]") -> None:
    header = _Header(_VERSION, 0)
    if getattr(ctypes.CDLL(None, use_errno=True), name)(ctypes.byref(header), ctypes.byref(data)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
