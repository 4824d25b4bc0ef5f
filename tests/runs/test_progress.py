"""The progress of a run: each device is counted once."""

import io
from typing import NoReturn

import pytest
import structlog

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, DeviceStatus, Step, StepRequest
from batchlic.pool.limiter.findings import Finding, NoLimit, Rate, Window
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.transitions import estimator_for
from batchlic.runs.progress import Reporter, Tally
from tests.journal.builders import intent
from tests.pool.builders import ACCEPTED, AMBIGUOUS, BAD_DEVICE, batch

pytestmark = pytest.mark.anyio


def drop(*_: object) -> NoReturn:
    raise structlog.DropEvent


async def new_reporter() -> Reporter:
    logger = structlog.wrap_logger(None, processors=[drop])
    return Reporter(
        Tally(planned=10), Limiter(max_concurrency=1), logger, host="carrier", screen=io.StringIO()
    )


def report(reporter: Reporter, of: Batch, answer: Answer, devices: int = 10) -> None:
    final = answer.outcome is Outcome.REFUSED
    reporter.answered(of, intent(of.batch_id, device_count=devices), answer, 1.0, final=final)


async def test_an_accepted_or_refused_device_is_done() -> None:
    shown = await new_reporter()
    report(shown, batch(10), ACCEPTED, 7)
    report(shown, batch(10, batch_id=2), BAD_DEVICE, 3)
    assert (
        shown.tally.devices[DeviceStatus.ACCEPTED],
        shown.tally.devices[DeviceStatus.FAILED],
        shown.tally.done,
    ) == (7, 3, 10)


async def test_doubt_ends_when_the_same_part_is_accepted() -> None:
    shown = await new_reporter()
    report(shown, batch(10), AMBIGUOUS)
    assert (shown.tally.devices[DeviceStatus.IN_DOUBT], shown.tally.done) == (10, 0)
    report(shown, batch(10), ACCEPTED)
    assert (shown.tally.devices[DeviceStatus.IN_DOUBT], shown.tally.done) == (0, 10)


def step(action: Action) -> Batch:
    whole = batch(10)
    request = StepRequest(step=Step(action.value), action=action)
    return Batch(1, whole.account_name, whole.sku_number, whole.encoded, whole.offsets, request=request)


async def test_a_migration_counts_devices_when_its_batch_is_done() -> None:
    shown = await new_reporter()
    for action in (Action.ASSIGN, Action.UNASSIGN):
        report(shown, step(action), ACCEPTED)
    assert (shown.tally.done, shown.tally.requests[Outcome.ACCEPTED]) == (0, 2)
    shown.tally.moved(9, 1)
    assert (
        shown.tally.devices[DeviceStatus.ACCEPTED],
        shown.tally.devices[DeviceStatus.FAILED],
        shown.tally.done,
    ) == (9, 1, 10)


async def test_doubt_about_one_step_does_not_end_with_another_step() -> None:
    shown = await new_reporter()
    report(shown, step(Action.ASSIGN), AMBIGUOUS)
    report(shown, step(Action.UNASSIGN), ACCEPTED)
    assert shown.tally.devices[DeviceStatus.IN_DOUBT] == 10


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (NoLimit(), "0 requests/s, no limit found, "),
        (Window(300, 60.0, is_fixed=True), "0 requests/s, found: 300 requests a minute, "),
        (Rate(25.0), "0 requests/s, found: 25 requests a second, "),
    ],
)
async def test_progress_says_what_flows_and_what_limit_was_found(found: Finding, words: str) -> None:
    shown = await new_reporter()
    shown._limiter._hypothesis = estimator_for(found, shown._limiter._samples)
    assert words in shown._figures()
    assert "inf" not in shown._figures()
