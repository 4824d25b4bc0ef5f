"""The progress of a run: a bar on a terminal, otherwise a line every few seconds."""

import sys
from collections import deque
from typing import TYPE_CHECKING, TextIO

from batchlic.chunker import DeviceStatus
from batchlic.events import DevicesCounted, RateMeasured, RunEvent
from batchlic.figures import counted, duration, noun_for

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

LINE_INTERVAL_S = 5.0
"""Seconds between two lines where there is no terminal."""
RATE_SPAN_S = 10.0
"""Seconds over which devices per second are averaged."""


class Progress:
    """A subscriber that shows devices, rate and the time left. `close` takes the bar off the screen."""

    def __init__(self, screen: TextIO | None = None) -> None:
        self._screen = screen or sys.stderr
        self._devices = DevicesCounted(to_send=0, statuses={}, throttled_share=0.0)
        self._rate: RateMeasured | None = None
        self._points: deque[tuple[float, int]] = deque()
        """Times in seconds, and devices done by then."""
        self._line_at: float | None = None
        """When the next line is due."""
        self._bar: RichProgress | None = None

    def __call__(self, event: RunEvent) -> None:
        """Remember the figures of an event, and show them from time to time."""
        match event:
            case DevicesCounted():
                self._devices = event
                self._points.append((event.at / 1e6, self._done))
            case RateMeasured():
                self._rate = event
                self._show(event.at / 1e6)
            case _:
                pass

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    @property
    def _done(self) -> int:
        statuses = self._devices.statuses
        return statuses.get(DeviceStatus.ACCEPTED, 0) + statuses.get(DeviceStatus.FAILED, 0)

    def _show(self, now: float) -> None:
        if self._screen.isatty():
            self._show_bar()
        elif self._line_at is None:
            self._line_at = now + LINE_INTERVAL_S
        elif now >= self._line_at:
            self._line_at = now + LINE_INTERVAL_S
            share = self._done / max(1, self._devices.to_send)
            devices = counted(self._devices.to_send, "device")
            print(
                f"{self._done:,} of {devices} ({share:.0%}), {self.figures()}", file=self._screen, flush=True
            )

    def _show_bar(self) -> None:
        if self._bar is None:
            self._bar = self._new_bar()
            self._bar.start()
        else:
            self._bar.update(self._bar.task_ids[0], completed=self._done, figures=self.figures())

    def _new_bar(self) -> "RichProgress":
        from rich.console import Console  # noqa: PLC0415 - only on a terminal
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as RichProgress  # noqa: PLC0415

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[noun]}, {task.fields[figures]}"),
        )
        bar = RichProgress(*columns, console=Console(file=self._screen), transient=True)
        noun = noun_for(self._devices.to_send, "device")
        bar.add_task("", total=self._devices.to_send, completed=self._done, noun=noun, figures=self.figures())
        return bar

    def figures(self) -> str:
        """Speed, limit, devices that failed or are in doubt, and the time left."""
        while len(self._points) > 2 and self._points[-1][0] - self._points[0][0] > RATE_SPAN_S:
            self._points.popleft()
        (first_at, first_done), (last_at, last_done) = self._points[0], self._points[-1]
        rate = (last_done - first_done) / (last_at - first_at) if last_at > first_at else 0.0
        requests, found = (self._rate.requests_per_s, self._rate.found) if self._rate else (0.0, "")
        statuses = self._devices.statuses
        failed, in_doubt = (statuses.get(one, 0) for one in (DeviceStatus.FAILED, DeviceStatus.IN_DOUBT))
        left = self._devices.to_send - last_done
        return (
            f"{rate:,.0f} devices/s, {requests:,.3g} requests/s, {found}, "
            f"{self._devices.throttled_share:.1%} throttled, "
            f"{failed:,} failed, {in_doubt:,} in doubt, "
            f"ETA {duration(left / rate) if rate else 'unknown'}"
        )
