"""Signals at every stage of a command: its files are written, and its exit code is 6 or as the run ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from batchlic.callbacks.store import Store
from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.carrier.script import Exchange, Script
from tests.endtoend.carrier import COUNTS, answering, hang, say_counts
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    LIFETIME,
    PATIENCE,
    Ended,
    attempts,
    batchlic,
    begin,
    end,
    environment_of,
    fleet,
    keys,
    statuses,
    summary,
    totals,
    until,
)
from tests.forking import Program, serving

DEVICES = 300
ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--run-dir", "run", "--consent-lifetime")
SLOW = (*ASSIGN, "--batch-size", "5", "--max-concurrency", "2")
LIKE_SIGTERM = [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGXCPU]


def has_sent(url: str, requests: int) -> bool:
    return sum(dict[str, int](totals(url)["requests"]).values()) >= requests


def stopped_while_sending(home: Path, *numbers: signal.Signals, command: tuple[str, ...] = SLOW) -> Ended:
    """A run of Lifetime licenses that gets these signals while its requests are in flight."""
    fleet(home / "fleet.csv", DEVICES)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.2))) as url:
        process = begin(*command, "--sku", LIFETIME, settings=keys(url), cwd=home)
        until(partial(has_sent, url, 3))
        for number in numbers:
            process.send_signal(number)
        return end(process)


@pytest.mark.slow
@pytest.mark.parametrize("number", LIKE_SIGTERM)
def test_requests_in_flight_are_finished_whatever_the_signal(tmp_path: Path, number: signal.Signals) -> None:
    ended = stopped_while_sending(tmp_path, number)
    assert (ended.code, set(statuses(tmp_path / "run").values())) == (6, {"accepted", "pending"})
    assert number.name in summary(tmp_path / "run")["stopped_because"]


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGHUP, signal.SIGHUP, signal.SIGHUP),
        (signal.SIGTERM, signal.SIGHUP),
    ],
    ids=["timeout", "a closed terminal", "systemd"],
)
def test_signals_that_come_in_pairs_are_one_request(
    tmp_path: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    assert stopped_while_sending(tmp_path, *numbers).code == 6
    assert "in_doubt" not in statuses(tmp_path / "run").values()


@pytest.mark.slow
def test_a_run_under_nohup_goes_on_when_its_terminal_closes(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", DEVICES)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.05))) as url:
        process = subprocess.Popen(
            ["/usr/bin/nohup", sys.executable, "-m", "batchlic", *SLOW, "--sku", FLEXIBLE],
            env=environment_of(keys(url), tmp_path),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(partial(has_sent, url, 3))
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == 0
    assert set(statuses(tmp_path / "run").values()) == {"accepted"}


@pytest.mark.slow
def test_a_migration_stops_between_two_requests(tmp_path: Path) -> None:
    skus = ("--from-sku", FLEXIBLE, "--to-sku", "TS-BUNDLE-KTO-SIMSEC-MRC")
    command = ("migrate", "fleet.csv", *skus, "--account", ACCOUNT, "--run-dir", "run")
    fleet(tmp_path / "fleet.csv", DEVICES)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.2))) as url:
        process = begin(
            *command, "--batch-size", "10", "--max-concurrency", "1", settings=keys(url), cwd=tmp_path
        )
        until(partial(has_sent, url, 1))
        process.send_signal(signal.SIGHUP)
        ended = end(process)
    assert ended.code == 6, ended.err
    assert "in_doubt" not in summary(tmp_path / "run")["statuses"]
    assert (tmp_path / "run" / "audit.parquet").exists()


def signaled_when(home: Path, script: Script, condition: Callable[[list[str]], bool]) -> Ended:
    """A run that gets SIGTERM once the carrier has had certain requests, named by their paths."""
    fleet(home / "fleet.csv", DEVICES)
    with answering(script) as carrier:
        process = begin(*ASSIGN, "--sku", LIFETIME, settings=keys(carrier.url), cwd=home)
        until(lambda: condition([request.path for request in carrier.requests]))
        process.send_signal(signal.SIGTERM)
        return end(process)


@pytest.mark.slow
def test_a_signal_during_the_preflight_ends_a_run_that_has_sent_nothing(tmp_path: Path) -> None:
    ended = signaled_when(tmp_path, hang, lambda paths: COUNTS in paths)
    written = summary(tmp_path / "run")
    assert (ended.code, written["exit_code"], written["statuses"]) == (6, 6, {"pending": DEVICES})
    assert written["stopped_because"] == "stopped by SIGTERM"
    assert len(statuses(tmp_path / "run")) == DEVICES


@pytest.mark.slow
def test_a_signal_during_the_last_question_leaves_a_finished_run(tmp_path: Path) -> None:
    ids = iter(range(DEVICES))

    async def answer_first_count(exchange: Exchange) -> None:
        if exchange.request.path != COUNTS:
            await exchange.say(200, {"requestId": f"c3f3d17c-79ff-4b35-82df-{next(ids):012}"})
        elif next(asked) == 0:
            await say_counts(exchange)
        else:
            await hang(exchange)

    asked = iter(range(2))
    ended = signaled_when(tmp_path, answer_first_count, lambda paths: paths.count(COUNTS) == 2)
    written = summary(tmp_path / "run")
    assert (ended.code, written["exit_code"], written["statuses"]) == (0, 0, {"accepted": DEVICES})
    assert "license counts after the run are unknown: stopped by SIGTERM" in written["notes"]
    assert (tmp_path / "run" / "audit.parquet").exists()


def test_a_signal_while_an_inventory_is_read_leaves_no_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fleet.csv")
    with serving(SandboxConfig()) as url:
        process = begin(*ASSIGN, "--sku", FLEXIBLE, settings=keys(url), cwd=tmp_path)
        with (tmp_path / "fleet.csv").open("w"):  # opens when the other end does
            process.send_signal(signal.SIGTERM)
            ended = end(process)
    assert (ended.code, ended.err) == (6, "batchlic: stopped by SIGTERM\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_callbacks_as_the_run_ended(
    tmp_path: Path, number: signal.Signals
) -> None:
    fleet(tmp_path / "fleet.csv", DEVICES)
    wait = ("--wait-callbacks", "1h", "--store", "store.db")
    with serving(SandboxConfig()) as url:
        process = begin(*ASSIGN, "--sku", FLEXIBLE, *wait, settings=keys(url), cwd=tmp_path)
        assert "Waiting up to 1h" in process.stderr.readline()
        process.send_signal(number)
        ended = end(process)
    assert ended.code == 0, ended.err
    assert "Finished: 300 accepted" in ended.out


@pytest.mark.slow
def test_a_signal_ends_reconcile_watch_as_the_run_ended(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", DEVICES)
    with serving(SandboxConfig()) as url:
        batchlic(*ASSIGN, "--sku", FLEXIBLE, settings=keys(url), cwd=tmp_path)
    (tmp_path / "run" / "summary.json").unlink()
    Store.open(str(tmp_path / "store.db")).close()
    process = begin("reconcile", "run", "--watch", "--store", "store.db", settings={}, cwd=tmp_path)
    until((tmp_path / "run" / "summary.json").exists)
    process.send_signal(signal.SIGTERM)
    assert end(process).code == 0


def listening(home: Path) -> Program:
    settings = {"BATCHLIC_LISTENER_USERNAME": "a", "BATCHLIC_LISTENER_PASSWORD": "b"}
    return begin("listen", "--port", "0", "--store", "store.db", settings=settings, cwd=home)


def test_a_listener_goes_on_at_sighup_and_ends_with_0_at_sigterm(tmp_path: Path) -> None:
    process = listening(tmp_path)
    assert "url" in process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert end(process).code == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_sandbox_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    process = begin("sandbox", settings={}, cwd=tmp_path)
    url = process.stdout.readline()
    assert "base_url" in url
    until(lambda: totals_of(url))
    process.send_signal(number)
    assert end(process).code == 0


def totals_of(line: str) -> bool:
    """Whether the sandbox whose address is in this line of JSON answers."""
    return bool(totals(line.split('"')[3]))


@pytest.mark.slow
def test_files_are_published_although_a_signal_comes_while_they_are_written(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", DEVICES)
    with serving(SandboxConfig()) as url:
        process = begin(*ASSIGN, "--sku", FLEXIBLE, settings=keys(url), cwd=tmp_path)
        folder = tmp_path / "run"
        until(lambda: (folder / "journal.db-wal").exists() and len(attempts(folder)) == 3)
        process.send_signal(signal.SIGTERM)
        ended = end(process)
    assert ended.code in {0, 6}
    assert set(statuses(folder).values()) == {"accepted"}
