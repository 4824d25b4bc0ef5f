"""Exports have the rows that a person must check, are safe in a spreadsheet, and can be planned again."""

import io
import json
from pathlib import Path

import polars as pl
import pytest
from python_calamine import CalamineWorkbook

from batchlic.chunker import DeviceStatus
from batchlic.errors import RunFolderError, UsageError
from batchlic.runs.export import export
from batchlic.runs.folder import RunFolder
from batchlic.writer import export as module
from batchlic.writer.export import COLUMNS, Format, Selection, device_rows, write_export
from tests.callbacks.builders import submitted_run
from tests.reader.builders import ACCOUNT, SKU, iccid, imei, plan_bytes, plan_rows

EVIL = [
    '=HYPERLINK("http://example.com")',
    "+1-555-0100",
    "-2+3",
    "@SUM(1)",
    "\t=1+1",
    "\uff1d1",
]


def planned_run(folder: Path) -> RunFolder:
    """A run with one planned device, and rejects with cells that a spreadsheet would run."""
    plan_rows(folder, [(imei(1), iccid(1)), *(('"' + cell.replace('"', '""') + '"', "x") for cell in EVIL)])
    return RunFolder(folder)


def states() -> pl.LazyFrame:
    """One device of each status."""
    outcomes = ["accepted", "failed", "in_doubt"]
    return pl.LazyFrame(
        {
            "source": "fleet.csv",
            "row": pl.Series([3, 2, 1], dtype=pl.UInt64),
            "imei": [imei(n) for n in range(3)],
            "iccid": pl.Series([None] * 3, dtype=pl.String),
            "account_name": ACCOUNT,
            "sku_number": SKU,
            "from_sku": pl.Series([None] * 3, dtype=pl.String),
            "status": outcomes,
            "error_code": [None, "REQUEST_FAILED.DeviceNotFound", None],
            "error_message": [None, "=no such device", None],
        }
    )


@pytest.mark.parametrize("form", Format)
def test_rejects_are_exported_in_every_format(tmp_path: Path, form: Format) -> None:
    folder = planned_run(tmp_path)
    to = tmp_path / f"rejects.{form}"
    assert export(folder, Selection.REJECTS, form, to) == len(EVIL)
    read = {
        Format.CSV: lambda: pl.read_csv(to, infer_schema=False),
        Format.XLSX: lambda: pl.DataFrame(_sheet(to.read_bytes())[1:], schema=COLUMNS, orient="row"),
        Format.NDJSON: lambda: pl.DataFrame([json.loads(line) for line in to.read_text().splitlines()]),
        Format.PARQUET: lambda: pl.read_parquet(to),
    }[form]()
    assert read.columns == list(COLUMNS)
    assert read["row"].cast(pl.Int64).to_list() == list(range(2, 2 + len(EVIL)))
    assert set(read["status"]) == {"rejected"}
    assert to.stat().st_mode & 0o777 == 0o600


def _sheet(content: bytes) -> list[list[object]]:
    sheet = CalamineWorkbook.from_filelike(io.BytesIO(content)).get_sheet_by_index(0)
    return [list(row) for row in sheet.to_python()]


@pytest.mark.parametrize("form", [Format.CSV, Format.XLSX])
def test_no_cell_of_a_spreadsheet_starts_a_formula(tmp_path: Path, form: Format) -> None:
    folder = planned_run(tmp_path)
    file = io.BytesIO()
    export(folder, Selection.REJECTS, form, file)
    cells = (
        _sheet(file.getvalue())
        if form is Format.XLSX
        else [list(row) for row in pl.read_csv(file.getvalue(), infer_schema=False, has_header=False).rows()]
    )
    assert not [
        cell
        for row in cells
        for cell in row
        if str(cell).startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
    ]
    assert {row[2] for row in cells[1:]} == {f"'{cell}" for cell in EVIL}


@pytest.mark.parametrize("form", [Format.NDJSON, Format.PARQUET])
def test_formats_that_programs_read_keep_the_cells(tmp_path: Path, form: Format) -> None:
    folder = planned_run(tmp_path)
    file = io.BytesIO()
    export(folder, Selection.REJECTS, form, file)
    file.seek(0)
    read = pl.read_parquet(file) if form is Format.PARQUET else pl.read_ndjson(file)
    assert set(read["imei"]) == set(EVIL)


@pytest.mark.parametrize(
    ("status", "statuses"),
    [
        (DeviceStatus.FAILED, ["failed"]),
        (DeviceStatus.IN_DOUBT, ["in_doubt"]),
        (None, ["in_doubt", "failed", "accepted"]),
    ],
)
def test_devices_are_picked_by_status_and_sorted_by_source_and_row(
    status: DeviceStatus | None, statuses: list[str]
) -> None:
    file = io.BytesIO()
    assert write_export(device_rows(states(), status), Format.CSV, file) == len(statuses)
    read = pl.read_csv(file.getvalue())
    assert read["status"].to_list() == statuses
    if status is DeviceStatus.FAILED:
        assert read.select("reason", "message").row(0) == (
            "REQUEST_FAILED.DeviceNotFound",
            "'=no such device",
        )


def test_devices_are_exported_without_a_results_file(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 3, answered=lambda _: [None])
    plan = pl.read_parquet(folder.plan)
    for selection in (Selection.IN_DOUBT, Selection.ALL):
        file = io.BytesIO()
        assert export(folder, selection, Format.NDJSON, file) == 3
        assert set(pl.read_ndjson(io.BytesIO(file.getvalue()))["imei"].cast(pl.String)) == set(plan["imei"])
    assert not folder.results.exists()


@pytest.mark.parametrize("form", Format)
def test_a_corrected_export_can_be_planned_again(tmp_path: Path, form: Format) -> None:
    plan_rows(tmp_path, [(imei(1)[:14], iccid(1)), (imei(2), "pending")])
    file = io.BytesIO()
    export(RunFolder(tmp_path), Selection.REJECTS, form, file)
    rejected = plan_bytes(tmp_path, file.getvalue(), name=f"as it was.{form}")
    assert rejected.reasons == {1: "bad_length", 2: "not_digits"}
    corrected = file.getvalue().replace(imei(1)[:14].encode(), imei(1).encode()).replace(b"pending", b"")
    if form in {Format.CSV, Format.NDJSON}:
        again = plan_bytes(tmp_path, corrected, name=f"corrected.{form}")
        assert again.devices == [(imei(1), iccid(1)), (imei(2), None)]


def test_a_run_that_sent_nothing_has_no_devices_to_export(tmp_path: Path) -> None:
    folder = planned_run(tmp_path)
    with pytest.raises(RunFolderError, match="no device has a status yet: this run has sent nothing"):
        export(folder, Selection.FAILED, Format.CSV, io.BytesIO())


def test_more_rows_than_a_sheet_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = planned_run(tmp_path)
    monkeypatch.setattr(module, "XLSX_ROWS", 3)
    with pytest.raises(UsageError, match=r"6 rows do not fit a sheet, which holds 3: export them as csv"):
        export(folder, Selection.REJECTS, Format.XLSX, tmp_path / "rejects.xlsx")
    assert not (tmp_path / "rejects.xlsx").exists()


def test_a_kept_cell_too_long_for_a_sheet_is_refused_and_not_cut(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "x" * 40_000)
    assert write_export(pl.LazyFrame(row), Format.XLSX, tmp_path / "wrong.xlsx") == 1
    fits, cut = (pl.LazyFrame(row | {"site": "x" * length}) for length in (32_767, 32_768))
    assert write_export(fits, Format.XLSX, tmp_path / "rows.xlsx") == 1
    with pytest.raises(UsageError, match=r"'site' has 32,768 characters.*as csv"):
        write_export(cut, Format.XLSX, tmp_path / "cut.xlsx")
    assert not (tmp_path / "cut.xlsx").exists()
