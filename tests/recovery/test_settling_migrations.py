"""An operator settles devices of a migration that the carrier refuses between two steps."""

import time
from collections.abc import Callable
from pathlib import Path

import anyio
import polars as pl
import pytest

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus, Step
from batchlic.errors import ExitCode, RefusedToStart, UsageError
from batchlic.journal import Intent, Journal
from batchlic.runs.folder import RunFolder
from batchlic.runs.run import resume
from batchlic.runs.settle import settle
from batchlic.runs.verify import verify
from tests.recovery.builders import (
    BATCH_SIZE,
    FLEXIBLE,
    LIFETIME,
    Carrier,
    carrier,
    fleet,
    imei,
    job,
    reopened,
    run,
)
from tests.recovery.migrations import NEW, moving, stopping_at

FIRST = imei(0)
ACCEPTED, FAILED, PENDING = DeviceStatus.ACCEPTED, DeviceStatus.FAILED, DeviceStatus.PENDING

PARKED = Answer(
    outcome=Outcome.UNAVAILABLE, blame=Blame.UNKNOWN, http_status=400, error_code="400", error_message="no"
)
REFUSED = Answer(
    outcome=Outcome.REFUSED, blame=Blame.DEVICE, http_status=400, error_code="400", error_message="no"
)
LOST = Answer(outcome=Outcome.AMBIGUOUS)
THROTTLED = Answer(outcome=Outcome.THROTTLED, http_status=429)

FIRST_STEP = {"auto": Step.ASSIGN, "unassign-first": Step.UNASSIGN}
SECOND_STEP = {"auto": Step.UNASSIGN, "unassign-first": Step.ASSIGN}
ORDERS = pytest.mark.parametrize("order", ["auto", "unassign-first"])

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("either_backend")]


def stopped_between_steps(
    folder: Path, at: Carrier, *, order: str, restore: bool = True, to_sku: str = NEW
) -> RunFolder:
    """A run of one batch, all of which took the first step."""
    inventory = fleet(folder / "fleet.csv", BATCH_SIZE)
    run(folder / "onboarding", at, job(inventory))
    second = (Action.UNASSIGN, FLEXIBLE) if order == "auto" else (Action.ASSIGN, to_sku)
    with stopping_at(*second):
        run(folder / "move", at, moving(inventory, to_sku, order=order, restore=restore))
    return RunFolder(folder / "move")


def answered(folder: RunFolder, step: Step, answer: Answer) -> None:
    """Record a request for the step of the first device."""

    async def record(journal: Journal) -> None:
        intent = Intent(
            batch_id=1,
            step=step,
            part="0",
            x_request_id="1-201",
            attempt=1,
            action=Action.ASSIGN,
            device_count=1,
            request_sha256="ab" * 32,
            pace_rps=None,
            started_at=time.time_ns() // 1000,
        )
        seq = await journal.intend(intent)
        await journal.answer(seq, answer, duration_ms=1, final=answer.outcome is Outcome.REFUSED)

    with reopened(folder.path) as journal:
        anyio.run(record, journal)


def settled(folder: RunFolder, status: DeviceStatus) -> None:
    settle(folder, status, reason="the portal shows it", devices=[FIRST])


def shown(folder: RunFolder, device: str = FIRST) -> tuple[str, str, str]:
    """Status, step and message of a device."""
    row = pl.read_parquet(folder.results).row(by_predicate=pl.col("imei") == device, named=True)
    return row["status"], row["step"], row["error_message"] or ""


@ORDERS
def test_a_settled_second_step_is_undone_by_the_next_session(tmp_path: Path, order: str) -> None:
    with carrier() as at:
        folder = stopped_between_steps(tmp_path, at, order=order)
        answered(folder, SECOND_STEP[order], PARKED)
        settled(folder, FAILED)
        assert shown(folder)[:2] == ("pending", SECOND_STEP[order])
        summary = resume(folder, at.target)
        assert summary.statuses == {FAILED: 1, ACCEPTED: BATCH_SIZE - 1}
        assert at.licenses()[FIRST] == {FLEXIBLE: 1}
    assert verify(folder).findings == []


@ORDERS
def test_without_restore_a_settled_second_step_fails_the_device(tmp_path: Path, order: str) -> None:
    holds = {"auto": "holds both licenses", "unassign-first": "holds no license"}[order]
    with carrier() as at:
        folder = stopped_between_steps(tmp_path, at, order=order, restore=False)
        answered(folder, SECOND_STEP[order], PARKED)
        settled(folder, FAILED)
        assert shown(folder)[0] == "failed"
        assert shown(folder)[2].startswith(holds)
        assert resume(folder, at.target).statuses == {FAILED: 1, ACCEPTED: BATCH_SIZE - 1}


@ORDERS
def test_a_second_step_that_was_executed_is_settled_as_accepted(tmp_path: Path, order: str) -> None:
    with carrier() as at:
        folder = stopped_between_steps(tmp_path, at, order=order)
        answered(folder, SECOND_STEP[order], PARKED)
        settled(folder, ACCEPTED)
        summary = resume(folder, at.target)
    assert (summary.exit_code, summary.statuses) == (ExitCode.OK, {ACCEPTED: BATCH_SIZE})


@ORDERS
@pytest.mark.parametrize("status", [ACCEPTED, FAILED])
def test_a_refused_first_step_can_be_settled(tmp_path: Path, order: str, status: DeviceStatus) -> None:
    with carrier() as at:
        inventory = fleet(tmp_path / "fleet.csv", BATCH_SIZE)
        run(tmp_path / "onboarding", at, job(inventory))
        first = (Action.ASSIGN, NEW) if order == "auto" else (Action.UNASSIGN, FLEXIBLE)
        with stopping_at(*first):
            run(tmp_path / "move", at, moving(inventory, order=order))
        folder = RunFolder(tmp_path / "move")
        answered(folder, FIRST_STEP[order], PARKED)
        settled(folder, status)
        resume(folder, at.target)
    assert shown(folder)[0] == status.value
    assert status is ACCEPTED or shown(folder)[2].startswith("still has its old license")


@pytest.mark.parametrize(
    ("order", "status", "message"),
    [
        ("unassign-first", FAILED, "holds no license, and could not be given the old one back"),
        ("unassign-first", ACCEPTED, "has its old license back"),
        ("auto", FAILED, "holds both licenses"),
        ("auto", ACCEPTED, "has only its old license again"),
    ],
)
def test_a_restore_that_is_refused_again_and_again_can_be_settled(
    tmp_path: Path, order: str, status: DeviceStatus, message: str
) -> None:
    with carrier() as at:
        folder = stopped_between_steps(tmp_path, at, order=order)
        answered(folder, SECOND_STEP[order], REFUSED)
        answered(folder, Step.RESTORE, PARKED)
        settled(folder, status)
        requests = at.requests()
        summary = resume(folder, at.target)
        assert at.requests() == requests + 1  # the others' second step
    assert summary.statuses == {FAILED: 1, ACCEPTED: BATCH_SIZE - 1}
    assert shown(folder)[2].startswith(message)


@pytest.mark.parametrize("status", [ACCEPTED, FAILED])
def test_a_device_can_be_settled_again_if_its_clear_is_refused(tmp_path: Path, status: DeviceStatus) -> None:
    with carrier() as at:
        folder = stopped_between_steps(tmp_path, at, order="unassign-first", restore=False)
        answered(folder, Step.ASSIGN, LOST)
        settled(folder, PENDING)
        answered(folder, Step.CLEAR, PARKED)
        settled(folder, status)
        resume(folder, at.target)
    assert shown(folder)[0] == status.value


@ORDERS
@pytest.mark.parametrize("step_of", [SECOND_STEP.get, lambda _: Step.RESTORE], ids=["second", "restore"])
def test_a_step_that_was_only_throttled_cannot_be_settled(
    tmp_path: Path, order: str, step_of: Callable[[str], Step]
) -> None:
    with carrier() as at:
        folder = stopped_between_steps(tmp_path, at, order=order)
    if step_of(order) is Step.RESTORE:
        answered(folder, SECOND_STEP[order], REFUSED)
    answered(folder, step_of(order), THROTTLED)
    with pytest.raises(UsageError, match="is not in doubt"):
        settled(folder, FAILED)


def test_a_batch_and_the_others_of_its_devices_are_not_settled(tmp_path: Path) -> None:
    with carrier() as at:
        folder = stopped_between_steps(tmp_path, at, order="unassign-first")
    answered(folder, Step.ASSIGN, PARKED)
    with pytest.raises(UsageError, match="1: this batch or device is not in doubt"):
        settle(folder, FAILED, reason="x", batches=[1])
    with pytest.raises(UsageError, match=f"{imei(1)}: this batch or device is not in doubt"):
        settle(folder, FAILED, reason="x", devices=[FIRST, imei(1)])


def test_e_a_refused_lifetime_assign_is_sent_again_only_with_consent(tmp_path: Path) -> None:
    with carrier() as at:
        folder = stopped_between_steps(tmp_path, at, order="unassign-first", restore=False, to_sku=LIFETIME)
    answered(folder, Step.ASSIGN, PARKED)
    with pytest.raises(RefusedToStart, match="--consent-lifetime"):
        settled(folder, PENDING)
