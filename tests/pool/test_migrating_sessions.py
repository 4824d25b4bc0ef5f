"""Sessions of a migration: no outage or other device leaves a device without a license, or with two."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, count

import pytest

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Batch
from batchlic.pool.breaker import growing_pause
from batchlic.pool.suspicion import MANY_REFUSALS, PATIENCE_S
from tests.pool.builders import (
    ACCEPTED,
    AMBIGUOUS,
    BAD_ACCOUNT,
    BAD_DEVICE,
    FLEXIBLE,
    REFUSED,
    THROTTLED,
    batch,
    identifier,
)
from tests.pool.virtual import Request, Session, run_session

NEW = "TS-BUNDLE-KTO-SIMSEC-MRC"
SIZE, BATCHES = 5, 30
PLAN = [batch(SIZE, batch_id=n + 1, first=n * SIZE) for n in range(BATCHES)]

THROTTLED_FOR_EVER = replace(THROTTLED, retry_after_s=1e9)
REFUSED_FOR_LONG_S = sum(map(growing_pause, range(1, MANY_REFUSALS)))

MOVED, KEPT = (0, 1), (1, 0)
"""Licenses of a device: of the old SKU, and of the new one."""

ORDERS = pytest.mark.parametrize("spare", [0, None], ids=["unassign first", "assign first"])
REFUSALS = pytest.mark.parametrize("refusal", [REFUSED, BAD_ACCOUNT], ids=["unknown", "account"])


class Books:
    """The licenses of each device by the carrier, which executes what it answers with an acceptance."""

    def __init__(self, answer: Callable[[Request], Answer], batches: Iterable[Batch] = PLAN) -> None:
        self.held = {
            identifier(n): Counter({FLEXIBLE: 1}) for n in range(sum(len(batch.offsets) for batch in batches))
        }
        self.requests: list[Request] = []
        self.is_lost_executed = False
        self._answer = answer

    def __call__(self, request: Request) -> Answer:
        answer = self._answer(request)
        self.requests.append(request)
        is_lost = answer.outcome is Outcome.AMBIGUOUS
        if answer.outcome is Outcome.ACCEPTED or (is_lost and self.is_lost_executed):
            sku, change = sku_of(request), 1 if request.action is Action.ASSIGN else -1
            for device in request.devices:
                self.held[device][sku] = max(0, self.held[device][sku] + change)
        return answer

    def licenses(self) -> Counter[tuple[int, int]]:
        """Devices by their licenses."""
        return Counter((held[FLEXIBLE], held[NEW]) for held in self.held.values())


def sku_of(request: Request) -> str:
    return NEW if request.is_about(NEW) else FLEXIBLE


def migrate(
    books: Books,
    spare: int | None,
    *,
    after: Session | None = None,
    workers: int = 4,
    limit: Callable[[], bool] = lambda: True,
) -> Session:
    """Migrate the plan, or the rest of it; the carrier throttles for ever once `limit` is reached."""
    return run_session(
        lambda request: books(request) if limit() else THROTTLED_FOR_EVER,
        PLAN,
        workers=workers,
        resendable=(FLEXIBLE, NEW),
        migrates_to=NEW,
        spare=spare,
        journal=after.journal if after else None,
    )


def is_second_step(request: Request, spare: int | None) -> bool:
    second = (Action.ASSIGN, NEW) if spare == 0 else (Action.UNASSIGN, FLEXIBLE)
    return (request.action, sku_of(request)) == second


@ORDERS
@REFUSALS
@pytest.mark.parametrize("seconds", [3, 15, 40])
def test_an_outage_between_the_steps_ends_with_every_device_moved(
    spare: int | None, refusal: Answer, seconds: float
) -> None:
    books = Books(lambda request: refusal if 0.06 <= request.at < seconds else ACCEPTED)
    session = migrate(books, spare)
    assert session.stopped is None
    assert books.licenses() == {MOVED: BATCHES * SIZE}


@ORDERS
@REFUSALS
def test_an_outage_that_lasts_stops_a_migration_that_ends_well_after_a_resume(
    spare: int | None, refusal: Answer
) -> None:
    books = Books(lambda request: refusal if 0.06 <= request.at < 2 * PATIENCE_S else ACCEPTED)
    stopped = migrate(books, spare)
    assert stopped.stopped is not None
    books._answer = lambda _: ACCEPTED
    assert migrate(books, spare, after=stopped).stopped is None
    assert books.licenses() == {MOVED: BATCHES * SIZE}


@pytest.mark.slow
@ORDERS
@pytest.mark.parametrize("begin", [0.02, 0.06, 0.1])
@pytest.mark.parametrize("seconds", [3, 15, 40, 100])
def test_an_outage_during_a_restore_leaves_no_device_between_two_steps(
    spare: int | None, begin: float, seconds: float
) -> None:
    bad = {identifier(7), identifier(22)}

    def answer(request: Request) -> Answer:
        if begin <= request.at < seconds:
            return REFUSED
        return BAD_DEVICE if is_second_step(request, spare) and bad & set(request.devices) else ACCEPTED

    books = Books(answer)
    session = migrate(books, spare)
    assert session.stopped is None
    assert set(books.licenses()) == {MOVED, KEPT}
    if seconds < REFUSED_FOR_LONG_S:
        assert books.licenses()[KEPT] == len(bad)
    else:  # a second step that is refused for so long is undone
        assert books.licenses()[KEPT] <= len(bad) + 4 * SIZE


def assert_second_batch_is_sent_at_once(requests: Sequence[Request], bad: str) -> None:
    """No other batch is sent between the first and the last request for its devices except the bad one."""
    of_it = {identifier(n) for n in range(SIZE, 2 * SIZE)} - {bad}
    sent = [bool(of_it & set(request.devices)) for request in requests if request.devices != (bad,)]
    first, last = sent.index(True), len(sent) - 1 - sent[::-1].index(True)
    assert all(sent[first : last + 1])


@ORDERS
def test_no_device_waits_for_one_of_its_batch_that_is_refused_in_the_first_step(spare: int | None) -> None:
    """The refusal has an unknown code, which counts only after a while; its batch goes on at once."""
    bad = identifier(7)

    def answer(request: Request) -> Answer:
        return REFUSED if bad in request.devices else ACCEPTED

    books = Books(answer)
    session = migrate(books, spare, workers=1)
    assert session.stopped is None
    assert books.licenses() == {MOVED: BATCHES * SIZE - 1, KEPT: 1}
    assert_second_batch_is_sent_at_once(session.requests, bad)


@pytest.mark.slow
@ORDERS
@pytest.mark.parametrize("resumes", [False, True])
def test_one_broken_server_behind_a_balancer_fails_few_devices_of_a_migration(
    spare: int | None, *, resumes: bool
) -> None:
    """Every second request is refused. Devices between two steps can't wait for long."""
    numbers = count()
    books = Books(lambda _: REFUSED if next(numbers) % 2 else ACCEPTED)
    session = migrate(books, spare, workers=1)
    for _ in range(2):
        if resumes or session.stopped is not None:
            session = migrate(books, spare, after=session, workers=1)
    assert session.stopped is None
    assert books.licenses() == {MOVED: BATCHES * SIZE}


@ORDERS
def test_a_second_step_that_is_refused_with_an_unknown_code_is_undone_soon(spare: int | None) -> None:
    bad = {identifier(n) for n in (7, 8, 31)}

    def answer(request: Request) -> Answer:
        return REFUSED if is_second_step(request, spare) and bad & set(request.devices) else ACCEPTED

    books = Books(answer)
    session = migrate(books, spare)
    assert session.stopped is None
    assert books.licenses() == {MOVED: BATCHES * SIZE - 3, KEPT: 3}
    assert session.seconds <= 3 * (REFUSED_FOR_LONG_S + 1)


@ORDERS
def test_a_new_sku_that_is_always_refused_leaves_each_device_as_it_was(spare: int | None) -> None:
    books = Books(lambda request: BAD_ACCOUNT if request.is_about(NEW) else ACCEPTED)
    session = migrate(books, spare)
    if spare == 0:  # as many batches as there are workers are refused before the run stops
        assert "the first 5 batches" in str(session.stopped)
    assert session.stopped is not None
    assert books.licenses() == {KEPT: BATCHES * SIZE}


def refusing_alone(refusal: Answer, bad: str) -> Callable[[Request], Answer]:
    """Refuse requests with a bad device with an unknown code, and the device alone as given."""

    def answer(request: Request) -> Answer:
        if bad not in request.devices:
            return ACCEPTED
        return refusal if len(request.devices) == 1 else REFUSED

    return answer


@pytest.mark.slow
@ORDERS
@REFUSALS
@pytest.mark.parametrize("requests", [4, 5, 6, 9, 10_000])
def test_no_device_waits_for_one_that_is_refused_however_it_is(
    spare: int | None, refusal: Answer, requests: int
) -> None:
    """The process stops after so many requests, and is resumed."""
    books, numbers = Books(refusing_alone(refusal, identifier(7))), count()
    session = migrate(books, spare, limit=lambda: next(numbers) < requests, workers=1)
    if requests < 100:
        assert session.stopped is not None
        session = migrate(books, spare, after=session, workers=1)
    is_about_account = refusal is BAD_ACCOUNT  # then it never counts against the device
    assert (session.stopped is not None) == is_about_account
    assert_second_batch_is_sent_at_once(books.requests, identifier(7))
    assert books.licenses() == {MOVED: BATCHES * SIZE - 1, KEPT: 1}


@pytest.mark.parametrize("is_executed", [False, True])
def test_what_was_cleared_is_assigned_like_a_new_batch(*, is_executed: bool) -> None:
    """The answer to an assign is lost. After the clearing, a refused batch is split again."""
    assigns = count()

    def answer(request: Request) -> Answer:
        if request.action is not Action.ASSIGN or identifier(7) not in request.devices:
            return ACCEPTED
        return BAD_DEVICE if next(assigns) else AMBIGUOUS

    books = Books(answer)
    books.is_lost_executed = is_executed
    session = migrate(books, None)
    assert session.stopped is None
    assert books.licenses() == {MOVED: BATCHES * SIZE - 1, KEPT: 1}


def test_d_a_clearing_that_is_no_certain_success_is_followed_by_no_assign() -> None:
    """The assign was executed and its answer lost; the clearing is answered as a duplicate of another one."""

    def answer(request: Request) -> Answer:
        if identifier(7) not in request.devices:
            return ACCEPTED
        return AMBIGUOUS if request.action is Action.ASSIGN else replace(AMBIGUOUS, is_duplicate=True)

    books = Books(answer)
    books.is_lost_executed = True
    migrate(books, None)
    assigned = [r for r in books.requests if r.action is Action.ASSIGN and identifier(7) in r.devices]
    assert len(assigned) == 1


def test_the_books_know_each_device_of_the_plan() -> None:
    books = Books(lambda _: ACCEPTED)
    assert set(books.held) == set(chain.from_iterable(r.devices for r in migrate(books, None).requests))
