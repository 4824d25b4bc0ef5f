"""A run folder that is read-only or belongs to another user is read, and nothing is written in it."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    attempts,
    batchlic,
    begin,
    bound,
    end,
    fleet,
    imei,
    keys,
    totals,
    until,
)
from tests.forking import serving

DEVICES = 60
ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run", "--new-ledger")
LOOKS = {
    "status": ("status", "run"),
    "status --json": ("status", "run", "--json"),
    "verify": ("audit", "run", "--verify"),
    "device": ("audit", "run", "--device", imei(1)),
    "export": ("export", "run", "--what", "all", "--to", "out.csv"),
    "rejects": ("export", "run", "--to", "out.csv"),
}
"""Commands that only look at a run."""


def files_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file of a folder, with its inode and time: a file that is written again differs."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.iterdir()
        if path.is_file()
    }


def read_only(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o400)
    folder.chmod(0o500)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finished")
    fleet(home / "fleet.csv", DEVICES, "not an IMEI")
    with serving(SandboxConfig()) as url:
        assert batchlic(*ASSIGN, settings=keys(url), cwd=home).code == 3
    return home


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its first answers, which are only in the log of its journal."""
    home = tmp_path_factory.mktemp("killed")
    with at_work(home) as url:
        os.kill(int((home / "pid").read_text()), signal.SIGKILL)
        until(lambda: totals(url) is not None)
    return home


@contextmanager
def at_work(home: Path) -> Iterator[str]:
    """A run that has had its first answers, and goes on."""
    fleet(home / "fleet.csv", DEVICES)
    with serving(SandboxConfig(latency=LatencyConfig(base_s=0.3))) as url:
        command = (*ASSIGN, "--batch-size", "1", "--max-concurrency", "1")
        process = begin(*command, settings=keys(url), cwd=home)
        (home / "pid").write_text(str(process.pid))
        until(lambda: sum(dict[str, int](totals(url)["requests"]).values()) >= 3)
        try:
            yield url
        finally:
            process.send_signal(signal.SIGKILL)
            end(process)


def copied(home: Path, to: Path) -> Path:
    return shutil.copytree(home, to / "home")


@pytest.mark.parametrize("name", LOOKS)
def test_a_finished_run_in_a_read_only_folder_is_read(finished: Path, tmp_path: Path, name: str) -> None:
    home = copied(finished, tmp_path)
    read_only(home / "run")
    before = files_of(home / "run")
    ended = bound(*LOOKS[name], cwd=home)
    assert ended.code == 0, ended.err
    assert files_of(home / "run") == before


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_writes_nothing_in_a_folder_that_can_be_written(
    finished: Path, tmp_path: Path, name: str
) -> None:
    home = copied(finished, tmp_path)
    before = files_of(home / "run")
    assert batchlic(*LOOKS[name], cwd=home).code == 0
    assert files_of(home / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["status --json", "verify", "device", "export"])
def test_the_log_of_a_killed_run_is_read_and_left(killed: Path, tmp_path: Path, name: str) -> None:
    home = copied(killed, tmp_path)
    assert (home / "run" / "journal.db-wal").stat().st_size > 0
    read_only(home / "run")
    before = files_of(home / "run")
    ended = bound(*LOOKS[name], cwd=home)
    assert ended.code == 0, ended.err
    assert files_of(home / "run") == before
    if name == "status --json":
        sent = sum(attempt.outcome == "accepted" for attempt in attempts(home / "run"))
        assert json.loads(ended.out)["statuses"]["accepted"] == sent > 0
    elif name == "export":
        assert "accepted" in (home / "out.csv").read_text()


@pytest.mark.slow
def test_a_read_only_view_of_a_run_at_work_is_up_to_date(tmp_path: Path) -> None:
    with at_work(tmp_path):
        (tmp_path / "run").chmod(0o500)
        names = {path.name for path in (tmp_path / "run").iterdir()}
        ended = bound(*LOOKS["status --json"], cwd=tmp_path)
        assert ended.code == 0, ended.err
        assert json.loads(ended.out)["statuses"]["accepted"] >= 2
        verified = bound(*LOOKS["verify"], cwd=tmp_path)
        assert (verified.code, "another batchlic process" in verified.err) == (4, True)
        assert names == {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("closed", ["run", "run/journal.db", "run/plan.parquet"])
@pytest.mark.parametrize("name", ["status", "verify", "device", "export"])
def test_missing_permission_is_said_and_is_no_damage(
    finished: Path, tmp_path: Path, closed: str, name: str
) -> None:
    home = copied(finished, tmp_path)
    (home / closed).chmod(0)
    ended = bound(*LOOKS[name], cwd=home)
    (home / closed).chmod(0o700)
    assert (ended.code, "Permission denied" in ended.err) == (2, True), ended.err
    assert not any(word in ended.err for word in ("damaged", "lost", "missing", "Traceback")), ended.err


@pytest.mark.parametrize("closed", ["results.parquet", "audit.parquet", "summary.json", "rejects.parquet"])
def test_a_file_that_can_not_be_opened_is_no_finding(finished: Path, tmp_path: Path, closed: str) -> None:
    home = copied(finished, tmp_path)
    (home / "run" / closed).chmod(0)
    ended = bound(*LOOKS["verify"], cwd=home)
    assert (ended.code, "Permission denied" in ended.err) == (2, True), ended.err
    assert "changed" not in ended.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("name", ["status", "verify", "device", "export"])
def test_the_owner_of_a_foreign_folder_is_named(finished: Path, tmp_path: Path, name: str) -> None:
    home = copied(finished, tmp_path)
    os.chown(home / "run", 12345, 12345)
    ended = bound(*LOOKS[name], cwd=home)
    assert (ended.code, "run the command as its owner (uid 12345)" in ended.err) == (2, True), ended.err


@pytest.mark.parametrize("command", [("settle", "run", "--as", "failed", "--reason", "x"), ("resume", "run")])
def test_a_run_that_can_not_be_written_is_exit_2(
    finished: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    home = copied(finished, tmp_path)
    read_only(home / "run")
    ended = bound(*command, settings=keys("http://127.0.0.1:9/api"), cwd=home)
    assert (ended.code, "Permission denied" in ended.err) == (2, True), ended.err


def test_a_history_across_runs_is_refused_where_a_folder_is_closed(finished: Path, tmp_path: Path) -> None:
    home = copied(finished, tmp_path)
    (home / "run" / "rollback-by-device").mkdir(mode=0)
    ended = bound("audit", ".", "--device", imei(1), cwd=home)
    assert (ended.code, "rollback-by-device: can't be opened" in ended.err) == (2, True), ended.err
