"""The worker pool: it logs in, and then delivers the batches of all lanes to their last device."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeAlias

import anyio

from batchlic.errors import BatchlicError, StoppedEarly
from batchlic.pool.lane import Lane
from batchlic.pool.parked import MOST_PARKED, Parked
from batchlic.pool.refusals import RefusalWatch, RefusedTooMuch
from batchlic.pool.remaining import Delivery
from batchlic.pool.sender import Sender

MOST_LANES = 1000
"""Lanes at a time (promise H): the next one begins when one is done."""
MOST_WORKERS = 32
"""Workers of all lanes for each one that a lane may have. Beyond them, each lane has one more (promise H)."""
LEAST_PARKED = 20
"""Requests that each lane may park, however many lanes there are."""

Sequences: TypeAlias = Iterable[Iterable[Delivery]]
"""Deliveries that follow one another; sequences are sent side by side."""


@dataclass(frozen=True, slots=True)
class LanePlan:
    """What a lane delivers; `account` is the one that its limiter is for, or None for all accounts."""

    sequences: Sequences
    account: str | None = None


class Pool:
    """Delivers the batches of lanes, each by so many workers at most. All of them share one sender.

    `on_gave_up` is called when a lane gives up and others go on; must return at once.

    `stop` lets requests in flight finish, `abort` does not. Both leave a journal from which the run can be
    resumed. Pass batches that were accepted in earlier sessions to `refusals.accepted`.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        workers: int,
        on_gave_up: Callable[[BatchlicError], None] = lambda _: None,
    ) -> None:
        self.sender = sender
        self._workers = workers
        self._on_gave_up = on_gave_up
        self.refusals = RefusalWatch()
        self.workers_in_all = 0
        """Workers of all lanes."""
        self._scope = anyio.CancelScope()
        self._failure: BatchlicError | None = None
        self._lanes: set[Lane] = set()
        self._given_up: list[BatchlicError] = []
        self._left = Parked(sender.suspicions, most=MOST_PARKED)
        """What is parked in lanes that are done."""

    async def deliver(
        self, sequences: Sequences, *, before: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Deliver the sequences of one lane: see `deliver_lanes`."""
        await self.deliver_lanes([LanePlan(sequences)], before=before)

    async def deliver_lanes(
        self, lanes: Iterable[LanePlan], *, before: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Deliver lanes side by side, in each the sequences side by side, and their deliveries in order.

        The next delivery of a sequence is taken when the last one is done. A delivery that nothing follows is
        a sequence of its own. `before` is called after the login, before the first sequence is taken.

        Raises what `before` raises; CredentialsRejected; and StoppedEarly when the carrier can't be reached,
        refuses too much, lets a lane wait too long, or `stop` was called. Requests in flight are finished and
        recorded first. A lane that waits too long ends without the others.
        """
        with self._scope:
            await self.sender.login()
            if before is not None:
                await before()
            left = iter(lanes)
            first = list(islice(left, MOST_LANES))
            most_parked = max(min(LEAST_PARKED, MOST_PARKED), MOST_PARKED // max(1, len(first)))
            async with anyio.create_task_group() as tasks:
                for lane in first:
                    tasks.start_soon(partial(self._deliver_lane, lane, left, most_parked=most_parked))
        self._raise_failure()

    async def _deliver_lane(self, plan: LanePlan, left: Iterator[LanePlan], *, most_parked: int) -> None:
        """Deliver one lane, and then those of the others that nobody has begun."""
        following: LanePlan | None = plan
        while following is not None and self._failure is None:
            lane = Lane(following.sequences, self, workers=self._workers, most_parked=most_parked)
            self._lanes.add(lane)
            await lane.run()
            self._lanes.discard(lane)
            self._end(lane, following.account)
            following = next(left, None)

    def _end(self, lane: Lane, account: str | None) -> None:
        self._left.take_over(lane.parked)
        if account is not None:
            self.sender.limiters.end(account)
        if lane.failure is not None and not isinstance(lane.failure, RefusedTooMuch):
            self._given_up.append(lane.failure)
            if self._lanes and self._failure is None:
                self._on_gave_up(lane.failure)

    def _raise_failure(self) -> None:
        if isinstance(self._failure, RefusedTooMuch) and len(self._left):
            raise RefusedTooMuch(f"{self._failure}. {self._left.description()}")
        if self._failure is not None:
            raise self._failure
        if self._given_up:
            raise _all_of(self._given_up)
        if len(self._left):
            raise RefusedTooMuch(
                f"{self._left.reason}. No device counts as failed for this reason: resume the run to send "
                f"them again; {self._left.description()}"
            )

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new is sent any more."""
        return self._scope.cancel_called

    def stop(self, reason: str) -> None:
        """Send nothing new: requests in flight are finished, then `deliver` raises StoppedEarly."""
        self.fail(StoppedEarly(f"{reason}; continue with batchlic resume"))

    def abort(self) -> None:
        """Stop at once; requests in flight end in doubt."""
        self._scope.cancel()
        self.sender.abort()

    # -- for the lanes ----------------------------------------------------------------------------------

    def may_grow(self) -> bool:
        """Whether a lane may have another worker."""
        return self.workers_in_all < MOST_WORKERS * self._workers

    def fail(self, error: BatchlicError) -> None:
        """Stop all lanes: requests in flight are finished, then `deliver` raises the first error."""
        self._failure = self._failure or error
        self._scope.cancel()

    def refuse(self, refusals: RefusedTooMuch) -> None:
        """Begin nothing new. The pool ends when no device is left between two steps that can be undone."""
        self._failure = self._failure or refusals
        self.sender.suspicions.stop(refusals)
        for lane in self._lanes:
            lane.refuse(refusals)


def _all_of(given_up: list[BatchlicError]) -> BatchlicError:
    """The first of the errors, with the number of the others."""
    first, others = given_up[0], len(given_up) - 1
    more = "1 other account waits" if others == 1 else f"{others:,} other accounts wait"
    return StoppedEarly(f"{first}; {more} too long, too") if others else first
