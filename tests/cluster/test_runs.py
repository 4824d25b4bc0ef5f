"""Whole runs by several workers: what they license, how they stop, and what happens when a part dies."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.farm import Farm, assign, events, farm, inventory
from tests.endtoend.program import (
    PATIENCE,
    batchlic,
    begin,
    begin_as_a_shell_does,
    books,
    end,
    environment_of,
    statuses,
    summary,
    totals,
    until,
)
from tests.postgresql import PostgreSQL

DEVICES = 600
KILLS = int(os.environ.get("WORKER_KILLS", "1"))


@pytest.fixture(scope="module")
def at(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farm(postgresql, tmp_path_factory.mktemp("farm"), "farm") as found:
        yield found


def executions(at: Farm, devices: list[str]) -> Counter[int]:
    """How many devices were licensed how often."""
    found = books(at.url)
    return Counter(found[device]["assigned"] if device in found else 0 for device in devices)


def assert_whole(at: Farm, home: Path, devices: list[str]) -> None:
    """The run has licensed each device once, and its files say so."""
    assert statuses(home / "run") == dict.fromkeys(devices, "accepted")
    assert executions(at, devices) == {1: len(devices)}
    verified = batchlic("audit", "run", "--verify", "--json", settings=at.settings, cwd=home)
    assert json.loads(verified.out)["findings"] == []


@pytest.mark.slow
def test_two_workers_license_each_device_once(at: Farm, tmp_path: Path) -> None:
    devices = inventory(tmp_path, 0, DEVICES, accounts=3)
    run = batchlic(*assign("--dask", at.address), settings=at.settings, cwd=tmp_path)
    assert run.code == 0, run.err
    assert_whole(at, tmp_path, devices)
    assert summary(tmp_path / "run")["requests"]["total"] == DEVICES / 10
    log = events(tmp_path / "run")
    assert sum(line["event"] == "accepted" for line in log) == DEVICES / 10
    shards = {line["batch_id"] for line in log if line["event"] == "accepted"}
    assert shards == set(range(1, DEVICES // 10 + 1))


@pytest.mark.parametrize("turn", range(KILLS))
def test_a_killed_worker_is_replaced_and_nothing_is_lost(at: Farm, tmp_path: Path, turn: int) -> None:
    devices = inventory(tmp_path, 10_000 + 1000 * turn, DEVICES)
    with begin(*assign("--dask", at.address), settings=at.settings, cwd=tmp_path) as process:
        at.kill_worker()
        ended = end(process)
    assert ended.code == 0, ended.err
    verified = batchlic("audit", "run", "--verify", settings=at.settings, cwd=tmp_path)
    assert verified.code == 0, verified.out
    assert statuses(tmp_path / "run") == dict.fromkeys(devices, "accepted")
    resent = {device for device in devices if books(at.url)[device]["assigned"] > 1}
    assert len(resent) <= 4 * 10  # what the worker had in flight, of flexible licenses


@pytest.mark.slow
def test_one_signal_finishes_what_is_in_flight_everywhere(at: Farm, tmp_path: Path) -> None:
    devices = inventory(tmp_path, 2000, DEVICES)
    with begin(*assign("--dask", at.address), settings=at.settings, cwd=tmp_path) as process:
        until(lambda: bool(at.workers()))
        process.send_signal(signal.SIGTERM)
        ended = end(process)
    assert ended.code == 6, ended.err
    found = Counter(statuses(tmp_path / "run").values())
    assert set(found) <= {"accepted", "pending"}
    assert found["pending"]
    resumed = batchlic("resume", "run", "--dask", at.address, settings=at.settings, cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert_whole(at, tmp_path, devices)


@pytest.mark.slow
def test_a_killed_coordinator_stops_its_workers(at: Farm, tmp_path: Path) -> None:
    devices = inventory(tmp_path, 3000, DEVICES)
    with begin(*assign("--dask", at.address), settings=at.settings, cwd=tmp_path) as process:
        until(lambda: bool(at.workers()))
        process.kill()
    until(lambda: not at.workers())
    sent = totals(at.url)["requests"]
    resumed = batchlic("resume", "run", settings=at.settings, cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert statuses(tmp_path / "run") == dict.fromkeys(devices, "accepted")
    assert totals(at.url)["requests"] != sent


@pytest.mark.slow
def test_a_worker_that_is_paused_beyond_its_lease_sends_nothing_more(at: Farm, tmp_path: Path) -> None:
    devices = inventory(tmp_path, 4000, DEVICES)
    with begin(*assign("--dask", at.address), settings=at.settings, cwd=tmp_path) as process:
        until(lambda: bool(at.workers()))
        paused = min(at.workers())
        os.kill(paused, signal.SIGSTOP)
        ended = end(process)
    assert ended.code == 0, ended.err
    before = totals(at.url)["requests"]
    with pytest.raises(ProcessLookupError):  # Dask has replaced it
        os.kill(paused, signal.SIGCONT)
    assert totals(at.url)["requests"] == before
    assert statuses(tmp_path / "run") == dict.fromkeys(devices, "accepted")


@pytest.mark.slow
def test_workers_on_this_machine_end_with_their_run(at: Farm, tmp_path: Path) -> None:
    devices = inventory(tmp_path, 5000, 200)
    process = begin_as_a_shell_does(*assign("--workers", "2"), settings=at.settings, cwd=tmp_path)
    until(lambda: bool(at.workers()) or process.poll() is not None)
    workers = at.workers()
    ended = end(process)
    assert ended.code == 0, ended.err
    assert_whole(at, tmp_path, devices)
    assert workers
    assert not any(psutil.pid_exists(worker) for worker in workers)


@pytest.mark.slow
def test_a_signal_while_workers_start_ends_them_too(at: Farm, tmp_path: Path) -> None:
    inventory(tmp_path, 7000, 10)
    process = begin_as_a_shell_does(*assign("--workers", "2"), settings=at.settings, cwd=tmp_path)
    until(lambda: len(psutil.Process(process.pid).children(recursive=True)) > 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    ended = end(process)
    assert (ended.code, ended.err) == (6, "batchlic: stopped by SIGTERM\n")
    _, left = psutil.wait_procs(workers, timeout=PATIENCE)
    assert not left
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_reaches_the_coordinator_alone(at: Farm, tmp_path: Path) -> None:
    inventory(tmp_path, 6000, DEVICES)
    environment = environment_of(at.settings, tmp_path)
    command = [sys.executable, "-m", "batchlic", *assign("--workers", "2")]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True)
    before = totals(at.url)["requests"]
    until(lambda: totals(at.url)["requests"] != before or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 6
    assert set(statuses(tmp_path / "run").values()) == {"accepted", "pending"}


def test_workers_need_a_store(at: Farm, tmp_path: Path) -> None:
    inventory(tmp_path, 0, 10)
    settings = {name: value for name, value in at.settings.items() if name != "BATCHLIC_STORE"}
    refused = batchlic(*assign("--workers", "2"), settings=settings, cwd=tmp_path)
    assert refused.code == 2
    assert "set BATCHLIC_STORE" in refused.err


def test_workers_here_and_elsewhere_exclude_each_other(at: Farm, tmp_path: Path) -> None:
    inventory(tmp_path, 0, 10)
    both = assign("--workers", "2", "--dask", at.address)
    refused = batchlic(*both, settings=at.settings, cwd=tmp_path)
    assert refused.code == 2
    assert "not both" in refused.err


@pytest.mark.slow
@pytest.mark.parametrize(("address", "code"), [("tcp://127.0.0.1:1", 4), ("nonsense://x", 2)])
def test_a_cluster_that_cannot_be_reached_is_named(at: Farm, tmp_path: Path, address: str, code: int) -> None:
    inventory(tmp_path, 0, 10)
    refused = batchlic(*assign("--dask", address), settings=at.settings, cwd=tmp_path)
    assert refused.code == code, refused.err
    assert address in refused.err
    assert not (tmp_path / "run").exists()
