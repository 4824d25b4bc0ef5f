"""Runs that are stopped, killed, started twice or out of disk, and how they resume."""

import json
import os
import random
import re
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from batchlic.runs.folder import RunFolder
from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    LIFETIME,
    Ended,
    attempts,
    batchlic,
    begin,
    books,
    end,
    fleet,
    imei,
    keys,
    statuses,
    summary,
    totals,
    until,
)
from tests.forking import Program, serving

DEVICES = 1000
KILLS = int(os.environ.get("KILLS", "6"))
BATCH_SIZE = 10
ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--run-dir", "run", "--batch-size", f"{BATCH_SIZE}")


class Home:
    """A fleet, a carrier, and a slow run: 100 requests, 2 at once. `store` has the journal; None: a file."""

    def __init__(self, path: Path, url: str, sku: str, store: str | None = None) -> None:
        self.path = path
        self._settings = keys(url) if store is None else keys(url, BATCHLIC_STORE=store, BATCHLIC_LEASE_S="1")
        self.url = url
        self._sku = sku
        self.folder = path / "run"
        self._processes: list[Program] = []

    def begin(self, *, max_concurrency: int = 2) -> Program:
        options = (
            "--sku",
            self._sku,
            "--consent-lifetime",
            "--max-concurrency",
            f"{max_concurrency}",
            "--json",
        )
        return self._started(begin(*ASSIGN, *options, settings=self._settings, cwd=self.path))

    def resume(self) -> Program:
        return self._started(begin("resume", "run", "--json", settings=self._settings, cwd=self.path))

    def _started(self, process: Program) -> Program:
        self._processes.append(process)
        return process

    def end_processes(self) -> None:
        """End the processes that a failed test has left."""
        for process in self._processes:
            process.kill()
            with process:
                pass

    def is_free(self) -> bool:
        """Whether another session may have the run: the lease of one that was killed has to lapse."""
        return RunFolder(self.folder).process is None

    def sent(self) -> int:
        return sum(dict[str, int](totals(self.url)["requests"]).values())

    def has_moved(self, process: Program, sent: int) -> bool:
        return self.sent() > sent or process.poll() is not None

    def has_sent(self, requests: int) -> bool:
        return self.sent() >= requests

    def executions(self) -> dict[str, int]:
        return {device: record["assigned"] for device, record in books(self.url).items()}


@contextmanager
def home(path: Path, sku: str = FLEXIBLE, latency: float = 0.2, store: str | None = None) -> Iterator[Home]:
    """A fleet, and a carrier that is slow: on a busy machine, too, a run is at work when a test stops it."""
    fleet(path / "fleet.csv", DEVICES)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=latency))) as url:
        at = Home(path, url, sku, store)
        try:
            yield at
        finally:
            at.end_processes()


def assert_all_accepted_once(at: Home, ended: Ended) -> None:
    assert ended.code == 0, ended.err
    assert set(statuses(at.folder).values()) == {"accepted"}
    assert at.executions() == {imei(n): 1 for n in range(DEVICES)}


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_requests_in_flight_without_doubt(tmp_path: Path, stop: signal.Signals) -> None:
    with home(tmp_path) as at:
        process = at.begin()
        until(lambda: at.has_sent(10))
        process.send_signal(stop)
        stopped = end(process)
        executions = at.executions()
    written = summary(at.folder)
    assert (stopped.code, written["exit_code"]) == (6, 6)
    assert stop.name in written["stopped_because"]
    assert set(written["statuses"]) == {"accepted", "pending"}
    assert {device for device, status in statuses(at.folder).items() if status == "accepted"} == set(
        executions
    )
    assert json.loads(stopped.out) == written


@pytest.mark.slow
def test_a_stopped_run_resumes_and_licenses_each_device_once(tmp_path: Path) -> None:
    with home(tmp_path) as at:
        process = at.begin()
        until(lambda: at.has_sent(10))
        process.send_signal(signal.SIGINT)
        assert end(process).code == 6
        assert_all_accepted_once(at, end(at.begin(max_concurrency=50)))


@pytest.mark.slow
def test_two_signals_stop_at_once_with_requests_in_doubt(tmp_path: Path) -> None:
    with home(tmp_path, LIFETIME, latency=1.0) as at:
        process = at.begin()
        until(lambda: (at.folder / "journal.db-wal").exists() and len(attempts(at.folder)) >= 4)
        process.send_signal(signal.SIGINT)
        assert "again to stop at once" in process.stderr.readline() + process.stderr.readline()
        process.send_signal(signal.SIGINT)
        stopped = end(process)
        counts = summary(at.folder)["statuses"]
        assert stopped.code == 6
        assert counts["in_doubt"] == 20
        assert sum(counts.values()) == DEVICES


@pytest.mark.slow
def test_a_running_run_has_a_status_but_no_second_process(tmp_path: Path) -> None:
    with home(tmp_path, latency=0.1) as at:
        process = at.begin()
        until(lambda: at.has_sent(3))
        process.send_signal(signal.SIGSTOP)  # paused, so that it still runs when the second process starts
        shown = json.loads(batchlic("status", "run", "--json", cwd=tmp_path).out)
        second = end(at.resume())
        process.send_signal(signal.SIGCONT)
        assert sum(shown["statuses"].values()) == shown["planned"] == DEVICES
        assert 0 < shown["statuses"]["accepted"] < DEVICES
        assert (shown["exit_code"], shown["finished_at"]) == (None, None)
        assert second.code == 4
        assert re.search(rf"pid {process.pid} on .+, since 20", second.err)
        assert_all_accepted_once(at, end(process))


@pytest.mark.parametrize("backend", ["file", pytest.param("store", marks=pytest.mark.slow)])
def test_a_run_killed_many_times_resends_only_flexible_licenses(
    tmp_path: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    store = request.getfixturevalue("store") if backend == "store" else None
    kills = KILLS if store is None else (KILLS + 1) // 2
    dice, count = random.Random(kills), 15 * BATCH_SIZE * kills
    sku_of = {imei(n): LIFETIME if n % 3 == 0 else FLEXIBLE for n in range(count)}
    with home(tmp_path, latency=0.05, store=store) as at:
        rows = "\n".join(f"{device},{sku}" for device, sku in sku_of.items())
        (tmp_path / "fleet.csv").write_text(f"IMEI,SKU\n{rows}\n")
        process, ends = at.begin(), []
        for _ in range(kills):
            until(partial(at.has_moved, process, at.sent()))
            time.sleep(dice.uniform(0, 0.1))
            process.kill()
            ends.append(end(process).code)
            until(at.is_free)
            process = at.resume()
        ended, executions = end(process), at.executions()
    results = pl.read_parquet(at.folder / "results.parquet")
    lost = Counter(attempt.batch_id for attempt in attempts(at.folder) if attempt.outcome is None)
    assert ends.count(-signal.SIGKILL) >= kills / 2  # the other processes found the run finished
    assert len(results) == count
    assert ended.code == (3 if "in_doubt" in set(results["status"]) else 0)
    for device, batch, status in results.select("imei", "batch_id", "status").iter_rows():
        executed = executions.get(device, 0)
        if not lost[batch]:
            assert (status, executed) == ("accepted", 1)
        elif sku_of[device] == LIFETIME:
            assert (status, executed) in {("in_doubt", 0), ("in_doubt", 1)}
        else:
            assert status == "accepted"
            assert 1 <= executed <= 1 + lost[batch]


@pytest.mark.slow
def test_a_full_disk_is_exit_6_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    with home(tmp_path) as at:
        process = at.begin()
        until(lambda: at.has_sent(10))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
        stopped = end(process)
        assert stopped.code == 6
        assert "Traceback" not in stopped.err
        assert "then run the command again" in stopped.err
        ended = end(at.begin(max_concurrency=50))
        assert ended.code == 0, ended.err
        assert set(statuses(at.folder).values()) == {"accepted"}
