"""The canary of a plan: its size, how it is spread, and its place in the plan."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.chunker import PlanGroup, phase_ranges, write_plan
from batchlic.chunker.canary import spread
from batchlic.chunker.exclusion import LicenseState
from tests.chunker.builders import Record, Records
from tests.reader.builders import ACCOUNT, JOB, csv_of, imei

FLEXIBLE, BUNDLE = "SIMSec-IoT", "TS-BUNDLE-KTO-SIMSEC-MRC"


def group(account: str, sku: str, devices: int) -> PlanGroup:
    return PlanGroup(account_name=account, sku_number=sku, devices=devices, batches=1)


GROUPS = st.dictionaries(
    st.tuples(st.sampled_from("ABCDE"), st.sampled_from("VWXYZ")), st.integers(0, 10_000), min_size=1
).map(lambda sizes: [group(*target, devices) for target, devices in sizes.items()])


@given(st.data(), GROUPS)
def test_a_canary_is_spread_over_accounts_and_skus(data: st.DataObject, groups: list[PlanGroup]) -> None:
    size = data.draw(st.integers(0, sum(one.devices for one in groups)))
    shares = spread(groups, size)
    assert sum(shares) == size
    assert all(0 <= share <= one.devices for share, one in zip(shares, groups, strict=True))
    filled = [one for one in groups if one.devices]
    chosen = [one for one, share in zip(groups, shares, strict=True) if share]
    assert len(chosen) == min(size, len(filled))
    targets = len({one.account_name for one in filled}) + len({one.sku_number for one in filled})
    found = len({one.account_name for one in chosen}) + len({one.sku_number for one in chosen})
    assert found >= min(targets, 1 + len(chosen)) or not chosen
    if size >= len(filled):
        ranked = sorted((one.devices, share) for one, share in zip(groups, shares, strict=True))
        assert all(low[1] <= high[1] + 1 for low, high in pairwise(ranked))


@given(
    st.lists(st.sampled_from([("", FLEXIBLE), ("", BUNDLE), ("0000123456-00002", FLEXIBLE)]), min_size=2),
    st.integers(1, 200),
    st.integers(1, 9),
    st.integers(0, 100),
)
def test_a_plan_with_a_canary_has_the_same_rows_in_two_phases(
    tmp_path_factory: pytest.TempPathFactory,
    targets: list[tuple[str, str]],
    size: int,
    batch_size: int,
    fitting: int,
) -> None:
    plain, folder = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("canary")
    rows = [(imei(number), account, sku) for number, (account, sku) in enumerate(targets)]
    fleet = str(folder / "fleet.csv")
    Path(fleet).write_bytes(csv_of(rows, "IMEI,Account,SKU"))

    def fit(groups: Sequence[PlanGroup]) -> list[int]:
        return [min(one.devices, fitting) for one in groups]

    common = {"batch_size": batch_size, "fit": fit}
    write_plan([fleet], JOB, folder=plain, **common)  # type: ignore[arg-type]
    found = write_plan([fleet], JOB, folder=folder, canary=lambda total: min(size, total), **common)  # type: ignore[arg-type]
    plan, without = pl.read_parquet(folder / "plan.parquet"), pl.read_parquet(plain / "plan.parquet")
    key = ["account_name", "sku_number", "imei"]
    assert plan.drop("batch_id", "phase", strict=False).sort(key).equals(without.drop("batch_id"))
    assert (folder / "rejects.parquet").read_bytes() == (plain / "rejects.parquet").read_bytes()
    if size >= without.height or not without.height:
        assert plan.equals(without)
        return
    assert plan.filter(pl.col("phase") == 1).height == size
    assert plan["phase"].is_sorted()
    assert plan["batch_id"].is_sorted()
    batches = plan.group_by("batch_id").agg(pl.len(), pl.struct("phase", *key[:2]).n_unique().alias("kinds"))
    assert sorted(batches["batch_id"]) == list(range(1, found.batches + 1))
    assert (batches["len"].max(), set(batches["kinds"])) <= (batch_size, {1})
    assert [len(one) for one in phase_ranges(folder / "plan.parquet")] == [
        plan.filter(pl.col("phase") == phase)["batch_id"].n_unique() for phase in (1, 2)
    ]
    for (_, _), rows_of_group in plan.sort(key).group_by(key[:2]):
        is_canary = (rows_of_group["phase"] == 1).to_list()
        places = [place for place, is_first in enumerate(is_canary) if is_first]
        distances = {after - before for before, after in pairwise(places)}
        assert not distances or max(distances) - min(distances) <= 1


def test_licensed_devices_are_neither_canary_nor_counted_in_its_size(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_bytes(csv_of([(imei(n),) for n in range(20)], "IMEI"))
    known = Records([Record(LicenseState.ASSIGNED, imei(n)) for n in range(10)])
    asked: list[int] = []

    def canary(total: int) -> int:
        asked.append(total)
        return 2

    names = [str(tmp_path / "fleet.csv")]
    found = write_plan(names, JOB, batch_size=100, folder=tmp_path, known_licenses=known, canary=canary)
    plan = pl.read_parquet(tmp_path / "plan.parquet")
    assert (asked, found.batches, found.excluded) == ([10], 2, {"skipped": 10})
    assert plan["phase"].to_list() == [1] * 2 + [2] * 8 + [None] * 10
    assert found.notes[-1] == "canary: 2 of 10 devices are sent first"
    assert set(plan["account_name"]) == {ACCOUNT}
