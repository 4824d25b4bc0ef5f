"""The promises of docs/explanation/architecture.md, checked in simulated runs with random faults and kills.

pytest prints the seed of a failure; `make replay SEED=n` runs its scenario again.
"""

import os
from functools import cache
from itertools import dropwhile

import pytest

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.pool.retry import RetryPolicy
from tests.simulation.world import FLEXIBLE, LIFETIME, SimulatedRun, scenario_of, simulate

SEEDS = int(os.environ.get("SCENARIOS", "40"))
FIRST = int(os.environ.get("SEED", "0"))
DOUBTFUL = {None, Outcome.AMBIGUOUS}

every_seed = pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))


@cache
def simulated_run(seed: int) -> SimulatedRun:
    return simulate(scenario_of(seed))


@every_seed
def test_a_only_unknown_errors_stop_a_run_in_every_session(seed: int) -> None:
    run = simulated_run(seed)
    assert not run.gave_up or run.scenario.has_unknown_errors


@every_seed
def test_a_every_device_has_a_status_and_a_run_that_ends_leaves_none_pending(seed: int) -> None:
    run = simulated_run(seed)
    statuses = run.statuses()
    assert len(statuses) == sum(len(batch.devices) for batch in run.scenario.batches)
    assert run.gave_up or DeviceStatus.PENDING not in {status for status, _ in statuses.values()}


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
    for attempts in simulated_run(seed).attempts_between_settlements():
        assert not any(a.outcome == Outcome.ACCEPTED or a.final for a in attempts[:-1]), attempts
        for number, attempt in enumerate(attempts):
            if attempt.outcome == Outcome.REFUSED:
                assert attempt.part not in {later.part for later in attempts[number + 1 :]}, attempts


@every_seed
def test_c_an_accepted_request_has_the_request_id_of_its_own_execution(seed: int) -> None:
    run = simulated_run(seed)
    for _, attempts in run.statuses().values():
        for attempt in attempts:
            if run.has_lost_answer(attempt):
                continue
            if attempt.outcome == Outcome.ACCEPTED and attempt.request_id is not None:
                assert run.executed_ids[attempt.request_id] == attempt.x_request_id, attempt


@every_seed
def test_d_a_request_in_doubt_is_repeated_with_its_own_x_request_id(seed: int) -> None:
    for attempts in simulated_run(seed).attempts_between_settlements():
        since_doubt = list(dropwhile(lambda attempt: attempt.outcome not in DOUBTFUL, attempts))
        assert len({attempt.x_request_id for attempt in since_doubt}) <= 1, attempts


@every_seed
def test_d_an_accepted_device_has_its_license_and_a_failed_one_has_none(seed: int) -> None:
    run = simulated_run(seed)
    for device, (status, attempts) in run.statuses().items():
        if status is DeviceStatus.ACCEPTED and not any(map(run.has_lost_answer, attempts)):
            assert run.executions[device] >= 1, attempts
        if status is DeviceStatus.FAILED:
            assert run.executions[device] == 0, attempts
            assert device in run.scenario.poisoned


@every_seed
def test_d_no_answer_of_a_gateway_fails_a_device(seed: int) -> None:
    run = simulated_run(seed)
    for attempts in run.attempts_between_settlements():
        if attempts[-1].final:
            is_repetition = any(attempt.outcome in DOUBTFUL for attempt in attempts)
            is_duplicate = is_repetition and attempts[-1].http_status in {400, 409, 422}
            assert attempts[-1].error_code == run.scenario.poison_code or is_duplicate, attempts


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
    for status, attempts in run.statuses().values():
        if run.scenario.sku == FLEXIBLE and status is DeviceStatus.IN_DOUBT:
            was_refused_again = attempts[-1].final
            resends_used_up = was_refused_again or (
                len([a for a in attempts if a.outcome in DOUBTFUL]) > RetryPolicy(resendable=()).max_resends
            )
            assert resends_used_up or attempts[-1].final, attempts


@every_seed
def test_g_one_login_for_each_session_and_each_rejected_token(seed: int) -> None:
    run = simulated_run(seed)
    assert run.sessions_opened <= run.sessions + run.rejected


@every_seed
def test_j_no_request_is_sent_during_a_pause_that_an_answer_asked_for(seed: int) -> None:
    assert simulated_run(seed).licensing.requests_in_pauses() == []


@every_seed
def test_j_no_login_is_sent_during_a_pause_that_a_login_asked_for(seed: int) -> None:
    assert simulated_run(seed).logging_in.requests_in_pauses() == []


@every_seed
def test_license_counts_are_those_of_the_books_or_unknown(seed: int) -> None:
    for in_use, read in simulated_run(seed).counts:
        assert read is None or read.assigned == in_use
