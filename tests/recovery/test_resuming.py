"""The same command continues a run, another command is refused, and damaged files are reported unchanged."""

import os
import re
from pathlib import Path

import pytest

from batchlic.errors import ExitCode, RefusedToStart, RunFolderError, UsageError
from batchlic.journal import SessionEnd
from batchlic.runs.folder import RunFolder
from batchlic.runs.run import resume
from batchlic.runs.status import status
from batchlic.sandbox.config import LimitConfig, LimitKind
from tests.recovery.builders import FLEXIBLE, LIFETIME, carrier, contents, fleet, job, reopened, results, run

pytestmark = pytest.mark.usefixtures("backend")


def mark_as_stopped(folder: Path) -> None:
    """Record that the last session was stopped."""
    with reopened(folder) as journal:
        journal.end(SessionEnd(0, 1, ExitCode.STOPPED))


@pytest.mark.slow
def test_the_same_command_resumes_its_own_run_and_plan(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    with carrier() as at:
        first = run(tmp_path / "run", at, job(inventory))
        requests, plan = at.requests(), (tmp_path / "run" / "plan.parquet").stat()
        mark_as_stopped(tmp_path / "run")
        again = run(tmp_path / "run", at, job(inventory, limits={"batch_size": 10, "max_rate": 5.0}))
        assert (again.run_id, again.exit_code) == (first.run_id, ExitCode.OK)
        assert (at.requests(), (tmp_path / "run" / "plan.parquet").stat()) == (requests, plan)


@pytest.mark.slow
def test_the_same_command_on_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    with carrier() as at:
        first = run(tmp_path / "run", at, job(inventory))
        before = contents(tmp_path / "run")
        assert run(tmp_path / "run", at, job(inventory)) == first
        assert contents(tmp_path / "run") == before


@pytest.mark.slow
def test_another_command_in_the_folder_is_refused_with_the_differences(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    with carrier() as at:
        run(tmp_path / "run", at, job(inventory))
        before = contents(tmp_path / "run")
        with pytest.raises(UsageError, match=r"license\.sku is SIMSec-IoT-Lt, was SIMSec-IoT;"):
            run(tmp_path / "run", at, job(inventory, LIFETIME))
        with pytest.raises(UsageError, match=r"limits\.batch_size is 5, was 10"):
            run(tmp_path / "run", at, job(inventory, limits={"batch_size": 5}))
        fleet(inventory, 99)
        with pytest.raises(
            UsageError, match=r"fleet.csv has changed since the run began \(1,589 bytes, was 1,605\)"
        ):
            run(tmp_path / "run", at, job(inventory))
        assert contents(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["results.parquet", "audit.parquet", "summary.json"])
def test_missing_files_of_a_finished_run_are_written_without_a_request(tmp_path: Path, name: str) -> None:
    with carrier() as at:
        run(tmp_path / "run", at, job(fleet(tmp_path / "fleet.csv")))
        requests = at.requests()
        (tmp_path / "run" / name).unlink()
        assert resume(RunFolder(tmp_path / "run"), at.target).exit_code == ExitCode.OK
        assert at.requests() == requests
        assert set(results(tmp_path)["status"]) == {"accepted"}
        assert (tmp_path / "run" / name).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["file"], indirect=True)
def test_without_a_journal_nothing_is_sent_and_the_error_names_files(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    with carrier() as at:
        run(tmp_path / "run", at, job(inventory))
        (tmp_path / "run" / "journal.db").unlink()
        before, requests = contents(tmp_path / "run"), at.requests()
        files_left = r"results.parquet of 20.*audit.parquet of 20.*backup"
        with pytest.raises(RunFolderError, match=files_left):
            run(tmp_path / "run", at, job(inventory))
        with pytest.raises(RunFolderError, match=files_left):
            resume(RunFolder(tmp_path / "run"), at.target)
        assert (contents(tmp_path / "run"), at.requests()) == (before, requests)


@pytest.mark.slow
def test_a_run_without_its_plan_says_how_to_make_the_plan_again(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    with carrier() as at:
        run(tmp_path / "run", at, job(inventory))
        run(tmp_path / "elsewhere" / "other", at, job(inventory, ledger={"use": False}))
        mark_as_stopped(tmp_path / "run")
        (tmp_path / "run" / "plan.parquet").unlink()
        before = contents(tmp_path / "run")
        with pytest.raises(RunFolderError, match="`batchlic plan --no-ledger` with the same"):
            resume(RunFolder(tmp_path / "run"), at.target)
        with pytest.raises(RunFolderError):
            status(RunFolder(tmp_path / "run"))
        assert contents(tmp_path / "run") == before
        (tmp_path / "elsewhere" / "other" / "plan.parquet").rename(tmp_path / "run" / "plan.parquet")
        assert resume(RunFolder(tmp_path / "run"), at.target).exit_code == ExitCode.OK


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["file"], indirect=True)
def test_a_job_runs_once_at_a_time_whatever_its_folder(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    nightly = job(inventory, FLEXIBLE, name="nightly")
    with carrier() as at:
        with RunFolder(tmp_path / "first").job_lock("nightly"):
            with pytest.raises(RefusedToStart, match=rf"job nightly: .*pid {os.getpid()} on .+, since 20"):
                run(tmp_path / "run", at, nightly)
            assert not (tmp_path / "run").exists()
            assert run(tmp_path / "ad-hoc", at, job(inventory)).exit_code == ExitCode.OK
        assert run(tmp_path / "run", at, nightly).exit_code == ExitCode.OK


@pytest.mark.parametrize("backend", ["file"], indirect=True)
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    child = os.fork()
    if child == 0:
        with folder.locked(), folder.job_lock("nightly"):
            os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").read_text().startswith(f"pid {child}")
    with folder.locked(), folder.job_lock("nightly"):
        assert (tmp_path / ".lock").read_text().startswith(f"pid {os.getpid()}")


@pytest.mark.slow
def test_only_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    folder = tmp_path / "run"
    (folder / ".scratch-x1" / "duplicates").mkdir(parents=True)
    left = (".plan.parquet.17.tmp", ".journal.db.17.tmp-wal", ".scratch-x1/duplicates/0.parquet")
    kept = (".env", "notes.tmp", "export.csv")
    for name in (*left, *kept):
        (folder / name).touch()
    with carrier() as at:
        assert run(folder, at, job(inventory)).exit_code == ExitCode.OK
    names = {path.name for path in folder.iterdir()}
    assert names >= set(kept)
    assert not {name for name in names if "17" in name or "scratch" in name}


@pytest.mark.slow
def test_j_a_retry_after_also_counts_for_later_sessions(tmp_path: Path) -> None:
    inventory = fleet(tmp_path / "fleet.csv")
    with carrier(limits=LimitConfig(rate=3 / 7200, kind=LimitKind.SLIDING_WINDOW, window_s=7200)) as at:
        stopped = run(tmp_path / "run", at, job(inventory))
        requests = at.requests()
        again = resume(RunFolder(tmp_path / "run"), at.target)
        assert at.requests() == requests
    assert stopped.exit_code == again.exit_code == ExitCode.STOPPED
    assert re.match(r"the carrier asked batchlic to wait 7\d\d\d s more", again.stopped_because or "")
