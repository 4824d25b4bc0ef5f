"""The progress of a run: a bar on a terminal, otherwise a line every few seconds."""

import math
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO, TypeAlias

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.auth import CarrierUnreachable
from batchlic.chunker import Batch, DeviceStatus, Step
from batchlic.figures import counted, duration, noun_for
from batchlic.journal import Intent
from batchlic.pool.limiter.findings import NoLimit, Shut
from batchlic.pool.limiter.limiter import Limiter
from batchlic.runs.outage import SILENCE_S, Outage

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

PLAIN_INTERVAL = 5.0
BAR_INTERVAL = 0.1
CHECK_INTERVAL = 0.5
"""Seconds between two updates, and between two checks whether the carrier answers."""
GRACE_S = 2.0
"""Seconds without a good answer before failures are reported; none if there was no good answer yet."""
LONG_WAIT_S = 5.0
"""A wait of this many seconds or more, asked for by the carrier, is reported."""
RATE_SPAN = 10.0
"""Seconds over which devices per second are averaged."""


_Part: TypeAlias = tuple[int, Step | None, str]
"""Batch, step of a migration, and row ranges within the batch."""


@dataclass(slots=True)
class Tally:
    """Devices and requests, counted as answers become durable."""

    planned: int
    devices: Counter[DeviceStatus] = field(default_factory=Counter)
    """Devices by status: accepted, failed, in_doubt."""
    requests: Counter[Outcome] = field(default_factory=Counter)

    def moved(self, devices: int, failed: int) -> None:
        """Count a batch of a migration that is done: the devices that moved, and those that failed."""
        self.devices[DeviceStatus.ACCEPTED] += devices
        self.devices[DeviceStatus.FAILED] += failed

    @property
    def done(self) -> int:
        """Devices that the carrier has accepted or refused."""
        return self.devices[DeviceStatus.ACCEPTED] + self.devices[DeviceStatus.FAILED]

    @property
    def throttled_share(self) -> float:
        """Share of requests that were throttled, 0 to 1."""
        return self.requests[Outcome.THROTTLED] / max(1, self.requests.total())


class _Health:
    """Whether the carrier answers requests; times are those of the event loop's clock."""

    def __init__(self, outage: Outage, limiter: Limiter) -> None:
        self._outage = outage
        self._limiter = limiter
        self._is_known = False
        self._heard_at = anyio.current_time()
        self._well_at = -math.inf
        self._failing: Answer | None = None

    def learn(self, answer: Answer) -> None:
        """Learn from an answer to a request."""
        self._is_known, self._heard_at = True, anyio.current_time()
        if answer.outcome in {Outcome.UNAVAILABLE, Outcome.AMBIGUOUS}:
            self._failing = answer
            self._report_failure()
        else:
            self._well_at, self._failing = self._heard_at, None
        if (answer.retry_after_s or 0) >= LONG_WAIT_S:
            self._outage.asks_to_wait(answer.retry_after_s or 0, answer.summary)

    def missed(self, reason: str) -> None:
        """Learn that a login was not answered."""
        self._is_known, self._heard_at = True, anyio.current_time()
        self._outage.unreachable(reason)

    def check(self) -> None:
        """Report an answer that is overdue, and an outage that lasts."""
        self._report_failure()
        silence = anyio.current_time() - self._heard_at
        is_due = self._limiter.in_flight > 0 or not self._is_known
        if silence >= SILENCE_S and is_due and not self._limiter.is_paused:
            self._outage.silent(silence)

    def _report_failure(self) -> None:
        """Report a failure if no answer was well since a moment: a single one goes by unnoticed."""
        if self._failing is None or anyio.current_time() - self._well_at < GRACE_S:
            return
        if self._failing.http_status is None:
            self._outage.unreachable(self._failing.summary)
        else:
            self._outage.failing(self._failing.summary)


class Reporter:
    """The pool's observer: counts devices, logs each attempt, and shows the progress."""

    def __init__(
        self,
        tally: Tally,
        limiter: Limiter,
        logger: "FilteringBoundLogger",
        *,
        host: str,
        screen: TextIO | None = None,
    ) -> None:
        self.tally = tally
        self._limiter = limiter
        self._logger = logger
        self._health = _Health(Outage(host, logger.warning), limiter)
        self._screen = screen or sys.stderr
        self._points: deque[tuple[float, int]] = deque()
        self._in_doubt: set[_Part] = set()
        self.warnings: list[str] = []
        """Problems with answers that count all the same."""

    def answered(
        self, batch: Batch, intent: Intent, answer: Answer, duration_ms: float, *, final: bool
    ) -> None:
        """Count and log an answer that has become durable."""
        self._health.learn(answer)
        self.tally.requests[answer.outcome] += 1
        if answer.warning is not None and answer.warning not in self.warnings:
            self.warnings.append(answer.warning)
            self._logger.warning("odd answer", warning=answer.warning, x_request_id=intent.x_request_id)
        part = (batch.batch_id, batch.step, intent.part)
        if answer.outcome is Outcome.AMBIGUOUS and part not in self._in_doubt:
            self._in_doubt.add(part)
            self.tally.devices[DeviceStatus.IN_DOUBT] += intent.device_count
        elif answer.outcome is Outcome.ACCEPTED:
            self._settle_doubt(part, intent.device_count)
            self._count(DeviceStatus.ACCEPTED, batch, intent)
        elif final and part not in self._in_doubt:
            self._count(DeviceStatus.FAILED, batch, intent)
        self._logger.info(
            answer.outcome.value,
            batch_id=batch.batch_id,
            step=batch.step,
            part=intent.part or None,
            x_request_id=intent.x_request_id,
            request_id=answer.request_id,
            attempt=intent.attempt,
            devices=intent.device_count,
            http_status=answer.http_status,
            duration_ms=duration_ms,
            error_code=answer.error_code,
            error_message=answer.error_message,
            retry_after_s=answer.retry_after_s,
        )

    def unreachable(self, error: CarrierUnreachable) -> None:
        """Report that a login was not answered."""
        self._health.missed(str(error))

    def _count(self, status: DeviceStatus, batch: Batch, intent: Intent) -> None:
        """Count devices, but not in a step of a migration: `Tally.moved` counts those."""
        if batch.request is None:
            self.tally.devices[status] += intent.device_count

    def _settle_doubt(self, part: _Part, devices: int) -> None:
        if part in self._in_doubt:
            self._in_doubt.remove(part)
            self.tally.devices[DeviceStatus.IN_DOUBT] -= devices

    async def show(self) -> None:
        """Show the progress until cancelled."""
        self._points.append((anyio.current_time(), self.tally.done))
        if self._screen.isatty():
            await self._show_bar()
        else:
            await self._show_lines()

    async def _show_lines(self) -> None:
        while True:
            for _ in range(round(PLAIN_INTERVAL / CHECK_INTERVAL)):
                await anyio.sleep(CHECK_INTERVAL)
                self._health.check()
            share = self.tally.done / max(1, self.tally.planned)
            planned = counted(self.tally.planned, "device")
            print(
                f"{self.tally.done:,} of {planned} ({share:.0%}), {self._figures()}",
                file=self._screen,
                flush=True,
            )

    async def _show_bar(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - only on a terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[noun]}, {task.fields[figures]}"),
        )
        with Progress(*columns, console=Console(file=self._screen), transient=True) as bar:
            noun = noun_for(self.tally.planned, "device")
            task = bar.add_task("", total=self.tally.planned, noun=noun, figures="")
            while True:
                await anyio.sleep(BAR_INTERVAL)
                self._health.check()
                bar.update(task, completed=self.tally.done, figures=self._figures())

    def _figures(self) -> str:
        now = anyio.current_time()
        self._points.append((now, self.tally.done))
        while now - self._points[0][0] > RATE_SPAN and len(self._points) > 2:
            self._points.popleft()
        first_at, first_done = self._points[0]
        rate = (self.tally.done - first_done) / (now - first_at) if now > first_at else 0.0
        left = self.tally.planned - self.tally.done
        found = self._limiter.found
        limit = str(found) if isinstance(found, NoLimit | Shut) else f"found: {found}"
        failed, in_doubt = (self.tally.devices[one] for one in (DeviceStatus.FAILED, DeviceStatus.IN_DOUBT))
        return (
            f"{rate:,.0f} devices/s, {self._limiter.flow or 0:,.3g} requests/s, {limit}, "
            f"{self.tally.throttled_share:.1%} throttled, "
            f"{failed:,} failed, {in_doubt:,} in doubt, "
            f"ETA {duration(left / rate) if rate else 'unknown'}"
        )
