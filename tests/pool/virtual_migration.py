"""A migration's sequences in the real pool, against a scripted carrier with books, in virtual time."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import anyio
import msgspec
import trio
from trio.testing import MockClock

from batchlic.carrier.answers import Answer
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import Carrier, Submission
from batchlic.chunker import Batch, DeviceStatus, Step
from batchlic.errors import BatchlicError
from batchlic.journal import Journal
from batchlic.journal.writes import Insertion
from batchlic.pool.delivery import Pool
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import only
from batchlic.pool.migration import Migration
from batchlic.pool.remaining import statuses_of
from batchlic.pool.retry import RetryPolicy
from batchlic.pool.sender import Sender
from tests.pool.builders import ACCEPTED, FLEXIBLE, identifier
from tests.pool.virtual import ROUND_TRIP_S, Killed, Nobody
from tests.writer.builders import JournaledAttempt, journal_of

OLD, NEW = FLEXIBLE, "TS-BUNDLE-KTO-SIMSEC-MRC"


@dataclass(frozen=True)
class StepRequest:
    """A request as the carrier sees it; `at` is seconds since the first session began."""

    at: float
    action: Action
    sku: str
    devices: tuple[str, ...]

    @property
    def is_clear(self) -> bool:
        return self.action is Action.UNASSIGN and self.sku == NEW


MigrationScript = Callable[[StepRequest], Answer | None]
"""The answer to a request that is not executed; None: it is executed and accepted."""


@dataclass
class World:
    """Books of a carrier, and the journal of a run, over several sessions."""

    batches: Sequence[Batch]
    script: MigrationScript
    earlier: Sequence[JournaledAttempt] = ()
    """What an earlier session sent; `licenses` has what the carrier did then."""
    licenses: dict[str, list[str]] = field(default_factory=dict)
    requests: list[StepRequest] = field(default_factory=list)
    stopped: BatchlicError | None = None
    moved: int = 0
    failed: int = 0
    """Devices that moved and failed, as the last session counted them."""
    now: float = 0.0

    def __post_init__(self) -> None:
        devices = sum(len(batch.offsets) for batch in self.batches)
        self.licenses = {identifier(number): [OLD] for number in range(devices)} | self.licenses
        self.journal = journal_of(self.earlier, [len(batch.offsets) for batch in self.batches])

    def without_license(self) -> set[str]:
        return {device for device, held in self.licenses.items() if not held}

    def statuses(self, step: Step) -> list[DeviceStatus]:
        found: list[DeviceStatus] = []
        for batch in self.batches:
            events = self.journal.history(batches=range(batch.batch_id, batch.batch_id + 1))
            found += statuses_of(batch, [event for event in events if event.step == step]).values()
        return found

    async def login(self) -> None:
        """Accept."""

    async def submit(self, submission: Submission) -> Answer:
        body = msgspec.json.decode(submission.body or b"")
        request = StepRequest(
            self.now + anyio.current_time(), submission.action, body["skuNumber"], submission.identifiers()
        )
        self.requests.append(request)
        await anyio.sleep(ROUND_TRIP_S)
        if (refusal := self.script(request)) is not None:
            return refusal
        for device in request.devices:
            held = self.licenses[device]
            if request.action is Action.ASSIGN:
                held.append(request.sku)
            elif request.sku in held:
                held.remove(request.sku)
        return ACCEPTED

    def run(
        self,
        *,
        workers: int = 1,
        spare: dict[str, int] | None = None,
        restorable: Iterable[str] = (),
        resendable: Collection[str] = (OLD, NEW),
        commits: int | None = None,
    ) -> None:
        """Run a session, killed after so many commits."""
        done = 0

        async def offload(commit: Callable[[list[Insertion]], None], insertions: list[Insertion]) -> None:
            nonlocal done
            done += 1
            if commits is not None and done > commits:
                raise Killed
            commit(insertions)

        self.journal = Journal(self.journal._database, offload=offload)
        self.moved = self.failed = 0

        def count(moved: int, failed: int) -> None:
            self.moved, self.failed = self.moved + moved, self.failed + failed

        async def session() -> None:
            sender = Sender(
                client=cast("Carrier", self),
                journal=self.journal,
                limiters=only(Limiter(max_concurrency=workers)),
                policy=RetryPolicy(resendable=resendable),
                observer=Nobody(),
            )
            pool = Pool(sender, workers=workers)
            migration = Migration(
                journal=self.journal,
                to_sku=NEW,
                spare=dict(spare or {}),
                is_revocable=True,
                resendable=set(resendable),
                restorable=set(restorable),
                denied={},
                on_accepted=pool.refusals.accepted,
                on_end=count,
            )
            began = anyio.current_time()
            try:
                await pool.deliver(migration.sequences(lambda: self.batches))
                self.stopped = None
            except* BatchlicError as errors:
                [self.stopped] = [error for error in errors.exceptions if isinstance(error, BatchlicError)]
            except* Killed:
                self.stopped = None
            finally:
                self.now += anyio.current_time() - began

        trio.run(session, clock=MockClock(autojump_threshold=0))
