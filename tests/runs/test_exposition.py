"""Metrics of the runs below a folder."""

import re
from pathlib import Path

from batchlic.chunker import DeviceStatus
from batchlic.journal import SANDBOX
from batchlic.runs.exposition import metrics_of_runs
from tests.runs.kept_runs import begun, finished


def value(exposition: str, metric: str, job: str) -> float | None:
    found = re.search(
        rf'^batchlic_{metric}{{action="assign",job_name="{job}".*}} (.*)$', exposition, re.MULTILINE
    )
    return float(found[1]) if found else None


def test_the_last_run_of_each_job_counts_and_its_last_success(tmp_path: Path) -> None:
    finished(tmp_path / "1", days=3)
    failed = {DeviceStatus.ACCEPTED: 2, DeviceStatus.FAILED: 1}
    finished(tmp_path / "2", days=2, exit_code=3, statuses=failed, rejected={"duplicate": 4})
    finished(tmp_path / "3", days=1, carrier=SANDBOX)  # a rehearsal
    finished(tmp_path / "4", days=9, job="weekly")
    begun(tmp_path / "5", days=0)
    text = metrics_of_runs(tmp_path).decode()
    assert value(text, "last_run_exit_code", "nightly") == 3
    assert value(text, "devices", "nightly") == 2
    assert value(text, "rows_rejected", "nightly") == 4
    assert value(text, "last_run_duration_seconds", "nightly") == 60
    success, end = (value(text, f"last_{what}_timestamp_seconds", "nightly") for what in ("success", "run"))
    assert end is not None
    assert success is not None
    assert round(end - success) == 86_400
    assert value(text, "last_success_timestamp_seconds", "weekly") is not None


def test_a_rollback_is_no_job_that_is_missed_the_next_day(tmp_path: Path) -> None:
    finished(finished(tmp_path / "1") / "rollback-by-device", days=39, job=None)
    text = metrics_of_runs(tmp_path).decode()
    assert set(re.findall(r'job_name="([^"]*)"', text)) == {"nightly"}


def test_a_folder_without_runs_has_no_metrics(tmp_path: Path) -> None:
    assert metrics_of_runs(tmp_path) == b""
