"""Waiting for callbacks: wrong options are refused before anything is sent, and silence is told."""

import json
from pathlib import Path

import pytest

from batchlic.errors import ExitCode
from tests.endtoend.program import ACCOUNT, FLEXIBLE, Ended, batchlic, fleet, summary

ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--sandbox", "--run-dir", "run")


@pytest.mark.parametrize(
    ("waiting", "says"),
    [
        (["--wait-callbacks", "soon", "--listen-port", "0"], "soon"),
        (["--wait-callbacks", "1m"], "--store"),
        (["--listen-port", "0"], "--wait-callbacks"),
    ],
)
def test_wrong_wait_options_are_refused_before_anything_is_sent(
    tmp_path: Path, waiting: list[str], says: str
) -> None:
    fleet(tmp_path / "fleet.csv", 10)
    ended = batchlic(*ASSIGN, *waiting, cwd=tmp_path)
    assert ended.code == ExitCode.USAGE, ended.err
    assert says in ended.err
    assert not (tmp_path / "run").exists()


def waited(folder: Path, *options: str, setting: str = "") -> Ended:
    """A run that waits for callbacks, and hears of none: nobody registers the store's listener."""
    fleet(folder / "fleet.csv", 3)
    (folder / "job.toml").write_text(
        f'action = "assign"\n[inventory]\nfiles = ["fleet.csv"]\n{setting}\n'
        f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n'
    )
    command = ("run", "job.toml", "--sandbox", "--run-dir", "run", "--store", "empty.db", *options)
    return batchlic(*command, cwd=folder)


@pytest.mark.slow
def test_a_run_that_hears_of_no_callback_says_so(tmp_path: Path) -> None:
    ended = waited(tmp_path, "--wait-callbacks", "0.1")
    assert ended.code == ExitCode.OK
    assert "No callback about this run came within 0.1: 3 devices are accepted" in ended.err
    assert "batchlic callbacks list" in ended.err
    assert "batchlic reconcile run" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ((), "[limits]\nrequire_confirmation = true"),
        (("--require-confirmation",), "[limits]\nrequire_confirmation = false"),
    ],
)
def test_unconfirmed_devices_are_exit_3_if_the_job_requires_confirmation(
    tmp_path: Path, options: tuple[str, ...], setting: str
) -> None:
    ended = waited(tmp_path, "--wait-callbacks", "0s", *options, setting=setting)
    assert ended.code == ExitCode.INCOMPLETE
    assert "3 devices are accepted but not confirmed, and the job requires confirmation" in ended.out
    written = summary(tmp_path / "run")
    assert (written["exit_code"], written["unconfirmed"]) == (3, 3)
    again = batchlic("status", "run", "--json", cwd=tmp_path)
    assert json.loads(again.out)["unconfirmed"] == 3
    assert batchlic("audit", "run", "--verify", cwd=tmp_path).code == ExitCode.OK


@pytest.mark.slow
def test_confirmed_devices_are_exit_0_if_the_job_requires_confirmation(tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 3)
    ended = batchlic(
        *ASSIGN, "--wait-callbacks", "1m", "--listen-port", "0", "--require-confirmation", cwd=tmp_path
    )
    assert ended.code == ExitCode.OK, ended.err
    assert "No callback" not in ended.err
    assert summary(tmp_path / "run")["statuses"] == {"confirmed": 3}
    assert summary(tmp_path / "run")["unconfirmed"] == 0


@pytest.mark.slow
def test_a_plan_of_a_job_that_requires_confirmation_is_exit_0(tmp_path: Path) -> None:
    setting = "[limits]\nrequire_confirmation = true"
    waited(tmp_path, "--wait-callbacks", "0s", setting=setting)
    assert batchlic("plan", "job.toml", "--run-dir", "plan", cwd=tmp_path).code == ExitCode.OK
    assert batchlic("run", "job.toml", "--sandbox", "--dry-run", cwd=tmp_path).code == ExitCode.OK
