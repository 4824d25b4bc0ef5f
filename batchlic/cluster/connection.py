"""Connects to workers of Dask: processes that it starts on this machine, or a cluster that is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from batchlic.cluster.coordinator import Coordinator, Task
from batchlic.cluster.tasks import run_shard, set_bounds
from batchlic.errors import RefusedToStart, UsageError
from batchlic.runs.submit import Send

if TYPE_CHECKING:
    from distributed import Client

EXTRA = "pip install 'batchlic[dask]'"
CONNECT_TIMEOUT_S = 10
"""Seconds to wait for a scheduler that does not answer."""
START_TIMEOUT_S = 60
"""Seconds to wait for the first worker."""

_QUIET = logging.CRITICAL
"""What Dask logs is about its own parts. What matters to a run is in the run's log."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Where a run is sent from: so many processes on this machine, or the cluster at an address.

    Without both, this process sends. Raises UsageError if both are given.
    """

    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.address is not None:
            raise UsageError(
                "give --workers for processes on this machine, or --dask for a cluster, not both"
            )

    def __bool__(self) -> bool:
        return self.workers is not None or self.address is not None

    @property
    def option(self) -> str:
        """What the operator has typed."""
        return f"--workers {self.workers}" if self.address is None else f"--dask {self.address}"

    def refuse_without_store(self, store: str | None) -> None:
        """Raise UsageError if a run has no store, and is to be sent from several processes."""
        if self and store is None:
            raise UsageError(
                f"{self.option}: several processes can't share a journal that is a file: set BATCHLIC_STORE, "
                "or [store] in the job, to a PostgreSQL database. A run that has begun without a store is "
                "continued without this option"
            )


@contextmanager
def sending(spread: Spread, *, on_sandbox: bool = False) -> Iterator[Send | None]:
    """What sends a run from several processes, until the block ends; None if this process is to send.

    Raises UsageError without Dask, or if it can't reach the sandbox of this machine, and RefusedToStart if
    the cluster can't be reached.
    """
    if not spread:
        yield None
        return
    if on_sandbox and spread.address is not None:
        raise UsageError(f"{spread.option}: the sandbox is on this machine: use --workers with --sandbox")
    with _connected(spread) as client:
        yield Coordinator(DaskWorkers(client, spread))


class DaskWorkers:
    """The workers of a Dask cluster."""

    def __init__(self, client: Client, spread: Spread) -> None:
        self._client = client
        self._spread = spread

    def count(self) -> int:
        """How many shards can be at work at once."""
        if self._spread.workers is not None:
            return self._spread.workers
        with suppress(OSError, RuntimeError, ValueError):
            return sum(self._client.nthreads().values())
        return 0

    def start(self, name: str, encoded: bytes, topic: str) -> Task:
        """Let a worker send a shard. If the worker dies, Dask lets another one do it again."""
        return self._client.submit(run_shard, encoded, topic, key=name, pure=False)

    def listen(self, topic: str, hear: Callable[[str], None]) -> None:
        """Call a function, in another thread, with all that shards tell."""

        def heard(event: tuple[float, str]) -> None:
            hear(event[1])

        self._client.subscribe_topic(topic, heard)

    def set_bounds(self, session: str, encoded: bytes) -> None:
        """Tell all workers other limits for a session. Those that can't be reached now don't get them."""
        with suppress(OSError, RuntimeError, ValueError):
            self._client.run(set_bounds, session, encoded, on_error="ignore")


@contextmanager
def _connected(spread: Spread) -> Iterator[Client]:
    with ExitStack() as opened:
        try:
            client = opened.enter_context(
                _local(spread.workers) if spread.workers is not None else _remote(spread.address or "")
            )
        except ModuleNotFoundError as error:
            raise UsageError(f"{spread.option}: {error.name} is not installed: {EXTRA}") from None
        except (OSError, TimeoutError) as error:
            raise RefusedToStart(
                f"{spread.option}: no worker can be reached ({type(error).__name__}), so nothing was sent: "
                "check the address, and that scheduler and workers are running"
            ) from None
        except ValueError as error:
            raise UsageError(f"{spread.option}: {error}") from None
        yield client


@contextmanager
def _local(workers: int) -> Iterator[Client]:
    """Processes on this machine, which end with the block. Only this process can give them work, by TLS."""
    import dask  # noqa: PLC0415 - slow to import, and an extra
    from distributed import Client, LocalCluster  # noqa: PLC0415

    _be_quiet()
    config = {"distributed.scheduler.allowed-failures": 3, "distributed.scheduler.worker-ttl": "60s"}
    with dask.config.set(config), ExitStack() as opened:
        start = partial(
            LocalCluster,
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            protocol="tls://",
            security=True,
            dashboard_address=None,
            memory_limit=None,
            silence_logs=_QUIET,
            preload=["batchlic.cluster.tasks"],
        )
        with ThreadPoolExecutor(1) as starter:  # a signal leaves no half cluster, which can't be closed
            starting = starter.submit(start)
            opened.callback(_closed, lambda: starting.result().close(timeout=10))
            cluster = starting.result()
        client = Client(cluster, set_as_default=False, timeout=CONNECT_TIMEOUT_S)
        opened.callback(_closed, partial(client.close, timeout=10))
        yield client


@contextmanager
def _remote(address: str) -> Iterator[Client]:
    from distributed import Client  # noqa: PLC0415 - as above

    _be_quiet()
    client = Client(address, set_as_default=False, timeout=CONNECT_TIMEOUT_S)
    try:
        client.wait_for_workers(1, timeout=START_TIMEOUT_S)
        yield client
    finally:
        _closed(partial(client.close, timeout=10))


def _closed(close: Callable[[], Any]) -> None:
    """Close a part of Dask. What goes wrong there changes nothing for the run, which has ended."""
    with suppress(Exception):
        close()


def _be_quiet() -> None:
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"distributed", "tornado", "dask"}:
            logging.getLogger(name).setLevel(_QUIET)
