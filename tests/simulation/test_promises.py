"""The promises of the design, checked after hundreds of bad nights in virtual time.

A failing seed is printed; `make replay SEED=n` lives through it again.
"""

import os
from functools import cache

import pytest

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.pool.retry import RetryPolicy
from tests.simulation.world import FLEXIBLE, LIFETIME, SimulatedRun, draw, live

SEEDS = int(os.environ.get("SCENARIOS", "100"))
FIRST = int(os.environ.get("SEED", "0"))
DOUBTFUL = {None, Outcome.AMBIGUOUS}

every_seed = pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))


@cache
def simulated_run(seed: int) -> SimulatedRun:
    return live(draw(seed))


@every_seed
def test_a_every_device_stands_somewhere_and_none_is_left_pending(seed: int) -> None:
    device_history = simulated_run(seed)
    standings = device_history.standings()
    assert len(standings) == sum(len(batch.devices) for batch in device_history.scenario.batches)
    assert DeviceStatus.PENDING not in {standing for standing, _ in standings.values()}


@every_seed
def test_b_whatever_was_executed_had_been_intended(seed: int) -> None:
    device_history = simulated_run(seed)
    standings = device_history.standings()
    for device, executions in device_history.executions.items():
        _, attempts = standings[device]
        may_have_been = [a for a in attempts if a.outcome in {*DOUBTFUL, Outcome.ACCEPTED}]
        assert executions <= len(may_have_been)


@every_seed
def test_c_a_settled_device_is_never_sent_again(seed: int) -> None:
    for _, attempts in simulated_run(seed).standings().values():
        assert not any(a.outcome == Outcome.ACCEPTED or a.final for a in attempts[:-1]), attempts
        for number, attempt in enumerate(attempts):
            if attempt.outcome == Outcome.REFUSED:
                assert attempt.part not in {later.part for later in attempts[number + 1 :]}, attempts


@every_seed
def test_d_an_accepted_device_has_its_license_and_a_failed_one_has_none(seed: int) -> None:
    device_history = simulated_run(seed)
    for device, (standing, attempts) in device_history.standings().items():
        if standing is DeviceStatus.ACCEPTED:
            assert device_history.executions[device] >= 1, attempts
        if standing is DeviceStatus.FAILED:
            assert device_history.executions[device] == 0, attempts
            assert device in device_history.scenario.poisoned


@every_seed
def test_d_only_a_lost_answer_leaves_doubt(seed: int) -> None:
    for device, (standing, attempts) in simulated_run(seed).standings().items():
        is_doubtful = any(a.outcome in DOUBTFUL for a in attempts)
        assert is_doubtful or standing is not DeviceStatus.IN_DOUBT, (device, attempts)


@every_seed
def test_d_a_lifetime_license_is_never_executed_twice(seed: int) -> None:
    device_history = simulated_run(seed)
    if device_history.scenario.sku == LIFETIME:
        assert max(device_history.executions.values(), default=0) <= 1


@every_seed
def test_d_a_flexible_license_in_doubt_is_asked_for_again(seed: int) -> None:
    device_history = simulated_run(seed)
    for device, (standing, attempts) in device_history.standings().items():
        if device_history.scenario.sku == FLEXIBLE and standing is DeviceStatus.IN_DOUBT:
            asked_in_vain = (
                len([a for a in attempts if a.outcome in DOUBTFUL]) > RetryPolicy(resendable=()).max_resends
            )
            assert asked_in_vain or device in device_history.scenario.poisoned, attempts


@every_seed
def test_g_one_login_for_each_session_and_each_rejected_token(seed: int) -> None:
    device_history = simulated_run(seed)
    assert device_history.logins <= device_history.sessions + device_history.rejected


@every_seed
def test_j_nobody_sends_while_the_carrier_has_told_anyone_to_wait(seed: int) -> None:
    device_history = simulated_run(seed)
    for begin, end in device_history.pauses:
        assert not [at for at in device_history.requests_at if begin < at < end - 1e-6]
