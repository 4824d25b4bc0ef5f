"""Whole runs over TCP: their files, output and exit codes, compared with the sandbox's records."""

import json
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from batchlic.sandbox.config import LimitConfig, LimitKind, Poison, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    LIFETIME,
    Ended,
    batchlic,
    begin_as_a_shell_does,
    books,
    contents,
    fleet,
    imei,
    keys,
    statuses,
    summary,
    totals,
)
from tests.forking import serving

DEVICES = 1000
BAD = {imei(7), imei(8), imei(950)}


@dataclass(frozen=True)
class Run:
    folder: Path
    ended: Ended
    url: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run with 429s, three bad devices and three broken rows."""
    home = tmp_path_factory.mktemp("finished")
    inventory = fleet(home / "fleet\x1b[31m.csv", DEVICES, "8.64508E+14", "123", imei(0))
    poison = (
        Poison(identifier=imei(7), named=False),
        Poison(identifier=imei(8), named=False),
        Poison(identifier=imei(950), error_code="REQUEST_FAILED.DeviceNotFound"),
    )
    config = SandboxConfig(poison=poison, limits=LimitConfig(rate=10, burst=2, kind=LimitKind.TOKEN_BUCKET))
    with serving(config) as url:
        options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run", "--json")
        ended = batchlic("assign", inventory.name, *options, settings=keys(url), cwd=home)
        yield Run(home / "run", ended, url)


def test_a_every_row_ends_in_results_or_in_rejects(finished: Run) -> None:
    written = summary(finished.folder)
    results, rejects = (
        pl.read_parquet(finished.folder / f"{name}.parquet") for name in ("results", "rejects")
    )
    assert written["rows_read"] == sum(written["rejected"].values()) + written["planned"] == DEVICES + 3
    assert written["planned"] == sum(written["statuses"].values()) == results.height
    assert Counter(results["status"]) == written["statuses"]
    assert Counter(rejects["reason"]) == written["rejected"]
    assert sorted([*results["row"], *rejects["row"]]) == list(range(1, DEVICES + 4))


def test_the_carrier_licenses_each_accepted_device_once_and_no_other(finished: Run) -> None:
    licensed = {device: record["assigned"] for device, record in books(finished.url).items()}
    expected = {imei(n): "failed" if imei(n) in BAD else "accepted" for n in range(DEVICES)}
    assert statuses(finished.folder) == expected
    assert licensed == {device: int(status == "accepted") for device, status in expected.items()}


def test_a_failed_device_has_its_reason_and_its_request(finished: Run) -> None:
    results = pl.read_parquet(finished.folder / "results.parquet").filter(status="failed")
    assert set(results["error_code"]) == {
        "INPUT_INVALID.DeviceState.Invalid",
        "REQUEST_FAILED.DeviceNotFound",
    }
    assert results["http_status"].is_in([400, 404]).all()
    assert results["settled_at"].null_count() == results["x_request_id"].null_count() == 0


def test_the_audit_has_every_request_that_the_carrier_saw(finished: Run) -> None:
    audit = pl.read_parquet(finished.folder / "audit.parquet")
    audit = audit.filter(~pl.col("error_message").fill_null("").str.starts_with("not sent:"))
    seen = totals(finished.url)["requests"]
    assert audit.height == sum(seen.values()) == summary(finished.folder)["requests"]["total"]
    assert Counter(map(str, audit["http_status"])) == seen
    assert seen["429"] > 0


def test_a_run_with_failed_devices_is_exit_3(finished: Run) -> None:
    assert finished.ended.code == summary(finished.folder)["exit_code"] == 3


def test_stdout_carries_the_summary_and_nothing_else(finished: Run) -> None:
    assert json.loads(finished.ended.out) == summary(finished.folder)


def test_only_the_owner_can_read_the_files_of_a_run(finished: Run) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in finished.folder.iterdir()}
    expected = ["plan.parquet", "rejects.parquet", "results.parquet", "audit.parquet"]
    assert modes == dict.fromkeys(
        [*expected, "summary.json", "report.html", "run.log", "journal.db", ".lock"], 0o600
    )
    assert stat.S_IMODE(finished.folder.stat().st_mode) == 0o700


def test_the_log_is_json_and_every_line_names_the_run(finished: Run) -> None:
    lines = [json.loads(line) for line in (finished.folder / "run.log").read_text().splitlines()]
    assert {line["run_id"] for line in lines} == {summary(finished.folder)["run_id"]}
    assert {lines[0]["event"], lines[-1]["event"]} == {"begun", "ended"}
    assert any(line.get("request_id") and line.get("batch_id") for line in lines)


def test_status_equals_the_summary_and_writes_nothing(finished: Run) -> None:
    before = contents(finished.folder)
    shown = batchlic("status", finished.folder, "--json", cwd=finished.folder)
    nothing_open: dict[str, object] = {"doubts": [], "undecided": {}, "unjudged": [], "related": []}
    nothing_at_work = {"at_work": None, "limits": None, "last_answer": None}
    expected = summary(finished.folder) | nothing_open | nothing_at_work
    assert (shown.code, json.loads(shown.out)) == (0, expected)
    assert contents(finished.folder) == before


def test_resume_of_a_finished_run_changes_nothing(finished: Run) -> None:
    before, seen = contents(finished.folder), totals(finished.url)
    resumed = batchlic("resume", finished.folder, settings=keys(finished.url), cwd=finished.folder)
    assert resumed.code == 3
    assert contents(finished.folder) == before
    assert totals(finished.url) == seen
    assert "\x1b" not in resumed.err
    assert r"fleet\x1b[31m.csv" in resumed.out


def test_e_lifetime_without_consent_is_exit_4_and_sends_nothing(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 250)
    options = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", LIFETIME, "--run-dir", "run")
    with serving(SandboxConfig()) as url:
        refused = batchlic(*options, settings=keys(url), cwd=tmp_path)
        assert (refused.code, totals(url)["requests"]) == (4, {})
    assert "--consent-lifetime" in refused.err


def test_rejected_credentials_are_exit_5_and_name_the_settings(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 10)
    options = ("fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run")
    with serving(SandboxConfig()) as url:
        wrong = keys(url, BATCHLIC_PASSWORD="planted-wrong")
        refused = batchlic("assign", *options, settings=wrong, cwd=tmp_path)
        assert (refused.code, summary(tmp_path / "run")["statuses"]) == (5, {"pending": 10})
        assert "BATCHLIC_PASSWORD" in refused.err
        assert "planted-wrong" not in refused.err


def test_a_carrier_that_is_down_is_exit_6(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 10)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run", "--give-up-after", "1")
    with serving(SandboxConfig()) as url:
        pass
    down = batchlic("assign", "fleet.csv", *options, settings=keys(url), cwd=tmp_path)
    assert (down.code, summary(tmp_path / "run")["statuses"]) == (6, {"pending": 10})
    assert "batchlic resume" in down.out


def test_the_embedded_sandbox_needs_no_credentials(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 10)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--sandbox")
    assert batchlic("assign", "fleet.csv", *options, cwd=tmp_path).code == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert summary(folder)["statuses"] == {"accepted": 10}


def test_bad_usage_is_exit_2_and_leaves_nothing(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 10)
    (tmp_path / "job.toml").write_text('action = "assign"\n[inventory]\nfile = ["fleet.csv"]\n')
    before = contents(tmp_path)
    wrong = {
        "inventory.file: there is no such key; did you mean files?": ["run", "job.toml"],
        "--bathc-size": ["assign", "fleet.csv", "--bathc-size", "3"],
    }
    for message, arguments in wrong.items():
        ended = batchlic(*arguments, cwd=tmp_path)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert message in ended.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", [("export", "run", "--what", "all"), ("status", "run", "--json")])
def test_a_closed_stdout_is_not_an_error(finished: Run, command: tuple[str, ...]) -> None:
    process = begin_as_a_shell_does(*command, settings={}, cwd=finished.folder.parent)
    assert process.stdout is not None
    process.stdout.close()
    with process:
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 0
