"""The list of runs: figures from summaries and journals, which runs, and runs that can't be read."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from batchlic.atomic import staged_path
from batchlic.chunker import DeviceStatus
from batchlic.errors import UsageError
from batchlic.journal import Journal
from batchlic.journal.outline import read_outline
from batchlic.runs import listing
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of
from batchlic.runs.listing import ListedRun, RunState, last_runs, list_runs
from batchlic.runs.store_record import name_store
from tests.journal.builders import ACCEPTED, AMBIGUOUS, REFUSED, THROTTLED, intent
from tests.privileges import without_privileges
from tests.runs.kept_runs import REQUESTS, begun, end, finished


def names(runs: list[ListedRun]) -> list[str]:
    return [Path(run.run_dir).name for run in runs]


def states(folder: Path) -> dict[str, RunState]:
    return {Path(run.run_dir).name: run.state for run in list_runs(folder)}


def only(folder: Path) -> ListedRun:
    [run] = list_runs(folder)
    return run


async def sent(journal: Journal) -> None:
    """Four batches: accepted, throttled and then refused, in doubt, split into accepted and refused parts."""
    for batch_id, answers in enumerate(([ACCEPTED], [THROTTLED, REFUSED], [AMBIGUOUS]), start=1):
        for attempt, answer in enumerate(answers, start=1):
            seq = await journal.intend(intent(batch_id, attempt=attempt))
            await journal.answer(seq, answer, duration_ms=5, final=answer is REFUSED)
    for part, devices, answer in (("", 10, REFUSED), ("0-6", 7, ACCEPTED), ("7-9", 3, REFUSED)):
        seq = await journal.intend(intent(4, part=part, device_count=devices))
        await journal.answer(seq, answer, duration_ms=5, final=part == "7-9")


COUNTED = {
    DeviceStatus.ACCEPTED: 17,
    DeviceStatus.FAILED: 13,
    DeviceStatus.IN_DOUBT: 10,
    DeviceStatus.PENDING: 8,
    DeviceStatus.SKIPPED: 2,
}


def interrupted(path: Path) -> Path:
    begun(path, planned=50, batches=5, excluded={"skipped": 2})
    with closing(Journal.open(path / "journal.db")) as journal:
        anyio.run(sent, journal)
    return path


# -- figures --------------------------------------------------------------------------------------------


def test_a_finished_run_has_the_figures_of_its_summary(tmp_path: Path) -> None:
    statuses = {DeviceStatus.ACCEPTED: 9, DeviceStatus.FAILED: 1}
    rejected = {"duplicate": 2}
    finished(tmp_path / "one", exit_code=3, statuses=statuses, requests=REQUESTS, rejected=rejected)
    run = only(tmp_path)
    assert (run.state, run.exit_code, run.job, run.action) == (RunState.FINISHED, 3, "nightly", "assign")
    assert (run.statuses, run.rejected, run.throttled_share, run.seconds) == (statuses, rejected, 0.25, 60)
    assert (run.process, run.problem) == (None, None)


@pytest.mark.parametrize("exit_code", [5, 6, 1])
def test_a_stopped_run_is_not_a_finished_one(tmp_path: Path, exit_code: int) -> None:
    finished(tmp_path / "one", exit_code=exit_code, statuses={DeviceStatus.PENDING: 10})
    assert (only(tmp_path).state, only(tmp_path).exit_code) == (RunState.STOPPED, exit_code)


def test_a_killed_run_is_counted_in_its_journal(tmp_path: Path) -> None:
    interrupted(tmp_path / "one")
    run = only(tmp_path)
    assert (run.state, run.exit_code, run.ended_at) == (RunState.INTERRUPTED, None, None)
    assert (run.statuses, run.throttled_share) == (COUNTED, 0.1429)


def test_what_a_session_has_only_in_its_log_counts(tmp_path: Path) -> None:
    finished(tmp_path / "one", planned=50, batches=5, statuses={DeviceStatus.PENDING: 50}, exit_code=6)
    journal = Journal.open(tmp_path / "one" / "journal.db")
    anyio.run(sent, journal)
    with RunFolder(tmp_path / "one").locked():
        run = only(tmp_path)
    journal.close()
    assert run.process is not None
    assert (run.state, run.process.pid, run.exit_code) == (RunState.AT_WORK, os.getpid(), None)
    assert run.statuses[DeviceStatus.ACCEPTED] == COUNTED[DeviceStatus.ACCEPTED]


def _changed(summary: Path) -> None:
    summary.write_text(summary.read_text().replace("50", "49"))


@pytest.mark.parametrize(
    "change",
    [Path.unlink, lambda path: path.write_text("{}"), _changed],
    ids=["lost", "no summary", "changed"],
)
def test_a_summary_that_the_run_did_not_write_is_not_believed(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    path = interrupted(tmp_path / "one")
    end(path, 3, statuses={DeviceStatus.CONFIRMED: 50})
    change(path / "summary.json")
    run = only(tmp_path)
    assert (run.statuses, run.state) == (COUNTED, RunState.FINISHED)
    assert "summary.json" in (run.problem or "")


def test_a_summary_that_is_published_while_it_is_read_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(finished(tmp_path / "run"))
    folder.summary.rename(staged_path(folder.summary))

    def sha256(path: Path) -> str:
        if staged_path(folder.summary).exists():
            staged_path(folder.summary).rename(folder.summary)
        return sha256_of(path)

    monkeypatch.setattr(listing, "sha256_of", sha256)
    run = only(tmp_path)
    assert (run.state, run.problem, run.requests) == (RunState.FINISHED, None, REQUESTS)


def test_a_list_writes_nothing(tmp_path: Path) -> None:
    path = finished(tmp_path / "one")
    before = {file.name: file.stat() for file in path.iterdir()}
    list_runs(tmp_path)
    assert {file.name: file.stat() for file in path.iterdir()} == before


# -- which runs -----------------------------------------------------------------------------------------


def test_runs_come_newest_first_with_their_rollbacks(tmp_path: Path) -> None:
    for name, days in (("b", 3), ("a", 9), ("c", 1)):
        finished(tmp_path / name, days=days)
    finished(tmp_path / "a" / "rollback-by-request", days=2, job=None)
    assert names(list_runs(tmp_path)) == ["c", "rollback-by-request", "b", "a"]


def test_since_and_failed_leave_out_the_others(tmp_path: Path) -> None:
    for name, days, code in (("good", 1, 0), ("bad", 2, 3), ("stopped", 3, 6), ("old", 9, 3)):
        finished(tmp_path / name, days=days, exit_code=code)
    begun(tmp_path / "killed", days=4)
    week = datetime.now(UTC) - timedelta(days=7)
    assert names(list_runs(tmp_path, since=week)) == ["good", "bad", "stopped", "killed"]
    assert names(list_runs(tmp_path, since=week, failed=True)) == ["bad", "stopped", "killed"]


def test_the_last_runs_of_a_job_are_compared_and_no_others(tmp_path: Path) -> None:
    for night in range(5):
        finished(tmp_path / f"night-{night}", days=10 - night)
    finished(tmp_path / "other-job", days=6.5, job="other")
    finished(tmp_path / "rehearsal", days=6.5, carrier="sandbox")
    finished(tmp_path / "unnamed", days=6.5, job=None)
    runs = list_runs(tmp_path)
    [of] = [run for run in runs if run.run_dir.endswith("night-3")]
    assert names(last_runs(runs, of, count=3)) == ["night-1", "night-2", "night-3"]
    assert names(last_runs(runs, of)) == ["night-0", "night-1", "night-2", "night-3"]


def test_folders_that_are_no_runs_are_not_listed(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    for name in ("empty", ".removed-run.7"):
        (tmp_path / name).mkdir()
    shutil.copy(tmp_path / "run" / "journal.db", tmp_path / ".removed-run.7")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "summary.json").write_text("{}")
    assert names(list_runs(tmp_path)) == ["run"]


def test_a_folder_that_is_a_run_lists_itself(tmp_path: Path) -> None:
    assert names(list_runs(finished(tmp_path / "run"))) == ["run"]


def test_a_folder_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        list_runs(tmp_path / "none")


def test_a_plan_is_no_run_yet(tmp_path: Path) -> None:
    begun(tmp_path / "one")
    (tmp_path / "one" / "journal.db").unlink()
    assert states(tmp_path) == {"one": RunState.PLANNED}
    with RunFolder(tmp_path / "one").locked():
        assert states(tmp_path) == {"one": RunState.AT_WORK}


# -- what can't be read ---------------------------------------------------------------------------------


def _as_newer_version(path: Path) -> None:
    with closing(sqlite3.connect(path / "journal.db")) as journal:
        journal.execute("PRAGMA user_version = 99")


def _without_journal(path: Path) -> None:
    (path / "results.parquet").touch()
    (path / "journal.db").unlink()


def _without_tables(path: Path) -> None:
    with closing(sqlite3.connect(path / "journal.db")) as journal, journal:
        journal.execute("DROP TABLE intents")


def _with_identity_of_nothing(path: Path) -> None:
    with closing(sqlite3.connect(path / "journal.db")) as journal, journal:
        journal.execute("UPDATE run SET identity = '[]'")


def _with_job_of_numbers(path: Path) -> None:
    with closing(sqlite3.connect(path / "journal.db")) as journal, journal:
        journal.execute("UPDATE run SET identity = json_set(identity, '$.job.name', 5)")


def _with_odd_time(path: Path) -> None:
    with closing(sqlite3.connect(path / "journal.db")) as journal, journal:
        journal.execute("UPDATE run SET created_at = 4611686018427387904")


BROKEN: dict[str, tuple[Callable[[Path], object], RunState, str]] = {
    "lost": (_without_journal, RunState.DAMAGED, "the journal is lost"),
    "empty": (lambda path: (path / "journal.db").write_bytes(b""), RunState.DAMAGED, "journal"),
    "garbage": (lambda path: (path / "journal.db").write_bytes(b"x" * 9000), RunState.DAMAGED, "journal"),
    "cut off": (lambda path: os.truncate(path / "journal.db", 5000), RunState.DAMAGED, "is damaged"),
    "no table": (_without_tables, RunState.DAMAGED, "is damaged"),
    "no identity": (_with_identity_of_nothing, RunState.DAMAGED, "can't be read"),
    "odd job": (_with_job_of_numbers, RunState.DAMAGED, "its job can't be read"),
    "odd time": (_with_odd_time, RunState.DAMAGED, "year"),
    "newer": (_as_newer_version, RunState.OTHER_VERSION, "another version of batchlic"),
    "closed": (lambda path: path.chmod(0), RunState.UNREADABLE, "can't be opened"),
    "closed file": (lambda path: (path / "journal.db").chmod(0), RunState.UNREADABLE, "can't be opened"),
}


@pytest.mark.parametrize(("spoil", "state", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_run_that_cannot_be_read_is_shown_among_the_others(
    tmp_path: Path, spoil: Callable[[Path], object], state: RunState, problem: str
) -> None:
    finished(tmp_path / "good")
    bad = finished(tmp_path / "bad")
    spoil(bad)
    with without_privileges():
        runs = {Path(run.run_dir).name: run for run in list_runs(tmp_path, failed=False)}
        assert names(list_runs(tmp_path, failed=True, since=datetime.now(UTC))) == ["bad"]
        assert names(list_runs(tmp_path)) == ["bad", "good"]
    bad.chmod(0o700)
    assert {name: run.state for name, run in runs.items()} == {"good": RunState.FINISHED, "bad": state}
    assert problem in (runs["bad"].problem or "")


def test_a_name_that_is_not_utf8_is_shown(tmp_path: Path) -> None:
    finished(tmp_path / "good")
    (tmp_path / os.fsdecode(b"bad-\xff")).mkdir()
    assert states(tmp_path)["bad-\\xff"] is RunState.UNREADABLE


def test_a_journal_that_changes_while_it_is_read_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = interrupted(tmp_path / "one") / "journal.db"
    real, calls = sqlite3.connect, list[object]()

    def connect(*given: object, **options: object) -> sqlite3.Connection:
        if not calls:  # a session writes after the first look at the file
            os.utime(path, ns=(time.time_ns(), time.time_ns()))
        calls.append(given)
        return real(*given, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", connect)
    assert read_outline(path).identity.run_id == "one"
    assert len(calls) > 1


def test_a_run_whose_store_cannot_be_asked_is_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    name_store(tmp_path / "run" / "store.json", "postgresql://ann@127.0.0.1:1/fleet")
    [listed] = list_runs(tmp_path)
    assert "postgresql://ann@127.0.0.1:1/fleet can't be used now" in (listed.problem or "")
