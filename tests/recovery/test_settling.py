"""An operator settles devices in doubt: journal and files change, and requests are repeated with consent."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import polars as pl
import pytest

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode, RefusedToStart, RunFolderError, UsageError
from batchlic.journal import Intent, Journal
from batchlic.runs.folder import RunFolder
from batchlic.runs.run import resume
from batchlic.runs.settle import settle
from batchlic.runs.status import status
from tests.callbacks.builders import submitted_run
from tests.recovery.builders import (
    BATCH_SIZE,
    DEVICES,
    LIFETIME,
    LOSES_ANSWERS,
    Carrier,
    carrier,
    contents,
    in_doubt,
    reopened,
    results,
)

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def at() -> Iterator[Carrier]:
    with carrier(faults=LOSES_ANSWERS) as found:
        yield found


def doubtful(folder: Path) -> pl.DataFrame:
    return results(folder).filter(pl.col("status") == "in_doubt")


@pytest.mark.slow
def test_status_says_which_devices_are_in_doubt_and_why(tmp_path: Path, at: Carrier) -> None:
    summary = in_doubt(tmp_path, at)
    doubts = status(RunFolder(tmp_path / "run")).doubts
    assert sorted(device for doubt in doubts for device in doubt.devices) == sorted(
        doubtful(tmp_path)["imei"]
    )
    assert len(doubts) * BATCH_SIZE == summary.statuses[DeviceStatus.IN_DOUBT]
    assert {"reset" in doubt.reason for doubt in doubts} == {True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code"), [(DeviceStatus.ACCEPTED, ExitCode.OK), (DeviceStatus.FAILED, ExitCode.INCOMPLETE)]
)
def test_a_settled_status_is_in_every_file(
    tmp_path: Path, at: Carrier, status: DeviceStatus, code: ExitCode
) -> None:
    before = in_doubt(tmp_path, at)
    devices = set(doubtful(tmp_path)["imei"])
    requests = at.requests()
    after = settle(RunFolder(tmp_path / "run"), status, reason="the portal shows it")
    settled = results(tmp_path).filter(pl.col("settled_by").is_not_null())
    assert set(settled["imei"]) == devices
    assert set(settled["status"]) == {status.value}
    assert settled["settled_at"].null_count() == 0
    assert "in_doubt" not in after.statuses
    assert sum(after.statuses.values()) == DEVICES
    assert (after.exit_code, before.exit_code) == (code, ExitCode.INCOMPLETE)
    audit = pl.read_parquet(tmp_path / "run" / "audit.parquet").filter(pl.col("action") == "settle")
    assert audit["device_count"].sum() == len(devices)
    assert set(audit["outcome"]) == {f"settled_{status.value}"}
    assert set(audit["reason"]) == {"the portal shows it"}
    assert at.requests() == requests


@pytest.mark.slow
def test_resume_changes_nothing_in_a_settled_run(tmp_path: Path, at: Carrier) -> None:
    in_doubt(tmp_path, at)
    settle(RunFolder(tmp_path / "run"), DeviceStatus.ACCEPTED, reason="the portal shows it")
    before, requests = contents(tmp_path / "run"), at.requests()
    assert resume(RunFolder(tmp_path / "run"), at.target).exit_code == ExitCode.OK
    assert (contents(tmp_path / "run"), at.requests()) == (before, requests)


@pytest.mark.slow
def test_one_device_and_one_batch_can_be_settled_alone(tmp_path: Path, at: Carrier) -> None:
    in_doubt(tmp_path, at)
    rows = doubtful(tmp_path)
    batch, device = rows["batch_id"][0], rows["imei"][-1]
    settle(RunFolder(tmp_path / "run"), DeviceStatus.FAILED, reason="x", batches=[batch], devices=[device])
    now = results(tmp_path)
    assert set(now.filter(pl.col("status") == "failed")["imei"]) == {
        *rows.filter(pl.col("batch_id") == batch)["imei"],
        device,
    }
    assert len(doubtful(tmp_path)) == len(rows) - BATCH_SIZE - 1


@pytest.mark.slow
def test_e_a_lifetime_license_is_requested_again_only_with_consent(tmp_path: Path, at: Carrier) -> None:
    in_doubt(tmp_path, at, LIFETIME)
    folder, before = RunFolder(tmp_path / "run"), contents(tmp_path / "run")
    with pytest.raises(RefusedToStart, match="--consent-lifetime"):
        settle(folder, DeviceStatus.PENDING, reason="x")
    assert contents(tmp_path / "run") == before
    rows, requests = doubtful(tmp_path), at.requests()
    device = rows["imei"][0]
    summary = settle(folder, DeviceStatus.PENDING, reason="x", devices=[device], consent_lifetime=True)
    assert (summary.exit_code, summary.statuses[DeviceStatus.PENDING]) == (ExitCode.STOPPED, 1)
    assert at.requests() == requests
    resume(folder, at.target)
    assert at.requests() == requests + 1
    executed = at.assigned()
    assert executed.pop(device) == 2
    assert set(executed.values()) == {1}
    assert "pending" not in set(results(tmp_path)["status"])


@pytest.mark.slow
@pytest.mark.parametrize("by_batch", [True, False])
def test_a_decision_to_resend_can_be_corrected_before_the_next_session(
    tmp_path: Path, at: Carrier, *, by_batch: bool
) -> None:
    in_doubt(tmp_path, at, LIFETIME)
    folder, doubts = RunFolder(tmp_path / "run"), doubtful(tmp_path)
    settle(folder, DeviceStatus.PENDING, reason="not in the portal", consent_lifetime=True)
    batches = doubts["batch_id"].to_list() if by_batch else []
    devices = [] if by_batch else doubts["imei"].to_list()
    settle(folder, DeviceStatus.ACCEPTED, reason="in the portal", batches=batches, devices=devices)
    assert set(results(tmp_path)["status"]) == {"accepted"}


@pytest.mark.slow
def test_an_operator_can_correct_a_decision_but_not_an_answer(tmp_path: Path, at: Carrier) -> None:
    in_doubt(tmp_path, at)
    folder, device = RunFolder(tmp_path / "run"), doubtful(tmp_path)["imei"][0]
    accepted = results(tmp_path).filter(pl.col("status") == "accepted")["imei"][0]
    settle(folder, DeviceStatus.FAILED, reason="x", devices=[device])
    settle(folder, DeviceStatus.ACCEPTED, reason="looked again", devices=[device])
    assert results(tmp_path).filter(pl.col("imei") == device)["status"].item() == "accepted"
    with pytest.raises(UsageError, match="is not in doubt"):
        settle(folder, DeviceStatus.FAILED, reason="x", devices=[accepted])


PARKED = Answer(
    outcome=Outcome.UNAVAILABLE, blame=Blame.UNKNOWN, http_status=400, error_code="400", error_message="no"
)
NOT_EXECUTED = [
    Answer(outcome=Outcome.THROTTLED, http_status=429),
    Answer(outcome=Outcome.UNAVAILABLE, http_status=503, error_message="no healthy upstream"),
    Answer(outcome=Outcome.UNAVAILABLE, http_status=404, error_code="900906"),
    Answer(outcome=Outcome.UNAUTHORIZED, http_status=401, error_code="900901"),
]


def test_a_device_refused_for_an_unknown_reason_can_be_settled_by_name(tmp_path: Path) -> None:
    folder = submitted_run(tmp_path / "run", 2, answered=lambda _: [PARKED])
    with pytest.raises(UsageError, match="nothing is in doubt"):
        settle(folder, DeviceStatus.FAILED, reason="not on the account")
    device = pl.read_parquet(folder.plan)["imei"][0]
    summary = settle(folder, DeviceStatus.FAILED, reason="not on the account", devices=[device])
    assert summary.statuses == {"failed": 1, "pending": 1}


@pytest.mark.slow
@pytest.mark.parametrize("last", [PARKED, *NOT_EXECUTED])
@pytest.mark.parametrize("status", [DeviceStatus.ACCEPTED, DeviceStatus.FAILED])
def test_a_batch_stands_for_its_devices_in_doubt_only(
    tmp_path: Path, last: Answer, status: DeviceStatus
) -> None:
    folder = submitted_run(tmp_path / "run", 100, answered=lambda _: [last])
    with pytest.raises(UsageError, match="1: this batch or device is not in doubt"):
        settle(folder, status, reason="the portal shows it", batches=[1])
    with reopened(folder.path) as journal:
        anyio.run(_lose_answer, journal, "0-1", 2)
    summary = settle(folder, status, reason="the portal shows it", batches=[1])
    assert summary.statuses == {status: 2, DeviceStatus.PENDING: 98}
    assert summary.exit_code == ExitCode.STOPPED


async def _lose_answer(journal: Journal, part: str, devices: int) -> None:
    intent = Intent(
        batch_id=1,
        part=part,
        x_request_id="1-201",
        attempt=1,
        action=Action.ASSIGN,
        device_count=devices,
        request_sha256="ab" * 32,
        pace_rps=None,
        started_at=1,
    )
    await journal.answer(
        await journal.intend(intent), Answer(outcome=Outcome.AMBIGUOUS), duration_ms=1, final=False
    )


@pytest.mark.parametrize("answers", [*([answer] for answer in NOT_EXECUTED), [PARKED, NOT_EXECUTED[0]]])
def test_a_device_whose_last_request_was_not_executed_cannot_be_settled(
    tmp_path: Path, answers: list[Answer | None]
) -> None:
    folder = submitted_run(tmp_path / "run", 2, answered=lambda _: answers)
    device = pl.read_parquet(folder.plan)["imei"][0]
    with pytest.raises(UsageError, match="is not in doubt"):
        settle(folder, DeviceStatus.ACCEPTED, reason="x", devices=[device])


@pytest.mark.slow
def test_nothing_is_settled_without_a_reason_or_in_an_active_run(tmp_path: Path, at: Carrier) -> None:
    in_doubt(tmp_path, at)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UsageError, match="reason"):
        settle(folder, DeviceStatus.FAILED, reason=" ")
    with folder.locked(), pytest.raises(RefusedToStart, match="pid"):
        settle(folder, DeviceStatus.FAILED, reason="x")
    with pytest.raises(RunFolderError):
        settle(RunFolder(tmp_path), DeviceStatus.FAILED, reason="x")


@pytest.mark.slow
def test_the_journal_records_user_time_and_reason_of_a_settlement(tmp_path: Path, at: Carrier) -> None:
    in_doubt(tmp_path, at)
    settle(RunFolder(tmp_path / "run"), DeviceStatus.FAILED, reason="the portal\nsays no")
    with reopened(tmp_path / "run") as journal:
        settlements = list(journal.history())[-1:]
        assert [(s.reason, bool(s.settled_by), s.settled_at > 0) for s in settlements] == [  # type: ignore[union-attr]
            ("the portal\nsays no", True, True)
        ]
