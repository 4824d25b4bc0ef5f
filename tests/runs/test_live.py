"""A run at work in figures: the same devices as its progress, read bit by bit, and nothing written."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.errors import RunFolderError
from batchlic.figures import time_in_files
from batchlic.journal import Part
from batchlic.pool.limiter.limiter import TOLD_TO_WAIT
from batchlic.runs import live, status
from batchlic.runs.folder import RunFolder
from batchlic.runs.live import LiveFigures, LiveRun
from batchlic.runs.process import Process
from tests.callbacks.builders import BEGAN, submitted_run
from tests.runs.kept_runs import begun
from tests.web.builders import send

NOW = 1_800_000_000_000_000
SECOND = 1_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "now", lambda: NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """A run of 60 devices, of which 10 are excluded, in batches of 10."""
    run = RunFolder(begun(tmp_path / "run", planned=60, batches=5, excluded={"skipped": 10}))
    with closing(run.journal.open()):  # a process at work has the journal open
        yield run


def figures(run: LiveRun) -> LiveFigures:
    found = run.read()
    assert found is not None
    return found


def counts(run: LiveRun) -> tuple[int, int, int, int]:
    found = figures(run)
    return found.accepted, found.failed, found.in_doubt, found.pending


def test_each_reading_adds_what_is_new(folder: RunFolder) -> None:
    run = LiveRun(folder)
    assert counts(run) == (0, 0, 0, 50)
    send(folder, 1, Outcome.ACCEPTED, at=NOW)
    assert counts(run) == (10, 0, 0, 40)
    send(folder, 2, Outcome.THROTTLED, at=NOW)
    send(folder, 2, Outcome.REFUSED, at=NOW)
    assert counts(run) == (10, 10, 0, 30)
    assert counts(run) == (10, 10, 0, 30)
    assert (figures(run).requests, figures(run).throttled, figures(run).share_done) == (3, 1, 0.4)


def test_a_lost_answer_is_in_doubt_until_its_repetition_is_accepted(folder: RunFolder) -> None:
    run = LiveRun(folder)
    for _ in range(2):
        send(folder, 1, Outcome.AMBIGUOUS, at=NOW)
    assert counts(run) == (0, 0, 10, 40)
    send(folder, 1, Outcome.REFUSED, at=NOW)
    assert counts(run) == (0, 0, 10, 40)
    send(folder, 1, Outcome.ACCEPTED, at=NOW)
    assert counts(run) == (10, 0, 0, 40)


def test_a_decision_about_devices_in_doubt_counts(folder: RunFolder) -> None:
    send(folder, 1, Outcome.AMBIGUOUS, at=NOW)
    with closing(folder.journal.open()) as journal:
        part = Part(1, None, "", 10)
        journal.settle([part], DeviceStatus.FAILED, settled_by="ann", reason="looked up", settled_at=NOW)
    assert counts(LiveRun(folder)) == (0, 10, 0, 40)


def test_the_rates_are_those_of_the_last_minute_and_the_last_seconds(folder: RunFolder) -> None:
    for batch_id, seconds in enumerate((300, 50, 5), start=1):
        send(folder, batch_id, Outcome.ACCEPTED, at=NOW - seconds * SECOND)
    found = figures(LiveRun(folder))
    assert found.devices_per_second == pytest.approx(20 / 60)
    assert found.requests_per_second == pytest.approx(1 / 10)
    assert found.seconds_left == pytest.approx(20 / (20 / 60))
    assert sum(one.devices_per_s for one in found.flow) * live.INTERVAL_S == 20


def test_a_resumed_run_is_as_fast_as_its_own_session(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = NOW - 4 * SECOND
    process = Process(1, "host", time_in_files(began))
    monkeypatch.setattr(RunFolder, "process", process)
    for batch_id in (1, 2, 3):  # of the session before
        send(folder, batch_id, Outcome.ACCEPTED, at=began - 5 * SECOND)
    run = LiveRun(folder)
    assert (figures(run).devices_per_second, figures(run).seconds_left) == (0, None)
    send(folder, 4, Outcome.ACCEPTED, at=NOW - 2 * SECOND)
    found = figures(run)
    assert found.devices_per_second == pytest.approx(10 / 2)
    assert found.requests_per_second == pytest.approx(1 / 2)
    assert found.seconds_left == pytest.approx(2)


def test_a_status_leaves_out_the_session_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = submitted_run(tmp_path / "run", 20, batch_size=10)
    monkeypatch.setattr(status, "now", lambda: BEGAN + 30 * SECOND)
    for since, rate in ((-10, 20 / 40), (10, 0)):  # seconds after the answers came
        process = Process(1, "host", time_in_files(BEGAN + since * SECOND))
        monkeypatch.setattr(RunFolder, "process", process)
        at_work = status.status(folder).at_work
        assert at_work is not None
        assert at_work.devices_per_second == rate


def test_the_time_in_which_a_run_was_planned_does_not_slow_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(1, "host", time_in_files(NOW - 300 * SECOND))
    monkeypatch.setattr(RunFolder, "process", process)
    send(folder, 1, Outcome.ACCEPTED, at=NOW - 5 * SECOND)
    assert figures(LiveRun(folder)).devices_per_second == pytest.approx(10 / 5)


def test_a_device_of_a_migration_is_done_with_both_steps(tmp_path: Path) -> None:
    folder = RunFolder(begun(tmp_path / "run", planned=20, batches=2, to_sku="T"))
    run = LiveRun(folder)
    for batch_id, step in ((1, "unassign"), (2, "unassign"), (1, "assign")):
        send(folder, batch_id, Outcome.ACCEPTED, at=NOW, step=step)
    assert counts(run) == (10, 0, 0, 10)
    send(folder, 2, Outcome.REFUSED, at=NOW, step="assign")
    assert counts(run) == (10, 10, 0, 0)


def test_the_limit_of_an_account_is_shown_with_its_name(folder: RunFolder) -> None:
    found = '"event":"limiter","found":"20 requests a second","timestamp":"2100-01-01T00:00:00Z"'
    with folder.locked():
        with folder.log.open("ab") as file:
            file.write(f'{{{found},"account":"A-1"}}\n'.encode())
        assert figures(LiveRun(folder)).found == "20 requests a second (account A-1)"


def test_the_limit_is_the_last_one_that_this_session_has_found(folder: RunFolder) -> None:
    def log(at: str, found: str) -> None:
        with folder.log.open("ab") as file:
            file.write(f'{{"event":"limiter","found":"{found}","timestamp":"{at}"}}\n'.encode())

    run = LiveRun(folder)
    with folder.locked():
        log("2020-01-01T00:00:00Z", "an earlier session")
        assert figures(run).found is None
        log("2100-01-01T00:00:00Z", "20 requests a second")
        assert figures(run).found == "20 requests a second"
        log("2100-01-01T00:00:00Z", f"{TOLD_TO_WAIT} 1 s: the carrier asks for it")
        with folder.log.open("ab") as file:
            file.write(b'{"event":"limiter","found":"half a line')
        assert figures(run).found == "20 requests a second"
        with folder.log.open("ab") as file:
            file.write(b'\n{"event":"accepted","error_message":"\\"event\\":\\"limiter\\""}\n\xff\n')
        log("2100-01-01T00:00:01Z", "30 requests a second")
        assert figures(run).found == "30 requests a second"


def test_a_run_without_a_journal_is_still_planned(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.make()
    assert LiveRun(folder).read() is None


def test_a_damaged_journal_is_an_error(folder: RunFolder) -> None:
    folder.journal_file.with_name("journal.db-wal").unlink(missing_ok=True)
    folder.journal_file.write_bytes(b"nothing")
    with pytest.raises(RunFolderError):
        LiveRun(folder).read()
