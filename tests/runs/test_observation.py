"""What is counted of a run while it is at work: each device once."""

from contextlib import closing
from pathlib import Path

import pytest

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch, DeviceStatus, Step, StepRequest
from batchlic.events import AttemptEnded, DevicesCounted, EventStream, RateMeasured, RunEvent
from batchlic.pool.limiter.findings import Finding, NoLimit, Rate, Window
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import only
from batchlic.pool.limiter.transitions import estimator_for
from batchlic.runs.observation import Observation, Tally, parts_in_doubt, tally_of
from tests.journal.builders import intent, new_journal
from tests.pool.builders import ACCEPTED, AMBIGUOUS, BAD_DEVICE, batch

pytestmark = pytest.mark.anyio


async def new_observation(events: EventStream | None = None) -> Observation:
    return Observation(
        Tally(to_send=10), only(Limiter(max_concurrency=1)), events or EventStream(), host="carrier"
    )


def report(observation: Observation, of: Batch, answer: Answer, devices: int = 10) -> None:
    final = answer.outcome is Outcome.REFUSED
    observation.answered(of, intent(of.batch_id, device_count=devices), answer, 1.0, final=final)


async def test_an_accepted_or_refused_device_is_done() -> None:
    observed = await new_observation()
    report(observed, batch(10), ACCEPTED, 7)
    report(observed, batch(10, batch_id=2), BAD_DEVICE, 3)
    assert (
        observed.tally.devices[DeviceStatus.ACCEPTED],
        observed.tally.devices[DeviceStatus.FAILED],
    ) == (7, 3)


async def test_doubt_ends_when_the_same_part_is_accepted() -> None:
    observed = await new_observation()
    report(observed, batch(10), AMBIGUOUS)
    assert observed.tally.devices == {DeviceStatus.IN_DOUBT: 10}
    report(observed, batch(10), ACCEPTED)
    assert observed.tally.devices == {DeviceStatus.IN_DOUBT: 0, DeviceStatus.ACCEPTED: 10}


async def test_doubt_of_earlier_sessions_counts_and_ends_as_that_of_this_one(tmp_path: Path) -> None:
    lost, doubted, failed = 1, 2, 3
    with closing(new_journal(tmp_path, planned=30, batches=3)) as journal:
        await journal.intend(intent(lost, device_count=10))
        for batch_id, answer in ((doubted, AMBIGUOUS), (doubted, BAD_DEVICE), (failed, BAD_DEVICE)):
            seq = await journal.intend(intent(batch_id, device_count=10))
            await journal.answer(seq, answer, duration_ms=1.0, final=answer is BAD_DEVICE)
        in_doubt = parts_in_doubt(journal)
        tally = tally_of(journal, in_doubt)
    assert tally.devices == {DeviceStatus.IN_DOUBT: 20, DeviceStatus.FAILED: 10}
    observed = Observation(
        tally, only(Limiter(max_concurrency=1)), EventStream(), host="c", in_doubt=in_doubt
    )
    report(observed, batch(10, batch_id=lost), ACCEPTED)
    report(observed, batch(10, batch_id=doubted), BAD_DEVICE)
    assert {status: devices for status, devices in tally.devices.items() if devices} == {
        DeviceStatus.IN_DOUBT: 10,
        DeviceStatus.FAILED: 10,
        DeviceStatus.ACCEPTED: 10,
    }


def step(action: Action) -> Batch:
    whole = batch(10)
    request = StepRequest(step=Step(action.value), action=action)
    return Batch(1, whole.account_name, whole.sku_number, whole.encoded, whole.offsets, request=request)


async def test_a_migration_counts_devices_when_its_batch_is_done() -> None:
    observed = await new_observation()
    for action in (Action.ASSIGN, Action.UNASSIGN):
        report(observed, step(action), ACCEPTED)
    assert (observed.tally.devices.total(), observed.tally.requests[Outcome.ACCEPTED]) == (0, 2)
    observed.tally.moved(9, 1)
    assert (
        observed.tally.devices[DeviceStatus.ACCEPTED],
        observed.tally.devices[DeviceStatus.FAILED],
    ) == (9, 1)


async def test_doubt_about_one_step_does_not_end_with_another_step() -> None:
    observed = await new_observation()
    report(observed, step(Action.ASSIGN), AMBIGUOUS)
    report(observed, step(Action.UNASSIGN), ACCEPTED)
    assert observed.tally.devices[DeviceStatus.IN_DOUBT] == 10


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (NoLimit(), "no limit found"),
        (Window(300, 60.0, is_fixed=True), "found: 300 requests a minute, window"),
        (Rate(25.0), "found: 25 requests a second"),
    ],
)
async def test_the_rate_is_what_flows_and_the_limit_what_was_found(found: Finding, words: str) -> None:
    heard: list[RunEvent] = []
    events = EventStream()
    with events.attached("test", heard.append):
        observation = await new_observation(events)
        [limiter] = observation._limiters
        limiter._hypothesis = estimator_for(found, limiter._samples)
        observation.count()
    [rate] = (event for event in heard if isinstance(event, RateMeasured))
    assert (rate.requests_per_s, rate.found) == (0.0, words)


async def test_requests_that_were_throttled_are_not_admitted() -> None:
    heard: list[RunEvent] = []
    events = EventStream()
    with events.attached("test", heard.append):
        observation = await new_observation(events)
        observation.tally.requests.update({Outcome.ACCEPTED: 3, Outcome.REFUSED: 1, Outcome.THROTTLED: 4})
        observation.count()
    [counted] = (event for event in heard if isinstance(event, DevicesCounted))
    assert (counted.admitted, counted.throttled_share) == (4, 0.5)


async def test_each_answer_is_an_event_with_what_it_says() -> None:
    heard: list[RunEvent] = []
    events = EventStream()
    with events.attached("test", heard.append):
        report(await new_observation(events), batch(10), BAD_DEVICE, 3)
    [attempt] = (event for event in heard if isinstance(event, AttemptEnded))
    assert (attempt.outcome, attempt.error_code, attempt.devices, attempt.is_final) == (
        Outcome.REFUSED,
        BAD_DEVICE.error_code,
        3,
        True,
    )
