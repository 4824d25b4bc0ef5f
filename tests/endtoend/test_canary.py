"""`--canary`: options, callbacks that decide, and kill -9 in the canary and after it."""

import json
import random
import signal
from pathlib import Path

import polars as pl
import pytest

from batchlic.errors import ExitCode
from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    Ended,
    attempts,
    batchlic,
    begin,
    books,
    end,
    fleet,
    imei,
    keys,
    summary,
    totals,
    until,
)
from tests.forking import serving

TARGET = ("--account", ACCOUNT, "--sku", FLEXIBLE)
WAIT = ("--wait-callbacks", "10m", "--listen-port", "0")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("assign", "--canary", "0"), "--canary: '0' is no device"),
        (("assign", "--canary", "0%"), "--canary: '0%' is no device"),
        (("assign", "--canary", "101%"), "--canary: '101%' is more than all devices"),
        (("assign", "--canary", "some"), "--canary: 'some' is neither a number of devices"),
        (("assign", "--canary", "2%"), "2% of 20 devices to send is not even one device"),
        (("assign", "--canary-failures", "1"), "failures and confirmed need a canary"),
        (("sync", "--canary", "5"), "canary: only for assign and unassign, not for sync"),
    ],
)
def test_a_canary_that_makes_no_sense_is_exit_2(tmp_path: Path, command: tuple[str, ...], says: str) -> None:
    fleet(tmp_path / "fleet.csv", 20)
    ended = batchlic(
        command[0], "fleet.csv", *TARGET, *command[1:], "--sandbox", "--run-dir", "run", cwd=tmp_path
    )
    assert ended.code == ExitCode.USAGE, ended.err
    assert says in ended.err
    assert not (tmp_path / "run").exists()


def test_a_migration_has_no_canary(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 20)
    skus = ("--from-sku", FLEXIBLE, "--to-sku", "TS-BUNDLE-KTO-SIMSEC-MRC", "--account", ACCOUNT)
    ended = batchlic("migrate", "fleet.csv", *skus, "--canary", "5", "--sandbox", cwd=tmp_path)
    assert ended.code == ExitCode.USAGE
    assert "canary: only for assign and unassign, not for migrate" in ended.err


@pytest.mark.parametrize("key", ['canary = "20%"', "canary = 4", '[canary]\ndevices = "20%"\nfailures = 0'])
def test_a_job_file_names_a_canary_and_options_override_it(tmp_path: Path, key: str) -> None:
    fleet(tmp_path / "fleet.csv", 20)
    top, table = ("", key) if key.startswith("[") else (key, "")
    (tmp_path / "job.toml").write_text(
        f'action = "assign"\n{top}\n[inventory]\nfiles = ["fleet.csv"]\n'
        f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n{table}\n'
    )
    given = ("plan", "job.toml", "--json", "--run-dir")
    plain, other = batchlic(*given, "a", cwd=tmp_path), batchlic(*given, "b", "--canary", "7", cwd=tmp_path)
    assert json.loads(plain.out)["notes"] == ["canary: 4 of 20 devices are sent first"]
    assert json.loads(other.out)["notes"] == ["canary: 7 of 20 devices are sent first"]


def waited(folder: Path, sandbox: str, *options: str) -> Ended:
    """A run of 40 devices with a canary of 10, that waits for callbacks of a sandbox."""
    fleet(folder / "fleet.csv", 40)
    (folder / "job.toml").write_text(
        f'action = "assign"\ncanary = 10\n[inventory]\nfiles = ["fleet.csv"]\n'
        f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n[sandbox]\n{sandbox}\n'
    )
    return batchlic("run", "job.toml", "--sandbox", "--run-dir", "run", *options, cwd=folder)


@pytest.mark.slow
def test_confirmed_canary_devices_are_followed_by_the_others(tmp_path: Path) -> None:
    ended = waited(tmp_path, "", *WAIT)
    assert ended.code == ExitCode.OK, ended.err
    written = summary(tmp_path / "run")
    assert written["statuses"] == {"confirmed": 40}
    assert "canary: 10 confirmed; then the other devices were sent" in written["notes"]
    assert written["requests"]["total"] == 2
    assert '"level":"error"' not in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.slow
def test_failures_that_callbacks_report_stop_the_run_after_its_canary(tmp_path: Path) -> None:
    ended = waited(tmp_path, "callback_failures = 1.0", *WAIT, "--json")
    written = json.loads(ended.out)
    assert (ended.code, written["exit_code"]) == (6, 6)
    assert written["statuses"] == {"pending": 30, "failed": 10}
    assert written["stopped_because"] in ended.err
    assert "the canary failed: 10 of its 10 devices failed" in written["stopped_because"]
    assert "the canary failed" in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.slow
def test_outcomes_that_do_not_come_in_time_stop_the_run_after_its_canary(tmp_path: Path) -> None:
    wait = ("--wait-callbacks", "0.2", "--listen-port", "0")
    ended = waited(tmp_path, "callback_delay = 300", *wait, "--canary-failures", "9")
    assert ended.code == ExitCode.STOPPED
    assert "the outcome of 10 of its 10 devices was not known" in ended.err
    assert summary(tmp_path / "run")["statuses"] == {"accepted": 10, "pending": 30}
    again = batchlic("resume", "run", "--sandbox", cwd=tmp_path)
    assert (again.code, summary(tmp_path / "run")["requests"]["total"]) == (6, 1)
    decided = batchlic("resume", "run", "--sandbox", "--canary-failures", "0", cwd=tmp_path)
    assert (decided.code, summary(tmp_path / "run")["statuses"]) == (0, {"accepted": 40})


@pytest.mark.slow
def test_a_run_killed_in_and_after_its_canary_sends_it_first_and_once(tmp_path: Path) -> None:
    dice, devices = random.Random(6), 200
    fleet(tmp_path / "fleet.csv", devices)
    options = ("--canary", "60", "--batch-size", "10", "--max-concurrency", "2", "--run-dir", "run")
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.05))) as url:
        settings = keys(url)
        process = begin("assign", "fleet.csv", *TARGET, *options, "--yes", settings=settings, cwd=tmp_path)
        kills = 0
        for sent in sorted(dice.sample(range(1, 18), 3)):
            until(lambda: sum(totals(url)["requests"].values()) >= sent or process.poll() is not None)  # noqa: B023
            process.kill()
            kills += end(process).code == -signal.SIGKILL
            process = begin("resume", "run", settings=settings, cwd=tmp_path)
        ended = end(process)
        executed = {device: record["assigned"] for device, record in books(url).items()}
    assert (ended.code, kills) == (0, 3), ended.err
    assert set(executed) == {imei(number) for number in range(devices)}
    sent_for = [(attempt.batch_id, attempt.outcome) for attempt in attempts(tmp_path / "run")]
    first_other = next(at for at, (batch, _) in enumerate(sent_for) if batch > 6)
    answered = {batch for batch, outcome in sent_for[:first_other] if outcome == "accepted"}
    assert answered == set(range(1, 7))
    lost = {batch for batch, outcome in sent_for if outcome is None}
    plan = pl.read_parquet(tmp_path / "run" / "plan.parquet")
    assert all(executed[row["imei"]] == 1 or row["batch_id"] in lost for row in plan.iter_rows(named=True))
