"""A fleet, a slow carrier, and runs whose journals are in a PostgreSQL database of their own."""

import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from batchlic.errors import ExitCode
from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    LIFETIME,
    Ended,
    batchlic,
    begin,
    books,
    end,
    fleet,
    imei,
    keys,
    totals,
    until,
)
from tests.forking import Program, serving
from tests.postgresql import PostgreSQL

DEVICES, BATCH_SIZE = 1000, 10
LEASE_S = 1
ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--batch-size", f"{BATCH_SIZE}", "--no-report")
FAST = "50"
"""Requests in flight of a session that shall end soon."""


@dataclass
class Site:
    """`url` is that of the carrier, `store` that of the database, and `folder` that of the run."""

    path: Path
    url: str
    server: PostgreSQL
    database: str
    devices: int
    processes: list[Program] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.path / "run"

    @property
    def store(self) -> str:
        return self.server.url(self.database)

    def settings(self, **changes: str) -> dict[str, str]:
        lease = {"BATCHLIC_STORE": self.store, "BATCHLIC_LEASE_S": f"{LEASE_S}"}
        return keys(self.url, **{**lease, **changes})

    def assign(
        self, folder: str = "run", *, concurrency: str = "2", sku: str = LIFETIME, **changes: str
    ) -> Program:
        """Begin or continue a run: by default slowly, with Lifetime licenses."""
        options = ("--sku", sku, "--consent-lifetime", "--max-concurrency", concurrency)
        return self.begin(*ASSIGN, "--run-dir", folder, *options, **changes)

    def finish(self, folder: str = "run", **changes: str) -> Ended:
        """Let a session begin a run, or continue it, and send it to its end."""
        return end(self.assign(folder, concurrency=FAST, **changes))

    def finish_once_lapsed(self, **changes: str) -> Ended:
        """Do so when nobody holds the run: a renewal may arrive after the lease has lapsed."""
        self.until_lapsed()
        ended = self.finish(**changes)
        if ended.code == ExitCode.REFUSED:
            self.until_lapsed()
            ended = self.finish(**changes)
        return ended

    def begin(self, *arguments: str, **changes: str) -> Program:
        process = begin(*arguments, settings=self.settings(**changes), cwd=self.path)
        self.processes.append(process)
        return process

    def batchlic(self, *arguments: str, **changes: str) -> Ended:
        return batchlic(*arguments, settings=self.settings(**changes), cwd=self.path)

    def ask(self, query: str) -> list[Any]:
        return self.server.execute(query, self.database)

    # -- events -----------------------------------------------------------------------------------------

    def sent(self) -> int:
        """License requests that the carrier has received."""
        return sum(dict[str, int](totals(self.url)["requests"]).values())

    def until_sent(self, requests: int, process: Program) -> None:
        until(lambda: self.sent() >= requests or process.poll() is not None)
        assert process.poll() is None, end(process)

    def kill_in_flight(self, process: Program) -> None:
        """Kill a session while the answer to a request of it is not recorded."""
        while True:
            process.send_signal(signal.SIGSTOP)
            if self.lost_batches():
                break
            process.send_signal(signal.SIGCONT)
        process.kill()
        assert end(process).code == -signal.SIGKILL

    def until_lapsed(self) -> None:
        """Wait until nobody holds a lease any more."""
        until(lambda: not self.ask("SELECT key FROM leases WHERE expires_at > clock_timestamp()"))

    # -- what became of it ------------------------------------------------------------------------------

    def executions(self) -> dict[str, int]:
        """How often the carrier has licensed each device."""
        return {device: record["assigned"] for device, record in books(self.url).items()}

    def lost_batches(self) -> set[int]:
        """The batches with an intent that has no answer."""
        query = "SELECT batch_id FROM intents LEFT JOIN answers USING (run, seq) WHERE outcome IS NULL"
        return {batch for (batch,) in self.ask(query)}

    def published(self) -> dict[str, bytes]:
        """Every file of the run but its log, which each session continues."""
        kept = (path for path in self.folder.iterdir() if path.name not in {"run.log", ".lock"})
        return {path.name: path.read_bytes() for path in kept}


def assert_finished(at: Site, ended: Ended) -> None:
    """The exit code says whether an answer was lost, and the carrier's books equal the results."""
    assert ended.code == (3 if at.lost_batches() else 0), ended
    assert_books_equal_results(at)


def assert_books_equal_results(at: Site) -> None:
    """Each device is accepted and licensed once, or in doubt and licensed at most once."""
    executions, lost = at.executions(), at.lost_batches()
    results = pl.read_parquet(at.folder / "results.parquet")
    assert set(results["imei"]) == {imei(number) for number in range(at.devices)}
    for device, batch, status in results.select("imei", "batch_id", "status").iter_rows():
        if batch in lost:
            assert (status, executions.get(device, 0)) in {("in_doubt", 0), ("in_doubt", 1)}
        else:
            assert (status, executions.get(device, 0)) == ("accepted", 1)


@contextmanager
def site(path: Path, server: PostgreSQL, *, latency: float = 0.2, devices: int = DEVICES) -> Iterator[Site]:
    """A fleet, a carrier that is slow, and a new database."""
    path.mkdir(exist_ok=True)
    fleet(path / "fleet.csv", devices)
    database = f"faults_{secrets.token_hex(4)}"
    server.new_database(database)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=latency))) as url:
        at = Site(path, url, server, database, devices)
        try:
            yield at
        finally:
            for process in at.processes:
                process.kill()
                with process:
                    pass
