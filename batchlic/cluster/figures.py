"""Follows the shards of a run by its journal: requests, devices and rates become events of the run."""

from __future__ import annotations

import time
from collections import Counter, deque
from functools import partial

import anyio.to_thread

from batchlic.carrier.answers import Outcome
from batchlic.chunker import Step
from batchlic.events import AttemptEnded, DevicesCounted, EventStream, RateMeasured
from batchlic.journal import Answered, Attempt, JournalQueries, Settled, Settlement
from batchlic.runs.counts import JournalCounts, was_sent

INTERVAL_S = 0.5
"""Seconds between two readings."""
RATE_SPAN_S = 10.0
"""Seconds over which requests per second are averaged, as the limiter does."""


class Figures:
    """The figures of a run whose shards other processes send."""

    def __init__(self, journal: JournalQueries, events: EventStream) -> None:
        self._journal = journal
        self._events = events
        self._counts = JournalCounts(journal.identity)
        self._requests: Counter[str] = Counter()
        """Those of this session, by outcome."""
        self._shards: list[_Followed] = []
        self._admitted_at: deque[tuple[float, int]] = deque()
        self.rates: dict[int, RateMeasured] = {}
        """What each shard at work has measured last, by its number."""
        for event in journal.history():
            if isinstance(event, Settlement):
                self._counts.settled(
                    Settled(event.batch_id, event.step, event.part, event.device_count, event.status)
                )
            elif event.outcome is not None:
                self._counts.answered(_answered(event))

    def follow(self, seqs: range) -> None:
        """Follow a shard, whose entries have these numbers."""
        self._shards.append(_Followed(seqs))

    async def measure(self) -> None:
        """Read the journal and emit events twice a second, until cancelled."""
        while True:
            await self.read()
            await anyio.sleep(INTERVAL_S)

    async def read(self) -> None:
        """Emit what is new."""
        for shard in self._shards:
            query = partial(self._journal.attempts_numbered, shard.left, list(shard.unanswered))
            for attempt in shard.answered_of(await anyio.to_thread.run_sync(query)):
                self._take(attempt)
        self._count()

    def _take(self, attempt: Attempt) -> None:
        answered = _answered(attempt)
        self._counts.answered(answered)
        if not was_sent(answered):
            return
        self._requests[answered.outcome] += 1
        self._events.emit(_ended(attempt))

    def _count(self) -> None:
        total, throttled = self._requests.total(), self._requests[Outcome.THROTTLED]
        self._events.emit(
            DevicesCounted(
                to_send=self._counts.to_send,
                statuses=dict(self._counts.statuses),
                throttled_share=throttled / max(1, total),
                admitted=total - throttled,
            )
        )
        now, rates = time.monotonic(), list(self.rates.values())
        self._admitted_at.append((now, total - throttled))
        while now - self._admitted_at[0][0] > RATE_SPAN_S:
            self._admitted_at.popleft()
        since, before = self._admitted_at[0]
        self._events.emit(
            RateMeasured(
                requests_per_s=(total - throttled - before) / max(1.0, now - since),
                found="; ".join(dict.fromkeys(rate.found for rate in rates)) or "no worker is sending",
                in_flight=sum(rate.in_flight for rate in rates),
                concurrency=sum(rate.concurrency for rate in rates),
                is_paused=bool(rates) and all(rate.is_paused for rate in rates),
                wait_s=max((rate.wait_s for rate in rates), default=0.0),
            )
        )


class _Followed:
    """The entries of a shard that are still to be read."""

    def __init__(self, seqs: range) -> None:
        self.left = seqs
        self.unanswered: set[int] = set()

    def answered_of(self, found: list[Attempt]) -> list[Attempt]:
        """Those attempts that have an answer; the others are read again."""
        for attempt in found:
            if attempt.outcome is None:
                self.unanswered.add(attempt.seq)
            else:
                self.unanswered.discard(attempt.seq)
        if found:
            self.left = range(max(self.left.start, found[-1].seq + 1), self.left.stop)
        return [attempt for attempt in found if attempt.outcome is not None]


def _answered(attempt: Attempt) -> Answered:
    return Answered(
        attempt.batch_id,
        attempt.step,
        attempt.part,
        attempt.device_count,
        attempt.started_at,
        attempt.duration_ms or 0.0,
        attempt.outcome or "",
        bool(attempt.final),
        attempt.http_status,
    )


def _ended(attempt: Attempt) -> AttemptEnded:
    return AttemptEnded(
        at=attempt.started_at + round((attempt.duration_ms or 0.0) * 1000),
        batch_id=attempt.batch_id,
        step=None if attempt.step is None else Step(attempt.step),
        part=attempt.part,
        x_request_id=attempt.x_request_id,
        attempt=attempt.attempt,
        action=attempt.action,
        devices=attempt.device_count,
        started_at=attempt.started_at,
        duration_ms=attempt.duration_ms or 0.0,
        outcome=Outcome(attempt.outcome or ""),
        is_final=bool(attempt.final),
        http_status=attempt.http_status,
        error_code=attempt.error_code,
        error_message=attempt.error_message,
        request_id=attempt.request_id,
        retry_after_s=attempt.retry_after_s,
    )
