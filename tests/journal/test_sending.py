"""The speed of the sending: devices by answers, and the time of the requests, session by session."""

import pytest

from batchlic.carrier.answers import Answer
from batchlic.chunker import DeviceStatus, Step
from batchlic.journal import Journal, Part, Sending, SessionEnd
from tests.journal.backends import Backend
from tests.journal.builders import ACCEPTED, AMBIGUOUS, CREATED_AT, REFUSED, THROTTLED, intent

SECOND = 1_000_000


async def request(
    journal: Journal,
    answer: Answer | None,
    *,
    at: float,
    takes: float = 1.0,
    batch_id: int = 1,
    step: Step | None = None,
) -> None:
    """A request `at` seconds after the run began, and its answer some seconds later."""
    seq = await journal.intend(intent(batch_id, step=step, started_at=CREATED_AT + round(at * SECOND)))
    if answer is not None:
        await journal.answer(seq, answer, duration_ms=takes * 1000, final=answer is REFUSED)


def session(start: float, end: float) -> SessionEnd:
    return SessionEnd(CREATED_AT + round(start * SECOND), CREATED_AT + round(end * SECOND), 6)


@pytest.mark.anyio
async def test_the_time_is_from_the_first_request_to_the_last_answer(backend: Backend) -> None:
    with backend.new_journal() as journal:
        await request(journal, ACCEPTED, at=10, takes=3)
        await request(journal, ACCEPTED, at=11, takes=9)
        assert journal.sending() == Sending(20, 10.0)
        journal.end(session(0, 100))
        assert journal.sending() == Sending(20, 10.0)
        assert journal.sending().devices_per_second == 2.0


@pytest.mark.anyio
async def test_only_answers_that_settle_devices_count(backend: Backend) -> None:
    with backend.new_journal() as journal:
        for at, answer in enumerate((THROTTLED, ACCEPTED, AMBIGUOUS, REFUSED)):
            await request(journal, answer, at=at)
        await request(journal, None, at=50)
        assert journal.sending() == Sending(20, 4.0)


@pytest.mark.anyio
async def test_settling_and_waiting_change_nothing(backend: Backend) -> None:
    with backend.new_journal() as journal:
        await request(journal, ACCEPTED, at=0)
        await request(journal, AMBIGUOUS, at=1, batch_id=2)
        journal.end(session(0, 2))
        before = journal.sending()
        part = Part(2, None, "", 10)
        journal.settle([part], DeviceStatus.ACCEPTED, settled_by="me", reason="seen", settled_at=CREATED_AT)
        assert journal.sending(session(3600, 3601)) == before
        journal.end(session(3600, 3601))
        journal.end(session(7200, 7201))
        assert journal.sending() == before == Sending(10, 2.0)


@pytest.mark.anyio
async def test_the_time_between_two_sessions_does_not_count(backend: Backend) -> None:
    with backend.new_journal() as journal:
        await request(journal, ACCEPTED, at=0)
        journal.end(session(0, 2))
        await request(journal, ACCEPTED, at=3600)
        assert journal.sending(session(3600, 3602)) == Sending(20, 2.0)
        journal.end(session(3600, 3602))
        assert journal.sending() == Sending(20, 2.0)


@pytest.mark.anyio
async def test_the_time_after_a_kill_does_not_count(backend: Backend) -> None:
    with backend.new_journal() as journal:
        await request(journal, ACCEPTED, at=0)
        await request(journal, ACCEPTED, at=3600, takes=2)
        assert journal.sending(session(3590, 3610)) == Sending(20, 3.0)


@pytest.mark.anyio
async def test_a_clock_that_is_set_back_gives_no_negative_time(backend: Backend) -> None:
    with backend.new_journal() as journal:
        await request(journal, ACCEPTED, at=100)
        journal.end(session(99, 102))
        await request(journal, ACCEPTED, at=0)
        sending = journal.sending(session(-1, 2))
        assert sending == Sending(20, 2.0)


@pytest.mark.anyio
async def test_a_device_of_a_migration_counts_after_both_steps(backend: Backend) -> None:
    with backend.new_journal(to_sku="SIMSec-IoT-Lt") as journal:
        await request(journal, ACCEPTED, at=0, step=Step.ASSIGN)
        assert journal.sending().devices == 0
        await request(journal, ACCEPTED, at=1, step=Step.UNASSIGN)
        assert journal.sending() == Sending(10, 2.0)
        await request(journal, ACCEPTED, at=2, step=Step.ASSIGN, batch_id=2)
        await request(journal, REFUSED, at=3, step=Step.UNASSIGN, batch_id=3)
        await request(journal, ACCEPTED, at=4, step=Step.CLEAR, batch_id=4)
        assert journal.sending() == Sending(20, 5.0)


@pytest.mark.parametrize("answer", [None, AMBIGUOUS, THROTTLED])
@pytest.mark.anyio
async def test_without_a_settled_device_there_is_no_speed(backend: Backend, answer: Answer | None) -> None:
    with backend.new_journal() as journal:
        assert journal.sending().devices_per_second is None
        await request(journal, answer, at=0)
        assert journal.sending().devices_per_second is None


@pytest.mark.anyio
async def test_the_last_answer_is_that_of_the_newest_answered_request(backend: Backend) -> None:
    with backend.new_journal() as journal:
        assert journal.last_answer is None
        await request(journal, ACCEPTED, at=0)
        await request(journal, AMBIGUOUS, at=1)
        await request(journal, None, at=2)
        last = journal.last_answer
        assert last is not None
        assert (last.outcome, last.http_status, last.seq) == ("ambiguous", 502, 2)
