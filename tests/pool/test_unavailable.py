"""Requests that never reach the service, while others do: they hold up nobody (rule 7 of `suspicion`)."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from batchlic.carrier.answers import Answer
from batchlic.chunker import DeviceStatus
from batchlic.errors import StoppedEarly
from batchlic.pool.parked import WITNESSES
from batchlic.pool.remaining import NEVER_UNAVAILABLE, Delivery, Position
from batchlic.pool.suspicion import MANY_UNAVAILABLE, PATIENCE_S, Suspicions
from tests.pool.builders import ACCEPTED, AMBIGUOUS, LIFETIME, REFUSED, UNAVAILABLE, batch, identifier
from tests.pool.virtual import Request, Session, run_session

PAGE = replace(UNAVAILABLE, http_status=403, error_message="a page instead of an answer")


def refuses(*numbers: int, answer: Answer = PAGE) -> Callable[[Request], Answer]:
    """A carrier behind a gateway that refuses each request about one of these devices."""
    refused = {identifier(number) for number in numbers}
    return lambda request: answer if refused & set(request.devices) else ACCEPTED


def send(
    script: Callable[[Request], Answer], batches: int, *, workers: int, sku: str | None = None
) -> Session:
    plan = [
        batch(2, batch_id=n + 1, first=2 * n, **({} if sku is None else {"sku": sku})) for n in range(batches)
    ]
    return run_session(
        script, plan, workers=workers, resendable=() if sku == LIFETIME else (plan[0].sku_number,)
    )


def pending(session: Session) -> set[int]:
    return {batch_id for (batch_id, _), one in session.statuses.items() if one is DeviceStatus.PENDING}


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batches", range(2, 3 + WITNESSES))
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_batch_that_a_gateway_always_refuses_is_the_only_one_left(
    place: str, batches: int, workers: int
) -> None:
    bad = 1 if place == "first" else batches
    session = send(refuses(2 * bad - 2), batches, workers=workers)
    assert pending(session) == {bad}
    assert session.count(DeviceStatus.ACCEPTED) == 2 * (batches - 1)
    assert isinstance(session.stopped, StoppedEarly)


def test_the_run_ends_long_before_it_would_give_up() -> None:
    assert send(refuses(0), 20, workers=4).seconds < 5 * 60


def test_the_message_names_the_batch_and_the_last_answer() -> None:
    message = str(send(refuses(0), 20, workers=4).stopped)
    assert "did not reach the license service, while others did" in message
    assert "pending: 2 devices (batch 1); last answer: " in message
    assert "a page instead of an answer" in message


def test_it_is_sent_once_more_at_the_end_of_a_long_run() -> None:
    def script(request: Request) -> Answer:
        return PAGE if identifier(0) in request.devices and request.at < 600 else ACCEPTED

    plan = [batch(2, batch_id=n + 1, first=2 * n) for n in range(400)]
    session = run_session(script, plan, workers=2, round_trip_s=4.0)
    of_first = [request for request in session.requests if identifier(0) in request.devices]
    assert session.stopped is None
    assert len(of_first) == MANY_UNAVAILABLE + 1


@pytest.mark.parametrize("workers", [1, 3])
def test_several_refused_batches_hold_up_nobody(workers: int) -> None:
    session = send(refuses(0, 2, 30, 76, 78), 40, workers=workers)
    assert pending(session) == {1, 2, 16, 39, 40}


def test_the_others_go_on_while_all_workers_have_a_refused_batch() -> None:
    session = send(refuses(*range(8)), 40, workers=4)
    assert pending(session) == {1, 2, 3, 4}


def test_an_account_that_a_gateway_refuses_does_not_hold_up_another() -> None:
    plan = [
        batch(2, batch_id=1 + n, first=2 * n, account="refused" if n < 60 else "other") for n in range(120)
    ]

    def script(request: Request) -> Answer:
        return PAGE if request.account == "refused" else ACCEPTED

    session = run_session(script, plan, workers=4)
    assert pending(session) == set(range(1, 61))


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("outage_s", [20.0, 300.0, 1500.0])
def test_an_outage_leaves_no_device_pending(outage_s: float, workers: int) -> None:
    def script(request: Request) -> Answer:
        return PAGE if 1.0 < request.at < 1.0 + outage_s else ACCEPTED

    plan = [batch(2, batch_id=n + 1, first=2 * n) for n in range(100)]
    session = run_session(script, plan, workers=workers, round_trip_s=0.05)
    assert session.stopped is None
    assert session.count(DeviceStatus.ACCEPTED) == 200


@pytest.mark.parametrize("workers", [1, 4])
def test_an_outage_at_the_end_keeps_what_explains_refusals(workers: int) -> None:
    def script(request: Request) -> Answer:
        if 1.0 < request.at < 1.0 + PATIENCE_S:
            return PAGE
        return REFUSED if identifier(0) in request.devices else ACCEPTED

    plan = [batch(1, batch_id=n + 1, first=n) for n in range(30)]
    session = run_session(script, plan, workers=workers, round_trip_s=0.05)
    assert session.count(DeviceStatus.FAILED) == 1
    assert session.count(DeviceStatus.ACCEPTED) == 29


def test_unavailable_answers_do_not_count_as_refusals() -> None:
    answers = iter([PAGE] * MANY_UNAVAILABLE + [REFUSED])

    def script(request: Request) -> Answer:
        return next(answers, ACCEPTED) if identifier(0) in request.devices else ACCEPTED

    plan = [batch(1, batch_id=n + 1, first=n) for n in range(30)]
    session = run_session(script, plan, workers=2)
    assert session.count(DeviceStatus.ACCEPTED) == 30


def doubtful(number: int) -> Callable[[Request], Answer]:
    """The first answer about a device is lost; later requests about it are refused by a gateway."""
    lost = iter([AMBIGUOUS])
    return lambda request: next(lost, PAGE) if identifier(number) in request.devices else ACCEPTED


def test_d_a_batch_in_doubt_is_not_set_aside_as_if_nothing_was_sent() -> None:
    plan = [batch(2, batch_id=n + 1, first=2 * n) for n in range(20)]
    session = run_session(doubtful(0), plan, workers=2, give_up_after=600.0)
    of_first = [request for request in session.requests if identifier(0) in request.devices]
    assert len(of_first) > MANY_UNAVAILABLE + 2
    assert session.count(DeviceStatus.ACCEPTED) == 38


def test_devices_between_two_steps_are_not_set_aside() -> None:
    """A license that was taken back and can't be given again is restored however often a gateway refuses."""
    suspicions = Suspicions()
    often = replace(NEVER_UNAVAILABLE, count=MANY_UNAVAILABLE, first_at=1.0)
    suspicions.learn(Delivery(batch(1)), ACCEPTED, sent_at=2.0)
    for position in Position:
        delivery = Delivery(batch(1), position=position, unavailable=often)
        assert suspicions.is_out_of_reach(delivery) != delivery.is_bounded


@pytest.mark.parametrize("workers", [1, 4])
def test_h_an_outage_takes_few_more_batches_than_there_are_workers_from_the_plan(workers: int) -> None:
    plan = [batch(2, batch_id=n + 1, first=2 * n) for n in range(100)]
    session = run_session(lambda _: PAGE, plan, workers=workers, give_up_after=24 * 3600.0)
    assert len({request.devices for request in session.requests}) <= workers + 3
