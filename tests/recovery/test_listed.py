"""The list of runs counts an interrupted run, mostly without its plan, as `status` does with it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from batchlic.runs.folder import RunFolder
from batchlic.runs.listing import ListedRun, RunState, list_runs
from batchlic.runs.status import status
from batchlic.sandbox.config import Fault, Poison
from tests.recovery.builders import LIFETIME, carrier, fleet, imei, job, run
from tests.recovery.migrations import moving, onboarded


def assert_listed_as_status_counts(path: Path) -> ListedRun:
    """Take the last answers from the journal of a run, as a kill does, and compare list and status."""
    with closing(sqlite3.connect(path / "journal.db")) as journal, journal:
        journal.execute("DELETE FROM session_ends")
        journal.execute("DELETE FROM answers WHERE seq > (SELECT max(seq) - 4 FROM answers)")
        journal.execute("DELETE FROM intents WHERE seq > (SELECT max(seq) - 2 FROM intents)")
    [listed] = list_runs(path)
    report = status(RunFolder(path))
    assert listed.state is RunState.INTERRUPTED
    assert listed.statuses == report.statuses
    assert listed.requests == report.requests
    return listed


def test_an_interrupted_run_with_split_batches_is_listed_as_status_counts_it(tmp_path: Path) -> None:
    poison = tuple(Poison(identifier=imei(number)) for number in (3, 17, 58))
    with carrier(seed=3, faults={Fault.RESET_AFTER: 0.1}, poison=poison) as at:
        run(tmp_path / "run", at, job(fleet(tmp_path / "fleet.csv"), LIFETIME))
    listed = assert_listed_as_status_counts(tmp_path / "run")
    assert set(listed.statuses) >= {"accepted", "failed", "in_doubt"}


def test_an_interrupted_migration_is_listed_as_status_counts_it(tmp_path: Path) -> None:
    with carrier() as at:
        run(tmp_path / "run", at, moving(onboarded(tmp_path, at)))
    listed = assert_listed_as_status_counts(tmp_path / "run")
    assert set(listed.statuses) >= {"accepted", "pending"}
    assert listed.action == "migrate"
