"""`--keep`: columns of the inventory in results, rejects and exports, whatever happens to the run."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from python_calamine import CalamineWorkbook

from batchlic.runs.folder import RunFolder
from batchlic.runs.prune import _refuse_foreign_files
from batchlic.sandbox.config import LatencyConfig, Poison, SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    Ended,
    batchlic,
    begin,
    imei,
    keys,
    statuses,
    summary,
    totals,
    until,
)
from tests.forking import serving

TARGET = ("--account", ACCOUNT, "--sku", FLEXIBLE)
ASSIGN = ("assign", "fleet.csv", *TARGET, "--run-dir", "run", "--yes")
KEEP = ("--keep", "site,customer")


@dataclass(frozen=True)
class Home:
    folder: Path
    url: str

    def __call__(self, *arguments: str) -> Ended:
        return batchlic(*arguments, settings=keys(self.url), cwd=self.folder)

    def fleet(self, *numbers: int, more: str = "") -> None:
        lines = [f"{imei(number)},{site(number)},ACME {number:03}" for number in numbers]
        (self.folder / "fleet.csv").write_text("\n".join(["IMEI,Site,Customer", *lines, more]))

    def kept(self, file: str = "run/results.parquet") -> dict[str, tuple[str, str]]:
        """The kept cells of each device."""
        table = pl.read_parquet(self.folder / file).select("imei", "site", "customer")
        return {device: (site, customer) for device, site, customer in table.iter_rows()}


def site(number: int) -> str:
    return f"00{number}"


def expected(*numbers: int) -> dict[str, tuple[str, str]]:
    return {imei(number): (site(number), f"ACME {number:03}") for number in numbers}


@contextmanager
def home(path: Path, *poisoned: int, latency: float = 0.0) -> Iterator[Home]:
    poison = tuple(Poison(identifier=imei(number)) for number in poisoned)
    with serving(SandboxConfig(poison=poison, latency=LatencyConfig(base_s=latency))) as url:
        yield Home(path, url)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A run of devices 4 to 0, of which 3 failed, and of two rejected rows."""
    with home(tmp_path_factory.mktemp("keep"), 3) as at:
        at.fleet(4, 3, 2, 1, 0, more=f"bad,=1+1,@x\n{imei(1)},\x1b[31mlater,last\n")
        assert at(*ASSIGN, *KEEP, "--max-rejects", "5").code == 3
        yield at


@pytest.mark.slow
def test_results_and_rejects_have_the_cells_of_their_own_rows(ran: Home) -> None:
    assert ran.kept() == expected(*range(5))
    assert statuses(ran.folder / "run")[imei(3)] == "failed"
    rejects = pl.read_parquet(ran.folder / "run/rejects.parquet").select("reason", "site", "customer")
    assert rejects.rows() == [("not_digits", "=1+1", "@x"), ("duplicate", "\x1b[31mlater", "last")]


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_exports_keep_them_and_escape_formulas(ran: Home, form: str) -> None:
    assert ran("export", "run", "--what", "all", "--to", f"all.{form}").code == 0
    if form == "csv":
        table = list(csv.reader((ran.folder / "all.csv").read_text().splitlines()))
    else:
        book = CalamineWorkbook.from_path(ran.folder / "all.xlsx")
        table = [list(map(str, row)) for row in book.get_sheet_by_index(0).to_python()]
    assert table[0][-2:] == ["site", "customer"]
    assert [row[-2:] for row in table[1:6]] == [
        [*expected(number)[imei(number)]] for number in (4, 3, 2, 1, 0)
    ]
    assert table[6][-2:] == ["'=1+1", "'@x"]


def test_the_history_of_a_device_shows_them(ran: Home) -> None:
    events = json.loads(ran("audit", "--device", imei(1), "run", "--json").out)
    assert [event["kept"]["site"] for event in events if "kept" in event] == ["\x1b[31mlater", "001"]
    shown = ran("audit", "--device", imei(1), "run").out
    assert "site 001, customer ACME 001" in shown
    assert "\x1b" not in shown


def test_the_files_of_the_run_are_whole_and_its_own(ran: Home) -> None:
    assert ran("audit", "run", "--verify").code == 0
    _refuse_foreign_files(RunFolder(ran.folder / "run"))


@pytest.mark.slow
def test_a_retry_and_a_rollback_keep_them_too(ran: Home) -> None:
    assert ran("retry", "run", "--run-dir", "again", "--yes").code == 3
    assert ran.kept("again/results.parquet") == expected(3)
    assert ran("rollback", "run", "--by", "device", "--yes").code == 0
    assert ran.kept("run/rollback-by-device/results.parquet") == expected(0, 1, 2, 4)


@pytest.mark.slow
def test_they_come_from_the_run_after_a_kill_when_the_inventory_is_gone(tmp_path: Path) -> None:
    with home(tmp_path, latency=0.2) as at:
        at.fleet(*range(99, -1, -1))
        slowly = ("--batch-size", "5", "--max-concurrency", "2")
        with begin(*ASSIGN, *KEEP, *slowly, settings=keys(at.url), cwd=tmp_path) as process:
            until(lambda: sum(totals(at.url)["requests"].values()) >= 4)
            process.kill()
        (tmp_path / "fleet.csv").unlink()
        assert at("resume", "run").code == 0
        assert at.kept() == expected(*range(100))
        assert at("audit", "run", "--verify").code == 0


@pytest.mark.slow
def test_other_columns_to_keep_neither_refuse_nor_change_a_run(tmp_path: Path) -> None:
    with home(tmp_path) as at:
        at.fleet(1, 2)
        assert at(*ASSIGN, *KEEP).code == 0
        again = at(*ASSIGN, "--keep", "customer")
        assert again.code == 0
        assert "this one keeps site, customer" in again.out
        assert at.kept() == expected(1, 2)


@pytest.mark.slow
def test_without_kept_parquet_a_run_ends_with_null_and_a_note_until_it_is_back(tmp_path: Path) -> None:
    with home(tmp_path) as at:
        at.fleet(1, 2)
        at(*ASSIGN, *KEEP)
        stored = (tmp_path / "run/kept.parquet").read_bytes()
        for name in ("kept.parquet", "results.parquet"):
            (tmp_path / "run" / name).unlink()
        assert at("resume", "run").code == 0
        assert not any(map(any, at.kept().values()))
        [note] = [note for note in summary(tmp_path / "run")["notes"] if "kept.parquet" in note]
        assert note.startswith("site, customer: null")
        verified = at("audit", "run", "--verify")
        assert (verified.code, "kept.parquet" in verified.out) == (3, True)
        (tmp_path / "run/kept.parquet").write_bytes(stored)
        (tmp_path / "run/results.parquet").unlink()
        assert at("resume", "run").code == 0
        assert at.kept() == expected(1, 2)
        assert not any("kept.parquet" in note for note in summary(tmp_path / "run")["notes"])


@pytest.mark.slow
def test_a_reviewed_plan_is_applied_with_them_unless_they_were_changed(tmp_path: Path) -> None:
    with home(tmp_path) as at:
        at.fleet(2, 1)
        for name in ("run", "changed"):
            assert at("plan", "fleet.csv", *TARGET, *KEEP, "--run-dir", name).code == 0
        pl.DataFrame({"site": ["x", "y"], "customer": ["", ""]}).write_parquet(
            tmp_path / "changed/kept.parquet"
        )
        refused = at("apply", "changed", "--yes")
        assert (refused.code, "kept.parquet" in refused.err) == (4, True)
        assert at("apply", "run", "--yes").code == 0
        assert at.kept() == expected(1, 2)


@pytest.mark.slow
def test_a_device_that_only_the_ledger_has_keeps_nothing(tmp_path: Path) -> None:
    with home(tmp_path) as at:
        at.fleet(1, 2, 3)
        assert at("sync", "fleet.csv", *TARGET, *KEEP, "--run-dir", "first", "--yes").code == 0
        at.fleet(2, 3, 4)
        synced = at("sync", "fleet.csv", *TARGET, *KEEP, "--run-dir", "run", "--max-removals", "1", "--yes")
        assert synced.code == 0, synced.err
        assert at.kept() == {**expected(2, 3, 4), imei(1): (None, None)}


@pytest.mark.parametrize("name", ["status", "ICCID", "plan_row", "site,row", "Account Name"])
def test_the_name_of_another_column_is_exit_2_with_the_way_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "fleet.csv").write_text(f"IMEI,{name},site\n{imei(1)},a,b\n")
    refused = batchlic("plan", "fleet.csv", *TARGET, "--run-dir", "run", "--keep", name, cwd=tmp_path)
    own = name.rpartition(",")[2]
    assert refused.code == 2
    assert f"--keep inventory_{own.casefold().replace(' ', '_')}={own}" in refused.err
    assert not (tmp_path / "run").exists()


def test_a_job_file_keeps_columns_and_renames_them(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text(f'IMEI,Status,"Site, city"\n{imei(1)},in service,Reno\n')
    (tmp_path / "job.toml").write_text(
        'action = "assign"\n[inventory]\nfiles = ["fleet.csv"]\nkeep = ["Site, city", "state=status"]\n'
        f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n'
    )
    assert batchlic("run", "job.toml", "--sandbox", "--run-dir", "run", cwd=tmp_path).code == 0
    results = pl.read_parquet(tmp_path / "run/results.parquet")
    assert results.select("status", "Site, city", "state").rows() == [("accepted", "Reno", "in service")]


@pytest.mark.slow
def test_a_migration_keeps_them(tmp_path: Path) -> None:
    with home(tmp_path) as at:
        at.fleet(2, 1)
        at(*ASSIGN)
        moving = ("--account", ACCOUNT, "--from-sku", FLEXIBLE, "--to-sku", "TS-BUNDLE-KTO-SIMSEC-MRC")
        moved = at("migrate", "fleet.csv", *moving, *KEEP, "--run-dir", "moved", "--yes")
        assert moved.code == 0, moved.err
        assert at.kept("moved/results.parquet") == expected(1, 2)
