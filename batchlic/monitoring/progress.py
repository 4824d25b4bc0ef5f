"""The progress of a run: a bar on a terminal, otherwise a line every few seconds."""

import os
import sys
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TextIO

from batchlic.chunker import DeviceStatus
from batchlic.events import (
    DevicesCounted,
    Phase,
    PhaseEnded,
    PhaseStarted,
    RateMeasured,
    RunEvent,
)
from batchlic.figures import counted, duration

if TYPE_CHECKING:
    from rich.live import Live

LINE_INTERVAL_S = 5.0
"""Seconds between two lines where there is no terminal."""
RATE_SPAN_S = 60.0
"""Seconds over which devices per second are averaged, as `batchlic status` does."""
_SHORTEST_SPAN_S = 5.0
"""Seconds before a speed is shown: the first requests are a burst that the carrier may not let go on."""
_SHORTEST_FORECAST_S = 10.0
"""Seconds before the time left is shown."""
_BAR_WIDTH = 30
_SHORTEST_WAIT_S = 1.0
"""Seconds of a wait that is shown instead of a speed."""

_NOTHING = DevicesCounted(to_send=0, statuses={}, throttled_share=0.0)


class _Point(NamedTuple):
    """What was done by a time in seconds."""

    at: float
    devices: int
    requests: int


class Progress:
    """A subscriber that shows devices, speed and the time left while a session sends.

    The speed is that of devices with a final answer. `close` takes the bar off the screen.
    """

    def __init__(self, screen: TextIO | None = None) -> None:
        self._screen = screen or sys.stderr
        self._bar: Live | None = None
        self._devices = _NOTHING
        self._rate: RateMeasured | None = None
        self._points: deque[_Point] = deque()
        self._line_at: float | None = None
        """When the next line is due."""

    def __call__(self, event: RunEvent) -> None:
        """Remember the figures of an event, and show them from time to time."""
        match event:
            case PhaseStarted(phase=Phase.SENDING):
                self._begin()
            case PhaseEnded(phase=Phase.SENDING):
                self.close()
            case DevicesCounted():
                self._devices = event
                if event.at / 1e6 < self._latest:  # the clock of the machine was set back
                    self._points.clear()
                    self._line_at = None
                self._points.append(_Point(event.at / 1e6, self._done, event.admitted))
            case RateMeasured():
                self._rate = event
                self._show(event.at / 1e6)
            case _:
                pass

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _begin(self) -> None:
        self._devices, self._rate, self._line_at = _NOTHING, None, None
        self._points.clear()

    @property
    def _done(self) -> int:
        statuses = self._devices.statuses
        return statuses.get(DeviceStatus.ACCEPTED, 0) + statuses.get(DeviceStatus.FAILED, 0)

    def _show(self, now: float) -> None:
        if self._is_drawable:
            self._draw()
        elif self._line_at is None:
            self._line_at = now + LINE_INTERVAL_S
        elif now >= self._line_at:
            self._line_at = now + LINE_INTERVAL_S
            print(f"{self._devices_done()}, {self.figures()}", file=self._screen, flush=True)

    @property
    def _is_drawable(self) -> bool:
        return self._screen.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}

    def _devices_done(self) -> str:
        share = self._done / max(1, self._devices.to_send)
        return f"{self._done:,} of {counted(self._devices.to_send, 'device')} ({share:.0%})"

    def _draw(self) -> None:
        """Show a bar, and the figures below it; on a narrow terminal, these need two lines."""
        from rich.columns import Columns  # noqa: PLC0415 - only on a terminal
        from rich.console import Console, Group  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        if self._bar is None:
            console = Console(file=self._screen)
            self._bar = Live(console=console, auto_refresh=False, transient=True)
            self._bar.start()
        bar = ProgressBar(total=max(1, self._devices.to_send), completed=self._done, width=_BAR_WIDTH)
        shown = Group(Columns([bar, Text(self._devices_done())]), Text(self.figures()))
        self._bar.update(shown, refresh=True)

    def figures(self) -> str:
        """Speed or wait, limit, devices that failed or are in doubt, and the time left."""
        while len(self._points) > 2 and self._span > RATE_SPAN_S:
            self._points.popleft()
        statuses = self._devices.statuses
        failed, in_doubt = (statuses.get(one, 0) for one in (DeviceStatus.FAILED, DeviceStatus.IN_DOUBT))
        figures = [
            *self._speed(),
            f"{self._devices.throttled_share:.1%} throttled",
            f"{failed:,} failed",
            f"{in_doubt:,} in doubt",
            *self._forecast(),
        ]
        return ", ".join(figures)

    @property
    def _is_waiting(self) -> bool:
        return self._rate is not None and self._rate.wait_s >= _SHORTEST_WAIT_S

    def _speed(self) -> list[str]:
        if self._rate is None:
            return []
        if self._is_waiting:
            return [f"waiting {self._rate.wait_s:,.0f} s for the carrier"]
        if self._span < _SHORTEST_SPAN_S:
            return ["measuring the speed", self._rate.found]
        return [
            f"{self._devices_per_s:,.0f} devices/s",
            f"{self._requests_per_s:,.3g} requests/s",
            self._rate.found,
        ]

    def _forecast(self) -> list[str]:
        """The time left, unless nothing shows yet how the run goes on."""
        if self._is_waiting or self._span < _SHORTEST_SPAN_S:
            return []
        left = self._devices.to_send - self._points[-1].devices
        if not self._has_gone_on or self._span < _SHORTEST_FORECAST_S:
            return ["ETA unknown"]
        return [f"ETA {duration(left / self._devices_per_s)}"]

    @property
    def _latest(self) -> float:
        return self._points[-1].at if self._points else 0.0

    @property
    def _span(self) -> float:
        return self._points[-1].at - self._points[0].at if self._points else 0.0

    @property
    def _devices_per_s(self) -> float:
        return (self._points[-1].devices - self._points[0].devices) / self._span

    @property
    def _requests_per_s(self) -> float:
        return (self._points[-1].requests - self._points[0].requests) / self._span

    @property
    def _has_gone_on(self) -> bool:
        """Whether devices were done in both halves of the time that is measured, and not in one burst."""
        first, last = self._points[0], self._points[-1]
        middle = next(point for point in self._points if point.at >= (first.at + last.at) / 2)
        return first.devices < middle.devices < last.devices
