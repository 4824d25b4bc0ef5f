"""The real pool and journal against a scripted carrier, in virtual time."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import cast

import anyio
import trio
from trio.testing import MockClock

from batchlic.carrier.answers import Answer
from batchlic.carrier.client import CarrierClient, Submission
from batchlic.chunker import Batch, DeviceStatus
from batchlic.errors import BatchlicError
from batchlic.journal import Journal
from batchlic.journal.writes import Insertion
from batchlic.pool.delivery import Pool
from batchlic.pool.limiter.pace import Pace
from batchlic.pool.remaining import remaining, statuses_of
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.sender import Sender
from tests.pool.builders import FLEXIBLE
from tests.writer.builders import journal_of

ROUND_TRIP_S = 0.01


@dataclass(frozen=True)
class Request:
    """A license request as the carrier sees it; `at` is seconds since the session began."""

    at: float
    x_request_id: str
    devices: tuple[str, ...]


Script = Callable[[Request], Answer]


@dataclass
class Carrier:
    """Answers each request as the script says, after one round trip. It accepts each login."""

    script: Script
    requests: list[Request] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)
    generation: int = 0
    began: float = 0.0

    async def login(self) -> None:
        self.began = anyio.current_time()

    async def renew(self, _answer: Answer) -> None:
        self.generation += 1
        self.renewals.append(anyio.current_time() - self.began)

    async def submit(self, submission: Submission) -> Answer:
        at = anyio.current_time() - self.began
        request = Request(at, submission.x_request_id, submission.identifiers())
        self.requests.append(request)
        await anyio.sleep(ROUND_TRIP_S)
        return self.script(request)


class Nobody:
    def answered(self, *_: object, **__: object) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class Session:
    """How a session went."""

    requests: list[Request]
    renewals: list[float]
    statuses: dict[tuple[int, int], DeviceStatus]
    """By batch and place in the batch."""
    stopped: BatchlicError | None
    seconds: float
    journal: Journal

    def count(self, status: DeviceStatus) -> int:
        return list(self.statuses.values()).count(status)


def run_session(
    script: Script,
    batches: Sequence[Batch],
    *,
    workers: int = 1,
    resendable: Collection[str] = (FLEXIBLE,),
    give_up_after: float = 1800.0,
    trusts_duplicates: bool = True,
    journal: Journal | None = None,
) -> Session:
    """Send what is left of the batches by the journal, in virtual time."""
    journal = journal_of([], [len(batch.offsets) for batch in batches]) if journal is None else journal
    carrier = Carrier(script)
    journal = Journal(journal._engine, offload=_at_once)

    async def session() -> tuple[BatchlicError | None, float]:
        sender = Sender(
            client=cast("CarrierClient", carrier),
            journal=journal,
            pace=Pace(max_concurrency=workers),
            policy=RetryPolicy(
                resendable=resendable, give_up_after=give_up_after, trusts_duplicates=trusts_duplicates
            ),
            observer=Nobody(),
        )
        pool, began = Pool(sender, workers=workers), trio.current_time()
        left = remaining(batches, journal, resendable, on_accepted=pool.refusals.accepted)
        try:
            await pool.deliver(left)
        except BatchlicError as error:
            return error, trio.current_time() - began
        return None, trio.current_time() - began

    stopped, seconds = trio.run(session, clock=MockClock(autojump_threshold=0))
    statuses: dict[tuple[int, int], DeviceStatus] = {}
    for batch in batches:
        events = list(journal.history(batches=range(batch.batch_id, batch.batch_id + 1)))
        statuses |= {(batch.batch_id, place): one for place, one in statuses_of(batch, events).items()}
    return Session(carrier.requests, carrier.renewals, statuses, stopped, seconds, journal)


async def _at_once(commit: Callable[[list[Insertion]], None], insertions: list[Insertion]) -> None:
    commit(insertions)
