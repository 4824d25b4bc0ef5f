"""Inventories without rows are refused, and so are those whose rows can have no account or SKU."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from batchlic.errors import InventoryError, UsageError
from batchlic.reader import ReadOptions
from tests.reader.builders import (
    ACCOUNT,
    JOB,
    SKU,
    as_sheet,
    as_workbook,
    csv_of,
    iccid,
    imei,
    plan_bytes,
    plan_files,
    plan_rows,
)

ALLOWED = ReadOptions(account=ACCOUNT, sku=SKU, allow_empty=True)


def typed(write: Callable[[pl.DataFrame, io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(pl.DataFrame(schema={"IMEI": pl.String, "ICCID": pl.String}), file)
    return file.getvalue()


EMPTY = {
    "no bytes": b"",
    "blank lines": b"\r\n \r\n",
    "header": b"IMEI,ICCID\n",
    "header without newline": b"IMEI,ICCID",
    "header and blank lines": b"IMEI,ICCID\r\n\r\n\r\n",
    "header twice": b"IMEI,ICCID\nIMEI,ICCID\n",
    "separator line and header": b"sep=;\nIMEI;ICCID\n",
    "compressed header": gzip.compress(b"IMEI\tICCID\n"),
    "workbook": as_sheet([["IMEI", "ICCID"]]),
    "workbook without cells": as_sheet([]),
    "parquet": typed(lambda frame, file: frame.write_parquet(file)),
    "arrow": typed(lambda frame, file: frame.write_ipc(file)),
    "array": b"[]",
    "spaced array": b" [\n ]\n",
}


@pytest.mark.parametrize("content", EMPTY.values(), ids=EMPTY)
def test_an_inventory_without_rows_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InventoryError, match=r"no rows|is empty") as refused:
        plan_bytes(tmp_path, content, name="nightly")
    assert str(tmp_path / "nightly") in str(refused.value)
    assert "--allow-empty" in str(refused.value)


@pytest.mark.parametrize("content", EMPTY.values(), ids=EMPTY)
def test_an_inventory_without_rows_may_be_allowed(tmp_path: Path, content: bytes) -> None:
    planned = plan_bytes(tmp_path, content, name="nightly", options=ALLOWED).summary
    assert (planned.rows_read, planned.planned, planned.batches) == (0, 0, 0)
    assert planned.notes[-1] == f"{tmp_path / 'nightly'}: the file has no rows"


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_one_empty_file_among_several_is_refused_by_name(tmp_path: Path, empty: int) -> None:
    for number in range(3):
        rows = [] if number == empty else [(imei(number), "")]
        (tmp_path / f"{number}.csv").write_bytes(csv_of(rows))
    with pytest.raises(InventoryError, match=rf"{empty}\.csv: the file has a header and no rows"):
        plan_files(tmp_path, str(tmp_path / "*.csv"))


def test_an_allowed_empty_file_leaves_the_rows_of_the_others(tmp_path: Path) -> None:
    for number in range(3):
        rows = [] if number == 1 else [(imei(number), "")]
        (tmp_path / f"{number}.csv").write_bytes(csv_of(rows))
    planned = plan_files(tmp_path, str(tmp_path / "*.csv"), options=ALLOWED)
    assert [source.rows for source in planned.summary.sources] == [1, 0, 1]
    assert planned.devices == [(imei(0), None), (imei(2), None)]


def test_a_refused_sheet_without_rows_names_the_other_sheets(tmp_path: Path) -> None:
    workbook = as_workbook({"Cover": [["IMEI"]], "Devices": [["IMEI"], [imei(1)]]})
    with pytest.raises(InventoryError, match="only the sheet 'Cover' is read, not 'Devices'"):
        plan_bytes(tmp_path, workbook)


@pytest.mark.parametrize("content", [b"IMEI,ICCID\n,\n", b'{"imei": null}\n', b'[{"imei": ""}]'])
def test_rows_of_empty_cells_are_rejected_rows(tmp_path: Path, content: bytes) -> None:
    assert plan_bytes(tmp_path, content).summary.rejected == {"missing_identifier": 1}


ROW = {"imei": imei(1), "iccid": iccid(1)}
WITHOUT_TARGET = {
    "csv": csv_of([(imei(1), iccid(1)), ("x", "y")]),
    "no header": f"{imei(1)},{iccid(1)}\n".encode(),
    "workbook": as_sheet([["IMEI", "Site"], [imei(1), "x"]]),
    "lines": f"{json.dumps(ROW)}\n".encode(),
    "array": json.dumps([ROW]).encode(),
}


@pytest.mark.parametrize("content", WITHOUT_TARGET.values(), ids=WITHOUT_TARGET)
@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (ReadOptions(), "no account and no SKU: .*--account and --sku, or set account and sku"),
        (ReadOptions(sku=SKU), "have no account: .*--account, or set account in .*--column account=HEADER"),
        (ReadOptions(account=ACCOUNT), "have no SKU: .*--sku, or set sku in .*--column sku=HEADER"),
    ],
    ids=["neither", "no account", "no sku"],
)
def test_rows_that_can_have_no_target_are_a_usage_error(
    tmp_path: Path, content: bytes, options: ReadOptions, missing: str
) -> None:
    with pytest.raises(UsageError, match=missing):
        plan_bytes(tmp_path, content, options=options)
    assert not (tmp_path / "plan.parquet").exists()


def test_a_header_without_rows_that_is_allowed_still_needs_a_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sku"):
        plan_bytes(tmp_path, b"IMEI\n", options=ReadOptions(account=ACCOUNT, allow_empty=True))


def test_of_several_inventories_the_one_without_a_target_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_bytes(csv_of([(imei(1), ACCOUNT, SKU)], "IMEI,Account,SKU"))
    (tmp_path / "2.csv").write_bytes(csv_of([(imei(2), SKU)], "IMEI,SKU"))
    with pytest.raises(UsageError, match=r"2\.csv: its rows have no account"):
        plan_files(tmp_path, str(tmp_path / "*.csv"), options=ReadOptions())


def test_empty_cells_under_a_target_header_are_rejected_rows(tmp_path: Path) -> None:
    rows = [(imei(1), "", SKU), (imei(2), ACCOUNT, "")]
    planned = plan_rows(tmp_path, rows, ReadOptions(), header="IMEI,Account,SKU")
    assert planned.reasons == {1: "missing_account", 2: "missing_sku"}


def test_a_sku_column_is_not_needed_with_a_default(tmp_path: Path) -> None:
    assert plan_rows(tmp_path, [(imei(1), "")], JOB).devices == [(imei(1), None)]
