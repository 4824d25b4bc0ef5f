"""What the progress of a run shows."""

import io
import os
import pty
from contextlib import closing, suppress

import pytest

from batchlic.chunker import DeviceStatus
from batchlic.events import DevicesCounted, Phase, PhaseEnded, PhaseStarted, RateMeasured
from batchlic.monitoring.progress import LINE_INTERVAL_S, Progress


def devices(at_s: float, accepted: int, **other: int) -> DevicesCounted:
    statuses = {DeviceStatus.ACCEPTED: accepted} | {DeviceStatus(name): n for name, n in other.items()}
    return DevicesCounted(
        at=round(at_s * 1e6),
        to_send=1000,
        statuses=statuses,
        throttled_share=0.125,
        admitted=accepted // 10,
    )


def rate(at_s: float, found: str = "found: 25 requests a second", wait_s: float = 0.0) -> RateMeasured:
    return RateMeasured(
        at=round(at_s * 1e6),
        requests_per_s=24.51,
        found=found,
        in_flight=3,
        concurrency=8,
        is_paused=bool(wait_s),
        wait_s=wait_s,
    )


def after(*done: tuple[float, int]) -> Progress:
    """A progress after these numbers of devices, by second."""
    progress = Progress(io.StringIO())
    for second, accepted in done:
        progress(devices(second, accepted))
        progress(rate(second))
    return progress


def test_there_is_a_line_every_few_seconds_without_a_terminal() -> None:
    screen = io.StringIO()
    progress = Progress(screen)
    for tenth in range(round(30 * LINE_INTERVAL_S) + 1):
        progress(devices(tenth / 10, tenth * 2, failed=1, in_doubt=2))
        progress(rate(tenth / 10))
    rates = "20 devices/s, 2 requests/s, found: 25 requests a second, 12.5% throttled, 1 failed, 2 in doubt"
    assert screen.getvalue().splitlines() == [
        f"101 of 1,000 devices (10%), {rates}, ETA unknown",
        f"201 of 1,000 devices (20%), {rates}, ETA 0:40",
        f"301 of 1,000 devices (30%), {rates}, ETA 0:35",
    ]


def test_lines_go_on_after_the_clock_is_set_back() -> None:
    screen = io.StringIO()
    progress = Progress(screen)
    for second in (*range(3600, 3612), *range(12)):
        progress(devices(second, 10 * (second % 3600)))
        progress(rate(second))
    assert len(screen.getvalue().splitlines()) == 4
    assert screen.getvalue().splitlines()[-1].startswith("100 of 1,000 devices (10%), 10 devices/s")


def test_the_speed_is_that_of_the_last_minute() -> None:
    shown = after(*((second, min(10 * second, 300)) for second in range(121))).figures()
    assert shown.startswith("0 devices/s, 0 requests/s, ")
    assert shown.endswith("ETA unknown")


def test_a_first_burst_has_no_speed_and_no_time_left() -> None:
    shown = after((0, 0), (0.5, 500), (4.5, 500)).figures()
    assert shown.startswith("measuring the speed, ")
    assert "ETA" not in shown


def test_a_burst_that_does_not_go_on_has_no_time_left() -> None:
    shown = after((0, 0), (1, 500), *((second, 500) for second in range(2, 30))).figures()
    assert shown.startswith("17 devices/s, ")
    assert shown.endswith("ETA unknown")


def test_a_wait_that_the_carrier_asks_for_is_shown_instead_of_a_speed() -> None:
    progress = after(*((second, 10 * second) for second in range(20)))
    progress(rate(20, wait_s=12.2))
    shown = progress.figures()
    assert shown.startswith("waiting 12 s for the carrier, 12.5% throttled, ")
    assert "/s" not in shown
    assert "ETA" not in shown


def test_another_session_of_the_command_is_measured_by_itself() -> None:
    progress = after(*((second, 10 * second) for second in range(20)))
    progress(PhaseEnded(phase=Phase.SENDING))
    progress(PhaseStarted(phase=Phase.SENDING))
    progress(devices(100, 200))
    progress(rate(100))
    assert progress.figures().startswith("measuring the speed, ")


@pytest.mark.parametrize("found", ["no limit found", "found: 300 requests a minute"])
def test_progress_says_what_limit_was_found(found: str) -> None:
    progress = after((0, 0), (10, 500))
    progress(rate(10, found))
    assert f"5 requests/s, {found}, " in progress.figures()


def all_of(terminal: int) -> bytes:
    """What was written to a terminal, whose other end is closed."""
    shown = b""
    with suppress(OSError):  # the end
        while block := os.read(terminal, 65536):
            shown += block
    os.close(terminal)
    return shown


@pytest.mark.parametrize(("term", "is_drawn"), [("xterm", True), ("dumb", False)])
def test_a_terminal_shows_a_bar_if_it_can_draw(
    monkeypatch: pytest.MonkeyPatch, term: str, *, is_drawn: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", term)
    terminal, end = pty.openpty()
    with os.fdopen(end, "w", encoding="utf-8") as screen, closing(Progress(screen)) as progress:
        for second in (0, 6):
            progress(devices(second, 500))
            progress(rate(second))
    shown = all_of(terminal)
    assert b"500 of 1,000 devices (50%)" in shown
    assert b"0 requests/s" in shown
    assert (b"\x1b[" in shown) == is_drawn
