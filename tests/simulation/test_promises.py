"""The promises of docs/architecture.md, checked in simulated runs with random faults and kills.

pytest prints the seed of a failure; `make replay SEED=n` runs its scenario again.
"""

import os
from functools import cache

import pytest

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.pool.retry import RetryPolicy
from tests.simulation.world import FLEXIBLE, LIFETIME, SimulatedRun, scenario_of, simulate

SEEDS = int(os.environ.get("SCENARIOS", "100"))
FIRST = int(os.environ.get("SEED", "0"))
DOUBTFUL = {None, Outcome.AMBIGUOUS}

every_seed = pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))


@cache
def simulated_run(seed: int) -> SimulatedRun:
    return simulate(scenario_of(seed))


@every_seed
def test_a_every_device_has_a_status_and_none_is_left_pending(seed: int) -> None:
    run = simulated_run(seed)
    statuses = run.statuses()
    assert len(statuses) == sum(len(batch.devices) for batch in run.scenario.batches)
    assert DeviceStatus.PENDING not in {status for status, _ in statuses.values()}


@every_seed
def test_b_every_execution_has_an_intent(seed: int) -> None:
    run = simulated_run(seed)
    statuses = run.statuses()
    for device, executions in run.executions.items():
        _, attempts = statuses[device]
        may_have_executed = [a for a in attempts if a.outcome in {*DOUBTFUL, Outcome.ACCEPTED}]
        assert executions <= len(may_have_executed)


@every_seed
def test_c_a_device_with_a_definite_answer_is_never_sent_again(seed: int) -> None:
    for _, attempts in simulated_run(seed).statuses().values():
        assert not any(a.outcome == Outcome.ACCEPTED or a.final for a in attempts[:-1]), attempts
        for number, attempt in enumerate(attempts):
            if attempt.outcome == Outcome.REFUSED:
                assert attempt.part not in {later.part for later in attempts[number + 1 :]}, attempts


@every_seed
def test_d_an_accepted_device_has_its_license_and_a_failed_one_has_none(seed: int) -> None:
    run = simulated_run(seed)
    for device, (status, attempts) in run.statuses().items():
        if status is DeviceStatus.ACCEPTED:
            assert run.executions[device] >= 1, attempts
        if status is DeviceStatus.FAILED:
            assert run.executions[device] == 0, attempts
            assert device in run.scenario.poisoned


@every_seed
def test_d_only_a_lost_answer_leaves_doubt(seed: int) -> None:
    for device, (status, attempts) in simulated_run(seed).statuses().items():
        is_doubtful = any(a.outcome in DOUBTFUL for a in attempts)
        assert is_doubtful or status is not DeviceStatus.IN_DOUBT, (device, attempts)


@every_seed
def test_d_a_lifetime_license_is_never_executed_twice(seed: int) -> None:
    run = simulated_run(seed)
    if run.scenario.sku == LIFETIME:
        assert max(run.executions.values(), default=0) <= 1


@every_seed
def test_d_a_flexible_license_in_doubt_is_requested_again(seed: int) -> None:
    run = simulated_run(seed)
    for device, (status, attempts) in run.statuses().items():
        if run.scenario.sku == FLEXIBLE and status is DeviceStatus.IN_DOUBT:
            was_refused_again = attempts[-1].final
            resends_used_up = was_refused_again or (
                len([a for a in attempts if a.outcome in DOUBTFUL]) > RetryPolicy(resendable=()).max_resends
            )
            assert resends_used_up or device in run.scenario.poisoned, attempts


@every_seed
def test_g_one_login_for_each_session_and_each_rejected_token(seed: int) -> None:
    run = simulated_run(seed)
    assert run.logins <= run.sessions + run.rejected


@every_seed
def test_j_no_request_is_sent_during_a_pause_of_a_429(seed: int) -> None:
    run = simulated_run(seed)
    for begin, end in run.pauses:
        assert not [at for at in run.requests_at if begin < at < end - 1e-6]
