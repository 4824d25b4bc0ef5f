"""results.parquet: every planned device once, with the outcome of the attempts that carried it."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.journal.status import status_of
from batchlic.writer.callback_outcomes import read_outcomes
from batchlic.writer.device_states import device_states
from batchlic.writer.results import count_statuses, write_results
from tests.journal.builders import CREATED_AT
from tests.writer.builders import JournaledAttempt, journal_of, plan_of

BEGUN = datetime.fromtimestamp(CREATED_AT / 1e6, UTC)
COLUMNS = {
    "run_id": pl.String,
    "source": pl.String,
    "row": pl.UInt64,
    "imei": pl.String,
    "iccid": pl.String,
    "account_name": pl.String,
    "sku_number": pl.String,
    "action": pl.String,
    "batch_id": pl.UInt32,
    "x_request_id": pl.String,
    "request_id": pl.String,
    "status": pl.String,
    "http_status": pl.UInt16,
    "error_code": pl.String,
    "error_message": pl.String,
    "attempts": pl.UInt32,
    "first_attempt_at": pl.Datetime("us", "UTC"),
    "last_attempt_at": pl.Datetime("us", "UTC"),
    "settled_at": pl.Datetime("us", "UTC"),
    "settled_by": pl.String,
    "from_sku": pl.String,
    "step": pl.String,
    "unassign_status": pl.String,
    "assign_status": pl.String,
    "restore_status": pl.String,
}
OF_MIGRATIONS = ("from_sku", "step", "unassign_status", "assign_status", "restore_status")


def results_of(folder: Path, attempts: Sequence[JournaledAttempt], sizes: Sequence[int]) -> pl.DataFrame:
    path = folder / "results.parquet"
    plan, journal = plan_of(folder / "plan.parquet", sizes), journal_of(attempts, sizes)
    write_results(path, device_states(plan, journal, read_outcomes(folder / "outcomes.parquet")))
    return pl.read_parquet(path)


def after(seconds: float) -> datetime:
    return BEGUN + timedelta(seconds=seconds)


@pytest.mark.parametrize("sizes", [[], [3, 2]])
def test_the_columns_are_those_of_the_public_interface(tmp_path: Path, sizes: list[int]) -> None:
    results = results_of(tmp_path, [], sizes)
    assert (dict(results.schema), results.height) == (COLUMNS, sum(sizes))


def test_the_devices_of_a_whole_batch_have_the_same_outcome(tmp_path: Path) -> None:
    results = results_of(
        tmp_path,
        [
            JournaledAttempt(1, outcome="throttled", http_status=429),
            JournaledAttempt(1, http_status=200, request_id="r-2"),
        ],
        [3, 1],
    )
    taken = results.filter(batch_id=1).drop("source", "row", "imei").unique()
    assert taken.rows(named=True) == [
        {
            "run_id": "run-1",
            "iccid": None,
            "account_name": "0000123456-00001",
            "sku_number": "SIMSec-IoT",
            "action": "assign",
            "batch_id": 1,
            "x_request_id": "1-002",
            "request_id": "r-2",
            "status": "accepted",
            "http_status": 200,
            "error_code": None,
            "error_message": None,
            "attempts": 2,
            "first_attempt_at": after(1),
            "last_attempt_at": after(2),
            "settled_at": after(2.25),
            "settled_by": None,
            **dict.fromkeys(OF_MIGRATIONS),
        }
    ]
    [unsent] = results.filter(batch_id=2).rows(named=True)
    assert (unsent["status"], unsent["attempts"], unsent["x_request_id"]) == ("pending", 0, None)


def test_the_devices_of_a_split_batch_have_outcomes_of_their_own(tmp_path: Path) -> None:
    history = [
        JournaledAttempt(1, outcome="refused", http_status=400),
        JournaledAttempt(1, [0, 1], http_status=200, request_id="r-2"),
        JournaledAttempt(1, [2, 3], outcome="refused", http_status=400),
        JournaledAttempt(1, [2], outcome="refused", final=True, http_status=400, error_code="BAD"),
        JournaledAttempt(1, [3], outcome=None),
    ]
    results = results_of(tmp_path, history, [4]).select(
        "status", "x_request_id", "request_id", "error_code", "attempts", "settled_at"
    )
    assert results.rows() == [
        ("accepted", "1-002", "r-2", None, 2, after(2.25)),
        ("accepted", "1-002", "r-2", None, 2, after(2.25)),
        ("failed", "1-004", None, "BAD", 3, after(4.25)),
        ("in_doubt", "1-005", None, None, 3, None),
    ]


def test_a_doubt_names_the_request_that_may_have_been_executed(tmp_path: Path) -> None:
    history = [
        JournaledAttempt(1, outcome="throttled", http_status=429),
        JournaledAttempt(1, outcome="ambiguous", http_status=502),
        JournaledAttempt(1, outcome="ambiguous", http_status=504),
        JournaledAttempt(1, outcome="refused", final=True, http_status=400),
    ]
    [device] = results_of(tmp_path, history, [1]).rows(named=True)
    assert (device["status"], device["x_request_id"], device["http_status"]) == ("in_doubt", "1-002", 502)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[JournaledAttempt]]:
    """Batches, and attempts of which the first of each batch carries all of it."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    outcomes = st.sampled_from(
        ["accepted", "throttled", "refused", "unauthorized", "unavailable", "ambiguous", None]
    )
    attempts = []
    begun: set[int] = set()
    for batch_id in draw(st.lists(st.integers(1, len(sizes)), max_size=20)):
        parts = st.sets(st.integers(0, sizes[batch_id - 1] - 1), min_size=1).map(sorted)
        offsets = draw(st.none() | parts) if batch_id in begun else None
        begun.add(batch_id)
        attempts.append(JournaledAttempt(batch_id, offsets, draw(outcomes), final=draw(st.booleans())))
    return sizes, attempts


@given(histories())
def test_a_each_device_has_one_row_with_the_status_of_its_attempts(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[int], list[JournaledAttempt]]
) -> None:
    sizes, attempts = history
    folder = tmp_path_factory.mktemp("history")
    results = results_of(folder, attempts, sizes)
    assert results["row"].to_list() == list(range(1, sum(sizes) + 1))
    expected = [
        (status_of(carried).value, len(carried))
        for batch_id, size in enumerate(sizes, start=1)
        for offset in range(size)
        for carried in [
            [t for t in attempts if t.batch_id == batch_id and (t.offsets is None or offset in t.offsets)]
        ]
    ]
    assert results.select("status", "attempts").rows() == expected
    assert Counter(results["status"]) == count_statuses(results.lazy())
