"""XLSB and XLS are read as XLSX is: errors are cells, and numbers are read as they are stored."""

import struct
from pathlib import Path

import pytest

from batchlic.errors import InventoryError
from tests.reader.binary_workbooks import (
    ERROR_CODES,
    Cell,
    Date,
    Error,
    Rich,
    Short,
    Writer,
    as_xls,
    as_xlsb,
)
from tests.reader.builders import iccid, imei, plan_bytes

HEADER: list[Cell] = ["IMEI", "ICCID", "Account"]
WRITERS = pytest.mark.parametrize("write", [as_xlsb, as_xls])


@WRITERS
@pytest.mark.parametrize("rows", [3, 300])
def test_text_and_numbers_of_binary_workbooks_are_read(tmp_path: Path, write: Writer, rows: int) -> None:
    cells: list[list[Cell]] = [[float(imei(n)) if n % 2 else imei(n), iccid(n)] for n in range(rows)]
    planned = plan_bytes(tmp_path, write([HEADER[:2], *cells]))
    assert planned.devices == [(imei(n), iccid(n)) for n in range(rows)]


@WRITERS
@pytest.mark.parametrize("is_formula", [False, True])
@pytest.mark.parametrize("error", [error for error in ERROR_CODES if error != "#N/A"])
@pytest.mark.parametrize("column", [0, 1])
def test_an_error_in_a_binary_workbook_is_rejected(
    tmp_path: Path, write: Writer, error: str, column: int, *, is_formula: bool
) -> None:
    rows: list[list[Cell]] = [[imei(n), iccid(n)] for n in range(3)]
    rows[1][column] = Error(error, is_formula)
    planned = plan_bytes(tmp_path, write([HEADER[:2], *rows]))
    assert planned.reasons == {2: "not_digits"}
    assert error in planned.message(2)
    assert planned.devices == [(imei(0), iccid(0)), (imei(2), iccid(2))]


@WRITERS
@pytest.mark.parametrize("is_formula", [False, True])
def test_an_account_with_an_error_is_no_default_in_any(
    tmp_path: Path, write: Writer, *, is_formula: bool
) -> None:
    rows: list[list[Cell]] = [HEADER, [imei(1), iccid(1), Error("#REF!", is_formula)]]
    assert plan_bytes(tmp_path, write(rows)).reasons == {1: "bad_account"}


@WRITERS
def test_a_row_of_errors_only_is_a_row(tmp_path: Path, write: Writer) -> None:
    rows: list[list[Cell]] = [HEADER[:2], [imei(1)], [Error("#VALUE!"), Error("#NAME?", is_formula=True)]]
    planned = plan_bytes(tmp_path, write(rows))
    assert (planned.devices, planned.reasons) == ([(imei(1), None)], {2: "not_digits"})


@WRITERS
def test_not_available_counts_as_empty(tmp_path: Path, write: Writer) -> None:
    rows: list[list[Cell]] = [HEADER[:2], [imei(1), Error("#N/A")], [Error("#N/A"), Error("#N/A")]]
    planned = plan_bytes(tmp_path, write(rows))
    assert (planned.devices, planned.reasons) == ([(imei(1), None)], {2: "missing_identifier"})


@WRITERS
def test_a_number_with_the_format_of_dates_is_a_number(tmp_path: Path, write: Writer) -> None:
    rows: list[list[Cell]] = [[Date(1e15), Date(float(imei(n)))] for n in range(3)]
    rows += [[Date(-3.5), imei(3)]]
    assert plan_bytes(tmp_path, write([["Uptime", "IMEI"], *rows])).devices == [
        (imei(n), None) for n in range(4)
    ]


def test_rich_text_in_xlsb_is_text(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [[Rich("IMEI"), "ICCID"], [imei(1), Rich(iccid(1))], [Rich("x"), iccid(2)]]
    planned = plan_bytes(tmp_path, as_xlsb(rows))
    assert (planned.devices, planned.reasons) == ([(imei(1), iccid(1))], {2: "not_digits"})


def test_cells_without_a_column_in_xlsb_are_beside_the_last(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [
        ["Site", Short("IMEI"), Short("Notes"), Short("ICCID")],
        [Short("a"), Short(float(imei(1))), Short(None), Short(iccid(1))],
        [1.5, Short(imei(2)), None, Short(iccid(2))],
        ["b", imei(3), Short(None), Short(Error("#REF!"))],
    ]
    planned = plan_bytes(tmp_path, as_xlsb(rows))
    assert planned.devices == [(imei(1), iccid(1)), (imei(2), iccid(2))]
    assert planned.reasons == {3: "not_digits"}


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_the_size_of_pieces_of_xlsb_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.workbooks.xlsb.PIECE_BYTES", size)
    cells: list[list[Cell]] = [[imei(n), Error("#REF!") if n % 3 else Short(iccid(n))] for n in range(30)]
    planned = plan_bytes(tmp_path, as_xlsb([HEADER[:2], *cells]))
    assert planned.devices == [(imei(n), iccid(n)) for n in range(0, 30, 3)]
    assert planned.rejects.height == 20


@WRITERS
@pytest.mark.parametrize("rows", [3, 100])
def test_a_binary_workbook_that_is_cut_off_loses_no_row(tmp_path: Path, write: Writer, rows: int) -> None:
    cells: list[list[Cell]] = [[imei(n), Error("#REF!", is_formula=True)] for n in range(rows)]
    content = write([HEADER[:2], *cells])
    for cut in range(0, len(content), 1 + len(content) // 50):
        try:
            planned = plan_bytes(tmp_path, content[:cut])
        except InventoryError:
            continue
        assert planned.summary.rows_read == rows


def with_stream_called(xls: bytes, name: str) -> bytes:
    """A compound file whose stream with the records is called otherwise."""
    old, new = (
        struct.pack("<64sH", text.encode("utf-16-le"), 2 * len(text) + 2) for text in ("Workbook", name)
    )
    return xls.replace(old, new)


@pytest.mark.parametrize(
    ("locked", "complaint"),
    [
        (with_stream_called(as_xls([["IMEI"]]), "EncryptedPackage"), "it has a password: open it in"),
        (as_xls([["IMEI"]]).replace(b"\xe0\0\x14\0", b"\x2f\0\x14\0"), "it has a password: open it in"),
        (with_stream_called(as_xls([["IMEI"]]), "WordDocument"), "the file is not a workbook"),
    ],
    ids=["XLSX", "XLS", "DOC"],
)
def test_a_workbook_with_a_password_says_what_to_do(tmp_path: Path, locked: bytes, complaint: str) -> None:
    with pytest.raises(InventoryError, match=complaint):
        plan_bytes(tmp_path, locked)
