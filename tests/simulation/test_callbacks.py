"""What callbacks report agrees with the books, whatever form, order and number the messages have."""

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import polars as pl
import pytest

from batchlic.callbacks.bodies import read_body
from batchlic.callbacks.lost_answers import lost_answers
from batchlic.callbacks.matching import REQUESTS, Reports, reports_of
from batchlic.callbacks.messages import StoredMessage, stored_message
from batchlic.callbacks.verdicts import FAILURE, SUCCESS, with_verdicts
from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.journal import Attempt
from batchlic.journal.status import status_of
from batchlic.reader.streaming import UTC
from batchlic.sandbox.config import CallbackConfig
from tests.simulation.world import ACCOUNT, SimulatedRun, events_by_device, scenario_of, simulate

SEEDS = max(1, int(os.environ.get("SCENARIOS", "24")) // 4)
FIRST = int(os.environ.get("SEED", "0"))

TIMES = ("first_attempt_at", "last_attempt_at")

every_seed = pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
every_share = pytest.mark.parametrize("lost_share", [0.0, 0.4])
"""Share of the messages that never arrive."""


@cache
def simulated_run(seed: int) -> SimulatedRun:
    scenario = scenario_of(seed).in_one_account()
    dice = random.Random(f"callbacks {seed}")
    callbacks = CallbackConfig(
        jitter_s=1.0,
        failure_share=dice.choice([0.0, 0.1, 0.5]),
        repeat_share=dice.choice([0.0, 0.3]),
        odd_share=dice.choice([0.3, 1.0]),
    )
    return simulate(replace(scenario, sandbox=replace(scenario.sandbox, callbacks=callbacks)))


def requests_of(run: SimulatedRun) -> pl.DataFrame:
    """The requests for all devices that were sent, by the carrier's answers alone."""

    def rows() -> Iterator[dict[str, Any]]:
        by_device = events_by_device(run.scenario, run.history)
        for row, (imei, (batch_id, offset, events)) in enumerate(by_device.items()):
            attempts = [event for event in events if isinstance(event, Attempt)]
            accepted = [a.request_id for a in attempts if a.outcome == Outcome.ACCEPTED]
            if attempts:
                yield {
                    "plan_row": row,
                    "batch_id": batch_id,
                    "step": None,
                    "offset": offset,
                    "imei": imei,
                    "iccid": None,
                    "account_name": ACCOUNT,
                    "request_id": accepted[-1] if accepted else None,
                    "status": status_of(attempts),
                    "first_attempt_at": attempts[0].started_at,
                    "last_attempt_at": attempts[-1].started_at,
                }

    return pl.DataFrame(list(rows()), REQUESTS | dict.fromkeys(TIMES, pl.Int64())).cast(pl.Schema(REQUESTS))


def messages_of(run: SimulatedRun, lost_share: float) -> pl.DataFrame:
    """The messages that arrive, in any order, with their verdicts."""
    dice = random.Random(f"{run.scenario.seed} {lost_share}")
    arrived = [body for body in run.messages if dice.random() >= lost_share]
    dice.shuffle(arrived)
    last = max((event.started_at for event in run.history if isinstance(event, Attempt)), default=0)
    stored = [
        stored_message(read_body(body), account=ACCOUNT, received_at=last + n)
        for n, body in enumerate(arrived, start=1)
    ]
    schema = dict.fromkeys(StoredMessage._fields, pl.String()) | {"received_at": pl.Int64()}
    verdicts = with_verdicts(pl.DataFrame(stored, schema, orient="row"))
    return verdicts.drop("status", "raw").cast({"received_at": UTC})


def reports(run: SimulatedRun, messages: pl.DataFrame) -> Reports:
    known = pl.LazyFrame(
        {"request_id": run.journal.request_ids(of_lost_answers=False)}, {"request_id": pl.String}
    )
    return reports_of(requests_of(run), messages, lost_answers(run.journal), known)


def outcomes(run: SimulatedRun, messages: pl.DataFrame) -> dict[str, str]:
    """The status of each device that the messages decide, by IMEI."""
    found = reports(run, messages).outcomes.select("plan_row", "status").collect()
    imeis = list(events_by_device(run.scenario, run.history))
    return {imeis[row]: status for row, status in found.iter_rows()}


@every_seed
@every_share
def test_a_confirmed_device_has_a_license_and_one_that_failed_has_none(seed: int, lost_share: float) -> None:
    run = simulated_run(seed)
    for imei, status in outcomes(run, messages_of(run, lost_share)).items():
        assert (run.executions[imei] > 0) == (status == DeviceStatus.CONFIRMED), imei


@every_seed
@every_share
def test_a_message_on_hold_or_of_an_unknown_status_decides_nothing(seed: int, lost_share: float) -> None:
    run = simulated_run(seed)
    messages = messages_of(run, lost_share)
    deciding = messages.filter(pl.col("verdict").is_in([SUCCESS, FAILURE]))
    assert outcomes(run, messages) == outcomes(run, deciding)
    assert outcomes(run, messages.filter(~pl.col("verdict").is_in([SUCCESS, FAILURE]))) == {}


@every_seed
def test_every_accepted_device_has_an_outcome_if_all_messages_arrive(seed: int) -> None:
    run = simulated_run(seed)
    decided = outcomes(run, messages_of(run, 0.0))
    for imei, (_, attempts) in run.statuses().items():
        lost = [a for a in attempts if a.outcome in {None, Outcome.AMBIGUOUS} or run.has_lost_answer(a)]
        if status_of(attempts) is DeviceStatus.ACCEPTED and not lost:
            assert imei in decided


@every_seed
def test_no_message_about_a_device_of_its_request_is_left_unjudged(seed: int) -> None:
    run = simulated_run(seed)
    attempts = [event for event in run.history if isinstance(event, Attempt)]
    mistaken = {attempt.request_id for attempt in attempts if run.has_lost_answer(attempt)}
    unjudged = reports(run, messages_of(run, 0.0)).unjudged.collect()
    assert set(unjudged["request_id"].str.to_lowercase()) <= mistaken
