"""What the progress of a run shows."""

import io
import os
import pty
from contextlib import closing

import pytest

from batchlic.chunker import DeviceStatus
from batchlic.events import DevicesCounted, RateMeasured
from batchlic.monitoring.progress import LINE_INTERVAL_S, Progress


def devices(at_s: float, accepted: int, **other: int) -> DevicesCounted:
    statuses = {DeviceStatus.ACCEPTED: accepted} | {DeviceStatus(name): n for name, n in other.items()}
    return DevicesCounted(at=round(at_s * 1e6), to_send=1000, statuses=statuses, throttled_share=0.125)


def rate(
    at_s: float, requests_per_s: float = 24.51, found: str = "found: 25 requests a second"
) -> RateMeasured:
    return RateMeasured(
        at=round(at_s * 1e6),
        requests_per_s=requests_per_s,
        found=found,
        in_flight=3,
        concurrency=8,
        is_paused=False,
    )


def test_there_is_a_line_every_few_seconds_without_a_terminal() -> None:
    screen = io.StringIO()
    progress = Progress(screen)
    for tenth in range(round(20 * LINE_INTERVAL_S) + 1):
        progress(devices(tenth / 10, tenth * 2, failed=1, in_doubt=2))
        progress(rate(tenth / 10))
    rates = "20 devices/s, 24.5 requests/s, found: 25 requests a second, 12.5% throttled"
    assert screen.getvalue().splitlines() == [
        f"101 of 1,000 devices (10%), {rates}, 1 failed, 2 in doubt, ETA 0:45",
        f"201 of 1,000 devices (20%), {rates}, 1 failed, 2 in doubt, ETA 0:40",
    ]


def test_the_speed_is_that_of_the_last_seconds() -> None:
    progress = Progress(io.StringIO())
    for second in range(60):
        progress(devices(second, min(10 * second, 300)))
        progress(rate(second))
    assert progress.figures().startswith("0 devices/s, ")


@pytest.mark.parametrize("found", ["no limit found", "found: 300 requests a minute"])
def test_progress_says_what_flows_and_what_limit_was_found(found: str) -> None:
    progress = Progress(io.StringIO())
    progress(devices(0, 0))
    progress(rate(0, 0.0, found))
    assert f"0 requests/s, {found}, " in progress.figures()


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    terminal, end = pty.openpty()
    with os.fdopen(end, "w", encoding="utf-8") as screen:
        with closing(Progress(screen)) as progress:
            progress(devices(0, 500))
            progress(rate(0))
        screen.flush()
        shown = os.read(terminal, 65536)
    os.close(terminal)
    assert b"500/1000" in shown
    assert b"24.5 requests/s" in shown
