"""Files that a command is to write: formats by their endings, and folders that are missing."""

import json
from pathlib import Path

import polars as pl
import pytest
from python_calamine import CalamineWorkbook

from tests.endtoend.program import ACCOUNT, FLEXIBLE, Ended, batchlic, fleet

SKUS = ("--from-sku", FLEXIBLE, "--to-sku", "TS-BUNDLE-KTO-SIMSEC-MRC")
LICENSE = ("--account", ACCOUNT, "--sku", FLEXIBLE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rehearsal with two rejects, and a ledger."""
    folder = tmp_path_factory.mktemp("home")
    fleet(folder / "fleet.csv", 5, "123", "456")
    command = ("assign", "fleet.csv", *LICENSE, "--sandbox", "--run-dir", "run")
    assert batchlic(*command, cwd=folder).code == 3
    imported = batchlic("ledger", "import", "fleet.csv", *LICENSE, "--ledger", "ledger.db", cwd=folder)
    assert imported.code == 3, imported.err
    return folder


def export(home: Path, *options: str) -> Ended:
    return batchlic("export", "run", *options, cwd=home)


def rows_of(path: Path) -> int:
    match path.suffix.lower():
        case ".parquet":
            return pl.read_parquet(path).height
        case ".csv":
            return pl.read_csv(path, infer_schema=False).height
        case ".xlsx":
            return len(CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()) - 1
        case _:
            return len([json.loads(line) for line in path.read_text().splitlines()])


@pytest.mark.parametrize(
    "name", ["x.parquet", "x.csv", "x.xlsx", "x.ndjson", "x.jsonl", "X.PARQUET", "a.b.csv"]
)
def test_the_format_of_an_export_is_that_of_its_name(home: Path, name: str) -> None:
    ended = export(home, "--to", name)
    assert (ended.code, ended.out) == (0, f"2 rows in {name}\n")
    assert rows_of(home / name) == 2


def test_a_named_format_wins_over_the_ending(home: Path) -> None:
    assert export(home, "--to", "odd.txt", "--format", "parquet").code == 0
    assert pl.read_parquet(home / "odd.txt").height == 2
    assert export(home, "--to", "plain", "--format", "csv").code == 0


@pytest.mark.parametrize("name", ["x.txt", "x", "x.json", "x.xls", "x.parquet.gz", "csv", ".csv"])
def test_an_ending_that_says_nothing_is_exit_2_with_the_known_ones(home: Path, name: str) -> None:
    ended = export(home, "--to", name)
    assert ended.code == 2
    assert all(known in ended.err for known in (".csv", ".xlsx", ".ndjson", ".parquet", "--format"))
    assert not (home / name).exists()


def test_stdout_gets_csv_unless_a_format_is_named(home: Path) -> None:
    assert export(home).out.startswith("source,row,")
    assert json.loads(export(home, "--format", "ndjson", "--to", "-").out.splitlines()[0])["row"] == 6


TARGETS = {
    "a missing folder": ("missing/x.csv", "the folder missing does not exist"),
    "a missing folder of folders": ("missing/deep/x.csv", "does not exist"),
    "a file as folder": ("fleet.csv/x.csv", "is not a folder"),
    "a folder": ("run", "this is a folder"),
}


@pytest.mark.parametrize(("target", "says"), TARGETS.values(), ids=TARGETS)
def test_a_place_where_no_file_can_be_is_exit_2(home: Path, target: str, says: str) -> None:
    for command in (("export", "run", "--format", "csv"), ("ledger", "export", "--ledger", "ledger.db")):
        ended = batchlic(*command, "--to", target, cwd=home)
        assert (ended.code, says in ended.err) == (2, True), ended.err
    assert not (home / "missing").exists()


MISTYPED = {
    "assign": ("assign", "flett.csv", *LICENSE, "--sandbox"),
    "a glob": ("assign", "flett*.csv", *LICENSE, "--sandbox"),
    "unassign": ("unassign", "flett.csv", *LICENSE, "--sandbox"),
    "migrate": ("migrate", "flett.csv", *LICENSE[:2], *SKUS, "--sandbox"),
    "plan": ("plan", "flett.csv", *LICENSE),
    "a run dir": ("assign", "flett.csv", *LICENSE, "--sandbox", "--run-dir", "new/deep"),
    "a listener": (
        "assign",
        "flett.csv",
        *LICENSE,
        "--sandbox",
        "--wait-callbacks",
        "1m",
        "--listen-port",
        "0",
    ),
    "a second inventory": ("assign", "fleet.csv", "flett.csv", *LICENSE, "--sandbox"),
    "a job": ("run", "job.toml", "--sandbox"),
}


@pytest.mark.parametrize("command", MISTYPED.values(), ids=MISTYPED)
def test_a_mistyped_inventory_is_exit_2_and_leaves_no_run_folder(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    fleet(tmp_path / "fleet.csv", 3)
    license = f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n'
    (tmp_path / "job.toml").write_text(f'action = "assign"\n[inventory]\nfiles = ["flett.csv"]\n{license}')
    ended = batchlic(*command, cwd=tmp_path)
    assert (ended.code, "flett" in ended.err) == (2, True), ended.err
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left - {"runs", "runs/.locks", "runs/.locks/job"} == {"fleet.csv", "job.toml"}
