"""What Dask runs on its workers: named functions, so that no code goes through the scheduler."""

import os
import signal
from typing import Any

import msgspec

from batchlic.cluster.messages import Told
from batchlic.cluster.worker import change_bounds, send_shard

_OF_TERMINALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_shard(encoded: bytes, topic: str) -> bytes:
    """Send a shard, and tell its coordinator by events of this topic. The task and its end are JSON."""
    from distributed import get_worker  # noqa: PLC0415 - Dask runs this module, but need not be installed

    worker = get_worker()

    def tell(told: Told) -> None:
        worker.log_event(topic, msgspec.json.encode(told).decode())

    return send_shard(encoded, tell)


def set_bounds(session: str, encoded: bytes) -> None:
    """Change the limits of a session at work."""
    change_bounds(session, encoded)


def dask_setup(_worker: Any) -> None:  # noqa: ANN401 - a name and a type of Dask
    """Let a worker of this machine ignore signals: the coordinator hears them, and stops the shards.

    https://docs.dask.org/en/latest/how-to/customize-initialization.html
    """
    os.umask(0o077)
    for number in _OF_TERMINALS:
        signal.signal(number, signal.SIG_IGN)
