"""What is shown of a run at work: each device is counted once, whatever it takes."""

import io
from typing import NoReturn

import pytest
import structlog

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, Step, StepRequest
from batchlic.pool.limiter.pace import Pace
from batchlic.runs.progress import Reporter, Tally
from tests.journal.builders import intent
from tests.pool.builders import ACCEPTED, AMBIGUOUS, BAD_DEVICE, batch

pytestmark = pytest.mark.anyio


def drop(*_: object) -> NoReturn:
    raise structlog.DropEvent


async def reporter() -> Reporter:
    logger = structlog.wrap_logger(None, processors=[drop])
    return Reporter(Tally(planned=10), Pace(max_concurrency=1), logger, screen=io.StringIO())


def hear(to: Reporter, of: Batch, answer: Answer, devices: int = 10) -> None:
    final = answer.outcome is Outcome.REFUSED
    to.answered(of, intent(of.batch_id, device_count=devices), answer, 1.0, final=final)


async def test_an_accepted_or_refused_device_is_done() -> None:
    seen = await reporter()
    hear(seen, batch(10), ACCEPTED, 7)
    hear(seen, batch(10, batch_id=2), BAD_DEVICE, 3)
    assert (seen.tally.devices["accepted"], seen.tally.devices["failed"], seen.tally.done) == (7, 3, 10)


async def test_a_doubt_ends_where_the_same_part_is_accepted() -> None:
    seen = await reporter()
    hear(seen, batch(10), AMBIGUOUS)
    assert (seen.tally.devices["in_doubt"], seen.tally.done) == (10, 0)
    hear(seen, batch(10), ACCEPTED)
    assert (seen.tally.devices["in_doubt"], seen.tally.done) == (0, 10)


async def test_a_step_of_a_migration_is_not_all_of_it() -> None:
    seen = await reporter()
    for action in (Action.ASSIGN, Action.UNASSIGN):
        step = batch(10)
        hear(
            seen,
            Batch(
                1,
                step.account_name,
                step.sku_number,
                step.encoded,
                step.offsets,
                request=StepRequest(step=Step(action.value), action=action),
            ),
            ACCEPTED,
        )
    assert (seen.tally.done, seen.tally.requests[Outcome.ACCEPTED]) == (0, 2)
    seen.tally.moved(9, 1)
    assert (seen.tally.devices["accepted"], seen.tally.devices["failed"], seen.tally.done) == (9, 1, 10)
