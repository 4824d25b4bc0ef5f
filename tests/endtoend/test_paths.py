"""Folders and files with names that a shell, polars or SQLite could read as something else."""

from pathlib import Path

import polars as pl
import pytest

from batchlic.callbacks.store import Store
from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, batchlic, fleet, keys, statuses
from tests.forking import serving

DEVICES = 120
NAMES = ("~/file:x #1/a [1] b", "-line\nfeed/*{c}?/site=1 100%20")


def assign(home: Path, url: str, *inventories: str, run_dir: str, ledger: str = "ledger.db") -> None:
    options = (
        "--account",
        ACCOUNT,
        "--sku",
        FLEXIBLE,
        f"--run-dir={run_dir}",
        f"--ledger={ledger}",
        "--new-ledger",
    )
    ended = batchlic("assign", *options, "--", *inventories, settings=keys(url), cwd=home)
    assert ended.code == 0, ended.err


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    inside = tmp_path / name
    inside.mkdir(parents=True)
    fleet(inside / "fleet.csv", DEVICES)
    Store.open(str(inside / "callbacks.db")).close()
    folder = f"./{name}/run"
    with serving(SandboxConfig()) as url:
        assign(tmp_path, url, f"{name}/fleet.csv", run_dir=folder, ledger=f"./{name}/ledger.db")
        commands = [
            ("resume", folder),
            ("status", folder),
            ("audit", folder, "--verify"),
            ("export", folder, "--what", "all", "--to", f"./{name}/all.csv"),
            ("ledger", "export", f"--ledger=./{name}/ledger.db", "--to", f"./{name}/ledger.parquet"),
            ("ledger", "import", f"--ledger=./{name}/other.db", f"./{name}/run"),
            ("reconcile", folder, f"--store=./{name}/callbacks.db"),
            ("rollback", folder, "--yes"),
        ]
        for command in commands:
            ended = batchlic(*command, settings=keys(url), cwd=tmp_path)
            assert ended.code == 0, (command, ended.err)
    assert set(statuses(inside / "run").values()) == {"accepted"}
    assert pl.read_csv((inside / "all.csv").read_bytes()).height == DEVICES
    assert pl.read_parquet((inside / "ledger.parquet").read_bytes()).height == DEVICES


@pytest.mark.slow
def test_a_pattern_in_a_folder_name_reads_no_other_folder(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "[ab]")):
        (tmp_path / name).mkdir()
        fleet(tmp_path / name / "fleet.csv", DEVICES + number)
    with serving(SandboxConfig()) as url:
        for name in ("a", "b", "[ab]"):
            assign(tmp_path, url, f"{name}/fleet.csv", run_dir=f"{name}/run", ledger=f"{name}/ledger.db")
    assert len(statuses(tmp_path / "[ab]" / "run")) == DEVICES + 2


@pytest.mark.slow
def test_a_run_folder_may_be_named_by_its_link_and_its_dots(tmp_path: Path) -> None:
    (tmp_path / "real [1]").mkdir()
    (tmp_path / "link*").symlink_to(tmp_path / "real [1]")
    fleet(tmp_path / "fleet.csv", DEVICES)
    with serving(SandboxConfig()) as url:
        assign(tmp_path, url, "fleet.csv", run_dir="link*/../link*/run")
    assert len(statuses(tmp_path / "real [1]" / "run")) == DEVICES


@pytest.mark.parametrize(
    "pattern", ["a [1] b/*.csv", "a [[]1] b/*.csv", "./a [1] b/fleet-?.csv", "**/fleet-[12].csv"]
)
def test_a_glob_finds_inventories_below_a_folder_of_any_name(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a [1] b").mkdir()
    for number in (1, 2):
        rows = fleet(tmp_path / f"fleet-{number}.txt", 2 * number).read_text().splitlines()[2 * number - 1 :]
        (tmp_path / "a [1] b" / f"fleet-{number}.csv").write_text("\n".join(["IMEI", *rows, ""]))
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run")
    planned = batchlic("plan", pattern, *options, cwd=tmp_path)
    assert planned.code == 0, planned.err
    assert pl.read_parquet(tmp_path / "run" / "plan.parquet")["source"].n_unique() == 2


def test_a_job_file_in_a_folder_of_any_name_finds_its_inventories(tmp_path: Path) -> None:
    home = tmp_path / "jobs [night]"
    home.mkdir()
    fleet(home / "fleet.csv", DEVICES)
    license = f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n'
    (home / "job.toml").write_text(f'action = "assign"\n[inventory]\nfiles = ["*.csv"]\n{license}')
    planned = batchlic("plan", home / "job.toml", "--run-dir", "run", cwd=tmp_path)
    assert planned.code == 0, planned.err


def test_an_inventory_whose_name_is_a_pattern_is_read_as_that_file(tmp_path: Path) -> None:
    for name, devices in {"fleet [1].csv": 7, "fleet 1.csv": 3, "f*.csv": 5}.items():
        fleet(tmp_path / name, devices)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir")
    for name, devices in {"fleet [1].csv": 7, "f*.csv": 5}.items():
        planned = batchlic("plan", name, *options, f"of {name}", cwd=tmp_path)
        assert planned.code == 0, planned.err
        assert pl.read_parquet((tmp_path / f"of {name}" / "plan.parquet").read_bytes()).height == devices
