"""A row with more cells than the header is rejected where its account or SKU may be in another column."""

import json
from pathlib import Path

import pytest

from batchlic.reader import ReadOptions
from tests.reader.builders import ACCOUNT, SKU, csv_of, iccid, imei, plan_bytes

OTHER = "0000654321-00002"
HEADER = "Site,IMEI,Cost center,Account,Notes"


def row(number: int, site: str = "Dallas", *more: str) -> list[str]:
    return [site, imei(number), "CC-7", ACCOUNT, "", *more]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "cells",
    [
        ["Dallas", imei(1), "x", OTHER, ACCOUNT, "new"],
        [*row(1), "more"],
        [*row(1), "", "", "more"],
        [*row(1), *["more"] * 30],
        [*row(1), *[""] * 30, "more"],
        [*row(1), "00"],
    ],
)
def test_a_long_row_is_rejected_with_its_number(tmp_path: Path, cells: list[str], separator: str) -> None:
    content = csv_of([row(0), cells, row(2)], HEADER, separator)
    planned = plan_bytes(tmp_path, content)
    assert planned.reasons == {2: "long_row"}
    assert "the row has more cells than the header" in planned.message(2)
    assert planned.plan["account_name"].to_list() == [ACCOUNT, ACCOUNT]


def test_a_separator_in_a_cell_never_changes_the_account(tmp_path: Path) -> None:
    rows = [[imei(0), OTHER, ACCOUNT, "a"], [imei(1), "Tulsa, OK", OTHER, ACCOUNT]]
    planned = plan_bytes(tmp_path, csv_of(rows, "IMEI,Site,Account,SKU2"))
    assert planned.reasons == {2: "long_row"}


@pytest.mark.parametrize("empty", [[""], [""] * 7, [""] * 8, [""] * 9, [""] * 40, [" ", "\xa0"]])
def test_empty_cells_after_the_header_are_allowed(tmp_path: Path, empty: list[str]) -> None:
    planned = plan_bytes(tmp_path, csv_of([row(0), row(1, "x", *empty), row(2)], HEADER))
    assert planned.summary.planned == 3


@pytest.mark.parametrize("note", ['"a\nb"', 'a 5" antenna', '"\x1e"', '"two\n\nlines"'])
def test_a_long_row_is_found_among_odd_rows(tmp_path: Path, note: str) -> None:
    rows = [row(0, note), row(1, note, "more"), row(2, note, ""), row(3, note, '"\n"'), [imei(4)]]
    assert plan_bytes(tmp_path, csv_of(rows, HEADER)).reasons == {2: "long_row", 5: "short_row"}


def test_a_sku_may_be_shifted_too(tmp_path: Path) -> None:
    rows = [[imei(0), "a", SKU], [imei(1), "a", "SIMSec-IoT-Lt", SKU]]
    planned = plan_bytes(tmp_path, csv_of(rows, "IMEI,Site,SKU"), options=ReadOptions(account=ACCOUNT))
    assert planned.reasons == {2: "long_row"}


def test_without_a_header_the_widest_of_the_first_rows_counts(tmp_path: Path) -> None:
    lines = [f"{imei(number)},{ACCOUNT}" for number in range(201)] + [f"{imei(201)},{OTHER},{ACCOUNT}"]
    planned = plan_bytes(tmp_path, "\n".join(lines).encode())
    assert planned.reasons == {202: "long_row"}


def test_long_rows_are_read_where_check_digits_show_a_shift(tmp_path: Path) -> None:
    rows = [[imei(0), iccid(0), "more"], [imei(1), "x", "y"]]
    assert plan_bytes(tmp_path, csv_of(rows)).reasons == {2: "not_digits"}


@pytest.mark.parametrize(
    "beyond",
    [
        [imei(5), iccid(5)],
        [f" {iccid(5)}F"],
        ["x", OTHER],
        [f'="{imei(5)}"'],
        [f"'{iccid(5)}"],
        [f"{imei(5)}.0"],
        [f'="{OTHER}"'],
    ],
)
@pytest.mark.parametrize("form", ["CSV", "much longer", "marked", "JSON"])
def test_a_device_or_an_account_beyond_the_header_is_not_lost(
    tmp_path: Path, beyond: list[str], form: str
) -> None:
    more = ["x"] * 20 if form == "much longer" else ["\x1e"] if form == "marked" else []
    rows = [["IMEI", "ICCID"], [imei(0), iccid(0)], [imei(1), iccid(1), *beyond, *more]]
    content = json.dumps(rows).encode() if form == "JSON" else csv_of(rows[1:])
    assert plan_bytes(tmp_path, content).reasons == {2: "long_row"}


def test_a_long_list_of_cells_in_json_is_rejected(tmp_path: Path) -> None:
    rows = [["imei", "site", "account"], [imei(0), "a", ACCOUNT], [imei(1), "a", OTHER, ACCOUNT]]
    rows.append([imei(2), "a", ACCOUNT, ""])
    assert plan_bytes(tmp_path, json.dumps(rows).encode()).reasons == {2: "long_row"}


@pytest.mark.parametrize("beyond", ["310170123456789", "note", "12345", "+1 908 555 0100"])
def test_other_cells_beyond_the_header_do_no_harm(tmp_path: Path, beyond: str) -> None:
    assert plan_bytes(tmp_path, csv_of([[imei(0), iccid(0), beyond]])).reasons == {}
