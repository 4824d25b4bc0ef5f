"""A sync assigns licenses to devices without one, and removes those of devices that are gone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.chunker import Fit, Plan, PlanGroup, phase_ranges, read_batches, write_plan
from batchlic.chunker.exclusion import LicenseState
from batchlic.chunker.sync import LEDGER_SOURCE, Removals, SyncRules
from batchlic.errors import RefusedToStart
from batchlic.reader import IdKind, ReadOptions
from tests.chunker.builders import Record, Records
from tests.reader.builders import ACCOUNT, SKU, csv_of, iccid, imei

LIFETIME = "SIMSec-IoT-Lt"
OTHER_ACCOUNT = "0000123456-00002"
ASSIGNED, IN_DOUBT, UNASSIGNED = LicenseState.ASSIGNED, LicenseState.IN_DOUBT, LicenseState.UNASSIGNED
JOB = ReadOptions(account=ACCOUNT, sku=SKU, allow_empty=True)


@dataclass
class Synced:
    """The plan of a sync."""

    summary: Plan
    rows: pl.DataFrame
    removals: list[Removals] = field(default_factory=list)

    def sent(self, action: str) -> set[str]:
        """The identifiers of the devices in batches of an action."""
        rows = self.rows.filter(pl.col("batch_id").is_not_null(), pl.col("action") == action)
        return set(rows.select(pl.coalesce("imei", "iccid")).to_series())

    @property
    def removed(self) -> set[str]:
        return self.sent("unassign")


def sync(
    folder: Path,
    known: Sequence[Record] | None,
    rows: Sequence[tuple[str, ...]] | bytes,
    *,
    header: str = "IMEI,ICCID",
    assigns: bool = True,
    removes: bool = True,
    short: Sequence[str] = (),
    fit: Fit | None = None,
    batch_size: int = 2,
    options: ReadOptions = JOB,
) -> Synced:
    """Plan a sync of rows; the SKUs `short` have too few licenses. Asserts conservation (promise A)."""
    (folder / "fleet.csv").write_bytes(rows if isinstance(rows, bytes) else csv_of(rows, header))
    removals: list[Removals] = []
    rules = SyncRules(
        targets=[(ACCOUNT, SKU)],
        lifetime_skus=[LIFETIME],
        assigns=assigns,
        removes=removes,
        check=removals.extend,
        is_short=lambda group: group.sku_number in short,
    )
    summary = write_plan(
        [str(folder / "fleet.csv")],
        options,
        batch_size=batch_size,
        folder=folder,
        known_licenses=None if known is None else Records(known),
        fit=fit,
        sync=rules,
    )
    found = pl.read_parquet(folder / "plan.parquet")
    assert summary.rows_read == sum(source.rows for source in summary.sources)
    assert summary.rows_read == summary.planned + sum(summary.rejected.values())
    assert summary.planned == found.height
    assert summary.excluded == dict(found["held"].drop_nulls().value_counts().sort("held").iter_rows())
    assert summary.sources[-1].name == LEDGER_SOURCE
    of_ledger = found.filter(pl.col("source") == LEDGER_SOURCE)["row"].sort()
    assert of_ledger.to_list() == list(range(1, summary.sources[-1].rows + 1))
    batches = found.drop_nulls("batch_id")
    assert batches["batch_id"].is_sorted()
    assert batches["batch_id"].n_unique() == summary.batches
    per_batch = batches.group_by("batch_id").agg(pl.col("account_name", "sku_number", "action").n_unique())
    assert per_batch.select(pl.exclude("batch_id").max()).row(0) in {(1, 1, 1), (None, None, None)}
    return Synced(summary, found, removals)


def licensed(*numbers: int, sku: str = SKU, account: str = ACCOUNT) -> list[Record]:
    return [Record(ASSIGNED, imei(n), iccid(n), sku_number=sku, account_name=account) for n in numbers]


def row(number: int) -> tuple[str, str]:
    return imei(number), iccid(number)


# -- the difference -------------------------------------------------------------------------------------


def test_new_devices_are_assigned_and_gone_ones_removed(tmp_path: Path) -> None:
    synced = sync(tmp_path, licensed(1, 2, 3), [row(2), row(3), row(4)])
    assert (synced.sent("assign"), synced.removed) == ({imei(4)}, {imei(1)})
    assert synced.summary.excluded == {"skipped": 2}
    assert synced.removals == [Removals(account_name=ACCOUNT, sku_number=SKU, gone=1, licensed=3)]


Pair = tuple[str | None, str | None]
PAIRS = st.tuples(
    st.sampled_from([None, *map(imei, range(6))]), st.sampled_from([None, *map(iccid, range(6))])
).filter(any)


def names(pair: Pair) -> set[str]:
    return {name for name in pair if name is not None}


def gone(recorded: Sequence[tuple[Pair, LicenseState]], rows: Sequence[Pair]) -> list[Pair]:
    """The devices to remove, by sets of identifiers."""
    present = {name for pair in rows for name in names(pair)}
    for _ in recorded:  # as many rounds as the longest chain of records
        present |= {name for pair, _ in recorded if names(pair) & present for name in names(pair)}
    newest = {name: at for at, (pair, _) in enumerate(recorded) for name in names(pair)}
    return [
        pair
        for at, (pair, state) in enumerate(recorded)
        if state is ASSIGNED and not names(pair) & present and all(newest[name] == at for name in names(pair))
    ]


@given(
    st.lists(st.tuples(PAIRS, st.sampled_from(list(LicenseState))), max_size=12), st.lists(PAIRS, max_size=5)
)
def test_a_device_is_removed_only_if_none_of_its_identifiers_is_left(
    tmp_path_factory: pytest.TempPathFactory,
    recorded: list[tuple[Pair, LicenseState]],
    rows: list[Pair],
) -> None:
    known = [Record(state, *pair) for pair, state in recorded]
    cells = [(first or "", second or "") for first, second in rows]
    synced = sync(tmp_path_factory.mktemp("sync"), known, cells)
    removed = synced.rows.filter(pl.col("action") == "unassign", pl.col("batch_id").is_not_null())
    assert set(removed.select("imei", "iccid").rows()) == set(gone(recorded, rows))


def test_a_device_that_has_got_another_sim_is_not_gone(tmp_path: Path) -> None:
    known = [Record(ASSIGNED, imei(1), iccid(1)), Record(ASSIGNED, imei(1), iccid(2))]
    assert sync(tmp_path, known, [("", iccid(1))]).removed == set()


def test_a_device_of_another_account_or_sku_is_left_alone(tmp_path: Path) -> None:
    known = [*licensed(1, account=OTHER_ACCOUNT), *licensed(2, sku="TS-BUNDLE-KTO-SIMSEC-MRC"), *licensed(3)]
    assert sync(tmp_path, known, [row(4)]).removed == {imei(3)}


def test_a_device_that_the_inventory_has_under_another_sku_is_not_gone(tmp_path: Path) -> None:
    rows = [(*row(1), "TS-BUNDLE-KTO-SIMSEC-MRC"), (*row(2), SKU)]
    assert sync(tmp_path, licensed(1, 2, 3), rows, header="IMEI,ICCID,SKU").removed == {imei(3)}


def test_an_empty_inventory_concerns_the_account_and_sku_of_the_job(tmp_path: Path) -> None:
    synced = sync(tmp_path, [*licensed(1, 2), *licensed(3, account=OTHER_ACCOUNT)], [])
    assert synced.removed == {imei(1), imei(2)}
    assert synced.removals == [Removals(account_name=ACCOUNT, sku_number=SKU, gone=2, licensed=2)]


def test_without_a_ledger_nothing_is_removed(tmp_path: Path) -> None:
    synced = sync(tmp_path, None, [row(1)])
    assert (synced.sent("assign"), synced.removed) == ({imei(1)}, set())
    assert any("no ledger" in note for note in synced.summary.notes)


# -- what is never removed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cells",
    [
        (imei(1), "", "x"),
        (imei(1)[:-1] + str((int(imei(1)[-1]) + 1) % 10), "", ""),
        (imei(1)[:-1], "", ""),
        (f"IMEI {imei(1)} (old)", "", ""),
        ("", imei(1), ""),
        (f"{imei(1)[:8]}_{imei(1)[8:]}#", "", ""),
        ("8.6450803E+14", "", ""),
        ("", iccid(1)[:-1] + "x", ""),
        ("", iccid(1)[:-1] + str((int(iccid(1)[-1]) + 1) % 10), ""),
        ("", "8.91480000000000E+19", ""),
        ("", "".join(iccid(1)[at + 1] + iccid(1)[at] for at in range(0, 20, 2)), ""),
        (imei(1), iccid(999), "unknown sku"),
    ],
)
def test_a_device_that_a_rejected_row_may_name_keeps_its_license(
    tmp_path: Path, cells: tuple[str, ...]
) -> None:
    known = [*licensed(1), Record(ASSIGNED, "358240051111110", "8901260000000000006")]
    synced = sync(tmp_path, known, [(*row(3), SKU), cells], header="IMEI,ICCID,SKU")
    assert sum(synced.summary.rejected.values()) == 1
    assert synced.removed == {"358240051111110"}
    assert NOTE_ABOUT_ONE in synced.summary.notes


NOTE_ABOUT_ONE = "1 licensed device not removed: in no row of the inventory, except perhaps in rejected ones"


NAMES_ONE = f"{imei(1)[:8]}_{imei(1)[8:]}#", ""
"""Cells of a rejected row that name a device."""


def test_a_device_keeps_its_license_if_a_rejected_row_names_its_earlier_identifier(tmp_path: Path) -> None:
    known = [Record(ASSIGNED, imei(1), iccid(5)), Record(ASSIGNED, imei(9), iccid(5)), *licensed(2)]
    synced = sync(tmp_path, known, [row(3), NAMES_ONE])
    assert synced.removed == {imei(2)}
    assert NOTE_ABOUT_ONE in synced.summary.notes


def test_a_device_in_doubt_that_a_rejected_row_may_name_is_not_gone(tmp_path: Path) -> None:
    synced = sync(tmp_path, [Record(IN_DOUBT, imei(1), iccid(1))], [row(3), NAMES_ONE])
    assert not any("in doubt" in note for note in synced.summary.notes)


def test_devices_in_rows_are_not_counted_as_maybe_in_rejected_rows(tmp_path: Path) -> None:
    rows = [row(1), ("8.6450803E+14", "")]
    together = Record(ASSIGNED, imei(2), None), Record(ASSIGNED, imei(2), iccid(1))
    synced = sync(tmp_path, [*licensed(3), *together], rows)
    assert synced.removed == set()
    assert NOTE_ABOUT_ONE in synced.summary.notes


NAMED = imei(1), iccid(1)
SHIFTED = [
    ("NAME,IMEI", f"Smith, John,{NAMED[0]}"),
    ("NAME,ICCID,SITE", f"Smith, John,{NAMED[1]},x"),
    ("NAME,ACCOUNT,IMEI", f"Smith, John,{ACCOUNT},{NAMED[0]}"),
    ("ID,NAME,IMEI", f"7,Smi\nth,{NAMED[0]}"),
    ("NAME,IMEI", f"{'Smith,' * 20}{NAMED[0]}"),
]


@pytest.mark.parametrize(("header", "line"), SHIFTED)
def test_a_device_in_a_row_whose_cells_are_shifted_keeps_its_license(
    tmp_path: Path, header: str, line: str
) -> None:
    cells = {"IMEI": imei(3), "ICCID": iccid(3), "ACCOUNT": ACCOUNT}
    whole = ",".join(cells.get(name, "x") for name in header.split(","))
    synced = sync(tmp_path, licensed(1, 2), f"{header}\n{line}\n{whole}\n".encode())
    assert synced.removed == {imei(2)}


@pytest.mark.parametrize("form", ["CSV", "JSON objects", "JSON lists", "parquet"])
def test_a_device_named_in_another_column_keeps_its_license(tmp_path: Path, form: str) -> None:
    header, rows = ("imei", "iccid", "remark"), [("", "", f"was {imei(1)}"), (*row(3), "x")]
    frame = pl.DataFrame(rows, schema=header, orient="row")
    frame.write_parquet(tmp_path / "fleet.parquet")
    content = {
        "CSV": csv_of(rows, ",".join(header)),
        "JSON objects": json.dumps(frame.rows(named=True)).encode(),
        "JSON lists": json.dumps([header, *rows]).encode(),
        "parquet": (tmp_path / "fleet.parquet").read_bytes(),
    }[form]
    assert sync(tmp_path, licensed(1, 2), content).removed == {imei(2)}


SIM = "8914800000000000006", "89148000000000000068"
"""An ICCID of 19 digits, and the same with one more check digit: both end with a right one."""


@pytest.mark.parametrize(("known", "given"), [SIM, SIM[::-1]])
def test_an_iccid_with_and_without_its_check_digit_is_one_sim(tmp_path: Path, known: str, given: str) -> None:
    others = [Record(ASSIGNED, None, iccid(1)), Record(ASSIGNED, None, iccid(1, 19))]
    synced = sync(tmp_path, [Record(ASSIGNED, None, known), *others], [("", given)])
    assert synced.removed == {iccid(1), iccid(1, 19)}


def test_an_imei_with_another_check_digit_is_the_same_device(tmp_path: Path) -> None:
    given = imei(1)[:-1] + str((int(imei(1)[-1]) + 1) % 10)
    options = replace(JOB, check_digit=False)
    assert sync(tmp_path, licensed(1, 2), [(given, "")], options=options).removed == {imei(2)}


def test_a_device_in_a_conflict_keeps_its_license(tmp_path: Path) -> None:
    rows = [(imei(1), iccid(8)), (imei(1), iccid(9))]
    assert sync(tmp_path, licensed(1, 2), rows).removed == {imei(2)}


def test_a_lifetime_license_of_a_gone_device_is_listed_and_stays(tmp_path: Path) -> None:
    rows = [(*row(1), LIFETIME), (*row(3), SKU)]
    known = [*licensed(1, 2, sku=LIFETIME), *licensed(3)]
    synced = sync(tmp_path, known, rows, header="IMEI,ICCID,SKU")
    kept = synced.rows.filter(pl.col("source") == LEDGER_SOURCE)
    assert kept.select("imei", "sku_number", "action", "held", "batch_id").rows() == [
        (imei(2), LIFETIME, "unassign", "skipped", None)
    ]
    assert [removal.gone for removal in synced.removals] == [0, 0]
    assert "1 gone device not removed: a Lifetime license can't be taken back" in synced.summary.notes


def test_a_gone_device_in_doubt_stays_in_doubt(tmp_path: Path) -> None:
    synced = sync(tmp_path, [*licensed(1), Record(IN_DOUBT, imei(1))], [row(3)])
    assert synced.removed == set()
    assert synced.rows.filter(pl.col("imei") == imei(1))["held"].to_list() == ["in_doubt"]


@pytest.mark.parametrize("end", [imei(3)[:9], f"{imei(3)[:14]},{iccid(3)}", imei(3)])
def test_an_inventory_that_is_cut_off_removes_nothing(tmp_path: Path, end: str) -> None:
    cut = csv_of([row(2)]) + end.encode()
    synced = sync(tmp_path, licensed(1, 2), cut)
    assert (synced.removed, synced.removals[0].gone) == (set(), 0)
    assert any("may be cut off" in note for note in synced.summary.notes)
    assert sync(tmp_path, licensed(1, 2), cut + b"\n").removed == {imei(1)}


def test_a_sync_that_removes_nothing_says_how_many_are_gone(tmp_path: Path) -> None:
    synced = sync(tmp_path, licensed(1, 2), [row(2), row(3)], removes=False)
    assert (synced.sent("assign"), synced.removed, synced.summary.sources[-1].rows) == ({imei(3)}, set(), 0)
    assert "1 gone device not removed, because the job removes none" in synced.summary.notes


def test_a_sync_that_assigns_nothing_leaves_new_devices_without_action(tmp_path: Path) -> None:
    synced = sync(tmp_path, licensed(1, 2), [row(2), row(3)], assigns=False)
    assert (synced.sent("assign"), synced.removed) == (set(), {imei(1)})
    assert synced.rows.filter(pl.col("imei") == imei(3)).select("held", "action").rows() == [
        ("skipped", None)
    ]


# -- phases ---------------------------------------------------------------------------------------------


def phases(folder: Path) -> list[list[tuple[str, str]]]:
    """SKU and action of each batch, by phase."""
    plan = folder / "plan.parquet"
    found = {
        batch.batch_id: (batch.sku_number, str(batch.action)) for batch in read_batches(plan, IdKind.AUTO)
    }
    return [[found[batch_id] for batch_id in batches] for batches in phase_ranges(plan)]


def test_licenses_are_assigned_first_where_enough_are_left(tmp_path: Path) -> None:
    sync(tmp_path, licensed(1, 2, 3), [row(n) for n in (4, 5, 6)])
    assert phases(tmp_path) == [[(SKU, "assign")] * 2, [(SKU, "unassign")] * 2]


def test_licenses_are_taken_back_first_where_too_few_are_left(tmp_path: Path) -> None:
    other = "TS-BUNDLE-KTO-SIMSEC-MRC"
    rows = [(*row(4), SKU), (*row(5), other), (*row(6), other)]
    known = [*licensed(1, 2), *licensed(7, sku=other)]
    sync(tmp_path, known, rows, header="IMEI,ICCID,SKU", short=[SKU])
    assert phases(tmp_path) == [
        [(SKU, "unassign"), (other, "assign")],
        [(SKU, "assign"), (other, "unassign")],
    ]


def test_a_sync_with_only_removals_has_one_phase(tmp_path: Path) -> None:
    sync(tmp_path, licensed(1, 2), [row(1)], short=[SKU])
    assert phases(tmp_path) == [[(SKU, "unassign")]]


def test_devices_without_a_license_left_are_rejected(tmp_path: Path) -> None:
    seen: list[PlanGroup] = []

    def fit(groups: Sequence[PlanGroup]) -> list[int]:
        seen.extend(groups)
        return [1 if group.action == "assign" else group.devices for group in groups]

    synced = sync(tmp_path, licensed(1, 2), [row(n) for n in (3, 4, 5)], short=[SKU], fit=fit)
    assert [(group.action, group.devices) for group in seen] == [("assign", 3), ("unassign", 2)]
    assert synced.summary.rejected == {"no_license": 2}
    assert (len(synced.sent("assign")), len(synced.removed)) == (1, 2)


def test_a_device_without_the_kind_of_identifier_is_named_by_the_other(tmp_path: Path) -> None:
    sync(tmp_path, [Record(ASSIGNED, None, iccid(1))], [row(2)])
    for kind in (IdKind.IMEI, IdKind.BOTH):
        batches = read_batches(tmp_path / "plan.parquet", kind)
        [removal] = [batch for batch in batches if batch.action == "unassign"]
        assert removal.encoded == f'{{"deviceIds":[{{"id":"{iccid(1)}","kind":"ICCID"}}]}}'


def test_refused_removals_leave_no_file(tmp_path: Path) -> None:
    def refuse(_: Sequence[Removals]) -> None:
        raise RefusedToStart("too many")

    (tmp_path / "fleet.csv").write_bytes(csv_of([row(1)]))
    rules = SyncRules(targets=[], lifetime_skus=[], assigns=True, removes=True, check=refuse)
    with pytest.raises(RefusedToStart, match="too many"):
        write_plan([str(tmp_path / "fleet.csv")], JOB, batch_size=2, folder=tmp_path, sync=rules)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.csv"]


def test_i_the_same_sync_gives_the_same_plan(tmp_path: Path) -> None:
    plans = []
    for _ in range(2):
        sync(tmp_path, licensed(*range(1, 9)), [row(n) for n in range(5, 15)], short=[SKU])
        plans.append((tmp_path / "plan.parquet").read_bytes())
    assert plans[0] == plans[1]
