"""What a signal does while a command is interruptible, writes files, or has requests in flight."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from types import SimpleNamespace

import anyio
import pytest

from batchlic.runs import signals
from batchlic.runs.signals import (
    Interrupted,
    _heard_as,
    _Mode,
    asked,
    finishing,
    is_asked,
    run_in_loop,
    unless_asked,
)

STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGXCPU]


@pytest.fixture(autouse=True)
def same_handlers() -> Iterator[None]:
    """Every test leaves the handlers as it found them; none is ignored, as in a background job of a shell."""
    inherited = {
        number: signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
        for number in STOPPING
    }
    before = [signal.getsignal(number) for number in STOPPING]
    try:
        yield
        assert [signal.getsignal(number) for number in STOPPING] == before
    finally:
        for number, handler in inherited.items():
            signal.signal(number, handler)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time between signals, in seconds; tests set its only item."""
    now = [1000.0]
    monkeypatch.setattr("batchlic.runs.signals.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOPPING)
def test_one_signal_does_not_interrupt_what_must_be_finished(number: signal.Signals) -> None:
    with finishing():
        send(number)
        assert is_asked()
        assert str(signals.interruption()) == f"stopped by {number.name}"
    assert not is_asked()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_second_signal_interrupts_even_that(second: signal.Signals, clock: list[float]) -> None:
    with finishing():
        send(signal.SIGTERM)
        clock[0] += 2
        with pytest.raises(KeyboardInterrupt):
            send(second)


@pytest.mark.parametrize("second", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_a_signal_that_comes_by_itself_again_does_not(second: signal.Signals, clock: list[float]) -> None:
    with finishing():
        send(signal.SIGTERM)
        clock[0] += 2
        send(second, second)


def test_a_quick_second_signal_does_not_leave_files_unwritten(clock: list[float]) -> None:
    with finishing():
        send(signal.SIGINT)
        clock[0] += 0.3
        send(signal.SIGINT)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGHUP])
def test_a_quick_second_signal_does_not_interrupt_the_end_of_a_command(
    first: signal.Signals, second: signal.Signals, clock: list[float]
) -> None:
    with _heard_as(_Mode.INTERRUPT):
        with pytest.raises(KeyboardInterrupt):
            send(first)
        clock[0] += 0.3
        send(second, second)
        assert str(signals.interruption()) == f"stopped by {first.name}"
        clock[0] += 2
        with pytest.raises(KeyboardInterrupt):
            send(second)


def test_an_outer_block_goes_on_hearing_after_an_inner_one() -> None:
    with finishing():
        with finishing():
            send(signal.SIGTERM)
        send(signal.SIGHUP)
        assert is_asked()


def test_an_ignored_hang_up_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with finishing():
            send(signal.SIGHUP)
            assert not is_asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_ends_a_wait() -> None:
    timer = threading.Timer(0.05, send, [signal.SIGTERM])
    with finishing():
        timer.start()
        signals.wait(3600)
        assert is_asked()


@pytest.mark.parametrize("use_uvloop", [True, False])
def test_a_signal_ends_the_work_in_a_loop(use_uvloop: bool) -> None:  # noqa: FBT001
    timer = threading.Timer(0.05, send, [signal.SIGTERM])

    async def work() -> None:
        timer.start()
        await unless_asked(anyio.sleep_forever)

    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run_in_loop(work, use_uvloop=use_uvloop)


@pytest.mark.anyio
async def test_work_that_ends_by_itself_gives_its_result_or_its_error() -> None:
    async def result() -> int:
        return 7

    async def failure() -> None:
        raise ValueError("its own")

    assert await unless_asked(result) == 7
    with pytest.raises(ValueError, match="its own"):
        await unless_asked(failure)


def heard(*numbers: signal.Signals, pause: float, clock: list[float]) -> int:
    """How often signals that come after each other with a pause ask to stop."""

    async def work() -> int:
        for number in numbers:
            send(number)
            clock[0] += pause
        await asked(1)
        return signals._state.get().requests

    return run_in_loop(work)


@pytest.mark.parametrize(
    ("numbers", "pause", "requests"),
    [
        ([signal.SIGINT, signal.SIGINT], 0.0, 2),
        ([signal.SIGTERM, signal.SIGTERM], 0.01, 1),  # as `timeout` sends them
        ([signal.SIGTERM, signal.SIGTERM], 0.9, 1),  # so on a busy machine
        ([signal.SIGTERM, signal.SIGTERM], 1.1, 2),
        ([signal.SIGHUP, signal.SIGHUP], 5.0, 1),  # as a shell and the kernel send them
        ([signal.SIGTERM, signal.SIGHUP], 5.0, 1),  # as systemd sends them
        ([signal.SIGHUP, signal.SIGTERM], 5.0, 2),
        ([signal.SIGXCPU, signal.SIGXCPU], 1.0, 1),  # as the kernel sends them
    ],
)
def test_what_counts_as_a_second_request(
    numbers: list[signal.Signals], pause: float, requests: int, clock: list[float]
) -> None:
    assert heard(*numbers, pause=pause, clock=clock) == requests


def test_a_program_asks_only_the_runs_of_its_thread_to_stop() -> None:
    requests = signals.StopRequests()
    with closing(requests):
        requests.ask("a caller")
        with requests.obeyed():
            assert signals.is_asked()
            assert str(signals.interruption()) == "stopped by a caller"
        assert not signals.is_asked()


@pytest.mark.parametrize(("asked", "times"), [(0, 2), (1, 2), (2, 1)], ids=["none", "first", "second"])
def test_files_are_written_again_after_an_interrupted_query(asked: int, times: int) -> None:
    calls: list[int] = []

    def write() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt  # as polars does, in whatever thread
        return "written"

    with closing(signals.StopRequests()) as requests, requests.obeyed():
        for _ in range(asked):
            requests.ask("a caller")
        with suppress(KeyboardInterrupt):
            assert signals.again_if_interrupted(write) == "written"
    assert len(calls) == times


def test_batches_that_are_interrupted_stop_the_run() -> None:
    def batches() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    found = signals.stopping_instead(batches())
    assert next(found) == 1
    with pytest.raises(signals.Interrupted):
        next(found)
