"""Whole runs by several workers: what they license, how they stop, and what happens when a part dies."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.farm import Farm, assign, events, farm, inventory
from tests.endtoend.program import batchlic, begin, books, end, statuses, summary, totals, until
from tests.postgresql import PostgreSQL

DEVICES = 600


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


def test_a_killed_worker_is_replaced_and_nothing_is_sent_twice(at: Farm, tmp_path: Path) -> None:
    devices = inventory(tmp_path, 1000, DEVICES)
    with begin(*assign("--dask", at.address), settings=at.settings, cwd=tmp_path) as process:
        at.kill_worker()
        ended = end(process)
    assert ended.code == 0, ended.err
    verified = batchlic("audit", "run", "--verify", settings=at.settings, cwd=tmp_path)
    assert verified.code == 0, verified.out
    assert statuses(tmp_path / "run") == dict.fromkeys(devices, "accepted")
    resent = {device for device in devices if books(at.url)[device]["assigned"] > 1}
    assert len(resent) <= 4 * 10  # what the worker had in flight, of flexible licenses


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
