"""`batchlic runs` and `runs prune` as an operator and a scheduler use them, on runs of the program itself."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    Ended,
    batchlic,
    begin,
    bound,
    end,
    fleet,
    keys,
    summary,
    totals,
    until,
)
from tests.forking import serving

ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--new-ledger")


@dataclass(frozen=True)
class Home:
    path: Path
    url: str

    def batchlic(self, *arguments: str) -> Ended:
        return batchlic(*arguments, settings=keys(self.url), cwd=self.path)

    def listed(self, *options: str) -> dict[str, dict[str, Any]]:
        runs = json.loads(self.batchlic("runs", "--json", *options).out)
        return {Path(run["run_dir"]).name: run for run in runs}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    fleet(tmp_path / "fleet.csv", 20, "not an IMEI")
    with serving(SandboxConfig()) as url:
        yield Home(tmp_path, url)


@pytest.mark.slow
def test_the_list_has_the_figures_of_each_run(home: Home) -> None:
    assert home.batchlic("runs").code == 0  # there is no state folder yet
    assert home.batchlic(*ASSIGN, "--run-dir", "runs/first").code == 3
    (home.path / "runs" / "damaged").mkdir()
    (home.path / "runs" / "damaged" / "journal.db").write_bytes(b"x" * 5000)
    ended = home.batchlic("runs")
    lines = {line.split()[1]: line.split() for line in ended.out.splitlines()[1:]}
    assert ended.code == 3
    assert lines["first"][2:9] == ["assign", "assign", "20", "accepted,", "1", "rejected", "0%"]
    assert (lines["first"][-1], lines["damaged"][-1]) == ("3", "damaged")
    assert "runs/damaged: " in ended.err
    first, written = home.listed()["first"], summary(home.path / "runs" / "first")
    for field in ("run_id", "statuses", "rejected", "requests", "exit_code", "carrier"):
        assert first[field] == written[field], field
    assert first["ended_at"] == written["finished_at"]
    assert set(home.listed("--failed", "--since", "1h")) == {"first", "damaged"}


@pytest.mark.slow
def test_a_run_at_work_is_listed_with_its_process_until_it_is_killed(home: Home) -> None:
    fleet(home.path / "fleet.csv", 400)
    options = ("--run-dir", "runs/one", "--batch-size", "10", "--max-rate", "5")
    process = begin(*ASSIGN, *options, settings=keys(home.url), cwd=home.path)
    until(lambda: sum(dict[str, int](totals(home.url)["requests"]).values()) > 3)
    process.send_signal(signal.SIGSTOP)
    run = home.listed()["one"]
    assert (run["state"], run["process"]["pid"], run["exit_code"]) == ("at_work", process.pid, None)
    assert run["statuses"]["accepted"] + run["statuses"]["pending"] >= 390
    kept = home.batchlic("runs", "prune", "--keep", "0d", "--yes")
    assert (kept.code, "at work (pid" in kept.out) == (0, True)
    process.kill()
    end(process)
    assert home.listed("--failed")["one"]["state"] == "interrupted"
    assert (
        "not finished: batchlic resume runs/one"
        in home.batchlic("runs", "prune", "--keep", "0d", "--yes").out
    )


@pytest.mark.slow
def test_after_a_prune_the_ledger_still_knows_every_device(home: Home) -> None:
    for name in ("first", "second"):
        home.batchlic(*ASSIGN, "--run-dir", f"runs/{name}")
    with closing(sqlite3.connect(home.path / "runs" / "first" / "journal.db")) as journal, journal:
        journal.execute("UPDATE session_ends SET ended_at = ended_at - 3600000000")
    unasked = home.batchlic("runs", "prune", "--keep", "30m")
    assert (unasked.code, "give --yes or --dry-run" in unasked.err) == (4, True)
    dry = home.batchlic("runs", "prune", "--keep", "30m", "--dry-run", "--json")
    assert [run["run_dir"] for run in json.loads(dry.out)["deleted"]] == ["runs/first"]
    assert set(home.listed()) == {"first", "second"}
    pruned = home.batchlic("runs", "prune", "--keep", "30m", "--yes")
    assert (pruned.code, pruned.out.splitlines()[0].startswith("Deleted: 1 run (")) == (0, True)
    assert set(home.listed()) == {"second"}
    home.batchlic(*ASSIGN, "--run-dir", "runs/third")
    assert home.listed()["third"]["statuses"] == {"skipped": 20}
    assert home.batchlic("audit", "runs", "--device", "864508030000019").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("runs", "none"), "none: there is no such folder"),
        (("runs", "fleet.csv"), "fleet.csv"),
        (("runs", ".", "other"), "give one folder, and not also other"),
        (("runs", "--since", "7"), "--since 7: give a unit"),
        (("runs", "--since", "soon"), "--since 'soon' is not a duration"),
        (("runs", "prune", "--keep", "30"), "--keep 30: give a unit"),
        (("runs", "prune"), "Missing option '--keep'"),
        (("runs", "prune", "none", "--keep", "30d"), "none: there is no such folder"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "fleet.csv").touch()
    ended = batchlic(*arguments, cwd=tmp_path)
    assert (ended.code, says in ended.err) == (2, True), ended.err


def test_a_folder_named_prune_is_written_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "prune").mkdir()
    listed = batchlic("runs", "./prune", "--since", "99999999d", cwd=tmp_path)
    assert (listed.code, listed.err) == (0, "There is no such run in prune.\n")
    assert batchlic("runs", "prune", "prune", "--keep", "1d", cwd=tmp_path).code == 0


def test_names_from_outside_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    hostile = "a\x1b[2Jb\n[bold red]c"
    folder = tmp_path / "runs" / hostile
    folder.mkdir(parents=True)
    (folder / "journal.db").write_bytes(b"x")
    ended = batchlic("runs", cwd=tmp_path)
    assert ended.code == 3
    assert "\\x1b[2Jb\\x0a[bold red]c" in ended.out
    assert "\x1b" not in ended.out + ended.err


@pytest.mark.slow
def test_a_folder_of_another_user_is_shown_among_the_others(home: Home) -> None:
    home.batchlic(*ASSIGN, "--run-dir", "runs/first")
    closed = home.path / "runs" / "closed"
    closed.mkdir(mode=0o000)
    ended = bound("runs", cwd=home.path)
    closed.chmod(0o700)
    assert (ended.code, ended.out.count("\n")) == (3, 3)
    assert "runs/closed: can't be opened (Permission denied)" in ended.err
