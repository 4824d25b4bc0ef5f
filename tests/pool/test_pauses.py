"""A person pauses a run: nothing new is sent, and the time counts neither as an outage nor as no progress."""

import anyio
import pytest

from batchlic.carrier.answers import Answer
from batchlic.chunker import DeviceStatus
from batchlic.errors import StoppedEarly
from batchlic.pool.delivery import Pool
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.suspicion import PATIENCE_S
from tests.pool.builders import ACCEPTED, AMBIGUOUS, REFUSED, UNAVAILABLE, batch
from tests.pool.virtual import Request, Script, run_session

BEGINS_S, LASTS_S = 0.105, 3600.0
"""The pause begins while requests are in flight."""
BATCHES = [batch(batch_id=number, first=10 * number) for number in range(1, 41)]


async def pause(limiter: Limiter, _pool: Pool) -> None:
    await anyio.sleep(BEGINS_S)
    limiter.stop()
    await anyio.sleep(LASTS_S)
    limiter.go_on()


def until_after_the_pause(answer: Answer) -> Script:
    """The carrier is in trouble from shortly before the pause until a few seconds after it."""

    def script(request: Request) -> Answer:
        return answer if BEGINS_S - 0.05 < request.at < LASTS_S + 5 else ACCEPTED

    return script


def test_nothing_is_sent_during_a_pause_and_everything_after_it() -> None:
    session = run_session(lambda _: ACCEPTED, BATCHES, workers=2, meanwhile=pause)
    sent = [request.at for request in session.requests]
    assert session.count(DeviceStatus.ACCEPTED) == 4 * len(BATCHES)
    assert any(at < BEGINS_S for at in sent)
    assert not any(BEGINS_S < at < BEGINS_S + LASTS_S - 0.01 for at in sent)


@pytest.mark.parametrize("answer", [UNAVAILABLE, AMBIGUOUS, REFUSED])
def test_a_pause_counts_neither_as_no_progress_nor_as_an_outage(answer: Answer) -> None:
    assert LASTS_S > PATIENCE_S > 30
    session = run_session(
        until_after_the_pause(answer), BATCHES, workers=2, give_up_after=30.0, meanwhile=pause
    )
    assert session.stopped is None
    assert session.count(DeviceStatus.ACCEPTED) == 4 * len(BATCHES)


def test_a_stop_ends_a_paused_session_at_once() -> None:
    async def pause_and_stop(limiter: Limiter, pool: Pool) -> None:
        await anyio.sleep(BEGINS_S)
        limiter.stop()
        await anyio.sleep(1.0)
        pool.stop("stopped by SIGINT")

    session = run_session(lambda _: ACCEPTED, BATCHES, workers=2, meanwhile=pause_and_stop)
    assert isinstance(session.stopped, StoppedEarly)
    assert session.seconds < 2.0
    assert session.count(DeviceStatus.IN_DOUBT) == 0
