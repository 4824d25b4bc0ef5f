"""Turns what pool and limiter do in a session into the events of its run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.auth import CarrierUnreachable
from batchlic.chunker import Batch, DeviceStatus, Step
from batchlic.errors import BatchlicError
from batchlic.events import AttemptEnded, DevicesCounted, EventStream, LimitChanged, RateMeasured, Warned
from batchlic.journal import Event, Intent, JournalQueries, status_of
from batchlic.pool.limiter.limiter import Change
from batchlic.pool.limiter.limiters import Limiters, Scope
from batchlic.runs.health import Health
from batchlic.runs.outage import Outage
from batchlic.writer.outcomes import count_statuses

MEASURE_INTERVAL_S = 0.5
"""Seconds between two measurements of the rate."""

_Part: TypeAlias = tuple[int, Step | None, str]
"""Batch, step of a migration, and row ranges within the batch."""


def parts_in_doubt(journal: JournalQueries) -> dict[_Part, int]:
    """The parts of batches that earlier sessions left in doubt, with the number of their devices."""
    found: dict[_Part, int] = {}
    for batch_id in sorted({lost.batch_id for lost in journal.lost_answers()}):
        parts = defaultdict[_Part, list[Event]](list)
        for event in journal.history(batches=range(batch_id, batch_id + 1)):
            step = None if event.step is None else Step(event.step)
            parts[batch_id, step, event.part].append(event)
        for part, events in parts.items():
            if status_of(events) is DeviceStatus.IN_DOUBT:
                found[part] = events[0].device_count
    return found


@dataclass(slots=True)
class Tally:
    """Devices and requests, counted as answers become durable."""

    to_send: int
    """Planned devices without those that the ledger excludes."""
    devices: Counter[DeviceStatus] = field(default_factory=Counter)
    """Devices by status: accepted, failed, in_doubt."""
    requests: Counter[Outcome] = field(default_factory=Counter)

    def moved(self, devices: int, failed: int) -> None:
        """Count a batch of a migration that is done: the devices that moved, and those that failed."""
        self.devices[DeviceStatus.ACCEPTED] += devices
        self.devices[DeviceStatus.FAILED] += failed

    @property
    def throttled_share(self) -> float:
        """Share of requests that were throttled, 0 to 1."""
        return self.requests[Outcome.THROTTLED] / max(1, self.requests.total())

    @property
    def admitted(self) -> int:
        """Requests that were not throttled."""
        return self.requests.total() - self.requests[Outcome.THROTTLED]


def tally_of(journal: JournalQueries, in_doubt: Mapping[_Part, int]) -> Tally:
    """The devices to send, and how earlier sessions left them; `in_doubt` are their `parts_in_doubt`.

    A migration counts the devices that they settled by itself.
    """
    identity = journal.identity
    if identity.to_sku:
        statuses = Counter({DeviceStatus.IN_DOUBT: sum(in_doubt.values())})
    else:
        statuses = count_statuses(journal.history(batches=range(1, identity.batches + 1)))
        del statuses[DeviceStatus.PENDING]
    return Tally(identity.planned - sum(identity.excluded.values()), statuses)


class Observation:
    """The pool's observer: counts devices, and emits events."""

    def __init__(
        self,
        tally: Tally,
        limiters: Limiters,
        events: EventStream,
        *,
        host: str,
        in_doubt: Iterable[_Part] = (),
    ) -> None:
        """`in_doubt`: the parts that are in doubt since earlier sessions, and counted in the tally."""
        self.tally = tally
        self._limiters = limiters
        self._events = events
        self._health = Health(Outage(host, self._warn), limiters)
        self._in_doubt = set(in_doubt)
        self.warnings: list[str] = []
        """Problems with answers that count nevertheless."""

    def answered(
        self, batch: Batch, intent: Intent, answer: Answer, duration_ms: float, *, final: bool
    ) -> None:
        """Count an answer that has become durable."""
        self._health.learn(answer)
        self.tally.requests[answer.outcome] += 1
        if answer.warning is not None and answer.warning not in self.warnings:
            self.warnings.append(answer.warning)
            details = {"warning": answer.warning, "x_request_id": intent.x_request_id}
            self._events.emit(Warned(message="unusual answer", details=details))
        part = (batch.batch_id, batch.step, intent.part)
        if answer.outcome is Outcome.AMBIGUOUS and part not in self._in_doubt:
            self._in_doubt.add(part)
            self.tally.devices[DeviceStatus.IN_DOUBT] += intent.device_count
        elif answer.outcome is Outcome.ACCEPTED:
            self._settle_doubt(part, intent.device_count)
            self._count(DeviceStatus.ACCEPTED, batch, intent)
        elif final and part not in self._in_doubt:
            self._count(DeviceStatus.FAILED, batch, intent)
        self._events.emit(
            AttemptEnded(
                batch_id=batch.batch_id,
                step=batch.step,
                part=intent.part,
                x_request_id=intent.x_request_id,
                attempt=intent.attempt,
                action=intent.action,
                devices=intent.device_count,
                started_at=intent.started_at,
                duration_ms=duration_ms,
                outcome=answer.outcome,
                is_final=final,
                http_status=answer.http_status,
                error_code=answer.error_code,
                error_message=answer.error_message,
                request_id=answer.request_id,
                retry_after_s=answer.retry_after_s,
            )
        )

    def unreachable(self, error: CarrierUnreachable) -> None:
        """Report that a login was not answered."""
        self._health.missed(str(error))

    def gave_up(self, error: BatchlicError) -> None:
        """Report that nothing more is sent for an account, while others go on."""
        self._warn(f"{error}. The other accounts go on")

    async def measure(self) -> None:
        """Emit devices and rate twice a second, and report outages, until cancelled."""
        while True:
            self.count()
            await anyio.sleep(MEASURE_INTERVAL_S)
            self._health.check()

    def count(self) -> None:
        """Emit the devices so far, and the rate."""
        self._events.emit(
            DevicesCounted(
                to_send=self.tally.to_send,
                statuses=dict(self.tally.devices),
                throttled_share=self.tally.throttled_share,
                admitted=self.tally.admitted,
            )
        )
        self._events.emit(
            RateMeasured(
                requests_per_s=self._limiters.flow or 0.0,
                found=self._found(),
                in_flight=self._limiters.in_flight,
                concurrency=self._limiters.concurrency,
                is_paused=self._limiters.is_paused,
                wait_s=self._limiters.wait_s,
            )
        )

    def _found(self) -> str:
        return "paused by batchlic limit" if self._limiters.is_stopped else self._limiters.found

    def _count(self, status: DeviceStatus, batch: Batch, intent: Intent) -> None:
        """Count devices, but not in a step of a migration: `Tally.moved` counts those."""
        if batch.request is None:
            self.tally.devices[status] += intent.device_count

    def _settle_doubt(self, part: _Part, devices: int) -> None:
        if part in self._in_doubt:
            self._in_doubt.remove(part)
            self.tally.devices[DeviceStatus.IN_DOUBT] -= devices

    def _warn(self, message: str) -> None:
        self._events.emit(Warned(message=message))


def limit_changed(change: Change, scope: Scope) -> LimitChanged:
    """The event for a change that the limiter of a scope reports."""
    return LimitChanged(
        found=change.found, requests_per_s=change.flow, concurrency=change.concurrency, account=scope
    )
