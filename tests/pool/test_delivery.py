"""The pool around its parts: what it takes in, and how much of it at a time."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import anyio
import pytest

from batchlic.carrier.answers import Answer
from batchlic.carrier.client import Carrier, Submission
from batchlic.errors import StoppedEarly
from batchlic.journal import Journal
from batchlic.pool.delivery import Pool
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import only
from batchlic.pool.remaining import Delivery
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.sender import Sender
from tests.journal.builders import new_journal
from tests.pool.builders import ACCEPTED, batch

BATCHES, WORKERS = 200, 4

pytestmark = pytest.mark.anyio


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(new_journal(tmp_path)) as made:
        yield made


class TakesTime:
    """A client whose carrier accepts everything, a moment later."""

    async def login(self) -> None:
        """Do nothing."""

    async def submit(self, _submission: Submission) -> Answer:
        """Accept."""
        await anyio.sleep(0.001)
        return ACCEPTED


class Outstanding:
    """A plan that counts the batches which were taken out of it and are not answered yet."""

    def __init__(self) -> None:
        self.taken = self.answers = self.most = 0

    def plan(self) -> Iterator[Delivery]:
        for batch_id in range(1, BATCHES + 1):
            self.taken += 1
            self.most = max(self.most, self.taken - self.answers)
            yield Delivery(batch(batch_id=batch_id))

    def answered(self, *_: object, **__: object) -> None:
        self.answers += 1


@pytest.mark.slow
async def test_h_batches_are_taken_from_the_plan_as_they_are_needed(journal: Journal) -> None:
    outstanding = Outstanding()
    sender = Sender(
        client=cast("Carrier", TakesTime()),
        journal=journal,
        limiters=only(Limiter(max_concurrency=WORKERS)),
        policy=RetryPolicy(resendable=()),
        observer=outstanding,
    )
    pool = Pool(sender, workers=WORKERS)
    await pool.deliver(outstanding.plan())
    assert outstanding.answers == BATCHES
    assert WORKERS <= outstanding.most <= 2 * WORKERS + 1  # at work, waiting, and in the feeder's hand


async def test_the_first_reason_to_stop_is_the_one_that_is_told(journal: Journal) -> None:
    outstanding = Outstanding()
    sender = Sender(
        client=cast("Carrier", TakesTime()),
        journal=journal,
        limiters=only(Limiter(max_concurrency=WORKERS)),
        policy=RetryPolicy(resendable=()),
        observer=outstanding,
    )
    pool = Pool(sender, workers=WORKERS)
    pool.stop("stopped by SIGTERM")
    pool.stop("stopped by SIGHUP")
    with pytest.raises(StoppedEarly, match="stopped by SIGTERM"):
        await pool.deliver(outstanding.plan())
    assert outstanding.answers == 0
