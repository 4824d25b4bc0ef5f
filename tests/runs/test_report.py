"""report.html in the folder of a run: when it is written, replaced and removed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchlic.chunker import DeviceStatus
from batchlic.errors import RunFolderError
from batchlic.runs.folder import RunFolder
from batchlic.runs.guards import Guards
from batchlic.runs.report import report
from batchlic.runs.run import plan_only, resume
from batchlic.runs.settle import settle
from batchlic.runs.verify import verify
from batchlic.writer.report import page
from tests.recovery.builders import LIFETIME, LOSES_ANSWERS, Carrier, carrier, fleet, job, run

WRITTEN = {"report": {"write": True}, "ledger": {"use": False}}


@pytest.fixture(scope="module")
def lossy() -> Iterator[Carrier]:
    with carrier(faults=LOSES_ANSWERS) as at:
        yield at


@pytest.fixture
def doubtful(tmp_path: Path, lossy: Carrier) -> RunFolder:
    """A run with a report, and with devices in doubt."""
    run(tmp_path / "run", lossy, job(fleet(tmp_path / "fleet.csv"), LIFETIME, **WRITTEN))
    return RunFolder(tmp_path / "run")


@pytest.mark.slow
def test_a_run_leaves_a_report_that_no_other_file_depends_on(doubtful: RunFolder) -> None:
    text = doubtful.report.read_text()
    assert "devices in doubt" in text
    assert f"batchlic settle {doubtful.path} --as accepted" in text
    assert doubtful.report.stat().st_mode & 0o777 == 0o600
    assert verify(doubtful).findings == []
    doubtful.report.unlink()
    assert verify(doubtful).findings == []


@pytest.mark.slow
def test_a_decision_of_the_operator_replaces_the_report(doubtful: RunFolder) -> None:
    settle(doubtful, DeviceStatus.ACCEPTED, reason="looked up")
    text = doubtful.report.read_text()
    assert "in doubt" not in text
    assert "Finished: 100 devices accepted" in text


@pytest.mark.slow
def test_a_job_without_a_report_leaves_none(tmp_path: Path, lossy: Carrier) -> None:
    run(tmp_path / "run", lossy, job(fleet(tmp_path / "fleet.csv", 10)))
    assert not RunFolder(tmp_path / "run").report.exists()


def test_a_report_that_fails_is_a_note_and_leaves_no_outdated_one(
    doubtful: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(page, "render", fail)
    summary = settle(doubtful, DeviceStatus.FAILED, reason="looked up")
    assert summary.exit_code == 3
    assert "report.html could not be written" in summary.notes[-1]
    assert "secret" not in summary.notes[-1]
    assert not doubtful.report.exists()
    assert json.loads(doubtful.summary.read_bytes())["exit_code"] == 3


@pytest.mark.slow
def test_a_session_that_is_killed_leaves_no_outdated_report(
    doubtful: RunFolder, lossy: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(doubtful, DeviceStatus.PENDING, reason="send again", consent_lifetime=True)
    assert doubtful.report.exists()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("batchlic.runs.run.submit", killed)
    with pytest.raises(KeyboardInterrupt):
        resume(doubtful, lossy.target)
    assert not doubtful.report.exists()


@pytest.mark.slow
def test_the_report_of_a_run_without_its_results_is_computed(doubtful: RunFolder) -> None:
    finished = report(doubtful)
    doubtful.results.unlink()
    doubtful.rejects.unlink()
    computed = report(doubtful)
    assert computed.summary.statuses == finished.summary.statuses
    assert computed.doubts == finished.doubts
    assert computed.licenses == finished.licenses


def test_a_folder_that_was_only_planned_has_no_report(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "plan")
    plan_only(job(fleet(tmp_path / "fleet.csv", 10)), folder, Guards())
    with pytest.raises(RunFolderError, match="nothing was ever sent from this folder"):
        report(folder)
