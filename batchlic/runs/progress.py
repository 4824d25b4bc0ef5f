"""How a run is going, seen live: a bar on a terminal, a plain line now and then elsewhere."""

import math
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

import anyio

from batchlic.carrier.answers import Answer, Outcome
from batchlic.chunker import Batch
from batchlic.journal import Intent
from batchlic.pool.limiter.pace import Pace

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

PLAIN_INTERVAL = 5.0
BAR_INTERVAL = 0.1
"""Seconds between two looks."""
RATE_SPAN = 10.0
"""Seconds over which devices/s are averaged."""


@dataclass(slots=True)
class Tally:
    """What the pool has reported so far: devices and requests, counted as answers become durable."""

    planned: int
    devices: Counter[str] = field(default_factory=Counter)
    """accepted, failed, in_doubt: devices."""
    requests: Counter[Outcome] = field(default_factory=Counter)

    def moved(self, devices: int, failed: int) -> None:
        """Count a batch for which a migration has nothing more to do: its devices that moved, and did not."""
        self.devices["accepted"] += devices
        self.devices["failed"] += failed

    @property
    def done(self) -> int:
        """Devices whose outcome is known, as far as the carrier's answer goes."""
        return self.devices["accepted"] + self.devices["failed"]

    @property
    def throttled_share(self) -> float:
        """Share of the requests that were throttled, 0 to 1."""
        return self.requests[Outcome.THROTTLED] / max(1, self.requests.total())


class Reporter:
    """The pool's observer: counts, logs each attempt, and shows how the run is going."""

    def __init__(
        self, tally: Tally, pace: Pace, logger: "FilteringBoundLogger", *, screen: TextIO = sys.stderr
    ) -> None:
        self.tally = tally
        self._pace = pace
        self._logger = logger
        self._screen = screen
        self._seen: deque[tuple[float, int]] = deque()
        self._in_doubt: set[tuple[int, str]] = set()

    def answered(
        self, batch: Batch, intent: Intent, answer: Answer, duration_ms: float, *, final: bool
    ) -> None:
        """Count and log an answer that has become durable."""
        self.tally.requests[answer.outcome] += 1
        part = (batch.batch_id, intent.part)
        if answer.outcome is Outcome.AMBIGUOUS and part not in self._in_doubt:
            self._in_doubt.add(part)
            self.tally.devices["in_doubt"] += intent.device_count
        elif answer.outcome is Outcome.ACCEPTED:
            self._settle_doubt(part, intent.device_count)
            self._count("accepted", batch, intent)
        elif final and part not in self._in_doubt:
            self._count("failed", batch, intent)
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

    def _count(self, outcome: str, batch: Batch, intent: Intent) -> None:
        """Count devices that are through; a step of a migration (`batch.request`) is not all of it."""
        if batch.request is None:
            self.tally.devices[outcome] += intent.device_count

    def _settle_doubt(self, part: tuple[int, str], devices: int) -> None:
        if part in self._in_doubt:
            self._in_doubt.remove(part)
            self.tally.devices["in_doubt"] -= devices

    async def show(self) -> None:
        """Show the run until cancelled."""
        self._seen.append((anyio.current_time(), self.tally.done))
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
        from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("devices, {task.fields[figures]}"))
        with Progress(*columns, console=Console(file=self._screen), transient=True) as bar:
            task = bar.add_task("", total=self.tally.planned, figures="")
            while True:
                await anyio.sleep(BAR_INTERVAL)
                bar.update(task, completed=self.tally.done, figures=self._figures())

    def _figures(self) -> str:
        now = anyio.current_time()
        self._seen.append((now, self.tally.done))
        while now - self._seen[0][0] > RATE_SPAN and len(self._seen) > 2:
            self._seen.popleft()
        since, before = self._seen[0]
        rate = (self.tally.done - before) / (now - since) if now > since else 0.0
        left = self.tally.planned - self.tally.done
        pace = f"{self._pace.rate:,.0f} requests/s" if math.isfinite(self._pace.rate) else "unlimited"
        return (
            f"{rate:,.0f}/s, pace {pace}, {self.tally.throttled_share:.1%} throttled, "
            f"{self.tally.devices['failed']:,} failed, {self.tally.devices['in_doubt']:,} in doubt, "
            f"ETA {_duration(left / rate) if rate else '?'}"
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
