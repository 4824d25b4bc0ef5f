"""Headers are found below titles, on two lines, or not at all; no device is taken for a header."""

import io
import json
from pathlib import Path

import polars as pl
import pytest
from stdnum import luhn

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from tests.reader.builders import (
    ACCOUNT,
    SKU,
    as_sheet,
    as_workbook,
    iccid,
    imei,
    plan_bytes,
    plan_files,
)
from tests.reader.databases import sqlite_file

ROWS = [[imei(n), iccid(n), "x"] for n in range(3)]
DEVICES: list[tuple[str | None, str | None]] = [(imei(n), iccid(n)) for n in range(3)]

ABOVE: dict[str, list[list[str]]] = {
    "a title": [["Device inventory report"]],
    "a title and a date": [["Device inventory report"], ["2026-10-01"], ["Rows: 3"]],
    "a title over several cells": [["Report", "Fleet", "2026"]],
    "comments": [["# Export of fleet portal"], ["#Devices: 3"]],
    "a format line": [["FORMAT:IDI/CostGuardBulkData/Device"]],
    "instructions": [[f"{number}. Fill in column {number}"] for number in range(1, 25)],
    "an account": [["Account:", "0000123456-00001"]],
    "key figures": [["Devices", "3"], ["Total", "1234567"]],
    "a purchase order": [["Purchase order", "4500012345"]],
    "a number alone": [["45000123456"]],
    "a time": [["Created 20261130163810"], ["20261130 1638"], ["As of", "2026-11-30 16.38.10"]],
    "a number of an order": [["Order no. 450001234567890"], ["Contract", "12345678901234567"]],
    "a time in milliseconds": [["Export ID 1764547200000"], ["20261130163810123"]],
    "a product code": [["UPC 012345678905"], ["EAN", "4006381333931"]],
    "hexadecimal numbers": [["Report f47ac10b-58cc-4372-a567-0e02b2c3d479"], ["Ticket INC000012345678"]],
    "a phone number": [["Support: +1 908 555 0100 4477"], ["Fax", "+49 (221) 5550100-4477"]],
}


def as_csv(records: list[list[str]], separator: str = ",") -> bytes:
    return "\n".join(separator.join(record) for record in records).encode() + b"\n"


@pytest.mark.parametrize("above", ABOVE.values(), ids=ABOVE)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_lines_above_a_known_header_are_left_out_in_text(
    tmp_path: Path, above: list[list[str]], separator: str
) -> None:
    planned = plan_bytes(tmp_path, as_csv([*above, ["IMEI", "ICCID", "Site"], *ROWS], separator))
    assert planned.devices == DEVICES
    assert any("above the header left out" in note for note in planned.summary.notes)


@pytest.mark.parametrize("above", ABOVE.values(), ids=ABOVE)
def test_lines_above_a_known_header_are_left_out_in_workbooks(tmp_path: Path, above: list[list[str]]) -> None:
    planned = plan_bytes(tmp_path, as_sheet([*above, [], ["IMEI", "ICCID", "Site"], *ROWS]))
    assert planned.devices == DEVICES
    assert planned.plan["row"].to_list() == [1, 2, 3]


@pytest.mark.parametrize(
    "header",
    [
        [["Device", "", "SIM", ""], ["Name", "IMEI", "ICCID", "Status"]],
        [["Device", "", "SIM", ""], ["Name", "(IMEI)", "Number", "Status"]],
        [["", "Modem", "SIM", ""], ["Name", "IMEI", "Card Number", "Status"]],
        [["Name", "IMEI\n(15 digits)", "SIM card\nserial (ICCID)", "Status"]],
        [["Name", "IMEI [decimal]", "ICCID (19 or 20 digits)", "Status"]],
        [["Name", "Serial number (IMEI)", "Card (ICCID)", "Status"]],
    ],
)
def test_headers_with_remarks_or_on_two_lines_are_known(tmp_path: Path, header: list[list[str]]) -> None:
    rows = [["a", imei(n), iccid(n), "b"] for n in range(3)]
    assert plan_bytes(tmp_path, as_sheet([*header, *rows])).devices == DEVICES


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("3.59907E+14", "mangled_number"),
        ("3,59907E+14", "mangled_number"),
        ("35990710000001", "bad_length"),
        (imei(5) + " " + iccid(5) + "F", "not_digits"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_damaged_first_device_is_no_header(tmp_path: Path, first: str, reason: str, *, named: bool) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "1"} if named else {})
    rows = [[first, "Truck 0"], *([imei(n), f"Truck {n}"] for n in range(1, 4))]
    planned = plan_bytes(tmp_path, as_csv(rows, ";"), options=options)
    assert planned.summary.planned == 3
    assert planned.reasons == {1: reason}


@pytest.mark.parametrize(
    "cell",
    [
        "Report on IMEI 864508030000019",
        "IMEI:359907100000507",
        "35990710000001",
        "89148000000000010",
        "8914 8000 0000 0000 0019",
        "98410800000000000091",
        "A1000012345678",
        "8" * 32,
        "3.59907E+14",
    ],
)
def test_a_number_like_an_identifier_above_a_header_is_no_title(tmp_path: Path, cell: str) -> None:
    planned = plan_bytes(tmp_path, as_csv([[cell], ["IMEI", "ICCID", "Site"], *ROWS]))
    assert planned.devices == DEVICES
    assert planned.reasons.keys() == {1, 2}


def test_devices_above_a_header_are_not_left_out(tmp_path: Path) -> None:
    planned = plan_bytes(tmp_path, as_csv([*ROWS, ["IMEI", "ICCID", "Site"], *ROWS[:1]]))
    assert planned.devices == DEVICES
    assert planned.reasons == {4: "not_digits", 5: "duplicate"}


def test_an_unknown_header_is_noted_if_a_position_is_named(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "1"})
    planned = plan_bytes(tmp_path, as_csv([["Serial", "Site"], [imei(1), "x"]]), options=options)
    assert planned.devices == [(imei(1), None)]
    assert any("row 1 is taken for the header" in note for note in planned.summary.notes)


@pytest.mark.parametrize(
    "content",
    [
        as_csv([["Serial", "Card", "Site"], *ROWS]),
        as_sheet([["Serial", "Card", "Site"], *ROWS]),
        json.dumps([["Serial", "Card", "Site"], *ROWS]).encode(),
        json.dumps([dict(zip(("Serial", "Card", "Site"), row, strict=True)) for row in ROWS]).encode(),
    ],
    ids=["CSV", "workbook", "JSON lists", "JSON objects"],
)
def test_the_error_for_unknown_headers_suggests_columns(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InventoryError, match="--column imei=1; column 2 looks like ICCIDs: --column iccid=2"):
        plan_bytes(tmp_path, content)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_error_for_lines_in_quotes_says_so(tmp_path: Path, separator: str) -> None:
    lines = as_csv([["IMEI", "ICCID"], *(row[:2] for row in ROWS)], separator).decode().splitlines()
    with pytest.raises(InventoryError, match="each line seems to be in quotes as a whole"):
        plan_bytes(tmp_path, "".join(f'"{line}"\n' for line in lines).encode())


def test_the_error_for_a_sheet_without_devices_names_the_others(tmp_path: Path) -> None:
    book = as_workbook(
        {"Instructions": [["How to fill in"], ["One SIM a row"]], "SIMs": [["IMEI"], [imei(1)]]}
    )
    with pytest.raises(
        InventoryError, match="in the sheet 'Instructions'; the other sheets are 'SIMs': --sheet"
    ):
        plan_bytes(tmp_path, book)


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("IMEI,IMEISV,Site", (imei(1), imei(1) + "7", "x")),
        ("Device IMEI,IMEI,Modem IMEI", ("7", imei(1), "7")),
        ("imei 1,imei 2,IMEI", ("7", "7", imei(1))),
        ("simNumber,iccid,imsi", ("077009000", iccid(1), "20404000000000")),
        ("SIM,SIM ICCID,ICCID", ("7", "7", iccid(1))),
        ("iccid,iccid_with_luhn,sim", ("7", iccid(1), "7")),
        ("SIM card,ICCID (SIM),SIM status", ("7", iccid(1), "7")),
    ],
)
def test_the_exact_name_of_a_column_wins(tmp_path: Path, header: str, cells: tuple[str, ...]) -> None:
    assert plan_bytes(tmp_path, as_csv([header.split(","), list(cells)])).summary.planned == 1


@pytest.mark.parametrize(
    ("role", "cells"),
    [
        ("iccid", [imei(1), "7", "", ""]),
        ("account", [imei(1), "", "7-7", ""]),
        ("sku", [imei(1), "", "", "VZM2M"]),
    ],
)
def test_a_role_can_be_left_out(tmp_path: Path, role: str, cells: list[str]) -> None:
    content = as_csv([["IMEI", "ICCID", "Account", "SKU"], cells])
    assert plan_bytes(tmp_path, content).summary.planned == 0
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={role: "-"})
    planned = plan_bytes(tmp_path, content, options=options)
    assert planned.devices == [(imei(1), None)]
    assert planned.plan.select("account_name", "sku_number").row(0) == (ACCOUNT, SKU)


@pytest.mark.parametrize(
    "newline", ["\n", "\r\n", "\r", "\r\r\n", "\x85"], ids=["LF", "CRLF", "CR", "CRCRLF", "NEL"]
)
@pytest.mark.parametrize("above", ["", "{}", "\f", " {}{}", "Fleet\fof 2026{}", "Fleet\x0bof{}{}"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lines_are_counted_in_one_way(tmp_path: Path, newline: str, above: str, encoding: str) -> None:
    lines = ["IMEI,ICCID,Notes", *(f"{a},{b},form\ffeed\x1c\u2028" for a, b, _ in ROWS)]
    text = above.replace("{}", newline) + newline.join(lines) + newline
    assert plan_bytes(tmp_path, text.encode(encoding)).devices == DEVICES


def test_rows_with_mixed_newlines_are_all_read(tmp_path: Path) -> None:
    rows = [f"{a},{b}" for a, b, _ in ROWS]
    assert (
        plan_bytes(tmp_path, f"IMEI,ICCID\n{rows[0]}\r{rows[1]}\r\n{rows[2]}\r".encode()).devices == DEVICES
    )


DAMAGED = [
    "359907100000",
    "35990710000001",
    "+359907100000507",
    "A10000123456AB",
    "IMEI:359907100000507",
    "89148000000000010",
    "A1000012345678",
    "8" * 32,
    "3.59907E+14",
]


@pytest.mark.parametrize("cell", DAMAGED)
def test_a_damaged_device_between_two_headers_is_rejected(tmp_path: Path, cell: str) -> None:
    rows = [[imei(n), iccid(n)] for n in range(3)]
    records = [["x", "imei"], ["x", cell], ["x", cell], ["imei", "iccid"], *rows]
    assert {1, 2} <= plan_bytes(tmp_path, as_csv(records)).reasons.keys()


@pytest.mark.parametrize("form", ["CSV", "quoted", "JSON", "workbook"])
@pytest.mark.parametrize(
    "header", [["IMEI", "SKU"], ["IMEI", "Site", "Account"], ["IMEI"], ["IMEI", "", "Site"]]
)
def test_a_header_with_other_columns_below_the_first_one_is_refused(
    tmp_path: Path, form: str, header: list[str]
) -> None:
    records = [["IMEI", "Site"], [imei(0), "a"], header, [imei(1), "SIMSec-IoT-Lt"]]
    content = {
        "CSV": as_csv(records),
        "quoted": as_csv([[f'"{cell}"' for cell in record] for record in records]),
        "JSON": json.dumps(records).encode(),
        "workbook": as_sheet(records),
    }[form]
    with pytest.raises(InventoryError, match="there is a second header with other columns, 1 'IMEI'"):
        plan_bytes(tmp_path, content)


@pytest.mark.parametrize("form", ["CSV", "JSON", "workbook"])
def test_an_identifier_without_a_header_of_its_own_repeats_none(tmp_path: Path, form: str) -> None:
    records = [["Name", "", "ICCID"], ["a", imei(0), iccid(0)], ["b", "", iccid(1)]]
    content = {
        "CSV": as_csv(records),
        "JSON": json.dumps(records).encode(),
        "workbook": as_sheet(records),
    }[form]
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "2"})
    planned = plan_bytes(tmp_path, content, options=options)
    assert planned.devices == [(imei(0), iccid(0)), (None, iccid(1))]


def test_a_header_with_a_line_break_may_come_again(tmp_path: Path) -> None:
    header = ["IMEI", '"Rate\nplan"', "Site"]
    content = as_csv([header, [imei(0), "a", "b"], header, [imei(1), "c", "d"]])
    assert [device for device, _ in plan_bytes(tmp_path, content).devices] == [imei(0), imei(1)]


def test_the_second_line_of_a_header_may_come_again(tmp_path: Path) -> None:
    header = [["", "Account", ""], ["IMEI", "number", "Level"]]
    rows = [[imei(0), ACCOUNT, "x"], [imei(1), ACCOUNT, "y"]]
    planned = plan_bytes(tmp_path, as_csv([*header, rows[0], *header, rows[1]]))
    assert [device for device, _ in planned.devices] == [imei(0), imei(1)]


def test_an_identifier_with_dashes_above_a_header_is_no_title(tmp_path: Path) -> None:
    number = iccid(1)
    dashed = f"{number[:11]}-{number[11:]}"
    content = as_csv([["a", dashed], ["Name", "ICCID"], ["b", iccid(2)]])
    assert {device for _, device in plan_bytes(tmp_path, content).devices} >= {number}


def test_the_same_header_again_is_left_out(tmp_path: Path) -> None:
    records = [["IMEI", "Site"], [imei(0), "IMEI"], ["IMEI", "site", ""], ["imei", "Site"], [imei(1), "b"]]
    assert plan_bytes(tmp_path, as_csv(records)).devices == [(imei(0), None), (imei(1), None)]


@pytest.mark.parametrize("cell", ["12345", "A00000ABCDEFFF", "35990710000001"])
def test_a_first_cell_with_digits_is_no_header(tmp_path: Path, cell: str) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "1"})
    planned = plan_bytes(tmp_path, as_csv([[cell], [imei(1)], [imei(2)]]), options=options)
    assert planned.summary.planned == 2
    assert list(planned.reasons) == [1]


OTHER = "0000654321-00002"


@pytest.mark.parametrize("header", ["Verizon Account Number", "BAN", "Customer"])
@pytest.mark.parametrize("form", ["CSV", "JSON", "workbook"])
def test_an_account_of_the_carrier_in_an_unknown_column_is_refused(
    tmp_path: Path, header: str, form: str
) -> None:
    rows = [[imei(n), OTHER] for n in range(3)]
    content = {
        "CSV": as_csv([["IMEI", header], *rows]),
        "JSON": json.dumps([{"imei": number, header: account} for number, account in rows]).encode(),
        "workbook": as_sheet([["IMEI", header], *rows]),
    }[form]
    with pytest.raises(InventoryError, match=f"has accounts of the carrier, such as {OTHER}"):
        plan_bytes(tmp_path, content)
    without = ReadOptions(account=ACCOUNT, sku=SKU, columns={"account": "-"})
    assert plan_bytes(tmp_path, content, options=without).plan["account_name"].unique().to_list() == [ACCOUNT]
    with_it = ReadOptions(account=ACCOUNT, sku=SKU, columns={"account": header})
    assert plan_bytes(tmp_path, content, options=with_it).plan["account_name"].unique().to_list() == [OTHER]


DECORATED = ['="{}"', "'{}'", '"{}"', " {}\u200b"]


@pytest.mark.parametrize("cell", [*(form.format(OTHER) for form in DECORATED), OTHER.replace("-", "\u2013")])
def test_a_decorated_account_in_an_unknown_column_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(InventoryError, match=f"has accounts of the carrier, such as {OTHER}"):
        plan_bytes(tmp_path, as_csv([["IMEI", "Konto"], [imei(1), cell]]))


@pytest.mark.parametrize("form", DECORATED)
def test_the_column_of_decorated_accounts_is_read(tmp_path: Path, form: str) -> None:
    rows = [["IMEI", "Account", "Account Number"], [imei(1), "acme", form.format(OTHER)]]
    assert plan_bytes(tmp_path, as_csv(rows)).plan["account_name"].to_list() == [OTHER]


def test_an_unread_column_of_the_same_account_is_no_matter(tmp_path: Path) -> None:
    assert plan_bytes(tmp_path, as_csv([["IMEI", "BAN"], [imei(1), ACCOUNT]])).summary.planned == 1


HIDDEN_HEADER = [["Report 359907100000001"], ["IMEI", "Site", "Account"]]


@pytest.mark.parametrize(("above", "others"), [([], "jdoe"), (HIDDEN_HEADER, "jdoe"), (HIDDEN_HEADER, "")])
def test_an_account_in_a_table_without_known_header_is_not_passed_over(
    tmp_path: Path, above: list[list[str]], others: str
) -> None:
    content = as_csv([*above, *([imei(n), "x", OTHER if n == 4 else others] for n in range(6))])
    with pytest.raises(InventoryError, match=f"column 3 has accounts of the carrier, such as {OTHER}"):
        plan_bytes(tmp_path, content)
    for column, accounts in (("3", {ACCOUNT, OTHER}), ("-", {ACCOUNT})):
        options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"account": column})
        assert {*plan_bytes(tmp_path, content, options=options).plan["account_name"]} == accounts


def test_the_column_of_the_carriers_accounts_is_read(tmp_path: Path) -> None:
    rows = [["Account", "Account Name", "IMEI"], ["ACME", OTHER, imei(1)], ["ACME", OTHER, imei(2)]]
    assert plan_bytes(tmp_path, as_csv(rows)).plan["account_name"].unique().to_list() == [OTHER]


def test_another_account_above_the_header_is_refused(tmp_path: Path) -> None:
    content = as_csv([["Account:", OTHER], ["IMEI", "ICCID"], [imei(1), iccid(1)]])
    with pytest.raises(InventoryError, match=f"a line above the header names the account {OTHER}"):
        plan_bytes(tmp_path, content)


SHORT_OTHER = OTHER.lstrip("0")
DAMAGED_LINES = [
    ["Account " + OTHER.replace("-", "\u2013"), ""],
    [f"Account {SHORT_OTHER}", ""],
    ["Acct. no.: " + SHORT_OTHER.replace("-", "\u2212"), ""],
]


@pytest.mark.parametrize("line", [*DAMAGED_LINES, ["Account:", SHORT_OTHER]])
def test_another_damaged_account_above_the_header_is_refused(tmp_path: Path, line: list[str]) -> None:
    with pytest.raises(InventoryError, match=f"a line above the header names the account {OTHER}"):
        plan_bytes(tmp_path, as_csv([line, ["IMEI", "ICCID"], [imei(1), iccid(1)]]))


@pytest.mark.parametrize("line", DAMAGED_LINES)
def test_a_line_between_devices_with_a_damaged_account_is_refused(tmp_path: Path, line: list[str]) -> None:
    content = as_csv([["IMEI", "ICCID"], [imei(0), iccid(0)], line, [imei(1), iccid(1)]])
    with pytest.raises(InventoryError, match=f"row 2 names the account {OTHER}"):
        plan_bytes(tmp_path, content)


@pytest.mark.parametrize("title", ["Account 123456-00001", f"Order {SHORT_OTHER}", "Account \u2013 2026-11"])
def test_a_title_that_names_no_other_account_is_left_out(tmp_path: Path, title: str) -> None:
    content = as_csv([[title], ["IMEI", "ICCID"], [imei(1), iccid(1)]])
    assert plan_bytes(tmp_path, content).devices == [(imei(1), iccid(1))]


def test_another_account_above_the_header_is_refused_beside_an_empty_column_too(tmp_path: Path) -> None:
    content = as_csv([["Bill to", OTHER], ["IMEI", "Account"], [imei(1), ""]])
    with pytest.raises(InventoryError, match=f"a line above the header names the account {OTHER}"):
        plan_bytes(tmp_path, content)


def test_an_account_in_the_words_of_a_title_is_no_device(tmp_path: Path) -> None:
    rows = [["IMEI", "ICCID"], [imei(1), iccid(1)]]
    assert plan_bytes(tmp_path, as_csv([[f"Account: {ACCOUNT}"], *rows])).devices == [(imei(1), iccid(1))]
    with pytest.raises(InventoryError, match=f"a line above the header names the account {OTHER}"):
        plan_bytes(tmp_path, as_csv([[f"Devices of {OTHER}, October"], *rows]))


@pytest.mark.parametrize("line", [f"Account {OTHER}", OTHER, f"{OTHER}: North"])
def test_a_line_between_devices_that_names_another_account_is_refused(tmp_path: Path, line: str) -> None:
    content = as_csv([["IMEI", "ICCID"], [imei(0), iccid(0)], [line, ""], [imei(1), iccid(1)]])
    with pytest.raises(
        InventoryError, match=f"row 2 names the account {OTHER}, and the rows below it have none"
    ):
        plan_bytes(tmp_path, content)
    without = ReadOptions(account=ACCOUNT, sku=SKU, columns={"account": "-"})
    assert plan_bytes(tmp_path, content, options=without).reasons.keys() == {2}


OUTLINES = {
    "beside the identifiers": [["Site", "IMEI"], ["A", imei(0)], [f"Account {OTHER}", ""], ["B", imei(1)]],
    "in the account column": [["Account", "IMEI"], ["", imei(0)], [OTHER, ""], ["", imei(1)]],
    "beside an account column": [["IMEI", "Account"], [imei(0), ""], [f"Account {OTHER}", ""], [imei(1), ""]],
    "above another line": [
        ["Site", "IMEI", "Account"],
        ["A", imei(0), ""],
        [OTHER, "", ""],
        ["B", "", ""],
        ["C", imei(1), ""],
    ],
}


def as_parquet(records: list[list[str]]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(records[1:], schema=dict.fromkeys(records[0], pl.String), orient="row").write_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    "form", ["CSV", "quoted", "short", "workbook", "JSON lists", "JSON objects", "parquet"]
)
@pytest.mark.parametrize("records", OUTLINES.values(), ids=OUTLINES)
def test_an_outline_with_another_account_is_refused(
    tmp_path: Path, records: list[list[str]], form: str
) -> None:
    stripped = [",".join(record).rstrip(",") + "\n" for record in records]
    content = {
        "CSV": as_csv(records),
        "quoted": as_csv([*records, ['"a\x1e"', "", ""]]),
        "short": "".join(stripped).encode(),
        "workbook": as_sheet(records),
        "JSON lists": json.dumps(records).encode(),
        "JSON objects": json.dumps([dict(zip(records[0], row, strict=True)) for row in records[1:]]).encode(),
        "parquet": as_parquet(records),
    }[form]
    row = next(at for at, record in enumerate(records) if OTHER in "".join(record))
    with pytest.raises(InventoryError, match=f"row {row} names the account {OTHER}, and the rows below"):
        plan_bytes(tmp_path, content)
    without = ReadOptions(account=ACCOUNT, sku=SKU, columns={"account": "-"})
    assert {imei for imei, _ in plan_bytes(tmp_path, content, options=without).devices} == {imei(0), imei(1)}


@pytest.mark.parametrize("records", OUTLINES.values(), ids=OUTLINES)
def test_an_outline_in_a_database_is_refused(tmp_path: Path, records: list[list[str]]) -> None:
    address = sqlite_file(tmp_path / "fleet.sqlite", records[1:], ", ".join(records[0]))
    options = ReadOptions(account=ACCOUNT, sku=SKU, query="SELECT * FROM fleet")
    with pytest.raises(InventoryError, match=f"names the account {OTHER}, and the rows below"):
        plan_files(tmp_path, address, options=options)


def test_an_outline_is_found_where_a_block_of_rows_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchlic.reader.formats.delimited.BLOCK_BYTES", 40)
    records = [["IMEI", "Account"], [imei(0), ""], [f"Account {OTHER}", ""], ["x", ""], [imei(1), ""]]
    with pytest.raises(InventoryError, match=f"row 2 names the account {OTHER}"):
        plan_bytes(tmp_path, as_csv(records))


def test_a_line_with_another_account_above_rows_with_accounts_is_one_reject(tmp_path: Path) -> None:
    records = [["IMEI", "Account"], [f"Account {OTHER}", ""], [imei(0), OTHER], ["", OTHER], [imei(1), OTHER]]
    planned = plan_bytes(tmp_path, as_csv(records))
    assert planned.reasons == {1: "not_digits", 3: "missing_identifier"}


def test_a_row_without_identifier_is_no_line_about_the_rows_below(tmp_path: Path) -> None:
    records = [["IMEI", "Site", "Account"], ["", "Dallas", OTHER], [imei(0), "Tulsa", ""]]
    assert plan_bytes(tmp_path, as_csv(records)).reasons == {1: "missing_identifier"}


def test_rows_without_an_account_among_rows_of_another_one_are_noted(tmp_path: Path) -> None:
    records = [["IMEI", "Account"], [imei(0), OTHER], [imei(1), ""], [imei(2), ""], [imei(3), ACCOUNT]]
    notes = plan_bytes(tmp_path, as_csv(records)).summary.notes
    assert any(f"2 rows without an account, planned under {ACCOUNT}" in note for note in notes)
    notes = plan_bytes(tmp_path, as_csv([*records[:1], *records[2:]])).summary.notes
    assert not any("without an account" in note for note in notes)


@pytest.mark.parametrize(
    "line", [["", "", f"moved to {OTHER}"], [f"Account {OTHER}", "", ""], ["Total", "", OTHER]]
)
def test_a_last_line_that_names_another_account_is_one_reject(tmp_path: Path, line: list[str]) -> None:
    records = [["IMEI", "ICCID", "Remark"], [imei(0), iccid(0), "x"], [imei(1), iccid(1), "x"], line]
    planned = plan_bytes(tmp_path, as_csv(records))
    assert planned.summary.planned == 2
    assert planned.reasons.keys() == {3}


@pytest.mark.parametrize(
    "line",
    [
        "Account Report 261130-00001",
        "Account: Acme, Postal code 10115-12345",
        "Exported by account manager J. Doe tel. 55512-34567",
    ],
)
def test_numbers_that_no_word_names_are_no_accounts(tmp_path: Path, line: str) -> None:
    content = as_csv([[line, ""], ["IMEI", "ICCID"], [imei(0), iccid(0)]])
    assert plan_bytes(tmp_path, content).summary.planned == 1


@pytest.mark.parametrize("cell", ["01.12.2025-31.12.2026", "35 000 000 000 000 0"])
def test_dates_and_amounts_beyond_the_header_are_no_devices(tmp_path: Path, cell: str) -> None:
    content = as_csv([["IMEI", "ICCID"], [imei(0), iccid(0), cell], [imei(1), iccid(1), cell]])
    assert plan_bytes(tmp_path, content).summary.planned == 2


def test_a_line_between_devices_that_names_the_same_account_is_one_reject(tmp_path: Path) -> None:
    content = as_csv([["IMEI", "ICCID"], [imei(0), iccid(0)], [f"Account {ACCOUNT}", ""]])
    assert plan_bytes(tmp_path, content).reasons == {2: "not_digits"}


def test_a_damaged_number_with_dashes_is_no_account(tmp_path: Path) -> None:
    content = as_csv([["IMEI", "ICCID"], [imei(0), "8914800000-00104-7291"]])
    assert plan_bytes(tmp_path, content).reasons.keys() == {1}


def test_a_column_of_identifiers_that_is_not_read_is_noted_without_a_header_too(tmp_path: Path) -> None:
    content = as_csv([[imei(n), imei(n + 10)] for n in range(3)])
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "1"})
    notes = plan_bytes(tmp_path, content, options=options).summary.notes
    assert any("column 2 has IMEIs, too, and is not read" in note for note in notes)


@pytest.mark.parametrize("other", ["Device IMEI", "Serial"])
def test_a_second_column_of_imeis_is_noted(tmp_path: Path, other: str) -> None:
    rows = [[imei(n), imei(n + 10)] for n in range(3)]
    planned = plan_bytes(tmp_path, as_csv([["IMEI", other], *rows]))
    assert any(
        f"column 2 {other!r} has IMEIs, too, and is not read" in note for note in planned.summary.notes
    )


@pytest.mark.parametrize("end", ["\v", "\f", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("header", ["IMEI,ICCID\n", "IMEI,ICCID{}", ""])
def test_rows_with_other_line_ends_are_refused(tmp_path: Path, end: str, header: str) -> None:
    content = header.replace("{}", end) + end.join(f"{a},{b}" for a, b, _ in ROWS) + "\n"
    with pytest.raises(InventoryError, match=r"form feed, NEL or the like near|no known header"):
        plan_bytes(tmp_path, content.encode())


@pytest.mark.parametrize("first", ["49", "45", "52", "91"])
def test_devices_above_a_later_header_are_not_left_out(tmp_path: Path, first: str) -> None:
    above = [(body := f"{first}{n:012}") + luhn.calc_check_digit(body) for n in range(5)]
    rows = [
        *([number, ACCOUNT] for number in above),
        ["IMEI", "Account"],
        *([imei(n), ACCOUNT] for n in range(5)),
    ]
    assert plan_bytes(tmp_path, as_csv(rows)).summary.planned == 10
