"""The separator of the cells of a text is found, or an error says what it seems to be."""

from pathlib import Path

import pytest

from batchlic.errors import InventoryError
from tests.reader.builders import as_sheet, csv_of, iccid, imei, plan_bytes

ROWS = [(imei(n), iccid(n), "North 1") for n in range(4)]
HEADER = "IMEI,ICCID,Site"


@pytest.mark.parametrize("separator", ",;\t|^~")
@pytest.mark.parametrize("above", [b"", b"Fleet of 2026\n"])
def test_known_separators_are_found(tmp_path: Path, separator: str, above: bytes) -> None:
    content = csv_of(ROWS, HEADER, separator)
    assert plan_bytes(tmp_path, above + content).devices == [row[:2] for row in ROWS]
    without_header = content.partition(b"\n")[2]
    assert plan_bytes(tmp_path, without_header).devices == [row[:2] for row in ROWS]


@pytest.mark.parametrize("separator", ["#", "/", ":", "!"])
def test_an_unknown_separator_is_named_with_what_to_do(tmp_path: Path, separator: str) -> None:
    content = csv_of(ROWS, HEADER, separator)
    line = f"sep={separator}"
    with pytest.raises(InventoryError, match=f"the cells seem to be separated by '.': add the line {line}"):
        plan_bytes(tmp_path, content)
    assert plan_bytes(tmp_path, f"{line}\n".encode() + content).summary.planned == len(ROWS)


@pytest.mark.parametrize("separator", [" ", "   ", "\x1f", "\u00a6", " - "])
def test_a_separator_that_cannot_be_named_has_other_advice(tmp_path: Path, separator: str) -> None:
    for header in (HEADER, iccid(9)):
        with pytest.raises(
            InventoryError, match=r"the cells seem to be separated by .*: write the file with"
        ):
            plan_bytes(tmp_path, csv_of(ROWS, header, separator))


@pytest.mark.parametrize("separator", ["\u00e9", "1", "x"])
def test_a_named_separator_that_cannot_be_used_is_refused(tmp_path: Path, separator: str) -> None:
    content = f"sep={separator}\n".encode() + csv_of(ROWS, HEADER, separator)
    with pytest.raises(InventoryError, match=f"line 1 names '{separator}' as the separator"):
        plan_bytes(tmp_path, content)


@pytest.mark.parametrize(("header", "rows"), [(",", "\t"), ("\t", ","), (",", ";"), (";", " "), ("|", ", ")])
def test_rows_with_another_separator_than_the_header_are_refused(
    tmp_path: Path, header: str, rows: str
) -> None:
    content = csv_of([], HEADER, header) + csv_of(ROWS, HEADER, rows).partition(b"\n")[2]
    with pytest.raises(InventoryError, match="between its cells, and the rows below it have"):
        plan_bytes(tmp_path, content)


def test_short_rows_have_no_other_separator(tmp_path: Path) -> None:
    content = csv_of([(f"{imei(n)} ",) for n in range(3)], HEADER)
    assert plan_bytes(tmp_path, content).summary.planned == 3


MIXED = [(imei(1), "a"), (iccid(2), "b"), (imei(3), "c"), (iccid(4), "d")]


@pytest.mark.parametrize("header", ["Identifier,Site", "IMEI or ICCID,Site", ""])
@pytest.mark.parametrize("form", ["CSV", "workbook"])
def test_the_error_for_a_column_of_both_identifiers_says_so(tmp_path: Path, header: str, form: str) -> None:
    records = [header.split(","), *MIXED] if header else MIXED
    content = as_sheet(records) if form == "workbook" else csv_of(records[1:], ",".join(records[0]))
    with pytest.raises(InventoryError, match="column 1 has IMEIs and ICCIDs: write them into two columns"):
        plan_bytes(tmp_path, content)


def test_the_error_for_devices_on_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="if each is a device, write one per line"):
        plan_bytes(tmp_path, ",".join(imei(n) for n in range(4)).encode())


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_error_for_lines_in_the_cells_of_a_sheet_says_so(
    tmp_path: Path, separator: str, first: int
) -> None:
    lines = csv_of(ROWS, HEADER, separator).decode().splitlines()[first:]
    with pytest.raises(InventoryError, match="in one cell: split the column in the spreadsheet program"):
        plan_bytes(tmp_path, as_sheet([[line] for line in lines]))


def test_a_suggested_column_is_quoted_for_a_shell(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"--column imei='No\. IMEI'"):
        plan_bytes(tmp_path, csv_of(ROWS, "No. IMEI,Card,Site"))


@pytest.mark.parametrize("remark", [" (truck 1)", "/01", " 01", " F"])
def test_remarks_behind_identifiers_are_no_separators(tmp_path: Path, remark: str) -> None:
    planned = plan_bytes(tmp_path, csv_of([(f"{imei(n)}{remark}",) for n in range(4)], "IMEI"))
    assert len(planned.reasons) + planned.summary.planned == 4
