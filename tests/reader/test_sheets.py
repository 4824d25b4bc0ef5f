"""Merged cells and far cells of sheets in every format of workbooks."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import xlsxwriter  # type: ignore[import-untyped]

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from tests.reader.binary_workbooks import as_xls, as_xlsb, record
from tests.reader.builders import ACCOUNT, SKU, iccid, imei, plan_bytes
from tests.reader.test_formats import as_ods
from tests.reader.test_workbooks import SHEET, text_cell, with_cells, with_content

OTHER = "0000654321-00002"
HEADER = ["Account", "IMEI", "ICCID"]
ROWS = [["", imei(n), iccid(n)] for n in range(5)]

Merged = Callable[[int, int], bytes]
"""A workbook of HEADER and ROWS whose accounts from one row to another, from 1, are merged to OTHER."""


def with_value(first: int) -> list[list[str]]:
    return [HEADER, *([OTHER if n == first else "", *row[1:]] for n, row in enumerate(ROWS, 1))]


def merged_xlsx(first: int, last: int) -> bytes:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate([HEADER, *ROWS]):
            sheet.write_row(number, 0, row)
        sheet.merge_range(first, 0, last, 0, OTHER)
    return file.getvalue()


def merged_xlsb(first: int, last: int) -> bytes:
    end = record(146)
    merge = (
        record(177, struct.pack("<I", 1)) + record(176, struct.pack("<4I", first, last, 0, 0)) + record(178)
    )
    return with_content(
        as_xlsb([[cell or None for cell in row] for row in with_value(first)]),
        lambda part: part.replace(end + record(130), end + merge + record(130)),
    )


def merged_ods(first: int, last: int) -> bytes:
    spans = f'table:number-rows-spanned="{last - first + 1}" table:number-columns-spanned="1" '.encode()
    cell = b'<table:table-cell office:value-type="string"><text:p>' + OTHER.encode()
    empty = b'<table:table-cell office:value-type="string"><text:p></text:p></table:table-cell>'
    return with_content(
        as_ods(with_value(first)),
        lambda part: part.replace(empty, b"<table:covered-table-cell/>").replace(
            cell, cell.replace(b"office", spans + b"office")
        ),
    )


def merged_xls(first: int, last: int) -> bytes:
    rows = [[cell or None for cell in row] for row in with_value(first)]
    return as_xls(rows, merged=struct.pack("<5H", 1, first, last, 0, 0))


MERGED = {"xlsx": merged_xlsx, "xlsb": merged_xlsb, "xls": merged_xls, "ods": merged_ods}


@pytest.mark.parametrize("write", MERGED.values(), ids=MERGED)
@pytest.mark.parametrize(("first", "last"), [(1, 5), (1, 2), (3, 5), (4, 5)])
def test_merged_rows_have_the_value_that_they_show(
    tmp_path: Path, write: Merged, first: int, last: int
) -> None:
    planned = plan_bytes(tmp_path, write(first, last))
    assert planned.plan.sort("row")["account_name"].to_list() == [
        OTHER if first <= row <= last else ACCOUNT for row in range(1, 6)
    ]


def test_merged_rows_after_repeated_ones_are_counted_right(tmp_path: Path) -> None:
    gap = b'<table:table-row table:number-rows-repeated="4"><table:table-cell/></table:table-row>'
    ods = with_content(
        merged_ods(2, 4), lambda part: part.replace(b"<table:table-row>", gap + b"<table:table-row>", 2)
    )
    planned = plan_bytes(tmp_path, ods)
    assert planned.plan.sort("row")["account_name"].to_list() == [ACCOUNT, *[OTHER] * 3, ACCOUNT]


def test_the_merged_cells_of_another_table_do_not_count(tmp_path: Path) -> None:
    def two_tables(part: bytes) -> bytes:
        start, end = part.find(b"<table:table "), part.find(b"</table:table>") + 14
        other = part[start:end].replace(b'"Fleet"', b'"Other"')
        plain = part[start:end].replace(b"-rows-spanned", b"-rows-unspanned")
        return part[:start] + plain + other + part[end:] if start > 0 else part

    planned = plan_bytes(tmp_path, with_content(merged_ods(1, 5), two_tables))
    assert planned.plan["account_name"].to_list().count(OTHER) == 1


# -- hidden rows ----------------------------------------------------------------------------------------

SHOWN_AND_HIDDEN = [HEADER, *ROWS]


def hidden_xlsx(rows: range) -> bytes:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        book.add_worksheet("Cover").set_row(1, options={"hidden": True})
        sheet = book.add_worksheet("Fleet & more")
        for number, row in enumerate(SHOWN_AND_HIDDEN):
            sheet.write_row(number, 0, row)
        sheet.set_column("A:A", options={"hidden": True})
        for number in (*rows, 100):
            sheet.set_row(number, options={"hidden": True})
    return file.getvalue()


def hidden_xlsb(rows: range) -> bytes:
    def hide(part: bytes) -> bytes:
        for number in rows:
            row = struct.pack("<IIHBB", number, 0, 300, 0, 0)
            part = part.replace(row, row[:-1] + b"\x10")
        return part

    return with_content(as_xlsb([[cell or None for cell in row] for row in SHOWN_AND_HIDDEN]), hide)


def hidden_ods(rows: range) -> bytes:
    start = b"<table:table-row>"
    hidden = b'<table:table-row table:visibility="filter">'

    def hide(part: bytes) -> bytes:
        first, *others = part.split(start)
        starts = (hidden if number in rows else start for number in range(len(others)))
        return first + b"".join(begin + rest for begin, rest in zip(starts, others, strict=True))

    return with_content(as_ods(SHOWN_AND_HIDDEN), hide)


def hidden_xls(rows: range) -> bytes:
    return as_xls([[cell or None for cell in row] for row in SHOWN_AND_HIDDEN], hidden=rows)


HIDDEN = {"xlsx": hidden_xlsx, "xlsb": hidden_xlsb, "xls": hidden_xls, "ods": hidden_ods}


@pytest.mark.parametrize("write", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize(
    ("rows", "said"), [(range(2, 5), "3 rows are hidden"), (range(5, 6), "1 row is hidden"), (range(1), "")]
)
def test_hidden_rows_are_read_with_a_note(
    tmp_path: Path, write: Callable[[range], bytes], rows: range, said: str
) -> None:
    sheet = "Fleet & more" if write is hidden_xlsx else "Fleet"
    options = ReadOptions(account=ACCOUNT, sku=SKU, sheet=sheet)
    planned = plan_bytes(tmp_path, write(rows), options=options)
    notes = [note for note in planned.summary.notes if "hidden" in note]
    assert planned.summary.planned == len(ROWS)
    assert len(notes) == bool(said)
    assert not said or f"{said} in the sheet {sheet!r}" in notes[0]


# -- far cells ------------------------------------------------------------------------------------------


def far_xlsx(cell: str) -> Callable[[str, int], bytes]:
    def write(column: str, row: int) -> bytes:
        cells = f'<row r="1">{text_cell("A1", "IMEI")}</row><row r="2">{text_cell("A2", imei(1))}</row>'
        place = f"{column}{row}"
        cells += f'<row r="{row}">{cell.format(place=place)}</row>'
        return with_cells(SHEET, cells.encode())

    return write


def column_number(column: str) -> int:
    number = 0
    for letter in column:
        number = 26 * number + ord(letter) - 64
    return number


def far_xlsb(column: str, row: int) -> bytes:
    far = record(0, struct.pack("<IIHBBBIII", row - 1, 0, 300, 0, 0, 0, 1, 0, 0))
    far += record(5, struct.pack("<IId", column_number(column) - 1, 0, 7.0))
    return with_content(
        as_xlsb([["IMEI"], [imei(1)]]), lambda part: part.replace(record(146), far + record(146))
    )


def far_ods(column: str, row: int) -> bytes:
    far = (
        f'<table:table-row table:number-rows-repeated="{row - 3}"><table:table-cell/></table:table-row>'
        f'<table:table-row><table:table-cell table:number-columns-repeated="{column_number(column) - 1}"/>'
        '<table:table-cell office:value-type="float" office:value="7"><text:p>7</text:p></table:table-cell>'
        "</table:table-row></table:table>"
    )
    return with_content(
        as_ods([["IMEI"], [imei(1)]]), lambda part: part.replace(b"</table:table>", far.encode())
    )


def repeated_ods(column: str, row: int) -> bytes:
    value = (
        f'office:value-type="float" office:value="7" table:number-columns-repeated="{column_number(column)}"'
    )
    far = (
        f'<table:table-row table:number-rows-repeated="{row - 2}"><table:table-cell {value}>'
        "<text:p>7</text:p>"
        "</table:table-cell></table:table-row></table:table>"
    )
    return with_content(
        as_ods([["IMEI"], [imei(1)]]), lambda part: part.replace(b"</table:table>", far.encode())
    )


FAR = {
    "xlsx": far_xlsx('<c r="{place}"><v>7</v></c>'),
    "xlsx spaced": far_xlsx("<c s='1' r = '{place}' ><v>7</v></c>"),
    "xlsx formula": far_xlsx('<c r="{place}"><f>A1</f></c>'),
    "xlsb": far_xlsb,
    "ods": far_ods,
    "ods repeated": repeated_ods,
}


@pytest.mark.parametrize("write", FAR.values(), ids=FAR)
@pytest.mark.parametrize(("column", "row"), [("XFD", 1_048_576), ("XFD", 3_000), ("AZ", 1_000_000)])
def test_a_sheet_with_a_far_cell_is_refused(
    tmp_path: Path, write: Callable[[str, int], bytes], column: str, row: int
) -> None:
    with pytest.raises(
        InventoryError, match=f"reach to {column}{row}, which is too far .* delete the columns"
    ):
        plan_bytes(tmp_path, write(column, row))


@pytest.mark.slow
@pytest.mark.parametrize("write", [FAR["xlsx"], far_xlsb, far_ods], ids=["xlsx", "xlsb", "ods"])
@pytest.mark.parametrize(("column", "row"), [("XFD", 10), ("B", 50_000), ("AZ", 3)])
def test_a_cell_that_is_not_too_far_is_a_row(
    tmp_path: Path, write: Callable[[str, int], bytes], column: str, row: int
) -> None:
    assert plan_bytes(tmp_path, write(column, row)).reasons == {2: "missing_identifier"}


@pytest.mark.parametrize("cell", ['<c r="{place}" s="1"/>', '<c r="{place}" s="1" />'])
def test_a_far_cell_without_a_value_is_no_matter(tmp_path: Path, cell: str) -> None:
    assert plan_bytes(tmp_path, far_xlsx(cell)("XFD", 1_048_576)).summary.planned == 1


@pytest.mark.slow
def test_a_far_cell_in_another_sheet_is_no_matter(tmp_path: Path) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        book.add_worksheet("Fleet").write_column(0, 0, ["IMEI", imei(1)])
        other = book.add_worksheet("Other")
        other.write(0, 0, "a")
        other.write(1_048_575, 16_383, "b")
    assert plan_bytes(tmp_path, file.getvalue()).summary.planned == 1
    with pytest.raises(InventoryError, match="'Other' reach to XFD1048576"):
        plan_bytes(tmp_path, file.getvalue(), options=ReadOptions(account=ACCOUNT, sku=SKU, sheet="Other"))


@pytest.mark.parametrize(
    ("found", "damaged"),
    [
        (struct.pack("<HHIIH", 0x0200, 14, 0, 2, 0), struct.pack("<HHIIH", 0x0200, 14, 0, 2**31, 0)),
        (struct.pack("<HHIIHH", 0x0200, 14, 0, 2, 0, 1), struct.pack("<HHIIHH", 0x0200, 14, 0, 2, 0, 65_000)),
        (struct.pack("<HHI", 0x0200, 14, 0), struct.pack("<HHI", 0x0200, 14, 70)),
        (struct.pack("<HHHH", 0x0203, 14, 1, 0), struct.pack("<HHHH", 0x0203, 14, 1, 65_000)),
    ],
    ids=["rows", "columns", "first row", "cell"],
)
def test_a_damaged_xls_allocates_no_memory(tmp_path: Path, found: bytes, damaged: bytes) -> None:
    xls = as_xls([["IMEI"], [7.0]])
    assert found in xls
    with pytest.raises(InventoryError, match=r"the workbook is damaged .*beyond the 65,536 rows"):
        plan_bytes(tmp_path, xls.replace(found, damaged))


# -- other cells that calamine loses ----------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ['t = "e"', "t= 'e'", "t ='e'", 't\n=\n"e"', 't="e"'])
def test_an_error_is_a_cell_however_its_type_is_written(tmp_path: Path, attribute: str) -> None:
    cells = f'<row r="1">{text_cell("A1", "IMEI")}{text_cell("B1", "ICCID")}</row><row r="2">'
    cells += f'{text_cell("A2", imei(1))}<c r="B2" {attribute}><v>#REF!</v></c></row>'
    assert plan_bytes(tmp_path, with_cells(SHEET, cells.encode())).reasons == {1: "not_digits"}


@pytest.mark.parametrize("shown", ["#REF!", "Err:508", "Err:522", "#NAME?"])
def test_an_error_of_libreoffice_is_a_cell(tmp_path: Path, shown: str) -> None:
    error = (
        b'table:formula="of:=X" office:value-type="string" office:string-value=""><text:p>' + shown.encode()
    )
    ods = with_content(
        as_ods([["IMEI", "ICCID"], (imei(1), "ERROR")]),
        lambda part: part.replace(b'office:value-type="string"><text:p>ERROR', error),
    )
    assert plan_bytes(tmp_path, ods).reasons == {1: "not_digits"}


@pytest.mark.parametrize(
    "formula", ["<![CDATA[IF(A1<2,3)]]>", "A1<![CDATA[<]]>2", "<!-- old --><![CDATA[x]]>"]
)
def test_a_formula_in_cdata_without_a_value_is_rejected(tmp_path: Path, formula: str) -> None:
    cells = f'<row r="1">{text_cell("A1", "IMEI")}</row><row r="2"><c r="A2"><f>{formula}</f><v/></c></row>'
    assert plan_bytes(tmp_path, with_cells(SHEET, cells.encode())).reasons == {1: "no_value"}


@pytest.mark.parametrize(
    "cell",
    [
        '<c r="A2" t="str"><v><![CDATA[{}]]></v></c>',
        '<c r="A2"><v><![CDATA[{}]]></v></c>',
        '<c r="A2" t="inlineStr"><is><t><![CDATA[{}]]></t></is></c>',
        '<c r="A2" t="str"><v><!-- checked -->{}</v></c>',
    ],
)
def test_cdata_and_comments_hide_no_value(tmp_path: Path, cell: str) -> None:
    cells = f'<row r="1">{text_cell("A1", "IMEI")}</row><row r="2">{cell.format(imei(1))}</row>'
    assert plan_bytes(tmp_path, with_cells(SHEET, cells.encode())).devices == [(imei(1), None)]


@pytest.mark.parametrize("text", ["<![CDATA[{0}]]>{1}", "{0}<![CDATA[{1}]]>", "{0}<!-- x -->{1}"])
def test_cdata_in_ods_hides_no_digit(tmp_path: Path, text: str) -> None:
    whole = imei(1)
    ods = with_content(
        as_ods([["IMEI"], [whole]]),
        lambda part: part.replace(whole.encode(), text.format(whole[:5], whole[5:]).encode()),
    )
    assert plan_bytes(tmp_path, ods).devices == [(whole, None)]
