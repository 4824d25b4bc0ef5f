"""A store, a carrier and a Dask cluster of two workers: processes of their own, for a module of tests."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, PATIENCE, REPOSITORY, environment_of, imei, keys, until
from tests.forking import serving
from tests.postgresql import PostgreSQL

LEASE_S = 2
WORKERS = 2

_CLUSTER = f"""
import sys
if __name__ == "__main__":
    import dask
    from distributed import LocalCluster
    dask.config.set({{"distributed.scheduler.worker-ttl": "4s"}})
    with LocalCluster({WORKERS}, threads_per_worker=1, dashboard_address=None, silence_logs=50,
                      preload="batchlic.cluster.tasks") as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@dataclass(frozen=True)
class Farm:
    """What a run with several workers needs. `settings` are those of coordinator and workers."""

    server: PostgreSQL
    database: str
    url: str
    address: str
    settings: dict[str, str]

    def workers(self) -> set[int]:
        """The processes that hold a shard now."""
        if self.server.execute("SELECT to_regclass('leases')", self.database) == [(None,)]:
            return set()
        holders = self.server.execute(
            "SELECT holder FROM leases WHERE key LIKE '%/shard:%' AND expires_at > clock_timestamp()",
            self.database,
        )
        return {int(found[1]) for (holder,) in holders if (found := re.match(r"pid (\d+) ", holder))}

    def kill_worker(self) -> int:
        """Kill a worker that sends something, by SIGKILL."""
        until(lambda: bool(self.workers()))
        worker = min(self.workers())
        os.kill(worker, signal.SIGKILL)
        return worker


@contextmanager
def farm(server: PostgreSQL, folder: Path, database: str, *, latency: float = 0.2) -> Iterator[Farm]:
    """A farm whose carrier answers after `latency` seconds."""
    with serving(SandboxConfig(latency=LatencyConfig(base_s=latency))) as url:
        store = server.new_database(database)
        settings = keys(url, BATCHLIC_STORE=store, BATCHLIC_LEASE_S=f"{LEASE_S}")
        with cluster(folder, settings) as address:
            yield Farm(server, database, url, address, settings)


@contextmanager
def cluster(folder: Path, settings: dict[str, str]) -> Iterator[str]:
    """The address of a cluster whose workers have these settings."""
    script = folder / "cluster.py"
    script.write_text(_CLUSTER)
    process = subprocess.Popen(
        [sys.executable, script],
        env=environment_of(settings, folder),
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
            process.communicate(timeout=PATIENCE)  # the end of its input ends it
        finally:
            process.kill()


def inventory(folder: Path, first: int, devices: int, accounts: int = 1) -> list[str]:
    """Write fleet.csv with so many devices, in turn on so many accounts; returns their IMEIs."""
    devices_of = [imei(number) for number in range(first, first + devices)]
    rows = [f"{device},{ACCOUNT[:-1]}{at % accounts + 1}" for at, device in enumerate(devices_of)]
    (folder / "fleet.csv").write_text("\n".join(["IMEI,account", *rows, ""]))
    return devices_of


def assign(*options: str) -> tuple[str, ...]:
    """The arguments of a run of fleet.csv: batches of ten devices, few requests at once."""
    fixed = (
        "--run-dir",
        "run",
        "--batch-size",
        "10",
        "--max-concurrency",
        "4",
        "--no-ledger",
        "--no-report",
        "--json",
    )
    return ("assign", "fleet.csv", "--sku", FLEXIBLE, *fixed, *options)


def events(folder: Path) -> list[dict[str, object]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (folder / "run.log").read_text().splitlines()]
