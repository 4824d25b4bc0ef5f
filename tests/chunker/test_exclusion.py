"""Devices that the ledger excludes are in no batch; their licenses decide their status."""

from itertools import product
from pathlib import Path

import polars as pl
import pytest

from batchlic.chunker import DeviceStatus, write_plan
from batchlic.chunker.exclusion import EXCLUDED_MARKS, NO_RECORD, LicenseState, exclusion_mark
from batchlic.reader.devices import PENDING, REJECTED
from tests.chunker.builders import Record, Records
from tests.reader.builders import ACCOUNT, JOB, csv_of, iccid, imei

OTHER_ACCOUNT = "0000123456-00002"
ASSIGNED, IN_DOUBT, UNASSIGNED = LicenseState.ASSIGNED, LicenseState.IN_DOUBT, LicenseState.UNASSIGNED


def plan(
    folder: Path, known: Records, rows: list[tuple[str, str]], header: str = "IMEI,ICCID"
) -> dict[int, str | None]:
    """Plan rows; returns the status of each excluded row, and None for rows to send."""
    (folder / "fleet.csv").write_bytes(csv_of(rows, header))
    summary = write_plan([str(folder / "fleet.csv")], JOB, batch_size=2, folder=folder, known_licenses=known)
    frame = pl.read_parquet(folder / "plan.parquet")
    assert summary.planned == frame.height
    assert summary.excluded == dict(frame["held"].drop_nulls().value_counts().sort("held").iter_rows())
    assert sum(group.devices for group in summary.groups) == frame["held"].null_count()
    assert (frame["batch_id"].is_null() == frame["held"].is_not_null()).all()
    assert frame["batch_id"].is_sorted(nulls_last=True)
    return dict(frame.sort("row").select("row", "held").iter_rows())


def test_each_state_gives_its_status(tmp_path: Path) -> None:
    known = Records([Record(ASSIGNED, imei(1)), Record(IN_DOUBT, imei(2)), Record(UNASSIGNED, imei(3))])
    rows = [(imei(number), "") for number in (1, 2, 3, 4)]
    assert plan(tmp_path, known, rows) == {1: "skipped", 2: "in_doubt", 3: None, 4: None}


def test_the_newest_record_of_an_identifier_counts(tmp_path: Path) -> None:
    known = Records(
        [
            Record(ASSIGNED, imei(1)),
            Record(UNASSIGNED, imei(1)),
            Record(UNASSIGNED, imei(2)),
            Record(ASSIGNED, imei(2)),
        ]
    )
    assert plan(tmp_path, known, [(imei(1), ""), (imei(2), "")]) == {1: None, 2: "skipped"}


def test_the_greater_state_of_two_identifiers_counts(tmp_path: Path) -> None:
    known = Records(
        [Record(UNASSIGNED, imei(1)), Record(ASSIGNED, None, iccid(1)), Record(IN_DOUBT, imei(2))]
    )
    rows = [(imei(1), iccid(1)), (imei(2), iccid(2))]
    assert plan(tmp_path, known, rows) == {1: "skipped", 2: "in_doubt"}


def test_records_of_another_account_do_not_count(tmp_path: Path) -> None:
    known = Records([Record(ASSIGNED, imei(1)), Record(ASSIGNED, imei(2), account_name=OTHER_ACCOUNT)])
    rows = [(imei(1), OTHER_ACCOUNT), (imei(2), OTHER_ACCOUNT), (imei(3), ACCOUNT)]
    assert plan(tmp_path, known, rows, "IMEI,Account") == {1: None, 2: "skipped", 3: None}


def test_a_duplicate_is_rejected_and_not_excluded(tmp_path: Path) -> None:
    known = Records([Record(ASSIGNED, imei(1))])
    assert plan(tmp_path, known, [(imei(1), ""), (imei(1), "")]) == {1: "skipped"}


def test_a_migration_asks_for_the_new_sku_and_the_old_one(tmp_path: Path) -> None:
    new = "SIMSec-IoT-Lt"
    known = Records(
        [
            Record(ASSIGNED, imei(1)),
            Record(ASSIGNED, imei(2), sku_number=new),
            Record(ASSIGNED, imei(3)),
            Record(ASSIGNED, imei(3), sku_number=new),
        ],
        to_sku=new,
    )
    rows = [(imei(number), "") for number in (1, 2, 3)]
    assert plan(tmp_path, known, rows) == {1: None, 2: "skipped", 3: "failed"}


def expected_status(new_state: int, old_state: int) -> DeviceStatus:
    if new_state == old_state == ASSIGNED:
        return DeviceStatus.FAILED
    if IN_DOUBT in {new_state, old_state}:
        return DeviceStatus.IN_DOUBT
    return DeviceStatus.SKIPPED if new_state == ASSIGNED else DeviceStatus.PENDING


@pytest.mark.parametrize(("new_state", "old_state"), list(product((NO_RECORD, *LicenseState), repeat=2)))
def test_two_license_states_give_one_mark(new_state: int, old_state: int) -> None:
    mark = pl.select(exclusion_mark(pl.lit(new_state), pl.lit(old_state))).item()
    assert mark == {DeviceStatus.PENDING: PENDING, **EXCLUDED_MARKS}[expected_status(new_state, old_state)]


def test_no_two_marks_are_equal() -> None:
    assert len({PENDING, REJECTED, *EXCLUDED_MARKS.values()}) == 2 + len(EXCLUDED_MARKS)
