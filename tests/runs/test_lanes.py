"""What a session sends, in lanes: the batches of each, and whose waits of earlier sessions hold."""

import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal, cast

import anyio
import polars as pl
import pytest

from batchlic.carrier.answers import Answer, Outcome
from batchlic.job import Inventory, Job, Limits
from batchlic.journal import Journal
from batchlic.pool.delivery import LanePlan
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import Limiters
from batchlic.pool.migration import Migration
from batchlic.runs.folder import RunFolder
from batchlic.runs.lanes import Lanes
from batchlic.runs.submit import _hold_accounts
from tests.journal.builders import intent, new_journal
from tests.writer.builders import plan_of

Scope = Literal["login", "account"]
ACCOUNTS = ("A", "B", "C")
BATCHES = 9
EVERY_BATCH = range(1, BATCHES + 1)


def lanes_of(folder: Path, journal: Journal, scope: Scope) -> Lanes:
    """A plan of nine batches with one device each: three of each account, one account after the other."""
    plan = plan_of(folder / "plan.parquet", [1] * BATCHES)
    accounts = pl.Series("account_name", [ACCOUNTS[at // 3] for at in range(BATCHES)])
    pl.read_parquet(plan).with_columns(accounts).write_parquet(plan)
    job = Job(action="assign", inventory=Inventory(files=["fleet.csv"]), limits=Limits(scope=scope))
    return Lanes(job, RunFolder(folder), journal)


def batches(plans: Iterable[LanePlan]) -> dict[str | None, list[int]]:
    """The batches of each lane, in order. As in a pool, all lanes are known before a batch is read."""
    return {
        plan.account: [delivery.batch.batch_id for sequence in plan.sequences for delivery in sequence]
        for plan in list(plans)
    }


def test_each_account_has_a_lane_with_its_own_batches(tmp_path: Path) -> None:
    with closing(new_journal(tmp_path, planned=BATCHES, batches=BATCHES)) as journal:
        lanes = lanes_of(tmp_path, journal, "account")
        found = batches(lanes.of_phase(EVERY_BATCH, on_accepted=lambda _: None))
    assert found == {"A": [1, 2, 3], "B": [4, 5, 6], "C": [7, 8, 9]}


def test_all_accounts_of_a_login_take_turns_in_one_lane(tmp_path: Path) -> None:
    with closing(new_journal(tmp_path, planned=BATCHES, batches=BATCHES)) as journal:
        lanes = lanes_of(tmp_path, journal, "login")
        found = batches(lanes.of_phase(EVERY_BATCH, on_accepted=lambda _: None))
    assert found == {None: [1, 4, 7, 2, 5, 8, 3, 6, 9]}


@pytest.mark.parametrize("scope", ["login", "account"])
def test_c_a_resumed_session_leaves_out_what_was_accepted(tmp_path: Path, scope: Scope) -> None:
    with closing(new_journal(tmp_path, planned=BATCHES, batches=BATCHES)) as journal:
        for batch_id in (1, 2, 5, 9):
            answered(journal, batch_id, Answer(outcome=Outcome.ACCEPTED))
        lanes = lanes_of(tmp_path, journal, scope)
        accepted: list[int] = []
        plans = lanes.of_phase(EVERY_BATCH, on_accepted=lambda batch: accepted.append(batch.batch_id))
        left = batches(plans)
    expected = {"login": {None: [3, 4, 7, 6, 8]}, "account": {"A": [3], "B": [4, 6], "C": [7, 8]}}
    assert left == expected[scope]
    assert sorted(accepted) == [1, 2, 5, 9]


def answered(journal: Journal, batch_id: int, answer: Answer) -> None:
    """A request that was answered a moment ago."""

    async def record() -> None:
        now = time.time_ns() // 1000
        seq = await journal.intend(intent(batch_id, device_count=1, started_at=now))
        await journal.answer(seq, answer, duration_ms=1.0, final=False)

    anyio.run(record)


class Passes:
    """A migration whose sequences name the pass over the batches and the batch."""

    @staticmethod
    def between_steps(read: object, *, batches_per_read: int) -> Iterable[str]:
        del batches_per_read
        return (f"between {batch.batch_id}" for batch in read())  # type: ignore[operator]

    @staticmethod
    def others(read: object, *, batches_per_read: int) -> Iterable[str]:
        del batches_per_read
        return (f"other {batch.batch_id}" for batch in read())  # type: ignore[operator]


@pytest.mark.parametrize("scope", ["login", "account"])
def test_devices_between_two_steps_go_on_first_in_each_lane(tmp_path: Path, scope: Scope) -> None:
    with closing(new_journal(tmp_path, planned=BATCHES, batches=BATCHES)) as journal:
        lanes = lanes_of(tmp_path, journal, scope)
        plans = list(lanes.of_migration(cast("Migration", Passes())))
        found = [list(cast("Iterable[str]", plan.sequences)) for plan in plans]
    for sequences in found:
        half = len(sequences) // 2
        assert all(name.startswith("between") for name in sequences[:half])
        assert all(name.startswith("other") for name in sequences[half:])
    assert sum(map(len, found)) == 2 * BATCHES


def limiters_after(folder: Path, *waits: tuple[int, float]) -> dict[str, float]:
    """Seconds that each account still waits, after batches were asked to wait in an earlier session."""
    with closing(new_journal(folder, planned=BATCHES, batches=BATCHES)) as journal:
        for batch_id, wait_s in waits:
            answered(journal, batch_id, Answer(outcome=Outcome.THROTTLED, retry_after_s=wait_s))
        lanes = lanes_of(folder, journal, "account")

        async def held() -> dict[str, float]:
            limiters = Limiters(lambda *_: Limiter(max_concurrency=1), max_concurrency=1, is_by_account=True)
            assert _hold_accounts(journal, limiters, lanes) is bool(waits)
            return {account: limiters.of(account).held_s for account in ACCOUNTS}

        return anyio.run(held)


def test_j_a_retry_after_of_an_earlier_session_holds_for_its_account(tmp_path: Path) -> None:
    waits = limiters_after(tmp_path, (5, 600.0), (8, 30.0))
    assert waits["A"] == 0
    assert 590 < waits["B"] <= 600
    assert 20 < waits["C"] <= 30


def test_j_without_a_wait_no_account_is_held(tmp_path: Path) -> None:
    assert set(limiters_after(tmp_path).values()) == {0.0}
