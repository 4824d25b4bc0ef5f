"""The same command from any folder uses the same runs and the same ledger."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, Ended, end, environment_of, fleet, imei, keys, totals
from tests.forking import Program, serving

LICENSE = ("--account", ACCOUNT, "--sku", FLEXIBLE)
DEVICES = 120


class Machine:
    """Folders and a home of one user; no setting names the state folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        for name in ("first", "second", "home"):
            (folder / name).mkdir()
        self.fleet = fleet(folder / "fleet.csv", DEVICES)

    def run(self, *arguments: str, cwd: str, **changes: str) -> Ended:
        environment = environment_of(keys(self.url), self.folder)
        del environment["BATCHLIC_STATE_DIR"]
        environment |= {"HOME": str(self.folder / "home"), **changes}
        return end(Program(arguments, environment, self.folder / cwd))

    def assign(self, *options: str, cwd: str, **changes: str) -> Ended:
        return self.run("assign", str(self.fleet), *LICENSE, *options, cwd=cwd, **changes)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with serving(SandboxConfig()) as url:
        yield Machine(tmp_path, url)


@pytest.mark.slow
def test_the_same_command_from_another_folder_licenses_nothing_twice(machine: Machine) -> None:
    assert machine.assign(cwd="first").code == 0
    again = machine.assign(cwd="second")
    assert (again.code, "skipped" in again.out) == (0, True), again.err
    assert totals(machine.url)["executions"] == 2
    assert (machine.folder / "home/.local/state/batchlic/ledger.db").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("run_dir", ["deep/er/tonight", "./runs/tonight"])
def test_a_named_run_folder_elsewhere_is_told_about_its_new_ledger(machine: Machine, run_dir: str) -> None:
    assert machine.assign("--run-dir", run_dir, cwd="first").code == 0
    again = machine.assign("--run-dir", run_dir, cwd="second")
    assert (again.code, "--new-ledger" in again.err) == (4, True), again.err
    assert totals(machine.url)["executions"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("run_dir", ["deep/er/tonight", "./runs/tonight"])
def test_with_the_variable_a_named_run_folder_keeps_the_ledger(machine: Machine, run_dir: str) -> None:
    state = {"BATCHLIC_STATE_DIR": str(machine.folder / "state")}
    assert machine.assign("--run-dir", run_dir, cwd="first", **state).code == 0
    again = machine.assign("--run-dir", run_dir, cwd="second", **state)
    assert (again.code, "skipped" in again.out) == (0, True), again.err
    assert [path.parent.name for path in machine.folder.rglob("ledger.db")] == ["state"]


@pytest.mark.slow
def test_a_run_folder_with_a_ledger_beside_it_keeps_that_ledger(machine: Machine) -> None:
    assert machine.assign(cwd="first").code == 0
    assert machine.assign("--run-dir", "old/one", "--new-ledger", cwd="second").code == 0
    assert "skipped" in machine.assign("--run-dir", "old/two", cwd="second").out


@pytest.mark.slow
def test_runs_in_the_folder_runs_go_on_there(machine: Machine) -> None:
    (machine.folder / "first" / "runs").mkdir()
    assert machine.assign(cwd="first").code == 0
    assert (machine.folder / "first/runs/ledger.db").is_file()
    assert not (machine.folder / "home" / ".local").exists()


@pytest.mark.slow
def test_every_command_finds_runs_and_ledger_from_another_folder(machine: Machine) -> None:
    assert machine.assign(cwd="first").code == 0
    [run] = [path.name for path in (machine.folder / "home/.local/state/batchlic").glob("2*")]
    for command in (
        ("status", run),
        ("resume", run),
        ("audit", run, "--verify"),
        ("audit", "--device", imei(1)),
        ("export", run, "--what", "all", "--to", "all.csv"),
        ("ledger", "show", "--device", imei(1)),
        ("ledger", "export", "--to", "ledger.csv"),
        ("rollback", run, "--yes"),
    ):
        ended = machine.run(*command, cwd="second")
        assert ended.code == 0, (command, ended.err)
    assert "has no device" not in machine.run("ledger", "show", "--device", imei(1), cwd="second").out


@pytest.mark.slow
def test_a_repeated_command_uses_the_ledger_that_its_run_began_with(machine: Machine) -> None:
    folder = str(machine.folder / "night")
    assert machine.assign("--run-dir", folder, cwd="first").code == 0
    (machine.folder / "second" / "runs").mkdir()
    (machine.folder / "second/runs/ledger.db").write_bytes(b"of another program")
    assert machine.assign("--run-dir", folder, cwd="second").code == 0


@pytest.mark.slow
def test_two_ledgers_are_exit_2_and_nothing_is_sent(machine: Machine) -> None:
    assert machine.assign(cwd="first").code == 0
    (machine.folder / "second" / "runs").mkdir()
    shutil.copy(machine.folder / "home/.local/state/batchlic/ledger.db", machine.folder / "second/runs")
    before = totals(machine.url)
    refused = machine.assign(cwd="second")
    assert (refused.code, "two ledgers" in refused.err) == (2, True)
    assert totals(machine.url) == before
    chosen = machine.assign("--ledger", "runs/ledger.db", "--run-dir", "run", cwd="second")
    assert (chosen.code, "skipped" in chosen.out) == (0, True)


@pytest.mark.slow
def test_a_rehearsal_needs_no_ledger(machine: Machine) -> None:
    assert machine.assign("--sandbox", cwd="first").code == 0
    assert not list(machine.folder.rglob("ledger.db"))


def test_a_ledger_that_can_not_be_written_is_exit_2(machine: Machine) -> None:
    (machine.folder / "file").touch()
    refused = machine.assign(
        "--ledger", str(machine.folder / "file/ledger.db"), "--run-dir", "run", cwd="first"
    )
    assert (refused.code, "ledger" in refused.err) == (2, True), refused.err
    assert totals(machine.url)["executions"] == 0


@pytest.mark.slow
def test_a_dry_run_skips_what_the_ledger_of_the_state_folder_has(machine: Machine) -> None:
    assert machine.assign(cwd="first").code == 0
    shown = machine.assign("--dry-run", "--json", cwd="second")
    assert json.loads(shown.out)["excluded"] == {"skipped": DEVICES}
