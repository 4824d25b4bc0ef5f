"""What a column shows as a whole: numbers without check digits, and accounts of other platforms."""

from pathlib import Path

import pytest

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from tests.reader.builders import ACCOUNT, JOB, SKU, csv_of, iccid, imei, plan_bytes, plan_rows

UNCHECKED = ReadOptions(account=ACCOUNT, sku=SKU, check_digit=False)
WITHOUT_ICCID = ReadOptions(account=ACCOUNT, sku=SKU, columns={"iccid": "-"})
OTHER = "0000654321-00002"


def cut(number: int) -> str:
    """An ICCID without its check digit."""
    return iccid(number)[:-1]


@pytest.mark.parametrize("count", [5, 100, 1_000])
def test_a_column_of_cut_iccids_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(InventoryError, match=r"the column 'ICCID' looks cut: \d+% of its check digits fail"):
        plan_rows(tmp_path, [("", cut(n)) for n in range(count)])


def test_cut_iccids_among_whole_ones_are_refused(tmp_path: Path) -> None:
    rows = [("", iccid(n)) for n in range(500)] + [("", cut(n)) for n in range(500, 560)]
    with pytest.raises(InventoryError, match="numbers with 19 digits"):
        plan_rows(tmp_path, rows)


def test_a_column_of_wrong_imeis_is_refused(tmp_path: Path) -> None:
    rows = [(imei(n)[:-1] + "0", iccid(n)) for n in range(50)]
    with pytest.raises(InventoryError, match="the column 'IMEI' looks cut"):
        plan_rows(tmp_path, rows)


def test_a_column_without_header_is_refused_alike(tmp_path: Path) -> None:
    rows = [(imei(n), cut(n)) for n in range(1, 50)]
    with pytest.raises(InventoryError, match="the iccid column looks cut"):
        plan_rows(tmp_path, rows, header=f"{imei(0)},{cut(0)}")


def test_a_cut_column_can_be_left_out_or_taken_as_it_is(tmp_path: Path) -> None:
    rows = [(imei(n), cut(n)) for n in range(50)]
    assert plan_rows(tmp_path, rows, WITHOUT_ICCID).devices == [(imei(n), None) for n in range(50)]
    assert plan_rows(tmp_path, rows, UNCHECKED).devices == [(imei(n), cut(n)) for n in range(50)]


@pytest.mark.parametrize(("rows", "is_noted"), [(69, False), (98, True), (99, True), (101, False)])
def test_as_many_rows_as_fit_into_a_sheet_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, *, is_noted: bool
) -> None:
    monkeypatch.setattr("batchlic.reader.validation.whole_columns.SHEETS_END_AT", (100,))
    planned = plan_rows(tmp_path, [(imei(n),) for n in range(rows)], header="IMEI")
    assert any("as many as fit into a sheet" in note for note in planned.summary.notes) == is_noted


def test_mistyped_numbers_in_a_good_column_are_rejected_one_by_one(tmp_path: Path) -> None:
    rows = [(imei(n) if n % 3 else imei(n)[:-1] + str((int(imei(n)[-1]) + 1) % 10), "") for n in range(30)]
    assert plan_rows(tmp_path, rows).summary.rejected == {"bad_check_digit": 10}


def test_two_wrong_numbers_are_no_cut_column(tmp_path: Path) -> None:
    assert plan_rows(tmp_path, [("", cut(1)), ("", cut(2)), ("", iccid(3))]).summary.planned == 1


@pytest.mark.parametrize(
    "account", ["jdoe", "Jo Doe", "5f1e9a7b2c3d4e5f6a7b8c90", "123456789012", "acme-corp", "a@b.example", "x"]
)
def test_the_option_wins_over_a_foreign_account(tmp_path: Path, account: str) -> None:
    rows = [(imei(1), account), (imei(2), OTHER), (imei(3), "")]
    planned = plan_rows(tmp_path, rows, header="IMEI,Account")
    assert planned.plan.sort("row")["account_name"].to_list() == [ACCOUNT, OTHER, ACCOUNT]
    assert any(f"1 row with another account, such as {account!r}" in note for note in planned.summary.notes)


@pytest.mark.parametrize(
    "account",
    [
        "654321-00002",
        "0000654321-2",
        "0000654321\u201300002",
        "000065432100002",
        "65432100002",
        "123465432100002",
        "12365432100002",
        "1265432100002",
        "126543200002",
        "0000654321-",
        "6.54321E+13",
        "#REF!",
        "Acct 0000654321-00002",
        "0000654321-00002 (North)",
        "O000654321-00002",
    ],
)
def test_a_damaged_account_is_rejected(tmp_path: Path, account: str) -> None:
    assert plan_rows(tmp_path, [(imei(1), account)], header="IMEI,Account").reasons == {1: "bad_account"}


@pytest.mark.parametrize("account", ["0000654321\u201300002", "1265432100002", "#REF!"])
def test_the_message_for_a_damaged_account_names_its_form(tmp_path: Path, account: str) -> None:
    planned = plan_rows(tmp_path, [(imei(1), account)], header="IMEI,Account")
    assert f"account {account} is not 10 digits, a hyphen (-) and 5 digits" in planned.message(1)


@pytest.mark.parametrize("account", ["4711000815042", "12345678901234", "1001.", "77_", "100200300 "])
def test_a_number_of_another_platform_is_no_damaged_account(tmp_path: Path, account: str) -> None:
    assert plan_rows(tmp_path, [(imei(1), account)], header="IMEI,Account").summary.planned == 1


@pytest.mark.parametrize("lost", [6, 9, 15, 16, 17])
def test_a_file_that_ends_within_an_account_is_refused(tmp_path: Path, lost: int) -> None:
    content = csv_of([(imei(n), OTHER) for n in range(3)], "IMEI,Account").removesuffix(b"\n")[:-lost]
    with pytest.raises(InventoryError, match="cut off: only its last row has no whole account"):
        plan_bytes(tmp_path, content)


@pytest.mark.parametrize("last", ["", "jdoe"])
def test_a_last_row_without_account_is_planned_if_the_file_is_whole(tmp_path: Path, last: str) -> None:
    rows = [(imei(1), OTHER), (imei(2), last)]
    assert plan_rows(tmp_path, rows, header="IMEI,Account").summary.planned == 2
    content = csv_of([*rows[1:], *rows], "IMEI,Account").removesuffix(b"\n")
    assert plan_bytes(tmp_path, content).summary.planned == 2


def test_without_option_an_account_of_another_form_counts(tmp_path: Path) -> None:
    planned = plan_rows(tmp_path, [(imei(1), "TestAccount-2")], ReadOptions(sku=SKU), header="IMEI,Account")
    assert planned.plan["account_name"].to_list() == ["TestAccount-2"]


def test_with_an_option_of_another_form_such_accounts_count(tmp_path: Path) -> None:
    options = ReadOptions(account="TestAccount-2", sku=SKU)
    rows = [(imei(1), "TestAccount-3"), (imei(2), "a b")]
    planned = plan_rows(tmp_path, rows, options, header="IMEI,Account")
    assert planned.plan.sort("row")["account_name"].to_list() == ["TestAccount-3", "TestAccount-2"]


@pytest.mark.parametrize(
    ("header", "cell", "reason", "words"),
    [
        ("IMEI", "A1000012345678", "meid", "MEID"),
        ("IMEI", "a10000-1234567f", "meid", "MEID"),
        ("IMEI", "8904" + "1" * 28, "eid", "EID"),
        ("ICCID", "8904 1111 2222 3333 4444 5555 6666 7777", "eid", "EID"),
        ("ICCID", "98418000000000000010", "swapped_digits", "swapped"),
        ("ICCID", "984180000000000000F1", "swapped_digits", "swapped"),
        ("ICCID", "4D53A3C2F1B0C0D1E", "hex_number", "hexadecimal"),
        ("ICCID", "0x7BB7A1E2C3D4F5A6", "hex_number", "hexadecimal"),
        ("ICCID", "3839313438303030303030303030303030303139", "hex_number", "hexadecimal"),
        ("ICCID", imei(1), "bad_length", "as an IMEI"),
        ("ICCID", "555 010 0001", "bad_length", "phone number"),
        ("SIM", "+1 908-555-0100", "not_digits", "phone number"),
        ("IMEI", f"{imei(1)},{imei(2)}", "not_digits", "not digits"),
        ("IMEI", iccid(1), "bad_length", "looks like an ICCID"),
        ("IMEI", "35990710000006.9", "mangled_number", "lost digits"),
        ("IMEI", f"-{imei(1)}", "mangled_number", "lost digits"),
        ("IMEI", "0" * 15, "placeholder", "a placeholder of zeros"),
        ("IMEI", "35990710000006,9", "mangled_number", "lost digits"),
    ],
)
def test_a_number_of_another_kind_is_named(
    tmp_path: Path, header: str, cell: str, reason: str, words: str
) -> None:
    planned = plan_rows(tmp_path, [(f'"{cell}"', "x")], JOB, header=f"{header},Site")
    assert planned.reasons == {1: reason}
    assert words in planned.message(1)


@pytest.mark.parametrize(
    "cell", [f"F{iccid(1, 19)}", f"{iccid(1, 19)}F", f"\0\0{iccid(1)}\0\0", f"{iccid(1)[:4]} {iccid(1)[4:]}"]
)
def test_fillers_around_an_iccid_are_removed(tmp_path: Path, cell: str) -> None:
    assert plan_rows(tmp_path, [(cell, "x")], header="ICCID,Site").summary.planned == 1


def test_a_nul_inside_an_identifier_is_rejected(tmp_path: Path) -> None:
    assert plan_rows(tmp_path, [(f"{imei(1)[:5]}\0{imei(1)[5:]}",)], header="IMEI").reasons == {
        1: "not_digits"
    }
