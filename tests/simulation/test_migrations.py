"""Simulated migrations with random faults and kills: each device holds the licenses that the journal shows.

pytest prints the seed of a failure; `make replay SEED=n` runs its scenario again.
"""

import os
from functools import cache

import pytest

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus, Step
from tests.simulation.migrating import LIFETIME, OLD, DeviceResult, SimulatedRun, scenario_of, simulate

SEEDS = int(os.environ.get("SCENARIOS", "20"))
FIRST = int(os.environ.get("SEED", "0"))
DOUBTFUL = {None, Outcome.AMBIGUOUS}

every_seed = pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))


@cache
def simulated_run(seed: int) -> SimulatedRun:
    return simulate(scenario_of(seed))


def expected_licenses(result: DeviceResult, new: str) -> set[str]:
    """Return the SKUs that a device without a step in doubt must hold, by the statuses of its steps."""
    skus = {OLD}
    if result.statuses.get(Step.UNASSIGN) is DeviceStatus.ACCEPTED:
        skus -= {OLD}
    if result.statuses.get(Step.ASSIGN) is DeviceStatus.ACCEPTED:
        skus |= {new}
    if result.statuses.get(Step.RESTORE) is DeviceStatus.ACCEPTED:
        skus = {OLD}
    return skus


def is_in_doubt(result: DeviceResult) -> bool:
    return DeviceStatus.IN_DOUBT in result.statuses.values()


def is_mistaken(run: SimulatedRun, result: DeviceResult) -> bool:
    """Whether the device got the answer to another request."""
    return any(attempt.seq in run.mistaken for of_step in result.attempts.values() for attempt in of_step)


@every_seed
def test_a_only_unknown_errors_stop_a_migration_in_every_session(seed: int) -> None:
    run = simulated_run(seed)
    assert not run.gave_up or run.scenario.may_be_refused_everything


@every_seed
def test_a_no_step_is_left_undone_in_a_run_that_ends(seed: int) -> None:
    run = simulated_run(seed)
    if run.gave_up:
        return
    for device, result in run.results.items():
        assert DeviceStatus.PENDING not in result.statuses.values(), device
        first = min(result.statuses, key=lambda step: result.attempts[step][0].seq)
        second = Step.UNASSIGN if first is Step.ASSIGN else Step.ASSIGN
        continues = result.statuses[first] is DeviceStatus.ACCEPTED
        assert (second in result.statuses) == continues, device
        second_failed = result.statuses.get(second) is DeviceStatus.FAILED
        sku = OLD if first is Step.UNASSIGN else run.scenario.to_sku
        assert (Step.RESTORE in result.statuses) == (second_failed and sku in run.scenario.restorable), device


@every_seed
def test_d_a_device_holds_what_its_steps_say_and_the_new_license_once(seed: int) -> None:
    run = simulated_run(seed)
    for device, result in run.results.items():
        if is_in_doubt(result) or is_mistaken(run, result):
            continue
        assert set(result.licenses) == expected_licenses(result, run.scenario.to_sku), device
        assert result.licenses.get(run.scenario.to_sku, 1) == 1, device
        lost = sum(a.outcome in DOUBTFUL for a in result.attempts[Step.RESTORE])
        assert 1 <= result.licenses.get(OLD, 1) <= 1 + lost, device


@every_seed
def test_d_a_lifetime_license_is_never_given_twice(seed: int) -> None:
    for device, result in simulated_run(seed).results.items():
        assert result.licenses.get(LIFETIME, 0) <= 1, device


@every_seed
def test_d_only_a_lost_answer_leaves_a_step_in_doubt(seed: int) -> None:
    for device, result in simulated_run(seed).results.items():
        for step, status in result.statuses.items():
            if status is DeviceStatus.IN_DOUBT:
                assert any(a.outcome in DOUBTFUL for a in result.attempts[step]), (device, step)


@every_seed
def test_c_a_step_with_a_definite_answer_is_never_sent_again(seed: int) -> None:
    for device, result in simulated_run(seed).results.items():
        for step in (Step.UNASSIGN, Step.ASSIGN, Step.RESTORE):
            attempts = result.attempts[step]
            assert not any(a.outcome == Outcome.ACCEPTED or a.final for a in attempts[:-1]), device


@every_seed
def test_a_restorable_device_without_doubt_always_has_a_license(seed: int) -> None:
    run = simulated_run(seed)
    if OLD in run.scenario.restorable and not run.gave_up:
        for device, result in run.results.items():
            restore_failed = result.statuses.get(Step.RESTORE) is DeviceStatus.FAILED
            is_open = is_in_doubt(result) or is_mistaken(run, result)
            assert result.licenses or is_open or restore_failed, device


@pytest.mark.slow
def test_a_batch_of_which_one_device_is_left_is_not_split() -> None:
    # After a lost answer and a refusal, one of three devices is sent again: a split would have an empty half.
    assert simulated_run(11300068).results
