"""What `status` and `audit --device` say: the process at work, why a run stopped, which runs belong to it."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchlic.sandbox.config import Fault, LatencyConfig, Poison, SandboxConfig
from tests.carrier.script import Exchange, Script
from tests.endtoend.carrier import COUNTS, answering, say_counts
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    Ended,
    attempts,
    batchlic,
    begin,
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

pytestmark = pytest.mark.slow

TARGET = ("--account", ACCOUNT, "--sku", FLEXIBLE)
BUNDLE = "TS-BUNDLE-KTO-SIMSEC-MRC"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@dataclass(frozen=True)
class Home:
    path: Path
    url: str

    def batchlic(self, *arguments: str) -> Ended:
        return batchlic(*arguments, settings=keys(self.url), cwd=self.path)

    def assign(self, run: str, *options: str, inventory: str = "fleet.csv") -> Ended:
        return self.batchlic("assign", inventory, *TARGET, "--run-dir", f"runs/{run}", *options)

    def status(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.batchlic("status", f"runs/{run}", "--json").out)
        return found

    def screen(self, run: str) -> str:
        return self.batchlic("status", f"runs/{run}").out


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    fleet(tmp_path / "fleet.csv", 20)
    with serving(SandboxConfig(poison=(Poison(identifier=imei(3)),))) as url:
        yield Home(tmp_path, url)


def relations(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(run["relation"], Path(run["run_dir"]).name) for run in report["related"]]


# -- at work --------------------------------------------------------------------------------------------


@pytest.fixture
def paused(tmp_path: Path) -> Iterator[tuple[Path, Program]]:
    """A run that is stopped by SIGSTOP after some of its requests."""
    fleet(tmp_path / "fleet.csv", 400)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.2))) as url:
        options = ("--run-dir", "run", "--batch-size", "10", "--max-concurrency", "1")
        process = begin("assign", "fleet.csv", *TARGET, *options, settings=keys(url), cwd=tmp_path)
        until(lambda: sum(dict[str, int](totals(url)["requests"]).values()) > 3)
        process.send_signal(signal.SIGSTOP)
        try:
            yield tmp_path, process
        finally:
            process.kill()
            end(process)


def test_status_names_the_process_at_work_its_host_and_its_progress(paused: tuple[Path, Program]) -> None:
    folder, process = paused
    at_work = json.loads(batchlic("status", "run", "--json", cwd=folder).out)["at_work"]
    assert (at_work["pid"], at_work["host"]) == (process.pid, socket.gethostname())
    assert 0 < at_work["percent"] < 100
    assert at_work["devices_per_second"] > 0
    assert at_work["seconds_left"] > 0
    shown = batchlic("status", "run", cwd=folder).out
    place = rf"\(pid {process.pid} on {re.escape(socket.gethostname())}\)"
    assert re.search(
        rf"At work since {TIME} {place}, \d+% done, \d+ devices? per second, ETA \d+:\d\d: ", shown
    )
    assert "batchlic resume" not in shown


def test_a_killed_run_is_not_at_work(paused: tuple[Path, Program]) -> None:
    folder, process = paused
    process.kill()
    until(lambda: process.poll() is not None)
    ended = batchlic("status", "run", "--json", cwd=folder)
    report = json.loads(ended.out)
    assert (report["at_work"], report["exit_code"], report["last_answer"]["http_status"]) == (None, None, 200)
    shown = batchlic("status", "run", cwd=folder).out
    assert "Interrupted (killed, or the machine stopped): " in shown
    assert "Continue: batchlic resume run" in shown


# -- why a run stopped ----------------------------------------------------------------------------------


def test_status_says_which_signal_stopped_a_run(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 400)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.2))) as url:
        options = ("--run-dir", "run", "--batch-size", "10", "--max-concurrency", "1", "--no-ledger")
        process = begin("assign", "fleet.csv", *TARGET, *options, settings=keys(url), cwd=tmp_path)
        until(lambda: sum(dict[str, int](totals(url)["requests"]).values()) > 1)
        process.send_signal(signal.SIGINT)
        assert end(process).code == 6
    shown = batchlic("status", "run", cwd=tmp_path).out
    assert "Stopped early: stopped by SIGINT; " in shown
    assert " pending" in shown.splitlines()[0]


def refusing(status: int, body: object) -> Script:
    async def answer(exchange: Exchange) -> None:
        if exchange.request.path == COUNTS:
            await say_counts(exchange)
        else:
            await exchange.say(status, body)

    return answer


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (503, "SERVICE.Down", "closed for repairs until nine"),
        (406, "REQUEST_FAILED.Riddle", "an unexpected condition"),
        (400, "INPUT_INVALID.Mystery", "nobody knows this refusal"),
    ],
)
def test_status_shows_the_last_answer_of_a_run_that_stopped(
    tmp_path: Path, status: int, code: str, words: str
) -> None:
    fleet(tmp_path / "fleet.csv", 3)
    script = refusing(status, {"errorCode": code, "errorMessage": words})
    options = ("--run-dir", "run", "--give-up-after", "1", "--new-ledger", "--yes")
    with answering(script) as carrier:
        stopped = batchlic("assign", "fleet.csv", *TARGET, *options, settings=keys(carrier.url), cwd=tmp_path)
    assert stopped.code == 6, stopped.err
    report = json.loads(batchlic("status", "run", "--json", cwd=tmp_path).out)
    assert report["stopped_because"] == summary(tmp_path / "run")["stopped_because"]
    assert report["last_answer"]["http_status"] == status
    shown = batchlic("status", "run", cwd=tmp_path).out
    assert re.search(rf"Last answer: {TIME}, HTTP {status}, \w+, .*{re.escape(words)}", shown)


def test_a_finished_run_has_no_last_answer_and_no_process(home: Home) -> None:
    home.assign("one")
    report = home.status("one")
    assert (report["last_answer"], report["at_work"], report["related"]) == (None, None, [])


# -- other runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["request", "device"])
def test_a_rollback_and_its_run_name_each_other(home: Home, by: str) -> None:
    home.assign("one")
    assert home.batchlic("rollback", "runs/one", "--by", by, "--yes").code == 0
    back = f"rollback-by-{by}"
    assert relations(home.status("one")) == [("rolled_back_by", back)]
    assert relations(home.status(f"one/{back}")) == [("rollback_of", "one")]
    run_id = summary(home.path / "runs/one" / back)["run_id"]
    line = f"Rolled back by: unassign run {run_id} (exit code 0: 19 accepted), runs/one/{back}/"
    assert line in home.screen("one")
    assert f"Rollback of: assign run {summary(home.path / 'runs/one')['run_id']}" in home.screen(
        f"one/{back}"
    )


def test_a_retry_of_exported_devices_and_its_run_name_each_other(home: Home) -> None:
    home.assign("one")
    target = home.path / "runs/one/failed.xlsx"
    assert home.batchlic("export", "runs/one", "--what", "failed", "--to", str(target)).code == 0
    for run, inventory in (("two", str(target)), ("three", str(target.relative_to(home.path)))):
        assert home.assign(run, inventory=inventory).code == 3
    assert relations(home.status("one")) == [("retried_by", "three"), ("retried_by", "two")]
    assert relations(home.status("two")) == relations(home.status("three")) == [("retry_of", "one")]
    assert f"Retried by: assign run {summary(home.path / 'runs/two')['run_id']} (exit" in home.screen("one")


def test_a_run_of_another_action_on_the_results_follows(home: Home) -> None:
    home.assign("one")
    command = ("unassign", "runs/one/results.parquet", "--run-dir", "runs/two", "--yes")
    assert home.batchlic(*command).code == 3
    assert relations(home.status("one")) == [("followed_by", "two")]
    assert relations(home.status("two")) == [("follow_up_of", "one")]


def test_related_runs_are_found_after_the_folder_was_moved(home: Home) -> None:
    home.assign("one")
    home.batchlic("export", "runs/one", "--what", "failed", "--to", "runs/one/failed.csv")
    home.assign("two", inventory="runs/one/failed.csv")
    (home.path / "runs").rename(home.path / "archive")
    report = json.loads(home.batchlic("status", "archive/two", "--json").out)
    assert relations(report) == [("retry_of", "one")]


def test_runs_with_other_inventories_are_not_related(home: Home) -> None:
    home.assign("one")
    (home.path / "data" / "one").mkdir(parents=True)
    fleet(home.path / "data" / "one" / "fleet.csv", 5)
    home.assign("two", inventory="data/one/fleet.csv")
    assert home.status("one")["related"] == home.status("two")["related"] == []


# -- the history of a device ----------------------------------------------------------------------------


def history(home: Home, device: str, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        home.batchlic("audit", "--device", device, "runs", "--json", *options).out
    )
    return found


def test_every_event_of_a_device_names_its_carrier(home: Home) -> None:
    home.assign("real")
    home.assign("rehearsal", "--sandbox")
    carriers = {(event["run_dir"], event["carrier"]) for event in history(home, imei(1))}
    assert carriers == {("runs/real", home.url), ("runs/rehearsal", "sandbox")}
    shown = home.batchlic("audit", "--device", imei(1), "runs").out
    assert f"to assign at {home.url}, row 2 of fleet.csv" in shown
    assert "to assign at sandbox, row 2 of fleet.csv" in shown


REJECTED = [
    (imei(0), imei(0), "duplicate"),
    ("864508030000018", "864508030000018", "bad_check_digit"),
    ("86450803000001", "86450803000001", "bad_length"),
    ("86-450803-000002-8", "864508030000028", "bad_check_digit"),
    ("8.64508E+14", "8.64508E+14", "mangled_number"),
    ("12345", "12345", "bad_length"),
]


def test_the_history_says_why_a_device_was_rejected(home: Home) -> None:
    fleet(home.path / "fleet.csv", 20, *(cell for cell, _, _ in REJECTED))
    home.assign("one")
    for row, (_, device, reason) in enumerate(REJECTED, start=21):
        [event] = [event for event in history(home, device) if event["event"] == "rejected"]
        assert (event["reason"], event["row"], event["source"]) == (reason, row, "fleet.csv")
        assert event["message"]
        shown = home.batchlic("audit", "--device", device, "runs").out
        assert f"row {row} of fleet.csv, for {home.url}: {reason}, {event['message']}" in shown
        assert re.search(rf"^  {TIME}  rejected ", shown, re.MULTILINE)


def test_a_device_rejected_by_its_iccid_or_for_its_sku_has_its_reason(home: Home) -> None:
    rows = [f"{imei(1)},89148000000800139709,{FLEXIBLE}", f"{imei(2)},,SIMSec"]
    (home.path / "fleet.csv").write_text("\n".join(["IMEI,ICCID,SKU", *rows, f"{imei(5)},,{FLEXIBLE}", ""]))
    home.assign("one")
    reasons = {
        device: [event["reason"] for event in history(home, device) if event["event"] == "rejected"]
        for device in ("89148000000800139709", imei(2), imei(5))
    }
    assert [len(found) for found in reasons.values()] == [1, 1, 0]


def test_times_have_microseconds_in_json_and_seconds_on_a_terminal(home: Home) -> None:
    home.assign("one")
    texts = [json.dumps(history(home, imei(1))), json.dumps(home.status("one"))]
    texts.append(home.batchlic("ledger", "show", "--device", imei(1), "--json").out)
    texts.append((home.path / "runs/one/run.log").read_text())
    for text in texts:
        found = re.findall(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\"]*", text)
        assert found
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time) for time in found), found
    screens = [home.batchlic("audit", "--device", imei(1), "runs").out, home.screen("one")]
    screens.append(home.batchlic("ledger", "show", "--device", imei(1)).out)
    for screen in screens:
        found = re.findall(r"\d{4}-\d\d-\d\d[T ]\S*", screen)
        assert all(re.fullmatch(f"{TIME}", time) for time in found), found


def test_the_speed_is_that_of_the_sending_and_stays_after_settling(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 40)
    options = ("--run-dir", "run", "--batch-size", "2", "--consent-lifetime", "--yes")
    lifetime = ("--account", ACCOUNT, "--sku", "SIMSec-IoT-Lt")
    with serving(SandboxConfig(faults={Fault.RESET_AFTER: 0.5}, seed=1)) as url:
        batchlic("assign", "fleet.csv", *lifetime, *options, settings=keys(url), cwd=tmp_path)
    before = summary(tmp_path / "run")
    assert {"accepted", "in_doubt"} == set(before["statuses"])
    settled = batchlic("settle", "run", "--as", "accepted", "--reason", "portal", "--yes", cwd=tmp_path)
    assert settled.code == 0, settled.err
    after = summary(tmp_path / "run")
    assert after["statuses"] == {"accepted": 40}
    assert after["devices_per_second"] == before["devices_per_second"] > 0
    assert batchlic("audit", "run", "--verify", cwd=tmp_path).code == 0
    taken = attempts(tmp_path / "run")
    ends = [attempt.started_at + (attempt.duration_ms or 0) * 1000 for attempt in taken]
    seconds = (max(ends) - min(attempt.started_at for attempt in taken)) / 1e6
    assert after["devices_per_second"] == pytest.approx(before["statuses"]["accepted"] / seconds, rel=0.01)


def test_a_status_of_a_folder_of_another_process_needs_no_lock_file(home: Home) -> None:
    home.assign("one")
    os.unlink(home.path / "runs/one/.lock")  # noqa: PTH108
    assert home.status("one")["at_work"] is None
    assert not (home.path / "runs/one/.lock").exists()
    assert set(statuses(home.path / "runs/one").values()) == {"accepted", "failed"}
