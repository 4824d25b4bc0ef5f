"""The real pool and journal against a scripted carrier, in virtual time."""

from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import anyio
import trio
from trio.testing import MockClock

from batchlic.carrier import client
from batchlic.carrier.answers import Answer
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import Submission
from batchlic.chunker import Batch, DeviceStatus
from batchlic.errors import BatchlicError
from batchlic.journal import Journal
from batchlic.journal.writes import Insertion
from batchlic.pool.delivery import LanePlan, Pool
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import Limiters, only
from batchlic.pool.migration import Migration
from batchlic.pool.remaining import Delivery, remaining, statuses_of
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.round_robin import round_robin
from batchlic.pool.sender import Sender
from batchlic.sandbox.request_bodies import account_of
from tests.pool.builders import ACCOUNT, FLEXIBLE
from tests.writer.builders import journal_of

ROUND_TRIP_S = 0.01


@dataclass(frozen=True)
class Request:
    """A license request as the carrier sees it; `at` is seconds since the session began."""

    at: float
    x_request_id: str
    devices: tuple[str, ...]
    action: Action
    body: bytes

    @property
    def account(self) -> str:
        """The account that it names."""
        return account_of(self.body)

    def is_about(self, sku: str) -> bool:
        """Whether it assigns or unassigns licenses of this SKU."""
        return f'"{sku}"'.encode() in self.body


Script = Callable[[Request], Answer]


@dataclass
class Carrier:
    """Answers each request as the script says, after one round trip. It accepts each login."""

    script: Script
    requests: list[Request] = field(default_factory=list)
    round_trip_s: float = ROUND_TRIP_S
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
        request = Request(
            at,
            submission.x_request_id,
            submission.identifiers(),
            submission.action,
            submission.body or b"",
        )
        self.requests.append(request)
        await anyio.sleep(self.round_trip_s)
        return self.script(request)


class Killed(Exception):
    """The process was killed."""


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


def lanes_of(
    batches: Iterable[Batch],
    left: Callable[[list[Batch]], Iterator[Delivery]],
    *,
    is_by_account: bool,
) -> list[LanePlan]:
    """One lane for each account, or one in which the accounts take turns."""
    by_account = defaultdict[str, list[Batch]](list)
    for one in batches:
        by_account[one.account_name].append(one)
    if is_by_account:
        return [LanePlan(left(of), account) for account, of in by_account.items()]
    return [LanePlan(round_robin(map(left, by_account.values()), most=100))]


def run_session(
    script: Script,
    batches: Sequence[Batch],
    *,
    workers: int = 1,
    resendable: Collection[str] = (FLEXIBLE,),
    give_up_after: float = 1800.0,
    trusts_duplicates: bool = True,
    journal: Journal | None = None,
    login_delay_s: float = 0.0,
    round_trip_s: float = ROUND_TRIP_S,
    migrates_to: str | None = None,
    spare: int | None = None,
    commits: int | None = None,
    meanwhile: Callable[[Limiter, Pool], Coroutine[Any, Any, None]] | None = None,
    is_by_account: bool = False,
) -> Session:
    """Send what is left of the batches by the journal, in virtual time.

    `commits`: the process is killed after so many commits. `meanwhile` runs beside the pool.
    `migrates_to`: move the devices to this SKU, from which they can be moved back. `spare` licenses of it may
    be assigned before the old ones are taken back. `statuses` are then those of all steps together.
    `is_by_account`: each account has a limiter. Otherwise, the accounts take turns all the same.
    """
    journal = journal_of([], [len(batch.offsets) for batch in batches]) if journal is None else journal
    carrier = Carrier(script, round_trip_s=round_trip_s)
    done = 0

    async def offload(commit: Callable[[list[Insertion]], None], insertions: list[Insertion]) -> None:
        nonlocal done
        done += 1
        if commits is not None and done > commits:
            raise Killed
        commit(insertions)

    journal = Journal(journal._database, offload=offload)

    async def session() -> tuple[BatchlicError | None, float]:
        limiter = Limiter(max_concurrency=workers)
        limiters = only(limiter)
        if is_by_account:
            limiters = Limiters(
                lambda _scope, learned, slots: Limiter(
                    max_concurrency=workers, start_from=learned, slots=slots
                ),
                max_concurrency=workers,
                is_by_account=True,
            )
        sender = Sender(
            client=cast("client.Carrier", carrier),
            journal=journal,
            limiters=limiters,
            policy=RetryPolicy(
                resendable=resendable, give_up_after=give_up_after, trusts_duplicates=trusts_duplicates
            ),
            observer=Nobody(),
            login_delay_s=login_delay_s,
        )
        pool, began = Pool(sender, workers=workers), trio.current_time()
        on_accepted = pool.refusals.accepted
        if migrates_to is None:
            left = partial(remaining, journal=journal, resendable=resendable, on_accepted=on_accepted)
            lanes = lanes_of(batches, left, is_by_account=is_by_account)
        else:
            migration = Migration(
                journal=journal,
                to_sku=migrates_to,
                spare={} if spare is None else {ACCOUNT: spare},
                is_revocable=True,
                resendable=resendable,
                restorable={FLEXIBLE, migrates_to},
                denied={},
                on_accepted=on_accepted,
                on_end=lambda _moved, _failed: None,
            )
            lanes = [LanePlan(migration.sequences(lambda: batches))]
        stopped: BatchlicError | None = None
        try:
            if meanwhile is None:
                await pool.deliver_lanes(lanes)
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(meanwhile, limiter, pool)
                    await pool.deliver_lanes(lanes)
                    tasks.cancel_scope.cancel()
        except* BatchlicError as errors:
            [stopped] = [error for error in errors.exceptions if isinstance(error, BatchlicError)]
        except* Killed:
            pass
        return stopped, trio.current_time() - began

    stopped, seconds = trio.run(session, clock=MockClock(autojump_threshold=0))
    statuses: dict[tuple[int, int], DeviceStatus] = {}
    for batch in batches:
        events = list(journal.history(batches=range(batch.batch_id, batch.batch_id + 1)))
        statuses |= {(batch.batch_id, place): one for place, one in statuses_of(batch, events).items()}
    return Session(carrier.requests, carrier.renewals, statuses, stopped, seconds, journal)
