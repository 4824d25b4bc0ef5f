"""Cells of workbooks are read as they are stored; a workbook is told by its content."""

import io
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import xlsxwriter  # type: ignore[import-untyped]

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from tests.reader.builders import ACCOUNT, JOB, SKU, as_sheet, as_workbook, iccid, imei, plan_bytes
from tests.reader.test_formats import as_ods

DEVICES: list[tuple[str | None, str | None]] = [(imei(n), iccid(n)) for n in range(3)]
ROWS = [(imei(n), iccid(n)) for n in range(3)]
SHEET = as_sheet([["IMEI", "ICCID"], *ROWS])


def repacked(content: bytes, order: str, *, stored: bool = False) -> bytes:
    """The same parts in another order: sorted, reversed, or large ones first; `stored`: not compressed."""
    keys = {"sorted": lambda part: part.filename, "large first": lambda part: -part.file_size}
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as book, zipfile.ZipFile(packed, "w") as target:
        parts = book.infolist()
        parts = parts[::-1] if order == "reversed" else sorted(parts, key=keys[order])
        for part in parts:
            target.writestr(part.filename, book.read(part), 0 if stored else zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def with_cells(content: bytes, cells: bytes) -> bytes:
    """A workbook whose only sheet has these rows, as XML."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as book, zipfile.ZipFile(packed, "w") as target:
        for part in book.infolist():
            text = book.read(part)
            if part.filename.startswith("xl/worksheets/"):
                start, end = text.index(b"<sheetData"), text.index(b"<pageMargins")
                text = text[:start] + b"<sheetData>" + cells + b"</sheetData>" + text[end:]
            target.writestr(part.filename, text)
    return packed.getvalue()


def text_cell(place: str, text: str) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


@pytest.mark.parametrize("order", ["sorted", "reversed", "large first"])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", ["fleet.xlsx", "fleet.xls", "fleet.csv", "fleet.zip", "fleet"])
def test_the_parts_of_a_workbook_show_what_it_is(
    tmp_path: Path, order: str, name: str, *, stored: bool
) -> None:
    assert plan_bytes(tmp_path, repacked(SHEET, order, stored=stored), name).devices == DEVICES


def test_large_parts_before_the_workbook_hide_nothing(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SHEET)) as book, zipfile.ZipFile(packed, "w") as target:
        target.writestr("xl/media/logo.png", bytes(1_000_000))
        for part in book.infolist():
            target.writestr(part.filename, book.read(part))
    assert plan_bytes(tmp_path, packed.getvalue()).devices == DEVICES


@pytest.mark.parametrize(
    "form", ["[h]:mm:ss", "yyyy-mm-dd", "d/m/yy hh:mm", "@", "0.00E+00", "#,##0", "mm:ss.0"]
)
@pytest.mark.parametrize("value", [3.5, 45_000, 1_762_345_678, 864508030000019, -1, 1e300])
def test_a_number_in_any_format_is_a_number(tmp_path: Path, form: str, value: float) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet, shown = book.add_worksheet(), book.add_format({"num_format": form})
        sheet.write_row(0, 0, ["Uptime", "IMEI"])
        for number in range(3):
            sheet.write_number(number + 1, 0, value, shown)
            sheet.write_number(number + 1, 1, int(imei(number)), shown)
    assert plan_bytes(tmp_path, file.getvalue()).devices == [(imei(n), None) for n in range(3)]


def test_dates_beside_identifiers_are_no_matter(tmp_path: Path) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"default_date_format": "dd/mm/yy", "remove_timezone": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["Bought", "IMEI"])
        sheet.write_datetime(1, 0, datetime(2026, 3, 1, tzinfo=UTC))
        sheet.write_string(1, 1, imei(1))
    assert plan_bytes(tmp_path, file.getvalue()).devices == [(imei(1), None)]


@pytest.mark.parametrize("error", ["#REF!", "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!"])
@pytest.mark.parametrize("column", ["IMEI", "ICCID"])
def test_a_cell_with_an_error_is_rejected(tmp_path: Path, error: str, column: str) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["IMEI", "ICCID"])
        sheet.write_row(1, 0, ROWS[0])
        sheet.write_formula(1, 0 if column == "IMEI" else 1, "=VLOOKUP(A9,B1:C2,9)", None, error)
    assert plan_bytes(tmp_path, file.getvalue()).reasons == {1: "not_digits"}


def test_an_account_with_an_error_is_not_the_default(tmp_path: Path) -> None:
    cells = '<row r="1">' + text_cell("A1", "IMEI") + text_cell("B1", "Account") + '</row><row r="2">'
    cells += text_cell("A2", imei(1)) + '<c r="B2" t="e"><f>X</f><v>#REF!</v></c></row>'
    assert plan_bytes(tmp_path, with_cells(SHEET, cells.encode())).reasons == {1: "bad_account"}


UNVALUED = [
    '<c r="A2"><f>"{}"</f><v /></c>',
    '<c r="A2"><f>"{}"</f><v></v></c>',
    '<c r="A2"><f>"{}"</f></c>',
    '<c r="A2" s="0" t="n"><f>"{}"</f><v/></c>',
    '<c r="A2"><f t="shared" ref="A2:A9" si="0">"{}"</f><v/></c>',
    '<c r="A2"><f t="shared" si="0"/></c>',
]


@pytest.mark.parametrize("cell", UNVALUED)
def test_a_formula_without_a_value_is_rejected(tmp_path: Path, cell: str) -> None:
    cells = '<row r="1">' + text_cell("A1", "IMEI") + '</row><row r="2">' + cell.format(imei(1))
    cells += '</row><row r="3">' + text_cell("A3", imei(3)) + "</row>"
    planned = plan_bytes(tmp_path, with_cells(SHEET, cells.encode()))
    assert planned.reasons == {1: "no_value"}
    assert "open the workbook in a spreadsheet program, and save it" in planned.message(1)


@pytest.mark.parametrize(
    "cell", ['<c r="A2" t="str"><f>X</f><v>{}</v></c>', '<c r="A2"><f>X</f><v>{}</v></c>']
)
def test_a_formula_with_a_value_is_its_value(tmp_path: Path, cell: str) -> None:
    cells = '<row r="1">' + text_cell("A1", "IMEI") + '</row><row r="2">' + cell.format(imei(1)) + "</row>"
    assert plan_bytes(tmp_path, with_cells(SHEET, cells.encode())).devices == [(imei(1), None)]


def test_a_formula_with_an_empty_text_is_an_empty_cell(tmp_path: Path) -> None:
    cells = '<row r="1">' + text_cell("A1", "IMEI") + text_cell("B1", "ICCID") + '</row><row r="2">'
    cells += text_cell("A2", imei(1)) + '<c r="B2" t="str"><f>IF(1,"")</f><v></v></c></row>'
    assert plan_bytes(tmp_path, with_cells(SHEET, cells.encode())).devices == [(imei(1), None)]


@pytest.mark.parametrize(
    ("first", "last"), [((1, 0), (3, 0)), ((2, 0), (3, 0)), ((1, 0), (2, 0))], ids=["all", "last", "first"]
)
def test_merged_cells_have_the_value_that_they_show(
    tmp_path: Path, first: tuple[int, int], last: tuple[int, int]
) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet()
        sheet.merge_range(0, 4, 0, 6, "Fleet of 2026")
        sheet.write_row(2, 3, ["Account", "IMEI", "ICCID"])
        for number, row in enumerate(ROWS):
            sheet.write_row(number + 3, 4, row)
        sheet.merge_range(first[0] + 2, 3, last[0] + 2, 3, "0000654321-00002")
    planned = plan_bytes(tmp_path, file.getvalue())
    assert planned.devices == DEVICES
    merged = range(first[0], last[0] + 1)
    assert planned.plan.sort("row")["account_name"].to_list() == [
        "0000654321-00002" if row in merged else ACCOUNT for row in (1, 2, 3)
    ]


@pytest.mark.parametrize("hidden", ["hide", "very_hidden"])
def test_the_first_visible_sheet_is_read(tmp_path: Path, hidden: str) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        lists, fleet = book.add_worksheet("Lists"), book.add_worksheet("Fleet")
        lists.write_column(0, 0, ["IMEI", imei(9)])
        fleet.write_column(0, 0, ["IMEI", imei(1)])
        fleet.activate()
        getattr(lists, hidden)()
    planned = plan_bytes(tmp_path, file.getvalue())
    assert planned.devices == [(imei(1), None)]
    assert any("not 'Lists' (hidden)" in note for note in planned.summary.notes)
    options = ReadOptions(account=ACCOUNT, sku=SKU, sheet="Lists")
    assert plan_bytes(tmp_path, file.getvalue(), options=options).devices == [(imei(9), None)]


def test_an_empty_first_sheet_is_an_error_that_names_the_others(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="no rows in the sheet 'Cover'; the other sheets are 'Fleet'"):
        plan_bytes(tmp_path, as_workbook({"Cover": [], "Fleet": [["IMEI"], [imei(1)]]}))


def with_content(ods: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An OpenDocument spreadsheet whose cells are changed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ods)) as book, zipfile.ZipFile(packed, "w") as target:
        for part in book.infolist():
            target.writestr(part.filename, change(book.read(part)))
    return packed.getvalue()


def test_white_space_between_the_cells_of_ods_is_no_matter(tmp_path: Path) -> None:
    ods = with_content(
        as_ods([["IMEI", "ICCID"], *ROWS]),
        lambda text: text.replace(b"<table:", b"\n  <table:").replace(b"</table:", b"\n</table:"),
    )
    assert plan_bytes(tmp_path, ods).devices == DEVICES


def test_an_error_in_ods_is_a_cell(tmp_path: Path) -> None:
    ods = with_content(
        as_ods([["IMEI", "ICCID"], (imei(1), "ERROR")]),
        lambda text: text.replace(
            b'office:value-type="string"><text:p>ERROR',
            b'table:formula="of:=X" office:value-type="string" office:string-value=""><text:p>#REF!',
        ),
    )
    assert plan_bytes(tmp_path, ods, options=JOB).reasons == {1: "not_digits"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"<html><table><tr><td>IMEI</td></tr></table></html>", "HTML, whatever the file is called"),
        (b"\xef\xbb\xbf  <table border=1><tr><td>IMEI</td></tr></table>", "HTML"),
        (b"<!DOCTYPE html>\n<html></html>", "HTML"),
        (b'<?xml version="1.0"?>\n<Workbook xmlns="urn:schemas-microsoft-com"/>', "XML"),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>', "HTML"),
        (b"%PDF-1.7\n...", "a PDF"),
        (b"PARE\x00\x01\x02PARE", "a parquet file with encrypted metadata"),
    ],
)
def test_what_only_looks_like_a_workbook_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(InventoryError, match=complaint):
        plan_bytes(tmp_path, content, "fleet.xls")


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ("word/document.xml", "Word"),
        ("ppt/presentation.xml", "PowerPoint"),
        ("Index/Document.iwa", "Numbers"),
        ("encrypted-package", "a workbook with a password: save it without one"),
    ],
)
def test_another_document_is_named(tmp_path: Path, part: str, complaint: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        target.writestr("[Content_Types].xml", "<Types/>")
        target.writestr(part, "")
    with pytest.raises(InventoryError, match=complaint):
        plan_bytes(tmp_path, packed.getvalue(), "fleet.xlsx")


def test_an_ods_file_with_a_password_is_named(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        target.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        target.writestr("META-INF/manifest.xml", "<manifest:manifest><manifest:encryption-data/>")
        target.writestr("content.xml", b"\x01\x02")
    with pytest.raises(
        InventoryError, match="it has a password: open it in a spreadsheet program, and save it"
    ):
        plan_bytes(tmp_path, packed.getvalue(), "fleet.ods")


@pytest.mark.parametrize("named", ["3", "ICCID"])
def test_a_position_counts_from_the_first_column_of_the_sheet(tmp_path: Path, named: str) -> None:
    content = as_sheet([["", "IMEI", "ICCID", "Site"], ["", imei(0), iccid(0), "x"], ["", imei(1), "", "y"]])
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "2", "iccid": named})
    planned = plan_bytes(tmp_path, content, options=options)
    assert planned.devices == [(imei(0), iccid(0)), (imei(1), None)]
    with pytest.raises(InventoryError, match=r"The columns are 1 '', 2 'IMEI'"):
        plan_bytes(tmp_path, content, options=ReadOptions(columns={"imei": "9"}))


def test_a_merge_that_begins_in_an_empty_column_has_no_value(tmp_path: Path) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 1, ["ICCID", "IMEI"])
        sheet.write_row(1, 1, ["", imei(1)])
        sheet.merge_range(1, 0, 1, 1, "")
    assert plan_bytes(tmp_path, file.getvalue()).devices == [(imei(1), None)]


def test_a_merge_has_the_value_of_a_column_that_is_not_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["Site", "IMEI", "Notes"])
        sheet.write_row(1, 0, ["a", imei(1), "b"])
        sheet.merge_range(2, 0, 2, 2, imei(2))
    assert plan_bytes(tmp_path, file.getvalue()).devices == [(imei(1), None), (imei(2), None)]
