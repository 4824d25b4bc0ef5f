"""How many connections a run can have: each needs a file descriptor, and so do the files of the run."""

import resource
from contextvars import ContextVar
from pathlib import Path

from batchlic.errors import UsageError
from batchlic.runs.signals import is_own_process

RESERVED = 32
"""Descriptors for a run's files, databases, pipes and event loop. A run was seen to use 20."""

_WANTED = 1000 + RESERVED
"""Descriptors of a run with as many connections as a job can ask for."""


def connections_for(max_concurrency: int) -> int:
    """The number of connections that a run can have: `max_concurrency`, or fewer if descriptors are few.

    Raises UsageError if there is no descriptor for any connection.
    """
    limit, left = _limit_and_left()
    if left <= 0:
        raise UsageError(
            f"only {limit} files may be open at once (ulimit -n), and a run needs at least "
            f"{limit - left + 1}: raise the limit, as by ulimit -n 1024"
        )
    return min(max_concurrency, left)


def fewer_connections_note(connections: int) -> str:
    """Why a run has no more connections than that, and what to do."""
    limit, _ = _limit_and_left()
    return (
        f"at most {connections} requests in flight, because only {limit} files may be open at once "
        f"(ulimit -n): raise that limit, or lower --max-concurrency"
    )


_counted: ContextVar[tuple[int, int] | None] = ContextVar("counted", default=None)


def _limit_and_left() -> tuple[int, int]:
    """The limit of open files, and how many of them are left for connections.

    Counted once in each command: later, files that are in `RESERVED` are open. A program that starts runs in
    its threads keeps its limit.
    """
    if (counted := _counted.get()) is not None:
        return counted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_open = _count_open()
    wanted = is_open + _WANTED
    if soft != resource.RLIM_INFINITY and soft < wanted and is_own_process():
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limit = wanted if soft == resource.RLIM_INFINITY else soft
    _counted.set((limit, limit - is_open - RESERVED))
    return limit, limit - is_open - RESERVED


def _count_open() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir()) - 1  # without the one that reads the folder
