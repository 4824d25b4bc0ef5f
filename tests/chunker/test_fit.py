"""As many devices of each group are planned as the fit says; the others are rejected as no_license."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.chunker import Fit, Plan, PlanGroup, write_plan
from batchlic.chunker.exclusion import LicenseState
from batchlic.errors import RefusedToStart
from tests.chunker.builders import Record, Records
from tests.reader.builders import ACCOUNT, JOB, SKU, csv_of, iccid, imei

LIFETIME = "SIMSec-IoT-Lt"


def plan(folder: Path, devices: int, fit: Fit | None, *, batch_size: int = 10) -> Plan:
    """Plan that many devices, every third of them under another SKU, and two invalid rows."""
    rows = [(imei(n * 37 % 1000), iccid(n), LIFETIME if n % 3 == 0 else "") for n in range(devices)]
    (folder / "fleet.csv").write_bytes(csv_of([*rows, ("x", "", ""), ("", "", "")], "IMEI,ICCID,SKU"))
    return write_plan([str(folder / "fleet.csv")], JOB, batch_size=batch_size, folder=folder, fit=fit)


def planned_rows(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "plan.parquet")


def rejected_rows(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "rejects.parquet").filter(pl.col("reason") == "no_license")


@given(st.integers(0, 60), st.integers(0, 40), st.integers(0, 40), st.integers(1, 12))
def test_the_first_devices_of_each_group_are_planned(
    tmp_path_factory: pytest.TempPathFactory, devices: int, flexible: int, lifetime: int, batch_size: int
) -> None:
    folder = tmp_path_factory.mktemp("fit")
    limits = {SKU: flexible, LIFETIME: lifetime}
    summary = plan(
        folder,
        devices,
        lambda groups: [min(group.devices, limits[group.sku_number]) for group in groups],
        batch_size=batch_size,
    )
    by_imei = sorted(range(devices), key=lambda n: n * 37 % 1000)
    groups = {SKU: [n for n in by_imei if n % 3], LIFETIME: [n for n in by_imei if n % 3 == 0]}
    planned = [n for sku, group in groups.items() for n in group[: limits[sku]]]
    unlicensed = [n for sku, group in groups.items() for n in group[limits[sku] :]]
    assert planned_rows(folder)["iccid"].to_list() == [iccid(n) for n in planned]
    assert rejected_rows(folder)["iccid"].to_list() == [iccid(n) for n in unlicensed]
    assert summary.rows_read == devices + 2 == summary.planned + sum(summary.rejected.values())
    assert summary.rejected.get("no_license", 0) == len(unlicensed)
    batches = planned_rows(folder).group_by("batch_id", "sku_number", maintain_order=True).len()
    assert batches["batch_id"].to_list() == list(range(1, summary.batches + 1))
    assert batches.filter(pl.col("len") > batch_size).is_empty()
    assert sum(group.batches for group in summary.groups) == summary.batches


def test_fit_is_asked_once_with_devices_and_batches(tmp_path: Path) -> None:
    questions: list[Sequence[PlanGroup]] = []

    def fit(groups: Sequence[PlanGroup]) -> list[int]:
        questions.append(groups)
        assert not (tmp_path / "plan.parquet").exists()
        return [group.devices for group in groups]

    summary = plan(tmp_path, 90, fit)
    assert [
        [(g.account_name, g.sku_number, g.devices, g.batches) for g in groups] for groups in questions
    ] == [[(ACCOUNT, SKU, 60, 6), (ACCOUNT, LIFETIME, 30, 3)]]
    assert [tuple(groups) for groups in questions] == [summary.groups]


def test_a_fit_of_all_devices_changes_no_byte(tmp_path: Path) -> None:
    plan(tmp_path, 90, None)
    before = [(tmp_path / name).read_bytes() for name in ("plan.parquet", "rejects.parquet")]
    plan(tmp_path, 90, lambda groups: [group.devices for group in groups])
    assert [(tmp_path / name).read_bytes() for name in ("plan.parquet", "rejects.parquet")] == before


def test_a_refusal_of_fit_leaves_nothing_written(tmp_path: Path) -> None:
    def refuse(groups: Sequence[PlanGroup]) -> list[int]:
        raise RefusedToStart(f"too few licenses for {len(groups)} groups")

    with pytest.raises(RefusedToStart, match="for 2 groups"):
        plan(tmp_path, 90, refuse)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.csv"]


@pytest.mark.parametrize("counts", [[61, 0], [-1, 0], [60]])
def test_an_impossible_result_of_fit_is_an_error(tmp_path: Path, counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"fitted|zip"):
        plan(tmp_path, 90, lambda _: counts)
    assert not (tmp_path / "plan.parquet").exists()


def test_excluded_devices_need_no_license(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_bytes(csv_of([(imei(n), "") for n in range(30)]))
    known = Records([Record(LicenseState.ASSIGNED, imei(n)) for n in range(10)])
    summary = write_plan(
        [str(tmp_path / "fleet.csv")],
        JOB,
        batch_size=10,
        folder=tmp_path,
        known_licenses=known,
        fit=lambda groups: [5 for _ in groups],
    )
    assert (summary.planned, summary.excluded, summary.rejected) == (15, {"skipped": 10}, {"no_license": 15})
    assert planned_rows(tmp_path)["imei"].to_list() == [imei(n) for n in (*range(10, 15), *range(10))]
    assert rejected_rows(tmp_path)["imei"].to_list() == [imei(n) for n in range(15, 30)]


@pytest.mark.slow
def test_small_ranges_and_spools_change_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(tmp_path, 300, lambda groups: [group.devices // 2 for group in groups])
    whole = planned_rows(tmp_path), rejected_rows(tmp_path)
    monkeypatch.setattr("batchlic.reader.devices.RANGE_ROWS", 16)
    monkeypatch.setattr("batchlic.reader.devices.SLICE_ROWS", 7)
    monkeypatch.setattr("batchlic.reader.spool.FRAME_BYTES", 500)
    monkeypatch.setattr("batchlic.chunker.files.TEXTS_BYTES", 0)
    plan(tmp_path, 300, lambda groups: [group.devices // 2 for group in groups])
    assert planned_rows(tmp_path).equals(whole[0])
    assert rejected_rows(tmp_path).equals(whole[1])


PLANNING = """
import sys
from pathlib import Path
from batchlic.chunker import write_plan
from batchlic.reader import ReadOptions
job = ReadOptions(account="0000123456-00001", sku="SIMSec-IoT")
fit = lambda groups: [group.devices // 3 for group in groups]
write_plan(["fleet.csv"], job, batch_size=100, folder=Path(sys.argv[1]), fit=fit)
"""


@pytest.mark.slow
def test_i_the_same_fit_gives_the_same_bytes_with_any_threads(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_bytes(csv_of([(imei(n), "") for n in range(120_000)]))
    contents = set()
    for threads in ("1", "7"):
        folder = tmp_path / threads
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", PLANNING, str(folder)],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "POLARS_MAX_THREADS": threads, "PYTHONPATH": str(Path.cwd())},
        )
        contents.add(((folder / "plan.parquet").read_bytes(), (folder / "rejects.parquet").read_bytes()))
    assert len(contents) == 1


def test_importing_the_chunker_does_not_import_polars() -> None:
    code = "import sys, batchlic.chunker; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
