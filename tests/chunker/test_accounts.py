"""The batches of a plan by account: the same batches, some rows of each account at a time."""

from itertools import islice
from pathlib import Path

import polars as pl
import pytest

from batchlic.chunker import accounts as accounts_of_plans
from batchlic.chunker import read_accounts, read_batches
from batchlic.chunker.accounts import LEAST_ROWS, AccountBatches
from batchlic.reader import IdKind


def plan_of(folder: Path, *groups: tuple[str, str, int]) -> Path:
    """A plan with batches of 100 devices: account, SKU and devices of each group; then an excluded row."""
    batches: list[tuple[int | None, str, str]] = []
    number = 0
    for account, sku, devices in groups:
        for at in range(devices):
            number += at % 100 == 0
            batches.append((number, account, sku))
    batches.append((None, "excluded", "SKU"))
    columns = {"batch_id": pl.UInt32(), "account_name": pl.String(), "sku_number": pl.String()}
    rows = pl.DataFrame(batches, schema=columns, orient="row")
    imei = (pl.int_range(pl.len()) + 864508030000000).cast(pl.String).alias("imei")
    plan = folder / "plan.parquet"
    rows.with_columns(imei, pl.lit(None, pl.String).alias("iccid")).write_parquet(plan, row_group_size=250)
    return plan


def read(plan: Path, batches: range, *, most_at_once: int = 10) -> list[AccountBatches]:
    return read_accounts(plan, IdKind.AUTO, batches, most_at_once=most_at_once)


GROUPS = [("B", "one", 730), ("A", "one", 100), ("B", "two", 15), ("C", "one", 1), ("A", "two", 420)]
BATCHES = 8 + 1 + 1 + 1 + 5


@pytest.mark.parametrize("frame_rows", [120, 50_000])
def test_i_the_batches_of_all_accounts_are_those_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame_rows: int
) -> None:
    monkeypatch.setattr(accounts_of_plans, "ROWS_PER_READ", frame_rows)
    plan = plan_of(tmp_path, *GROUPS)
    by_account = {one.account: list(one) for one in read(plan, range(1, BATCHES + 1))}
    assert list(by_account) == ["B", "A", "C"]
    for account, batches in by_account.items():
        assert batches == [one for one in read_batches(plan, IdKind.AUTO) if one.account_name == account]


def test_only_the_batches_of_a_phase_are_read(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *GROUPS)
    found = {one.account: [batch.batch_id for batch in one] for one in read(plan, range(8, 12))}
    assert found == {"B": [8, 10], "A": [9], "C": [11]}


def test_the_batches_of_an_account_can_be_read_again(tmp_path: Path) -> None:
    [_, account, _] = read(plan_of(tmp_path, *GROUPS), range(1, BATCHES + 1))
    assert [batch.batch_id for batch in account] == [batch.batch_id for batch in account]


def test_an_account_knows_which_batches_it_has(tmp_path: Path) -> None:
    [first, *_] = read(plan_of(tmp_path, *GROUPS), range(1, BATCHES + 1))
    assert [n for n in range(1, BATCHES + 1) if first.has(n)] == [*range(1, 9), 10]


def test_h_the_more_accounts_the_fewer_rows_of_each_are_in_memory(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, *((f"account {n}", "one", 300) for n in range(50)))
    every_batch = range(1, 151)
    [few, *_] = read(plan, every_batch, most_at_once=1)
    [many, *_] = read(plan, every_batch, most_at_once=50)
    assert (few.rows_per_read, many.rows_per_read) == (50_000, 10_000)
    assert many.batches_per_read == 100


def test_an_account_is_read_in_frames_of_more_than_a_batch(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ("A", "one", 1000))
    account = AccountBatches(
        plan, IdKind.AUTO, read(plan, range(1, 11))[0].stretches, rows_per_read=LEAST_ROWS
    )
    assert [len(batch.offsets) for batch in islice(account, 10)] == [100] * 10
