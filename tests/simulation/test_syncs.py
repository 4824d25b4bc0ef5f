"""Simulated syncs with random faults and kills: the books equal the inventory, and the phases keep order.

pytest prints the seed of a failure; `make replay SEED=n` runs its scenario again.
"""

import os
import random
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus
from batchlic.journal import Attempt
from batchlic.journal.status import status_of
from tests.simulation.world import (
    FLEXIBLE,
    Scenario,
    SimulatedRun,
    events_by_device,
    imei_of,
    scenario_of,
    simulate,
)

SEEDS = int(os.environ.get("SCENARIOS", "20"))
FIRST = int(os.environ.get("SEED", "0"))

every_seed = pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))


def sync_of(seed: int) -> Scenario:
    """The scenario of a seed, in which some batches take licenses and the others give some."""
    dice, scenario = random.Random(f"sync {seed}"), scenario_of(seed)
    first, second = dice.sample([Action.UNASSIGN, Action.ASSIGN], 2)
    of_first = dice.randint(0, len(scenario.batches))
    batches = [
        replace(batch, sku_number=FLEXIBLE, planned_action=first if at < of_first else second)
        for at, batch in enumerate(scenario.batches)
    ]
    return replace(scenario, sku=FLEXIBLE, batches=batches)


@cache
def simulated_run(seed: int) -> SimulatedRun:
    return simulate(sync_of(seed))


@every_seed
def test_the_books_equal_the_inventory_but_for_what_failed_or_is_open(seed: int) -> None:
    run = simulated_run(seed)
    removals = run.scenario.removals
    for device, (status, attempts) in run.statuses().items():
        if any(map(run.has_lost_answer, attempts)):
            continue
        if status is DeviceStatus.ACCEPTED:
            assert (device in run.licensed) == (device not in removals), attempts
        elif status is DeviceStatus.FAILED:
            assert (device in run.licensed) == (device in removals), attempts
        assert status is not DeviceStatus.PENDING or run.gave_up


@every_seed
def test_only_bad_devices_fail_and_only_unknown_errors_stop_every_session(seed: int) -> None:
    run = simulated_run(seed)
    assert not run.gave_up or run.scenario.has_unknown_errors
    statuses = run.statuses().items()
    assert {
        device for device, (status, _) in statuses if status is DeviceStatus.FAILED
    } <= run.scenario.poisoned


@every_seed
def test_the_second_phase_begins_when_nothing_of_the_first_is_pending(seed: int) -> None:
    run = simulated_run(seed)
    if len(run.scenario.phases) < 2:
        return
    first, second = ({imei_of(d) for batch in phase for d in batch.devices} for phase in run.scenario.phases)
    events = {device: found for device, (_, _, found) in events_by_device(run.scenario, run.history).items()}
    begun = min((events[device][0].seq for device in second if events[device]), default=None)
    if begun is not None:
        before = {device: [event for event in events[device] if event.seq < begun] for device in first}
        assert DeviceStatus.PENDING not in map(status_of, before.values())


@every_seed
def test_c_a_device_with_a_definite_answer_is_never_sent_again(seed: int) -> None:
    for attempts in simulated_run(seed).attempts_between_settlements():
        assert not any(a.outcome == Outcome.ACCEPTED or a.final for a in attempts[:-1]), attempts


@every_seed
def test_each_device_is_sent_with_the_action_of_its_phase_only(seed: int) -> None:
    run = simulated_run(seed)
    actions = {batch.batch_id: batch.planned_action for batch in run.scenario.batches}
    sent = Counter((e.batch_id, e.action) for e in run.history if isinstance(e, Attempt))
    assert all(action == actions[batch_id] for batch_id, action in sent)
