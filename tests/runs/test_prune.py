"""Pruning: what is deleted, what is kept and why, and what a killed prune leaves."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchlic import atomic
from batchlic.callbacks.store import Store
from batchlic.chunker import DeviceStatus
from batchlic.errors import RefusedToStart, UsageError
from batchlic.journal import SANDBOX
from batchlic.ledger import Ledger, RunEntry
from batchlic.ledger.files import _files_below
from batchlic.runs.asking import Ask
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import _run_folders
from batchlic.runs.listing import list_runs
from batchlic.runs.prune import Pruning, _files, prune
from batchlic.runs.reconcile import reconcile
from tests.callbacks.builders import messages_of, submitted_run
from tests.privileges import without_privileges
from tests.runs.kept_runs import CARRIER, REQUESTS, begun, end, finished

CONFIRMED = {"limits": {"require_confirmation": True}}
ACCEPTED = {DeviceStatus.ACCEPTED: 10}
IN_DOUBT = {DeviceStatus.IN_DOUBT: 10}
LOST = REQUESTS | {"ambiguous": 1}


def pruned(
    folder: Path, *, days: float = 30, dry_run: bool = False, has_store: bool = False, ask: Ask | None = None
) -> Pruning:
    ended_before = datetime.now(UTC) - timedelta(days=days)
    return prune(folder, ended_before=ended_before, dry_run=dry_run, has_store=has_store, ask=ask)


def deleted(done: Pruning) -> list[str]:
    return [Path(run.run_dir).name for run in done.deleted]


def reasons(done: Pruning) -> dict[str, str]:
    return {Path(run.run_dir).name: run.reason for run in done.kept}


def with_ledger(path: Path, *, is_open: bool | None) -> Path:
    """An old run with a ledger, which does not have the run if `is_open` is None."""
    ledger = path.parent / "ledger.db"
    finished(path, content={"ledger": {"use": True, "path": str(ledger)}})
    with closing(Ledger(ledger)) as opened:
        if is_open is not None:
            opened.register(RunEntry(path.name, CARRIER, str(path), 1))
        if is_open is False:
            opened.close_run(path.name)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with the last run of the job; all others can be deleted, as far as it is concerned."""
    finished(tmp_path / "runs" / "last", days=31)
    return tmp_path / "runs"


# -- what is deleted ------------------------------------------------------------------------------------


def test_the_command_that_a_kept_run_needs_can_be_pasted(tmp_path: Path) -> None:
    runs = tmp_path / "my runs"
    finished(runs / "stopped", exit_code=6)
    finished(runs / "rehearsal", exit_code=6, carrier=SANDBOX)
    assert reasons(pruned(runs)) == {
        "stopped": f"not finished: batchlic resume '{runs}/stopped'",
        "rehearsal": f"not finished: batchlic resume '{runs}/rehearsal' --sandbox",
    }


@pytest.mark.slow
def test_a_deleted_run_leaves_no_journal_in_its_store(tmp_path: Path, empty_store: str) -> None:
    folders = [submitted_run(tmp_path / "runs" / name, 2, store=empty_store) for name in ("first", "second")]
    places = {folder.path.name: folder.journal for folder in folders}
    with closing(Store.open(empty_store)) as store:
        store.write(messages_of(folders[0]))
        for folder in folders:
            reconcile(folder, store)
            (folder.path / "fleet.csv").unlink()
    done = pruned(tmp_path / "runs", days=-1)
    assert len(deleted(done)) == 1  # the other one is the last run of its job
    assert [name for name, place in places.items() if not place.exists()] == deleted(done)


def test_a_retry_is_deleted_with_the_run_that_it_retries(runs: Path) -> None:
    for name, days, of in (("a-retry", 39, "b-first"), ("b-first", 40, None), ("c-other", 38, "elsewhere")):
        finished(runs / name, days=days, retry_of=of)
    assert deleted(pruned(runs)) == ["b-first", "a-retry", "c-other"]


def test_a_retry_is_kept_while_another_retry_of_the_same_run_may_send_its_devices(tmp_path: Path) -> None:
    for name, days, of in (("first", 40, None), ("again", 39, "first"), ("and-again", 38, "again")):
        finished(tmp_path / name, days=days, retry_of=of)
    why = "it is a retry of run {}, which is kept: another retry of that one needs it"
    done = pruned(tmp_path)
    assert deleted(done) == []
    assert reasons(done)["again"] == why.format("first")
    assert reasons(done)["and-again"] == why.format("again")


def test_a_retry_is_kept_if_the_run_that_it_retries_can_not_be_deleted_after_all(runs: Path) -> None:
    finished(runs / "first")
    finished(runs / "again", days=39, retry_of="first")

    def change(_: str, /, *, typed: str | None = None) -> None:  # noqa: ARG001 - as Ask
        (runs / "first" / "notes.txt").touch()

    done = pruned(runs, ask=change)
    assert deleted(done) == []
    assert reasons(done).keys() == {"last", "first", "again"}


@pytest.mark.slow
def test_a_copy_of_a_run_in_a_store_is_kept_with_its_journal(
    tmp_path: Path, empty_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "last"):
        folder = submitted_run(Path("runs", name), 2, store=empty_store)
        with closing(Store.open(empty_store)) as store:
            store.write(messages_of(folder))
            reconcile(folder, store)
        (folder.path / "fleet.csv").unlink()
    shutil.copytree("runs", "copies")
    done = pruned(tmp_path / "copies", days=-1)
    assert deleted(done) == []
    [name] = [name for name, reason in reasons(done).items() if reason.startswith("it is a copy of ")]
    assert f"it is a copy of {tmp_path / 'runs' / name}, which has the same journal" in reasons(done)[name]
    shutil.move("runs", "moved")
    assert deleted(pruned(Path("moved"), days=-1)) == [name]  # the other one is the last run of its job


def test_old_runs_are_deleted_with_their_rollbacks_and_nothing_else(runs: Path) -> None:
    for name, days, job in (("young", 29, "other"), ("old", 40, "nightly"), ("older", 50, "nightly")):
        finished(runs / name, days=days, job=job, exit_code=3, statuses={DeviceStatus.FAILED: 10})
    finished(runs / "old" / "rollback-by-request", days=39, job=None)
    (runs / "exports").mkdir()
    (runs / "exports" / "results.parquet").touch()
    (runs / "ledger.db").touch()
    done = pruned(runs)
    assert sorted(deleted(done)) == ["old", "older"]
    assert sorted(path.name for path in runs.iterdir()) == ["exports", "last", "ledger.db", "young"]
    assert (runs / "exports" / "results.parquet").exists()
    assert not any(run.is_trouble for run in done.kept)


def test_a_run_that_its_ledger_has_recorded_is_deleted(runs: Path) -> None:
    with_ledger(runs / "old", is_open=False)
    assert deleted(pruned(runs)) == ["old"]


@pytest.mark.parametrize(
    "content", [{"ledger": {"use": False, "path": "/none/ledger.db"}}, {"ledger": {"path": None}}]
)
def test_a_run_without_a_ledger_needs_none(runs: Path, content: dict[str, object]) -> None:
    finished(runs / "old", content=content)
    assert deleted(pruned(runs)) == ["old"]


def test_limits_that_a_killed_session_left_do_not_keep_a_run(runs: Path) -> None:
    folder = RunFolder(finished(runs / "old"))
    for path in (folder.limits, folder.limits_request):
        path.touch()
    assert deleted(pruned(runs)) == ["old"]


def test_devices_in_doubt_since_another_run_do_not_keep_a_run(runs: Path) -> None:
    finished(runs / "old", exit_code=3, statuses=IN_DOUBT, excluded={"in_doubt": 10})
    assert deleted(pruned(runs)) == ["old"]


def test_accepted_devices_whose_callbacks_were_read_do_not_keep_a_run(runs: Path) -> None:
    old = begun(runs / "old")
    for name in ("outcomes.parquet", "callbacks.db"):
        (old / name).touch()
    end(old, 0, statuses=ACCEPTED)
    assert deleted(pruned(runs, has_store=True)) == ["old"]


# -- what is kept ---------------------------------------------------------------------------------------


def _foreign(path: Path) -> None:
    finished(path)
    (path / "notes.txt").touch()


def _damaged(path: Path) -> None:
    finished(path)
    (path / "journal.db").write_bytes(b"x" * 9000)


def _newer(path: Path) -> None:
    finished(path)
    with closing(sqlite3.connect(path / "journal.db")) as journal:
        journal.execute("PRAGMA user_version = 99")


def _without_summary(path: Path) -> None:
    (finished(path, planned=0, batches=0) / "summary.json").unlink()


def _planned(path: Path) -> None:
    (begun(path) / "journal.db").unlink()


def _with_store(path: Path) -> None:
    (finished(path, statuses=ACCEPTED) / "callbacks.db").touch()


def _rolled_back_lately(path: Path) -> None:
    finished(finished(path) / "rollback-by-device", days=3, job=None)


def _partly_rolled_back(path: Path) -> None:
    finished(finished(path) / "rollback-by-device", exit_code=6, statuses={DeviceStatus.PENDING: 1})


def _damaged_ledger(path: Path) -> None:
    with_ledger(path, is_open=False)
    (path.parent / "ledger.db").write_bytes(b"x" * 9000)


def _lost_ledger(path: Path) -> None:
    with_ledger(path, is_open=False)
    (path.parent / "ledger.db").unlink()


KEPT: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "stopped": (lambda path: finished(path, exit_code=6), "not finished: batchlic resume", False),
    "rejected login": (lambda path: finished(path, exit_code=5), "not finished", False),
    "killed": (begun, "not finished", False),
    "pending": (lambda path: finished(path, statuses={DeviceStatus.PENDING: 1}), "not finished", False),
    "in doubt": (lambda path: finished(path, exit_code=3, statuses=IN_DOUBT), "10 devices in doubt", False),
    "unconfirmed": (
        lambda path: finished(path, statuses=ACCEPTED, content=CONFIRMED),
        "its job requires",
        False,
    ),
    "own store": (_with_store, "its callbacks were never read", False),
    "planned": (_planned, "it is only a plan", False),
    "foreign file": (_foreign, "files that are not of a run: notes.txt", False),
    "damaged": (_damaged, "can't be read", True),
    "newer version": (_newer, "another version of batchlic", True),
    "no summary": (_without_summary, "summary.json", True),
    "young rollback": (_rolled_back_lately, "ended at 20", False),
    "open rollback": (_partly_rolled_back, "not finished", False),
    "not recorded": (lambda path: with_ledger(path, is_open=True), "the next run records that", False),
    "unknown to the ledger": (lambda path: with_ledger(path, is_open=None), "does not have it", True),
    "damaged ledger": (_damaged_ledger, "its ledger may have to be built again", True),
    "lost ledger": (_lost_ledger, "its ledger may have to be built again", True),
}


@pytest.mark.parametrize(("make", "reason", "is_trouble"), KEPT.values(), ids=KEPT)
def test_a_run_that_is_needed_is_kept_and_the_reason_is_said(
    runs: Path, make: Callable[[Path], object], reason: str, *, is_trouble: bool
) -> None:
    make(runs / "old")
    finished(runs / "long-ago", days=80)
    done = pruned(runs)
    assert deleted(done) == ["long-ago"]
    assert reason in reasons(done)["old"]
    assert {run.is_trouble for run in done.kept if run.run_dir.endswith("old")} == {is_trouble}
    assert (runs / "old").is_dir()


def test_accepted_devices_wait_where_there_is_a_store_of_callbacks(runs: Path) -> None:
    finished(runs / "old", statuses=ACCEPTED)
    assert "callbacks were never read" in reasons(pruned(runs, has_store=True))["old"]
    assert deleted(pruned(runs)) == ["old"]


def test_callbacks_of_the_last_half_hour_are_waited_for(runs: Path) -> None:
    for name, minutes in (("now", 10), ("then", 60)):
        finished(runs / name, days=minutes / 24 / 60, job=None, statuses=ACCEPTED)
    finished(runs / "newest", days=0.001, job=None)
    done = pruned(runs, days=0)
    assert deleted(done) == ["then"]
    assert "callbacks may still come" in reasons(done)["now"]


def test_a_run_at_work_is_kept(runs: Path) -> None:
    with RunFolder(finished(runs / "old")).locked():
        assert "at work (pid" in reasons(pruned(runs))["old"]


def test_the_last_run_of_each_job_is_kept_for_its_guards(runs: Path) -> None:
    finished(runs / "weekly", days=60, job="weekly")
    finished(runs / "empty", days=59, job="weekly", planned=0, statuses={})
    done = pruned(runs)
    assert deleted(done) == ["empty"]
    assert "--max-change" in reasons(done)["weekly"]


@pytest.mark.parametrize(("days", "is_needed"), [(40.5, True), (39.5, True), (43, False), (37, False)])
def test_a_run_beside_an_undecided_one_is_evidence(runs: Path, days: float, *, is_needed: bool) -> None:
    finished(runs / "doubt", days=40, exit_code=3, statuses=IN_DOUBT, requests=LOST)
    finished(runs / "beside", days=days)
    done = pruned(runs)
    assert deleted(done) == ([] if is_needed else ["beside"])
    assert is_needed == ("run doubt" in reasons(done).get("beside", ""))


@pytest.mark.parametrize("silent", ["doubt", "beside"])
def test_a_run_that_sent_nothing_needs_no_evidence_and_is_none(runs: Path, silent: str) -> None:
    of_doubt, of_beside = ({"total": 0} if silent == name else REQUESTS for name in ("doubt", "beside"))
    finished(runs / "doubt", days=40, exit_code=3, statuses=IN_DOUBT, requests=of_doubt | {"ambiguous": 1})
    finished(runs / "beside", days=40.5, requests=of_beside)
    assert deleted(pruned(runs)) == ["beside"]


def test_links_are_not_followed(runs: Path, tmp_path: Path) -> None:
    elsewhere = finished(tmp_path / "elsewhere" / "run")
    (runs / "link").symlink_to(elsewhere)
    (finished(runs / "old") / "results.parquet").symlink_to(elsewhere / "plan.parquet")
    assert deleted(pruned(runs)) == ["old"]
    assert sorted(path.name for path in elsewhere.iterdir()) == [
        ".lock",
        "journal.db",
        "plan.parquet",
        "summary.json",
    ]


def test_a_file_that_another_prune_deletes_meanwhile_is_no_error(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(runs / "old")
    monkeypatch.setattr("batchlic.runs.prune._files", lambda path: [*_files(path), path / "gone"])
    assert deleted(pruned(runs)) == ["old"]


def test_a_run_itself_is_no_folder_of_runs(runs: Path) -> None:
    finished(runs / "old")
    with pytest.raises(UsageError, match="this is a run"):
        pruned(runs / "old")


def test_a_rollback_is_deleted_only_with_its_run(runs: Path) -> None:
    finished(runs / "old", days=5, job="other")
    finished(runs / "old" / "inner" / "rollback-by-device", job=None)
    finished(runs / "old" / "rollback-by-device", days=70, job=None)
    assert deleted(pruned(runs)) == []


# -- asking, and interruptions --------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(runs: Path) -> None:
    finished(runs / "old")
    (runs / ".removed-x.1").mkdir()
    before = entries(runs)
    assert deleted(pruned(runs, dry_run=True)) == ["old"]
    assert entries(runs) == before


def entries(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """What is in a folder, with what changes when an entry is written, but not when it is read."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def test_a_no_deletes_nothing(runs: Path) -> None:
    finished(runs / "old")

    def refuse(question: str, *, typed: str | None = None) -> None:
        raise RefusedToStart(f"{question} {typed}")

    with pytest.raises(RefusedToStart, match=r"Delete 1 run of .*runs \(0.0 MB\)\?"):
        pruned(runs, ask=refuse)
    assert (runs / "old").is_dir()


def test_a_run_that_changes_while_prune_asks_is_kept(runs: Path) -> None:
    for name in ("settled", "resumed", "locked", "noted"):
        finished(runs / name)
    with_ledger(runs / "reopened", is_open=False)
    lock = RunFolder(runs / "locked").locked()

    def act(_: str, *, typed: str | None = None) -> None:  # noqa: ARG001 - as Ask
        end(runs / "settled", 0, statuses={DeviceStatus.CONFIRMED: 10})
        with closing(sqlite3.connect(runs / "settled" / "journal.db")) as journal, journal:
            journal.execute("UPDATE session_ends SET ended_at = ended_at + id")
        with closing(sqlite3.connect(runs / "resumed" / "journal.db")) as journal, journal:
            journal.execute("UPDATE session_ends SET last_seq = 7")
        lock.__enter__()
        (runs / "noted" / "notes.txt").touch()
        with closing(Ledger(runs / "ledger.db")) as ledger:
            ledger.register(RunEntry("reopened", CARRIER, str(runs / "reopened"), 1))

    done = pruned(runs, ask=act)
    lock.__exit__(None, None, None)
    assert deleted(done) == []
    found = reasons(done)
    assert "changed meanwhile" in found["settled"]
    assert "changed meanwhile" in found["resumed"]
    assert "another batchlic process is using this folder" in found["locked"]
    assert "notes.txt" in found["noted"]
    assert "the next run records that" in found["reopened"]


class Killed(BaseException):
    """The end of the process."""


def test_what_a_killed_prune_leaves_is_no_run_and_goes_next_time(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old-1", "old-2"):
        finished(runs / name)

    def half(folder: Path) -> None:
        if folder.exists():
            (folder / "summary.json").unlink()
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "remove_moved", half)
        with pytest.raises(Killed):
            pruned(runs)
    left = {Path(run.run_dir).name for run in list_runs(runs)}
    assert left == {"last", "old-2"}
    assert {folder.path.name for folder in _run_folders(runs)} == left
    assert {folder.path.name for folder in RunFolder(runs / "new").beside()} == left
    assert {path.parent.name for path in _files_below(runs, "journal.db")} == left
    pruned(runs)
    assert [path.name for path in runs.iterdir()] == ["last"]


def test_a_folder_that_may_not_be_written_is_trouble(runs: Path) -> None:
    finished(runs / "old")
    runs.chmod(0o500)
    with without_privileges():
        done = pruned(runs)
    runs.chmod(0o700)
    assert [(Path(run.run_dir).name, run.is_trouble) for run in done.kept if "deleted" in run.reason] == [
        ("old", True)
    ]
    assert deleted(pruned(runs)) == ["old"]
