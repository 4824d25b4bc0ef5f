"""Columns are found by alias, name or position; account and SKU come from the row or the job."""

from pathlib import Path

import pytest

from batchlic.carrier.catalog import Action, LicenseType
from batchlic.errors import InventoryError, UsageError
from batchlic.reader import IdKind, ReadOptions
from tests.reader.builders import ACCOUNT, JOB, SKU, iccid, imei, plan_rows


@pytest.mark.parametrize(
    "header", ["IMEI", "imei", "Device IMEI", "IMEI Number", "imei_no", " I.M.E.I. ", "\ufeffImei"]
)
def test_the_imei_column_has_many_spellings(tmp_path: Path, header: str) -> None:
    assert plan_rows(tmp_path, [("x", imei(1))], header=f"Asset,{header}").devices == [(imei(1), None)]


@pytest.mark.parametrize(
    "header", ["ICCID", "iccid", "SIM", "SIM ICCID", "Sim Card Number", "SIM-Nr.", "sim_id", "ICC-ID"]
)
def test_the_iccid_column_has_many_spellings(tmp_path: Path, header: str) -> None:
    assert plan_rows(tmp_path, [("x", iccid(1))], header=f"Asset,{header}").devices == [(None, iccid(1))]


@pytest.mark.parametrize("column", ["Serial", "serial", "2"])
def test_a_column_is_named_by_header_or_position(tmp_path: Path, column: str) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": column})
    assert plan_rows(tmp_path, [("x", imei(1))], options, header="Asset,Serial").devices == [(imei(1), None)]


def test_a_named_column_decides_between_two_candidates(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "2"})
    planned = plan_rows(tmp_path, [(imei(1), imei(2))], options, header="IMEI,Device IMEI")
    assert planned.devices == [(imei(2), None)]


def test_two_candidate_columns_are_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"1 'Modem IMEI', 3 'Device IMEI'; choose one.*--column imei=1"):
        plan_rows(tmp_path, [("", "", "")], header="Modem IMEI,Asset,Device IMEI")


def test_two_candidates_without_header_are_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="columns 1, 3 all look like the imei"):
        plan_rows(tmp_path, [(imei(2), "x", imei(3))], header=f"{imei(1)},x,{imei(4)}")


def test_the_error_for_no_identifier_column_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(
        InventoryError, match=r"no known header for .* 1 'Asset', 2 'Site'; name one with --column"
    ):
        plan_rows(tmp_path, [("a", "b")], header="Asset,Site")


def test_the_error_for_an_unknown_column_suggests_a_similar_one(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "Serail"})
    with pytest.raises(InventoryError, match="no column 'Serail' for the imei; did you mean 'Serial'"):
        plan_rows(tmp_path, [("a", "b")], options, header="Serial,Site")


def test_the_error_for_an_unknown_column_lists_the_columns(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, columns={"imei": "x"})
    with pytest.raises(InventoryError, match=r"for the imei\. The columns are 1 'Serial', 2 'Site'$"):
        plan_rows(tmp_path, [("a", "b")], options, header="Serial,Site")


def test_the_job_gives_account_and_sku_to_rows_without_them(tmp_path: Path) -> None:
    rows = [
        (imei(1), "", ""),
        (imei(2), "0000123456-00002", ""),
        (imei(3), "", "SIMSec-IoT-Lt"),
        (imei(4), f" {ACCOUNT} ", "N/A"),
    ]
    planned = plan_rows(tmp_path, rows, header="IMEI,Account Name,SKU")
    assert planned.plan.sort("row").select("account_name", "sku_number").rows() == [
        (ACCOUNT, SKU),
        ("0000123456-00002", SKU),
        (ACCOUNT, "SIMSec-IoT-Lt"),
        (ACCOUNT, SKU),
    ]
    assert [group.devices for group in planned.summary.groups] == [2, 1, 1]


def test_a_row_without_account_or_sku_needs_a_default_of_the_job(tmp_path: Path) -> None:
    rows = [
        (imei(1), "", SKU),
        (imei(2), ACCOUNT, ""),
        (imei(3), "x", SKU),
        (imei(4), ACCOUNT, "SIMSec"),
        (imei(5), ACCOUNT, SKU),
        (imei(6), "none", SKU),
    ]
    planned = plan_rows(tmp_path, rows, ReadOptions(), header="IMEI,Account,SKU")
    assert planned.reasons == {
        1: "missing_account",
        2: "missing_sku",
        3: "bad_account",
        4: "unknown_sku",
        6: "missing_account",
    }


def test_rejects_have_their_cells_as_in_the_file(tmp_path: Path) -> None:
    rows = [(" 123 ", "x", " a b ", "nope"), (imei(1), "", "", ""), (imei(1), "", ACCOUNT, "")]
    planned = plan_rows(tmp_path, rows, header="IMEI,ICCID,Account,SKU")
    assert planned.rejects.drop("source", "row", "reason", "message").rows() == [
        (" 123 ", "x", " a b ", "nope"),
        (imei(1), None, ACCOUNT, None),
    ]


def test_a_lifetime_license_is_not_planned_for_unassigning(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, action=Action.UNASSIGN)
    planned = plan_rows(tmp_path, [(imei(1), "SIMSec-IoT-Lt"), (imei(2), "")], options, header="IMEI,SKU")
    assert planned.reasons == {1: "irrevocable"}


def test_a_sku_of_the_contract_is_known(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku="OWN-1", other_skus={"OWN-1": LicenseType.FLEXIBLE})
    assert plan_rows(tmp_path, [(imei(1), "")], options).summary.planned == 1


@pytest.mark.parametrize(
    ("kind", "rejected"),
    [(IdKind.AUTO, {4}), (IdKind.IMEI, {3, 4}), (IdKind.ICCID, {2, 4}), (IdKind.BOTH, {2, 3, 4})],
)
def test_a_row_without_the_identifiers_to_send_is_rejected(
    tmp_path: Path, kind: IdKind, rejected: set[int]
) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, id_kind=kind)
    rows = [(imei(1), iccid(1)), (imei(2), ""), ("", iccid(3)), ("", "N/A")]
    assert plan_rows(tmp_path, rows, options).reasons == dict.fromkeys(rejected, "missing_identifier")


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: ReadOptions(account="x"), "account 'x' is not 3 to 32"),
        (lambda: ReadOptions(sku="SIMSec"), "SKU 'SIMSec' is not known; known are SIMSec-IoT-Lt"),
        (
            lambda: ReadOptions(columns={"imie": "3"}),
            "no column role 'imie'; the roles are imei, iccid, account, sku",
        ),
    ],
)
def test_options_that_would_reject_every_row_are_refused(build: type, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        build()


def test_an_error_shortens_long_headers(tmp_path: Path) -> None:
    with pytest.raises(InventoryError) as raised:
        plan_rows(tmp_path, [("a",)], JOB, header="x" * 10_000)
    assert len(str(raised.value)) < 1_000


@pytest.mark.parametrize(
    "cell",
    [
        "0000654321\uff0d00002",
        "\uff10\uff10\uff10\uff10\uff16\uff15\uff14\uff13\uff12\uff11-00002",
        "0000654321\u00a000002",
        "0000654321--00002",
        "0000654321:00002",
        '"0000654321,00002"',
        "(0000654321) 00002",
        "00006 54321-00002",
        "ACME 0000654321\u201300002",
        "oooo654321-oooo2",
    ],
)
def test_a_damaged_account_of_the_carrier_is_rejected(tmp_path: Path, cell: str) -> None:
    assert plan_rows(tmp_path, [(imei(1), cell)], JOB, header="IMEI,Account").reasons == {1: "bad_account"}


@pytest.mark.parametrize(
    "cell",
    [
        "jdoe0",
        "5f1e9a7b",
        "ACME North",
        "0015g00000XyZ12",
        "123456789",
        "John_123456 789",
        "SAP-0001234567/001",
    ],
)
def test_an_account_of_another_platform_is_none_of_the_carrier(tmp_path: Path, cell: str) -> None:
    planned = plan_rows(tmp_path, [(imei(1), cell)], JOB, header="IMEI,Account")
    assert planned.plan["account_name"].to_list() == [ACCOUNT]


def test_an_account_column_beside_a_known_export_is_not_passed_over(tmp_path: Path) -> None:
    rows = [(iccid(1), imei(1), "x", "y", "0000654321-00002")]
    with pytest.raises(InventoryError, match="column 5 'account' has accounts of the carrier"):
        plan_rows(tmp_path, rows, JOB, header="iccid,imei,ratePlan,communicationPlan,account")
