"""The process that works on a run, as it writes itself into a lock or a lease."""

import os
import re
import socket
from datetime import UTC, datetime
from typing import NamedTuple, Self


class Process(NamedTuple):
    """The process that uses a run folder, as it wrote itself into the lock. `since` is ISO 8601 in UTC."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, since {self.since}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The process that `str` describes; None for another text."""
        found = _PROCESS.fullmatch(text.strip())
        return found and cls(int(found["pid"]), found["host"], found["since"])


_PROCESS = re.compile(r"pid (?P<pid>\d+) on (?P<host>.+), since (?P<since>\S+)")


def this_process() -> Process:
    """This process, since now."""
    return Process(os.getpid(), socket.gethostname(), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
