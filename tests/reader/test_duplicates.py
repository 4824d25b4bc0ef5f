"""Rows of one device are duplicates of the first, or all conflicts."""

import itertools
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.reader import ReadOptions, devices, fleet
from batchlic.reader.validation import duplicates
from tests.reader.builders import ACCOUNT, JOB, SKU, Planned, csv_of, iccid, imei, plan_files, plan_rows

OTHER_ACCOUNT = "0000123456-00002"


def plan_pairs(folder: Path, *pairs: tuple[int | None, int | None]) -> Planned:
    """Plan rows by small numbers: the IMEI's and the ICCID's, or None."""
    rows = [("" if i is None else imei(i), "" if c is None else iccid(c)) for i, c in pairs]
    return plan_rows(folder, rows)


def test_the_first_of_identical_rows_is_planned_and_others_name_it(tmp_path: Path) -> None:
    planned = plan_pairs(tmp_path, (1, 1), (2, 2), (1, 1), (1, 1))
    assert planned.reasons == {3: "duplicate", 4: "duplicate"}
    assert planned.message(4) == f"same device as row 1 of {tmp_path / 'inventory'}"


def test_rows_with_fewer_identifiers_are_duplicates_unless_they_differ(tmp_path: Path) -> None:
    planned = plan_pairs(tmp_path, (1, None), (1, 1), (None, 1), (2, 2), (None, 2))
    assert planned.devices == [(imei(1), None), (imei(2), iccid(2))]
    assert planned.reasons == {2: "duplicate", 3: "duplicate", 5: "duplicate"}
    assert "row 1 of" in planned.message(3)


def test_duplicates_are_found_across_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(csv_of([(imei(1), iccid(1)), (imei(ord(name)), "")]))
    planned = plan_files(tmp_path, str(tmp_path / "a"), str(tmp_path / "b"))
    assert planned.rejects.select("source", "row", "reason", "message").rows() == [
        (str(tmp_path / "b"), 1, "duplicate", f"same device as row 1 of {tmp_path / 'a'}")
    ]


def test_every_row_of_a_conflict_is_rejected_and_names_another(tmp_path: Path) -> None:
    planned = plan_pairs(tmp_path, (1, 1), (1, 2), (3, 3), (4, 3))
    where = tmp_path / "inventory"
    advice = ": correct or remove one of them"
    assert [planned.message(row) for row in (1, 2, 3, 4)] == [
        f"same IMEI as row 2 of {where}, but another ICCID{advice}",
        f"same IMEI as row 1 of {where}, but another ICCID{advice}",
        f"same ICCID as row 4 of {where}, but another IMEI{advice}",
        f"same ICCID as row 3 of {where}, but another IMEI{advice}",
    ]


def test_rows_connected_to_a_conflict_are_conflicts_too(tmp_path: Path) -> None:
    planned = plan_pairs(tmp_path, (1, None), (1, 1), (1, 2), (None, 2), (None, 2), (1, 1))
    assert planned.reasons == dict.fromkeys(range(1, 7), "conflict")
    assert planned.summary.planned == 0


@pytest.mark.parametrize(("account", "sku"), [(OTHER_ACCOUNT, SKU), (ACCOUNT, "SIMSec-IoT-Lt")])
def test_one_device_under_two_accounts_or_skus_is_a_conflict(tmp_path: Path, account: str, sku: str) -> None:
    rows = [(imei(1), iccid(1), "", ""), (imei(1), iccid(1), account, sku)]
    planned = plan_rows(tmp_path, rows, header="IMEI,ICCID,Account,SKU")
    assert planned.reasons == {1: "conflict", 2: "conflict"}
    assert "same IMEI as row 1 of" in planned.message(2)
    assert "but another account or SKU" in planned.message(2)


def test_a_cell_that_repeats_the_default_is_no_conflict(tmp_path: Path) -> None:
    rows = [(imei(1), "", ""), (imei(1), ACCOUNT, SKU)]
    assert plan_rows(tmp_path, rows, header="IMEI,Account,SKU").reasons == {2: "duplicate"}


def test_an_invalid_row_makes_no_duplicate_or_conflict(tmp_path: Path) -> None:
    rows = [(imei(1), "x"), (imei(1), iccid(1)), (imei(1)[:14] + "x", iccid(1)), (imei(1), iccid(2), "")]
    planned = plan_rows(tmp_path, rows[:3])
    assert planned.devices == [(imei(1), iccid(1))]


def test_duplicates_have_their_cells_as_in_the_file(tmp_path: Path) -> None:
    sim = iccid(1, digits=19)
    rows = [(f" {imei(1)}", sim), (imei(1), f"{sim}F"), ("N/A", sim), (imei(1), sim)]
    planned = plan_rows(tmp_path, rows)
    assert planned.rejects.select("imei", "iccid").rows() == rows[1:]


def test_a_chain_of_rows_that_share_identifiers_is_one_device(tmp_path: Path) -> None:
    pairs = [(number // 2, (number + 1) // 2) for number in range(200)]
    planned = plan_pairs(tmp_path, *pairs[::-1], (500, 500))
    assert planned.devices == [(imei(500), iccid(500))]
    assert set(planned.reasons.values()) == {"conflict"}


def oracle(rows: list[tuple[int | None, int | None, int]]) -> dict[int, tuple[str, int | None]]:
    """The verdicts of a graph search row by row: reason, and for duplicates the first row."""
    verdicts: dict[int, tuple[str, int | None]] = {}
    left = set(range(len(rows)))
    while left:
        device, edge = set(), {min(left)}
        while edge:
            device |= edge
            edge = {
                other
                for at, other in itertools.product(device, left - device)
                if any(a is not None and a == b for a, b in zip(rows[at][:2], rows[other][:2], strict=True))
            }
        left -= device
        facts = [{rows[at][fact] for at in device} - {None} for fact in range(3)]
        if any(len(values) > 1 for values in facts):
            verdicts.update(dict.fromkeys(device, ("conflict", None)))
        else:
            verdicts.update(dict.fromkeys(device - {min(device)}, ("duplicate", min(device))))
    return verdicts


IDS = st.one_of(st.none(), st.integers(0, 5))
ROWS = st.lists(
    st.tuples(IDS, IDS, st.integers(0, 1)).filter(lambda row: row[:2] != (None, None)), max_size=12
)


@given(ROWS)
def test_verdicts_equal_those_of_a_graph_search(
    rows: list[tuple[int | None, int | None, int]],
) -> None:
    frame = pl.DataFrame(
        rows,
        schema={"imei_number": pl.Int64, "iccid_number": pl.Int64, "target": pl.UInt32},
        orient="row",
    ).with_row_index("ordinal")
    found = {
        ordinal: ("conflict" if conflict else "duplicate", None if conflict else other)
        for ordinal, other, conflict in duplicates.find(frame).iter_rows()
    }
    assert found == oracle(rows)


@given(ROWS)
def test_a_conflict_names_another_row_of_the_same_device(
    rows: list[tuple[int | None, int | None, int]],
) -> None:
    frame = pl.DataFrame(
        rows,
        schema={"imei_number": pl.Int64, "iccid_number": pl.Int64, "target": pl.UInt32},
        orient="row",
    ).with_row_index("ordinal")
    verdicts = duplicates.find(frame)
    assert verdicts["other"].null_count() == 0
    assert (verdicts["other"] != verdicts["ordinal"]).all()


@pytest.mark.slow
def test_small_ranges_and_spools_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [n * 37 % 101 for n in range(300)]
    rows = [(imei(n), iccid(n + (n % 7 == 0) * at), "", SKU if n % 2 else "") for at, n in enumerate(numbers)]
    whole = plan_rows(tmp_path, rows, header="IMEI,ICCID,Account,SKU")
    monkeypatch.setattr(devices, "RANGE_ROWS", 16)
    monkeypatch.setattr(devices, "MEMORY_BYTES", 0)
    monkeypatch.setattr(fleet, "VERDICT_ROWS", 7)
    monkeypatch.setattr(fleet, "TEXTS_BYTES", 0)
    monkeypatch.setattr("batchlic.reader.spool.FRAME_BYTES", 500)
    monkeypatch.setattr("batchlic.reader.formats.delimited.BLOCK_BYTES", 1000)
    in_ranges = plan_rows(
        tmp_path, rows, ReadOptions(account=JOB.account, sku=JOB.sku), header="IMEI,ICCID,Account,SKU"
    )
    assert in_ranges.plan.equals(whole.plan)
    assert in_ranges.rejects.equals(whole.rejects)
    assert in_ranges.summary == whole.summary
