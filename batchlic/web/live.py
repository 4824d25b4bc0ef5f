"""Live figures for all who watch: each run is read at most once a second, and only while somebody watches."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import msgspec

from batchlic.errors import BatchlicError, StoppedEarly
from batchlic.figures import duration
from batchlic.runs.live import INTERVAL_S, LiveFigures, LiveRun
from batchlic.web.catalog import Entry
from batchlic.web.charts import FLOW, area, line

INTERVAL = 1.0
"""Seconds between two readings, at least."""
MAX_STREAMS = 64
"""Streams that are open at once."""

_COST_FACTOR = 10
"""A reading takes at most a tenth of the time."""
_FORGOTTEN_AFTER_S = 60.0
_SAID_PERCENT = 5
"""A screen reader reads progress aloud in steps of so many percent."""


@dataclass(slots=True)
class _Watched:
    run: LiveRun
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    figures: LiveFigures | None = None
    good_until: float = 0.0
    asked_at: float = 0.0


class LiveRuns:
    """The runs that somebody watches."""

    def __init__(self) -> None:
        self._watched: dict[tuple[str, str | None], _Watched] = {}

    async def figures(self, entry: Entry) -> LiveFigures | None:
        """The figures of a run, at most some seconds old; None while it is planned.

        Raises RunFolderError, NoAccess or StoppedEarly if its journal can't be read.
        """
        if entry.folder is None:
            return None
        self._forget()
        key = entry.run.run_dir, entry.run.run_id  # another run may be begun in a folder that was removed
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched(LiveRun(entry.folder))
        watched.asked_at = time.monotonic()
        async with watched.lock:
            began = time.monotonic()
            if began >= watched.good_until:
                watched.figures = await anyio.to_thread.run_sync(watched.run.read)
                now = time.monotonic()
                watched.good_until = now + max(0.9 * INTERVAL, _COST_FACTOR * (now - began))
        return watched.figures

    def _forget(self) -> None:
        earliest = time.monotonic() - _FORGOTTEN_AFTER_S
        self._watched = {key: one for key, one in self._watched.items() if one.asked_at >= earliest}


class LiveMessage(msgspec.Struct, frozen=True):
    """What changes on a page: texts, values of progress bars, and attributes of drawings, by name."""

    text: dict[str, str] = {}
    value: dict[str, float] = {}
    draw: dict[str, str] = {}


def message(figures: LiveFigures | None) -> LiveMessage:
    """The figures of one run, as its page shows them."""
    if figures is None:
        return LiveMessage(text={"percent": "0%", "said": "The run is being planned", "paused": ""})
    percent = 100 * figures.share_done
    most = max((one.devices_per_s for one in figures.flow), default=0.0)
    requests = figures.requests
    devices = [one.devices_per_s for one in figures.flow]
    return LiveMessage(
        text={
            "percent": _percent(percent),
            "said": f"{percent // _SAID_PERCENT * _SAID_PERCENT:.0f}% of the devices are done",
            "done": f"{figures.accepted + figures.failed:,}",
            "accepted": f"{figures.accepted:,}",
            "failed": f"{figures.failed:,}",
            "in_doubt": f"{figures.in_doubt:,}",
            "pending": f"{figures.pending:,}",
            "devices_per_second": f"{figures.devices_per_second:,.0f}",
            "requests_per_second": f"{figures.requests_per_second:,.1f}",
            "found": figures.found or "not found yet",
            "left": _left(figures),
            "paused": f"Paused {figures.paused}. To go on: batchlic limit --resume" if figures.paused else "",
            "requests": f"{requests:,}",
            "throttled": f"{figures.throttled / requests if requests else 0:.1%}",
            "most": f"{most:,.0f} at most",
            "span": _span(len(devices) * INTERVAL_S),
        },
        value={"progress": round(percent, 2)},
        draw={"flow-area": area(devices, FLOW), "flow-line": line(devices, FLOW)},
    )


def _left(figures: LiveFigures) -> str:
    if figures.paused:
        return "paused"
    return "unknown" if figures.seconds_left is None else duration(figures.seconds_left)


def _span(seconds: int) -> str:
    return f"last {seconds} seconds" if seconds < 120 else f"last {seconds / 60:.0f} minutes"


def _percent(percent: float) -> str:
    """A percentage that says 100% only of all."""
    return f"{min(percent, 99.9):.1f}%" if percent < 100 else "100%"


class Streams:
    """The streams that are open."""

    def __init__(self, is_stopping: Callable[[], bool]) -> None:
        self._open = 0
        self._is_stopping = is_stopping

    @property
    def is_full(self) -> bool:
        """Whether no more may be opened."""
        return self._open >= MAX_STREAMS

    async def events(
        self, read: Callable[[], Awaitable[LiveMessage | None]], *, may_go_on: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

        `read` is asked once a second, until it returns None: then the page is to be loaded again. The stream
        also ends once it may not go on, or the server stops.
        """
        self._open += 1
        try:
            yield b"retry: 3000\n\n"
            last = LiveMessage()
            while may_go_on() and not self._is_stopping():
                found: LiveMessage | None = None
                try:
                    found = await read()
                except StoppedEarly:  # the journal can't be copied at this moment
                    found = last
                except BatchlicError:
                    pass
                if found is None:
                    yield b"event: changed\ndata: {}\n\n"
                    return
                yield b": the same\n\n" if found == last else b"data: " + msgspec.json.encode(found) + b"\n\n"
                last = found
                await anyio.sleep(INTERVAL)
        finally:
            self._open -= 1
