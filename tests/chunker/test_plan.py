"""A plan is sorted, divided into batches, conserved, and a function of input and job."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.chunker import write_plan
from batchlic.errors import InventoryError
from tests.reader.builders import ACCOUNT, JOB, SKU, csv_of, iccid, imei, plan_files, plan_rows

ACCOUNTS = ["0000123456-00001", "0000123456-00002", ""]
SKUS = ["SIMSec-IoT", "SIMSec-IoT-Lt", ""]

ROWS = st.lists(
    st.tuples(
        st.one_of(st.just(""), st.integers(0, 40).map(imei), st.just("wrong")),
        st.one_of(st.just(""), st.integers(0, 40).map(iccid)),
        st.sampled_from(ACCOUNTS),
        st.sampled_from(SKUS),
    ).filter(lambda row: any(row[:2]) or not row[2]),  # an account alone may be a heading
    max_size=60,
)


@given(ROWS, st.integers(1, 7))
def test_every_row_ends_in_the_plan_or_in_the_rejects(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]], batch_size: int
) -> None:
    folder = tmp_path_factory.mktemp("conserved")
    (folder / "fleet.csv").write_bytes(csv_of(rows, "IMEI,ICCID,Account,SKU"))
    options = replace(JOB, allow_empty=True)
    planned = plan_files(folder, str(folder / "fleet.csv"), options=options, batch_size=batch_size)
    assert sorted([*planned.plan["row"], *planned.rejects["row"]]) == list(range(1, len(rows) + 1))
    batches = planned.plan.group_by("batch_id", maintain_order=True).agg(
        pl.len(), pl.struct("account_name", "sku_number").n_unique().alias("targets")
    )
    assert batches["batch_id"].to_list() == list(range(1, planned.summary.batches + 1))
    assert batches["len"].max() or batch_size >= 1
    assert set(batches["targets"]) <= {1}
    key = planned.plan.select("account_name", "sku_number", "imei")
    assert key.equals(key.sort("account_name", "sku_number", "imei", nulls_last=True))
    expected = sum(-(-group.devices // batch_size) for group in planned.summary.groups)
    assert planned.summary.batches == expected


def test_all_batches_of_a_group_but_the_last_are_full(tmp_path: Path) -> None:
    rows = [(imei(n), "", SKU if n < 250 else "SIMSec-IoT-Lt") for n in range(400)]
    planned = plan_rows(tmp_path, rows, header="IMEI,ICCID,SKU")
    sizes = planned.plan.group_by("batch_id", maintain_order=True).len()["len"].to_list()
    assert sizes == [100, 100, 50, 100, 50]
    assert [(group.sku_number, group.devices, group.batches) for group in planned.summary.groups] == [
        (SKU, 250, 3),
        ("SIMSec-IoT-Lt", 150, 2),
    ]


def test_devices_without_imei_come_last_in_their_group(tmp_path: Path) -> None:
    planned = plan_rows(tmp_path, [("", iccid(5)), (imei(9), iccid(1)), ("", iccid(2)), (imei(3), "")])
    assert planned.plan["imei"].to_list() == [imei(3), imei(9), None, None]


def test_the_files_have_the_columns_of_the_public_interface(tmp_path: Path) -> None:
    plan_rows(tmp_path, [(imei(1), iccid(1)), ("x", "")])
    assert pl.read_parquet_schema(tmp_path / "plan.parquet") == {
        "batch_id": pl.UInt32,
        "source": pl.String,
        "row": pl.UInt64,
        "imei": pl.String,
        "iccid": pl.String,
        "account_name": pl.String,
        "sku_number": pl.String,
        "held": pl.String,
    }
    assert pl.read_parquet_schema(tmp_path / "rejects.parquet") == {
        "source": pl.String,
        "row": pl.UInt64,
        **dict.fromkeys(["reason", "message", "imei", "iccid", "account_name", "sku_number"], pl.String),
    }


def test_the_plan_has_row_groups_of_50_000_rows(tmp_path: Path) -> None:
    import duckdb  # noqa: PLC0415 - an independent reader

    plan_rows(tmp_path, [(imei(n), "") for n in range(60_000)])
    groups = duckdb.execute(
        "SELECT DISTINCT row_group_id, row_group_num_rows FROM parquet_metadata(?) ORDER BY 1",
        [str(tmp_path / "plan.parquet")],
    ).fetchall()
    assert groups == [(0, 50_000), (1, 10_000)]


def test_an_unreadable_inventory_leaves_the_folder_unchanged(tmp_path: Path) -> None:
    good, bad, runs = tmp_path / "good.csv", tmp_path / "bad.csv", tmp_path / "run"
    good.write_bytes(csv_of([(imei(1), "")]))
    bad.write_bytes(b"")
    runs.mkdir()
    with pytest.raises(InventoryError):
        write_plan([str(good), str(bad)], JOB, batch_size=100, folder=runs)
    assert list(runs.iterdir()) == []


PLANNING = """
import sys
from pathlib import Path
from batchlic.chunker import write_plan
from batchlic.reader import ReadOptions
job = ReadOptions(account="0000123456-00001", sku="SIMSec-IoT")
write_plan(sys.argv[2:], job, batch_size=100, folder=Path(sys.argv[1]))
"""


def test_i_plans_are_the_same_bytes_with_any_number_of_threads(tmp_path: Path) -> None:
    rows = [
        (imei(n * 7919 % 30_000), iccid(n) if n % 3 else "", ACCOUNTS[n % 3], SKUS[n % 2])
        for n in range(40_000)
    ]
    (tmp_path / "fleet.csv").write_bytes(csv_of(rows, "IMEI,ICCID,Account,SKU"))
    seen = set()
    for threads in ("1", "2", "7"):
        folder = tmp_path / threads
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", PLANNING, str(folder), "fleet.csv"],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "POLARS_MAX_THREADS": threads, "PYTHONPATH": str(Path.cwd())},
        )
        seen.add(((folder / "plan.parquet").read_bytes(), (folder / "rejects.parquet").read_bytes()))
    assert len(seen) == 1


def test_the_name_of_a_source_is_kept_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fleet.csv").write_bytes(csv_of([(imei(1), "")]))
    assert plan_files(tmp_path, "fleet.csv").plan["source"].to_list() == ["fleet.csv"]


def test_groups_are_sorted_across_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchlic.reader.devices.RANGE_ROWS", 50)
    rows = [(imei(n * 37 % 1000), "", ACCOUNT if n % 2 else ACCOUNTS[1]) for n in range(1000)]
    plan = plan_rows(tmp_path, rows, header="IMEI,ICCID,Account").plan
    assert all(
        earlier < later for earlier, later in pairwise(plan.select("account_name", "imei").iter_rows())
    )
