"""`batchlic report`, and the report at the end of a run, as people call them."""

from contextlib import closing
from pathlib import Path

import pytest

from batchlic.database.files import is_database
from batchlic.errors import ExitCode
from batchlic.ledger import Ledger
from tests.endtoend.program import ACCOUNT, FLEXIBLE, batchlic, contents, fleet


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
def test_a_report_or_an_export_takes_the_place_of_no_file_of_a_run_and_of_no_database(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv", 20)
    for run in ("run", "other"):
        options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--sandbox", "--run-dir", run)
        assert batchlic("assign", inventory.name, *options, cwd=tmp_path).code == ExitCode.OK
    with closing(Ledger(tmp_path / "ledger.db")):
        pass
    before = [contents(tmp_path / run) for run in ("run", "other")]
    report, export = ("report", "run"), ("export", "run", "--what", "all", "--format", "csv")
    ledger = ("ledger", "export", "--ledger", "ledger.db")
    for command in (report, export):
        for name in ("run/../run/journal.db", "run/plan.parquet", "other/summary.json", "other/run.log"):
            refused = batchlic(*command, "--to", name, cwd=tmp_path)
            assert (refused.code, "is a file of a run" in refused.err) == (ExitCode.USAGE, True)
        refused = batchlic(*command, "--to", "ledger.db", cwd=tmp_path)
        assert (refused.code, "is a database" in refused.err) == (ExitCode.USAGE, True)
    refused = batchlic(*ledger, "--to", "other/plan.parquet", cwd=tmp_path)
    assert (refused.code, "is a file of a run" in refused.err) == (ExitCode.USAGE, True)
    assert [contents(tmp_path / run) for run in ("run", "other")] == before
    assert is_database(tmp_path / "ledger.db")


@pytest.mark.slow
def test_no_report_is_written_if_none_is_wanted(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv", 20)
    options = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--sandbox", "--run-dir", "run", "--no-report")
    ended = batchlic("assign", inventory.name, *options, cwd=tmp_path)
    assert (ended.code, "Report:" in ended.err) == (ExitCode.OK, False)
    assert not (tmp_path / "run" / "report.html").exists()
