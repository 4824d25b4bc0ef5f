"""Refusals that are about the carrier fail no device; those that are about devices do."""

import itertools
import random
from dataclasses import replace

import pytest

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus, Step, StepRequest
from batchlic.errors import StoppedEarly
from batchlic.pool.parked import WITNESSES
from batchlic.pool.remaining import Delivery, Position
from batchlic.pool.suspicion import (
    EXPLAINED,
    MANY_BATCHES,
    MANY_REFUSALS,
    MANY_REQUESTS,
    MOST_REFUSALS,
    PATIENCE_S,
    REFUSALS_BY_CHANCE,
    Suspicions,
)
from tests.pool.builders import (
    ACCEPTED,
    BAD_ACCOUNT,
    BAD_DEVICE,
    LIFETIME,
    REFUSED,
    THROTTLED,
    UNAVAILABLE,
    batch,
    identifier,
)
from tests.pool.virtual import ROUND_TRIP_S, Request, Script, Session, run_session

TOO_LARGE = replace(REFUSED, error_code="INPUT_INVALID.NumberofDevices", is_known=True)
NOT_FOUND = Answer(outcome=Outcome.REFUSED, blame=Blame.UNKNOWN, http_status=404, error_code="404")
WORKERS = pytest.mark.parametrize("workers", [1, 2, 16])


def outage(refusal: Answer, *, begin: float, end: float) -> Script:
    return lambda request: refusal if begin <= request.at < end else ACCEPTED


def bad_devices(refusal: Answer, *places: int) -> Script:
    bad = set(map(identifier, places))
    return lambda request: refusal if bad.intersection(request.devices) else ACCEPTED


@pytest.mark.slow
@WORKERS
@pytest.mark.parametrize("refusal", [REFUSED, NOT_FOUND, BAD_ACCOUNT])
@pytest.mark.parametrize("begin", [0.05, 0.1])
def test_an_outage_in_the_middle_of_a_run_fails_no_device(
    refusal: Answer, workers: int, begin: float
) -> None:
    batches = [batch(20, batch_id=n) for n in range(1, 201)]
    session = run_session(outage(refusal, begin=begin, end=begin + 3.0), batches, workers=workers)
    assert session.stopped is None
    assert session.count(DeviceStatus.ACCEPTED) == 200 * 20
    refused = [request for request in session.requests if begin <= request.at < begin + 3.0]
    assert len(refused) <= 3 * (workers + MANY_REQUESTS)


@WORKERS
@pytest.mark.parametrize("refusal", [REFUSED, BAD_ACCOUNT])
def test_a_carrier_that_refuses_everything_from_now_on_stops_the_run(refusal: Answer, workers: int) -> None:
    batches = [batch(20, batch_id=n) for n in range(1, 201)]
    session = run_session(outage(refusal, begin=0.05, end=1e9), batches, workers=workers)
    assert isinstance(session.stopped, StoppedEarly)
    assert "refuses all requests" in str(session.stopped)
    assert session.count(DeviceStatus.FAILED) == 0
    assert session.seconds <= 3 * PATIENCE_S


@WORKERS
@pytest.mark.parametrize("refusal", [REFUSED, BAD_ACCOUNT])
def test_a_carrier_that_never_accepts_stops_the_run_soon(refusal: Answer, workers: int) -> None:
    batches = [batch(100, batch_id=n) for n in range(1, 201)]
    session = run_session(lambda _: refusal, batches, workers=workers)
    assert isinstance(session.stopped, StoppedEarly)
    assert session.count(DeviceStatus.FAILED) == 0
    assert len(session.requests) <= 2 * MANY_REQUESTS + workers
    assert session.seconds <= 60


@WORKERS
def test_an_account_that_is_refused_stops_the_run_after_a_few_batches(workers: int) -> None:
    batches = [batch(100, batch_id=n) for n in range(1, 201)]
    session = run_session(lambda _: BAD_ACCOUNT, batches, workers=workers)
    assert isinstance(session.stopped, StoppedEarly)
    assert len(session.requests) <= MANY_BATCHES + workers


@WORKERS
@pytest.mark.parametrize("accepted_before", [0, 3])
def test_one_batch_that_is_refused_again_and_again_stops_the_run(workers: int, accepted_before: int) -> None:
    batches = [batch(20, batch_id=n + 1, first=n * 20) for n in range(accepted_before + 1)]
    last = identifier(accepted_before * 20)
    session = run_session(
        lambda request: BAD_ACCOUNT if last in request.devices else ACCEPTED, batches, workers=workers
    )
    assert f"pending: 20 devices (batch {accepted_before + 1}); last answer: " in str(session.stopped)
    assert session.count(DeviceStatus.ACCEPTED) == 20 * accepted_before
    assert session.seconds <= 2 * PATIENCE_S


def test_a_run_that_was_stopped_for_refusals_can_be_resumed() -> None:
    batches = [batch(20, batch_id=n) for n in range(1, 11)]
    stopped = run_session(lambda _: REFUSED, batches)
    assert stopped.stopped is not None
    resumed = run_session(lambda _: ACCEPTED, batches, journal=stopped.journal)
    assert resumed.stopped is None
    assert resumed.count(DeviceStatus.ACCEPTED) == 200


def failed_devices(session: Session, size: int) -> set[int]:
    """Numbers of the failed devices, if batch n has the devices from (n-1)·size on."""
    failed = (key for key, status in session.statuses.items() if status is DeviceStatus.FAILED)
    return {(number - 1) * size + place for number, place in failed}


@pytest.mark.slow
@WORKERS
@pytest.mark.parametrize("size", [1, 3, 20])
@pytest.mark.parametrize("bad", [{0}, {19}, {30, 31, 32}, {3, 7, 58}, {1, 59}, set(range(40))])
def test_bad_devices_fail_by_an_unknown_code_while_others_are_accepted(
    workers: int, size: int, bad: set[int]
) -> None:
    batches = [batch(size, batch_id=n + 1, first=n * size) for n in range(120 // size)]
    session = run_session(bad_devices(REFUSED, *bad), batches, workers=workers)
    if session.stopped is None:
        assert failed_devices(session, size) == bad
        assert session.count(DeviceStatus.ACCEPTED) == 120 - len(bad)
    else:
        assert bad == set(range(40))  # so many in a row look like a carrier that refuses everything
        assert failed_devices(session, size) <= bad


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1 + WITNESSES, 1000])
def test_an_unknown_code_costs_a_few_more_requests_a_device(batches: int) -> None:
    plan = [batch(100), *(batch(1, batch_id=n, first=n + 100) for n in range(2, batches + 1))]
    session = run_session(bad_devices(REFUSED, 40), plan)
    known = run_session(bad_devices(BAD_DEVICE, 40), plan)
    assert session.count(DeviceStatus.FAILED) == known.count(DeviceStatus.FAILED) == 1
    assert len(session.requests) == len(known.requests) + EXPLAINED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "share", "refusal"),
    [(1, 0.2, REFUSED), (2, 0.5, REFUSED), (16, 0.2, REFUSED), (2, 0.2, BAD_ACCOUNT), (16, 0.5, BAD_ACCOUNT)],
)
def test_one_broken_server_behind_a_balancer_fails_no_batch(
    refusal: Answer, workers: int, share: float
) -> None:
    dice = random.Random(7)
    batches = [batch(20, batch_id=n + 1, first=n * 20) for n in range(400)]
    session = run_session(
        lambda request: refusal if request.at < 3 and dice.random() < share else ACCEPTED,
        batches,
        workers=workers,
    )
    assert session.count(DeviceStatus.FAILED) == 0
    assert session.stopped is not None or session.count(DeviceStatus.ACCEPTED) == 8000


def every_nth_refused(number: int, *bad: int) -> Script:
    """Refuse every nth request, and each one with a bad device."""
    requests, is_bad = itertools.count(1), bad_devices(REFUSED, *bad)
    return lambda request: REFUSED if next(requests) % number == 0 else is_bad(request)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("size", [1, 20])
def test_a_server_that_stays_broken_behind_a_balancer_fails_no_device(number: int, size: int) -> None:
    batches = [batch(size, batch_id=n + 1, first=n * size) for n in range(400)]
    session = run_session(every_nth_refused(number), batches, workers=4)
    assert session.count(DeviceStatus.FAILED) == 0
    assert session.count(DeviceStatus.PENDING) <= 2
    if session.stopped is not None:
        session = run_session(every_nth_refused(number), batches, workers=4, journal=session.journal)
    assert session.count(DeviceStatus.ACCEPTED) == 400 * size


@pytest.mark.slow
def test_a_bad_device_fails_even_while_others_are_refused_by_chance() -> None:
    batches = [batch(1, batch_id=n + 1, first=n) for n in range(1000)]
    carrier = every_nth_refused(3, 40)
    session = run_session(carrier, batches, round_trip_s=1.0)
    assert failed_devices(session, 1) == {40}
    assert session.count(DeviceStatus.ACCEPTED) == 999
    assert len([r for r in session.requests if identifier(40) in r.devices]) == REFUSALS_BY_CHANCE


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "status"), [(40, DeviceStatus.PENDING), (990, DeviceStatus.FAILED)])
def test_after_an_outage_a_device_fails_if_it_was_first_refused_since(bad: int, status: DeviceStatus) -> None:
    batches = [batch(1, batch_id=n + 1, first=n) for n in range(2000)]
    is_bad, begin = bad_devices(REFUSED, bad), 0.5
    session = run_session(
        lambda request: REFUSED if begin <= request.at < begin + 1 else is_bad(request), batches
    )
    assert session.statuses[bad + 1, 0] is status
    assert session.count(DeviceStatus.ACCEPTED) == 1999


def test_batches_that_are_too_large_hold_up_nobody() -> None:
    batches = [batch(4, batch_id=n + 1, first=n * 4) for n in range(40)]
    session = run_session(
        lambda request: TOO_LARGE if len(request.devices) > 2 else ACCEPTED, batches, workers=20
    )
    assert session.count(DeviceStatus.ACCEPTED) == 160
    assert session.seconds <= 1


def test_a_size_that_is_refused_even_for_one_device_fails_no_device() -> None:
    session = run_session(lambda r: TOO_LARGE if len(r.devices) > 3 else ACCEPTED, [batch(20)])
    assert session.count(DeviceStatus.ACCEPTED) == 20
    batches = [batch(2, batch_id=n, first=2 * n) for n in range(1, 41)]
    session = run_session(lambda _: TOO_LARGE, batches)
    assert isinstance(session.stopped, StoppedEarly)
    assert session.count(DeviceStatus.FAILED) == 0


@pytest.mark.parametrize("seconds", [20, 40, 100])
def test_an_outage_at_the_end_of_a_plan_fails_no_device(seconds: int) -> None:
    batches = [batch(20, batch_id=n + 1, first=n * 20) for n in range(10)]
    batches.append(batch(1, batch_id=11, first=1000))

    def script(request: Request) -> Answer:
        return REFUSED if len(request.devices) == 1 and request.at < seconds else ACCEPTED

    session = run_session(script, batches)
    assert session.stopped is None
    assert session.count(DeviceStatus.ACCEPTED) == 201


def test_other_answers_do_not_count_as_refusals() -> None:
    answers = iter([THROTTLED, UNAVAILABLE, THROTTLED, UNAVAILABLE, THROTTLED, REFUSED])
    session = run_session(lambda _: next(answers, ACCEPTED), [batch(1)])
    assert session.count(DeviceStatus.ACCEPTED) == 1


def test_a_flapping_outage_fails_no_device() -> None:
    flapping: Script = lambda request: REFUSED if int(request.at * 5) % 2 else ACCEPTED  # noqa: E731
    batches = [batch(5, batch_id=n + 1, first=n * 5) for n in range(200)]
    session = run_session(flapping, batches, workers=4)
    assert session.stopped is None
    assert session.count(DeviceStatus.ACCEPTED) == 1000


def test_licenses_that_run_out_stop_the_run_and_fail_no_device() -> None:
    left = 500

    def script(request: Request) -> Answer:
        nonlocal left
        if len(request.devices) > left:
            return replace(REFUSED, error_message="Not enough licenses")
        left -= len(request.devices)
        return ACCEPTED

    session = run_session(script, [batch(20, batch_id=n + 1, first=n * 20) for n in range(50)], workers=4)
    assert "Not enough licenses" in str(session.stopped)
    assert session.count(DeviceStatus.FAILED) == 0
    assert session.count(DeviceStatus.ACCEPTED) == 500


def test_an_acceptance_on_one_account_fails_no_device_of_another() -> None:
    batches = [batch(1, batch_id=n, first=n, account="wrong" if n % 2 else "right") for n in range(1, 41)]
    wrong = {identifier(n) for n in range(1, 41, 2)}
    session = run_session(lambda request: BAD_ACCOUNT if request.devices[0] in wrong else ACCEPTED, batches)
    assert isinstance(session.stopped, StoppedEarly)
    assert "account wrong" in str(session.stopped)
    assert session.count(DeviceStatus.FAILED) == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_h_no_sequence_begins_while_too_many_requests_are_parked(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Each account has one batch, so that no acceptance of another batch shows what a refusal is about."""
    monkeypatch.setattr("batchlic.pool.delivery.MOST_PARKED", 10)
    batches = [batch(1, batch_id=n, account=f"account{n}") for n in range(1, 101)]
    refused_until = 20.0
    session = run_session(
        lambda request: REFUSED if request.at < refused_until else ACCEPTED, batches, workers=workers
    )
    assert session.stopped is None
    assert session.count(DeviceStatus.ACCEPTED) == 100
    sent_early = session.journal.attempts()
    assert len({one.batch_id for one in sent_early if one.is_refusal}) <= 10 + workers


def test_refusals_of_what_is_undone_are_no_sign_of_a_wrong_account() -> None:
    """The carrier refuses to take back licenses that the devices do not have."""
    suspicions = Suspicions()
    for number in range(1, 2 * MANY_REQUESTS):
        undo = Delivery(batch(batch_id=number), position=Position.UNDO)
        suspicions.learn(undo, BAD_ACCOUNT, sent_at=number)
        suspicions.stop_if_nothing_is_accepted(Delivery(batch()), BAD_ACCOUNT, seconds_since=float)
    assert suspicions.stopped is None


def request_of(step: Step) -> StepRequest:
    takes = step in {Step.UNASSIGN, Step.CLEAR}
    return StepRequest(step=step, action=Action.UNASSIGN if takes else Action.ASSIGN)


def undo_of(step: Step) -> Delivery:
    """A step of a migration that undoes another one."""
    undone = replace(batch(), request=request_of(step))
    return Delivery(undone, position=Position.UNDO)


def refused_again(suspicions: Suspicions, delivery: Delivery, times: int, *, between: Delivery) -> Delivery:
    """The delivery after refusals a second apart, after each of which another request is accepted."""
    for number in range(times):
        refusals = suspicions.refused(delivery, REFUSED, sent_at=2 * number)
        suspicions.learn(between, ACCEPTED, sent_at=2 * number + 1)
        delivery = replace(delivery, refusals=refusals)
    return delivery


@pytest.mark.parametrize(
    ("step", "explained_by"),
    [(Step.CLEAR, {Step.UNASSIGN}), (Step.RESTORE, {Step.UNASSIGN, Step.ASSIGN})],
)
@pytest.mark.parametrize("other", [Step.UNASSIGN, Step.ASSIGN])
def test_only_unassigns_explain_a_refused_clear(step: Step, explained_by: set[Step], other: Step) -> None:
    """If a clear wrongly counts as nothing to clear, the device gets a second license."""
    suspicions = Suspicions()
    accepted = Delivery(replace(batch(batch_id=2, sku=LIFETIME), request=request_of(other)))
    refused = refused_again(suspicions, undo_of(step), MANY_REFUSALS, between=accepted)
    assert suspicions.is_proven(refused) == (other in explained_by)


@pytest.mark.parametrize(
    ("position", "fewest"),
    [(Position.SECOND_RESTORABLE, MOST_REFUSALS), (Position.UNDO, None), (Position.FIRST, None)],
)
def test_without_evidence_only_a_device_without_license_is_given_up(
    position: Position, fewest: int | None
) -> None:
    suspicions = Suspicions()
    assign = Delivery(replace(batch(), request=request_of(Step.ASSIGN)), position=position)
    proven = []
    for number in range(1, 2 * MOST_REFUSALS):
        if suspicions.is_proven(assign):
            proven.append(number)
        assign = replace(assign, refusals=suspicions.refused(assign, REFUSED, sent_at=number))
    assert next(iter(proven), None) == fewest


def ending_with_an_outage(seed: int, refusal: Answer) -> tuple[set[int], Session]:
    """Bad devices with `refusal`, and the last of up to two sessions whose plan ends in an outage."""
    dice = random.Random(seed)
    size, count = dice.choice([1, 2, 5, 16]), dice.randint(1, 12)
    bad = set(dice.sample(range(size * count), min(size * count, dice.choice([0, 1, 1, 2, 8]))))
    batches = [batch(size, batch_id=n + 1, first=n * size) for n in range(count)]
    begin, seconds = dice.uniform(0, 0.02 * count), dice.choice([1, 20, 33, 45, 60, 90, 110, 600])
    workers, commits = dice.choice([1, 3, 16]), dice.choice([None, None, 2 * count, 5 * count])
    good_or_bad, ended = bad_devices(refusal, *bad), 0.0

    def script(request: Request) -> Answer:
        return NOT_FOUND if begin <= ended + request.at < begin + seconds else good_or_bad(request)

    session = run_session(script, batches, workers=workers, commits=commits)
    if commits is not None:
        ended = session.seconds
        session = run_session(script, batches, workers=workers, journal=session.journal)
    failed = {(number - 1) * size + place for number, place in _failed(session)}
    assert failed <= bad, f"failed wrongly: {failed - bad}"
    return bad, session


def _failed(session: Session) -> list[tuple[int, int]]:
    return [key for key, status in session.statuses.items() if status is DeviceStatus.FAILED]


@pytest.mark.parametrize("seed", range(40))
def test_an_outage_in_the_last_batches_fails_bad_devices_only(seed: int) -> None:
    bad, session = ending_with_an_outage(seed, BAD_DEVICE)
    in_doubt = session.count(DeviceStatus.IN_DOUBT)  # a request was in flight at the kill
    if session.stopped is None and not in_doubt:
        assert session.count(DeviceStatus.FAILED) == len(bad)
    assert session.stopped is not None or session.count(DeviceStatus.PENDING) == 0


@pytest.mark.parametrize("seed", range(40))
def test_an_outage_in_the_last_batches_fails_no_good_device_by_an_unknown_code(seed: int) -> None:
    _, session = ending_with_an_outage(seed, REFUSED)
    assert session.stopped is not None or session.count(DeviceStatus.PENDING) == 0
    assert session.seconds <= 4 * PATIENCE_S


@WORKERS
@pytest.mark.parametrize("size", [1, 2, 5])
def test_bad_devices_that_nothing_explains_are_pending_and_named(workers: int, size: int) -> None:
    batches = [batch(size, batch_id=n + 1, first=n * size) for n in range(50)]
    last = range(49 * size, 50 * size)
    journal = None
    for _ in range(2):
        session = run_session(bad_devices(REFUSED, *last), batches, workers=workers, journal=journal)
        journal = session.journal
        assert session.count(DeviceStatus.PENDING) == size
        assert session.count(DeviceStatus.FAILED) == 0
        assert all(identifier(number) in str(session.stopped) for number in last)
        assert f"settle RUN_DIR --as failed --device {identifier(last[0])}" in str(session.stopped)
        assert session.seconds <= 1.5 * PATIENCE_S


@pytest.mark.slow
@pytest.mark.parametrize("every", [3, 10])
@pytest.mark.parametrize("batches", [100, 500])
def test_batches_that_are_always_refused_do_not_slow_down_the_others(batches: int, every: int) -> None:
    plan = [batch(2, batch_id=n + 1, first=2 * n) for n in range(batches)]
    refused = {identifier(2 * n) for n in range(0, batches, every)}
    session = run_session(
        lambda request: BAD_ACCOUNT if request.devices[0] in refused else ACCEPTED, plan, workers=4
    )
    assert session.count(DeviceStatus.ACCEPTED) == 2 * (batches - len(refused))
    assert session.count(DeviceStatus.PENDING) == 2 * len(refused)
    assert len(session.requests) <= batches + len(refused) + 10
    first_sent = {request.devices: request.at for request in reversed(session.requests)}
    assert max(first_sent.values()) <= 1.2 * batches * ROUND_TRIP_S / 4 + 0.1


@pytest.mark.slow
def test_repeated_requests_are_at_most_half_of_the_traffic() -> None:
    plan = [batch(1, batch_id=n + 1, first=n) for n in range(1000)]
    session = run_session(bad_devices(REFUSED, *range(0, 1000, 2)), plan, workers=4)
    first_sent = {request.devices: request.at for request in reversed(session.requests)}
    end = sorted(first_sent.values())[-1 - WITNESSES]
    sent = [request.devices for request in session.requests if request.at <= end]
    assert len(sent) <= 2 * len(set(sent)) + 4


def test_h_few_parked_requests_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchlic.pool.delivery.MOST_PARKED", 10)
    plan = [batch(2, batch_id=n + 1, first=2 * n) for n in range(100)]
    refused = {identifier(2 * n) for n in range(0, 100, 2)}

    def script(request: Request) -> Answer:
        return BAD_ACCOUNT if request.devices[0] in refused else ACCEPTED

    session = run_session(script, plan)
    assert session.count(DeviceStatus.PENDING) == session.count(DeviceStatus.ACCEPTED) == 100
    assert "pending: 100 devices (batch " in str(session.stopped)
    assert len(session.requests) <= 100 + 50 + 10
    refused.clear()
    assert run_session(script, plan, journal=session.journal).count(DeviceStatus.ACCEPTED) == 200
