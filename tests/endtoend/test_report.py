"""`batchlic report`, and the report at the end of a run, as people call them."""

from pathlib import Path

import pytest

from batchlic.errors import ExitCode
from tests.endtoend.program import ACCOUNT, FLEXIBLE, batchlic, fleet


@pytest.mark.slow
def test_a_run_ends_with_its_report_which_can_be_made_again(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv", 20)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--sandbox", "--run-dir", "run")
    ended = batchlic("assign", inventory.name, *options, cwd=tmp_path)
    assert ended.code == ExitCode.OK
    assert "Report: run/report.html" in ended.out
    again = batchlic("report", "run", cwd=tmp_path)
    assert again.out.startswith("<!doctype html>")
    assert "Finished: 20 devices accepted" in again.out
    assert batchlic("report", "run", "--to", "copy.html", cwd=tmp_path).code == ExitCode.OK
    assert (tmp_path / "copy.html").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "run" / "report.html").read_bytes()
    refused = batchlic("report", "run", "--to", "missing/report.html", cwd=tmp_path)
    assert (refused.code, "the folder missing does not exist" in refused.err) == (ExitCode.USAGE, True)
    assert (tmp_path / "run" / "report.html").read_bytes() == before


@pytest.mark.slow
def test_a_report_or_an_export_takes_the_place_of_no_file_of_the_run(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv", 20)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--sandbox", "--run-dir", "run")
    assert batchlic("assign", inventory.name, *options, cwd=tmp_path).code == ExitCode.OK
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    for command in (("report", "run"), ("export", "run", "--what", "all", "--format", "csv")):
        for name in ("journal.db", "plan.parquet", "summary.json", "run.log"):
            refused = batchlic(*command, "--to", f"run/../run/{name}", cwd=tmp_path)
            assert (refused.code, "is a file of the run itself" in refused.err) == (ExitCode.USAGE, True)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_no_report_is_written_if_none_is_wanted(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv", 20)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--sandbox", "--run-dir", "run", "--no-report")
    ended = batchlic("assign", inventory.name, *options, cwd=tmp_path)
    assert (ended.code, "Report:" in ended.err) == (ExitCode.OK, False)
    assert not (tmp_path / "run" / "report.html").exists()
