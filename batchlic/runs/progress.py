"""The progress of a run: a bar on a terminal, otherwise a line every few seconds."""

import math
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO, TypeAlias

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.chunker import Batch, DeviceStatus, Step
from batchlic.journal import Intent
from batchlic.pool.limiter.pace import Pace

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

PLAIN_INTERVAL = 5.0
BAR_INTERVAL = 0.1
"""Seconds between two updates."""
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


class Reporter:
    """The pool's observer: counts devices, logs each attempt, and shows the progress."""

    def __init__(
        self, tally: Tally, pace: Pace, logger: "FilteringBoundLogger", *, screen: TextIO = sys.stderr
    ) -> None:
        self.tally = tally
        self._pace = pace
        self._logger = logger
        self._screen = screen
        self._points: deque[tuple[float, int]] = deque()
        self._in_doubt: set[_Part] = set()
        self.warnings: list[str] = []
        """Problems with answers that count all the same."""

    def answered(
        self, batch: Batch, intent: Intent, answer: Answer, duration_ms: float, *, final: bool
    ) -> None:
        """Count and log an answer that has become durable."""
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
            await anyio.sleep(PLAIN_INTERVAL)
            share = self.tally.done / max(1, self.tally.planned)
            print(
                f"{self.tally.done:,} of {self.tally.planned:,} devices ({share:.0%}), {self._figures()}",
                file=self._screen,
                flush=True,
            )

    async def _show_bar(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - only on a terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("devices, {task.fields[figures]}"))
        with Progress(*columns, console=Console(file=self._screen), transient=True) as bar:
            task = bar.add_task("", total=self.tally.planned, figures="")
            while True:
                await anyio.sleep(BAR_INTERVAL)
                bar.update(task, completed=self.tally.done, figures=self._figures())

    def _figures(self) -> str:
        now = anyio.current_time()
        self._points.append((now, self.tally.done))
        while now - self._points[0][0] > RATE_SPAN and len(self._points) > 2:
            self._points.popleft()
        first_at, first_done = self._points[0]
        rate = (self.tally.done - first_done) / (now - first_at) if now > first_at else 0.0
        left = self.tally.planned - self.tally.done
        limit = f"limit {self._pace.rate:,.0f} requests/s" if math.isfinite(self._pace.rate) else "no limit"
        failed, in_doubt = (self.tally.devices[one] for one in (DeviceStatus.FAILED, DeviceStatus.IN_DOUBT))
        return (
            f"{rate:,.0f} devices/s, {limit}, {self.tally.throttled_share:.1%} throttled, "
            f"{failed:,} failed, {in_doubt:,} in doubt, "
            f"ETA {_duration(left / rate) if rate else 'unknown'}"
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
