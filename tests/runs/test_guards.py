"""How much an inventory may change since the last run: at the limit it may, beyond it the run is refused."""

from pathlib import Path

import pytest

from batchlic.errors import RefusedToStart
from batchlic.job import make_job
from batchlic.runs.folder import RunFolder
from batchlic.runs.guards import Guards, LastRun, guards_of
from tests.journal.builders import identity


def guards(then: int, allowed: str) -> Guards:
    last = identity(run_id="last-night", planned=then, rows_read=then, rejected={})
    return Guards(
        max_change=allowed, last=LastRun(identity=last, folder=RunFolder(Path("runs/last")), created_at=0)
    )


@pytest.mark.parametrize(
    ("then", "now", "allowed"),
    [(100, 80, "20%"), (100, 120, "20%"), (100, 71, "29%"), (3, 4, "33.4%"), (2, 7, "250%"), (50, 50, "0%")],
)
def test_a_change_up_to_the_limit_is_allowed(then: int, now: int, allowed: str) -> None:
    guards(then, allowed).check(now, now)


@pytest.mark.parametrize(
    ("then", "now", "allowed"),
    [(100, 79, "20%"), (100, 121, "20%"), (100, 70, "29%"), (3, 4, "33%"), (2, 8, "250%"), (50, 51, "0%")],
)
def test_a_change_beyond_the_limit_is_refused_with_both_numbers(then: int, now: int, allowed: str) -> None:
    told = f"^{now} rows read, but {then} in the last run of this job, last-night "
    with pytest.raises(RefusedToStart, match=told):
        guards(then, allowed).check(now, now)


@pytest.mark.parametrize("rows", [10, 11])
def test_as_many_rows_as_the_minimum_are_enough(rows: int) -> None:
    Guards(min_rows=10).check(rows, rows)


def test_fewer_rows_than_the_minimum_are_refused() -> None:
    with pytest.raises(RefusedToStart, match=r"^9 rows read, but --min-rows .* at least 10\."):
        Guards(min_rows=10).check(9, 9)


def test_an_earlier_run_whose_store_does_not_answer_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "earlier").mkdir()
    store_record = tmp_path / "earlier" / "store.json"
    store_record.write_text('{"store": "postgresql://alice@127.0.0.1:1/none", "key": "4711"}')
    content = {"action": "assign", "inventory": {"files": ["fleet.csv"]}, "license": {"sku": "SIMSec-IoT"}}
    job = make_job(content | {"inventory": {"files": ["fleet.csv"], "max_change": "10%"}}, {}, where="test")
    found = guards_of(job, RunFolder(tmp_path / "new"), "sandbox")
    assert any("can't be read" in note and "127.0.0.1" in note for note in found.notes)
