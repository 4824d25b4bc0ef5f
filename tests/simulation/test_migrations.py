"""Migrations after hundreds of bad nights in virtual time: each device holds what its results say.

A failing seed is printed; `make replay SEED=n` lives through it again.
"""

import os
from functools import cache

import pytest

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus, Step
from tests.simulation.migrating import LIFETIME, OLD, Fate, SimulatedRun, draw, live

SEEDS = int(os.environ.get("SCENARIOS", "60"))
FIRST = int(os.environ.get("SEED", "0"))
DOUBTFUL = {None, Outcome.AMBIGUOUS}

every_seed = pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))


@cache
def simulated_run(seed: int) -> SimulatedRun:
    return live(draw(seed))


def held(fate: Fate, new: str) -> set[str]:
    """The SKUs that a device without any doubt must hold, by what the journal says of its steps."""
    skus = {OLD}
    if fate.standings.get(Step.UNASSIGN) is DeviceStatus.ACCEPTED:
        skus -= {OLD}
    if fate.standings.get(Step.ASSIGN) is DeviceStatus.ACCEPTED:
        skus |= {new}
    if fate.standings.get(Step.RESTORE) is DeviceStatus.ACCEPTED:
        skus = {OLD}
    return skus


def is_in_doubt(fate: Fate) -> bool:
    return DeviceStatus.IN_DOUBT in fate.standings.values()


@every_seed
def test_a_no_step_is_left_undone(seed: int) -> None:
    device_history = simulated_run(seed)
    for device, fate in device_history.fates.items():
        assert DeviceStatus.PENDING not in fate.standings.values(), device
        first = min(fate.standings, key=lambda step: fate.attempts[step][0].seq)
        second = Step.UNASSIGN if first is Step.ASSIGN else Step.ASSIGN
        goes_on = fate.standings[first] is DeviceStatus.ACCEPTED
        assert (second in fate.standings) == goes_on, device
        is_undone = fate.standings.get(second) is DeviceStatus.FAILED
        sku = OLD if first is Step.UNASSIGN else device_history.scenario.to_sku
        assert (Step.RESTORE in fate.standings) == (
            is_undone and sku in device_history.scenario.restorable
        ), device


@every_seed
def test_d_a_device_holds_what_its_steps_say_and_the_new_license_once(seed: int) -> None:
    device_history = simulated_run(seed)
    for device, fate in device_history.fates.items():
        if is_in_doubt(fate):
            continue
        assert set(fate.licenses) == held(fate, device_history.scenario.to_sku), device
        assert fate.licenses.get(device_history.scenario.to_sku, 1) == 1, device
        lost = sum(a.outcome in DOUBTFUL for a in fate.attempts[Step.RESTORE])
        assert 1 <= fate.licenses.get(OLD, 1) <= 1 + lost, device


@every_seed
def test_d_a_lifetime_license_is_never_given_twice(seed: int) -> None:
    for device, fate in simulated_run(seed).fates.items():
        assert fate.licenses.get(LIFETIME, 0) <= 1, device


@every_seed
def test_d_only_a_lost_answer_leaves_a_step_in_doubt(seed: int) -> None:
    for device, fate in simulated_run(seed).fates.items():
        for step, standing in fate.standings.items():
            if standing is DeviceStatus.IN_DOUBT:
                assert any(a.outcome in DOUBTFUL for a in fate.attempts[step]), (device, step)


@every_seed
def test_c_a_settled_step_is_never_sent_again(seed: int) -> None:
    for device, fate in simulated_run(seed).fates.items():
        for step in (Step.UNASSIGN, Step.ASSIGN, Step.RESTORE):
            attempts = fate.attempts[step]
            assert not any(a.outcome == Outcome.ACCEPTED or a.final for a in attempts[:-1]), device


@every_seed
def test_a_restorable_device_without_doubt_always_has_a_license(seed: int) -> None:
    device_history = simulated_run(seed)
    if OLD in device_history.scenario.restorable:
        for device, fate in device_history.fates.items():
            is_in_vain = fate.standings.get(Step.RESTORE) is DeviceStatus.FAILED
            assert fate.licenses or is_in_doubt(fate) or is_in_vain, device
