"""SIGINT, SIGTERM, SIGHUP and their like ask a command to stop; how it stops depends on what it is doing.

| the command is | a first signal | another one |
| --- | --- | --- |
| in `hearing`: nothing would be lost | raises KeyboardInterrupt | raises it again, a second later |
| in `finishing`, or after it: files must be written | is remembered | raises KeyboardInterrupt |
| in `run_in_loop`: requests are in flight | ends `asked(1)` | ends `asked(2)` |

A program that starts runs in threads of its own (`batchlic.api`) handles its signals itself. It makes the
requests to stop with `StopRequests`, which only the runs in that thread see; no handler is set for them.

A second request to stop is a SIGINT, SIGTERM or SIGQUIT. A SIGHUP is not: shell and kernel both send one when
a terminal closes, and systemd can send one after SIGTERM. Neither is a SIGTERM within a second of another
signal: `timeout` sends it to the process, and also to its group. A signal that the parent ignores stays
ignored, as SIGHUP after `nohup`; SIGINT and SIGTERM are always heard.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from enum import Enum, auto
from types import FrameType
from typing import Any, TypeVar

import anyio

from batchlic.errors import StoppedEarly

T = TypeVar("T")

_ALWAYS_HEARD = (signal.SIGINT, signal.SIGTERM)
_OTHERS = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGXCPU)
"""Schedulers send some of these before they kill a process; by default, each ends it at once."""

_INSISTING = {signal.SIGINT, signal.SIGTERM, signal.SIGQUIT}

_INSISTING_S = 1.0
"""Only a signal that comes later than this after another one interrupts files that are written, and what the
other one ended: pressing Ctrl-C twice is no error. Earlier, a SIGTERM repeats the request to stop."""


class Interrupted(StoppedEarly):
    """A signal asked to stop before the work was done."""


class _Mode(Enum):
    INTERRUPT = auto()
    FINISH = auto()
    NOTIFY = auto()


class _State:
    """The requests to stop that this process has received. `mode` is None while nobody hears signals."""

    hears_signals = True

    def __init__(self) -> None:
        self.mode: _Mode | None = None
        self.requests = 0
        self.first = ""
        self._last_at = 0.0
        self._wakeup: tuple[int, int] | None = None

    @property
    def wakeup(self) -> tuple[int, int]:
        """The ends of a pipe that becomes readable at a signal (the self-pipe trick, D. J. Bernstein)."""
        if self._wakeup is None:
            self._wakeup = os.pipe()
            for end in self._wakeup:
                os.set_blocking(end, False)
        return self._wakeup

    def drain(self) -> None:
        """Empty the pipe."""
        with suppress(BlockingIOError):
            while os.read(self.wakeup[0], 100):
                pass

    def forget(self) -> None:
        """Begin again, as nobody hears signals any more."""
        self.requests, self.first = 0, ""
        self.drain()

    def count(self, name: str) -> None:
        """Count a request to stop, and wake up whoever waits for one."""
        self.requests += 1
        self.first = self.first or name
        with suppress(BlockingIOError):
            os.write(self.wakeup[1], b"!")

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal; Python calls this in the main thread, between two instructions."""
        now = time.monotonic()
        since_last, self._last_at = now - self._last_at, now
        is_same = number not in _INSISTING or (number == signal.SIGTERM and since_last < _INSISTING_S)
        if self.requests and is_same:
            return
        self.count(signal.Signals(number).name)
        if self.mode is _Mode.NOTIFY:
            return
        if self.requests > 1 and since_last < _INSISTING_S:
            return
        if self.mode is _Mode.FINISH and self.requests == 1:
            return
        raise KeyboardInterrupt


_state: ContextVar[_State] = ContextVar("state", default=_State())  # noqa: B039 - that of the process


class StopRequests(_State):
    """The requests to stop that a program makes, instead of signals, for the runs of one of its threads.

    Close it when the runs are over.
    """

    hears_signals = False

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._is_closed = False
        self.wakeup  # noqa: B018 - made in this thread, before another one asks for it

    @contextmanager
    def obeyed(self) -> Iterator[None]:
        """Let the runs in the block obey these requests, and no signal."""
        token = _state.set(self)
        try:
            yield
        finally:
            _state.reset(token)

    def ask(self, name: str) -> None:
        """Ask to stop, from any thread; a second request stops at once. `name` says who asks."""
        with self._lock:
            if not self._is_closed:
                self.count(name)

    def close(self) -> None:
        """Free the descriptors."""
        with self._lock:
            self._is_closed = True
            for end in self.wakeup:
                os.close(end)


@contextmanager
def hearing() -> Iterator[None]:
    """Hear signals while a command runs; for the main thread of a process that does nothing else.

    When the block ends, the exit code is decided, so the signals are ignored from then on.
    """
    try:
        with _heard_as(_Mode.INTERRUPT):
            yield
    finally:
        for number in (*_ALWAYS_HEARD, *_OTHERS):
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def finishing() -> Iterator[None]:
    """Let nothing but a second signal interrupt the block. In other threads than the main one: no effect."""
    with _heard_as(_Mode.FINISH):
        yield


def run_in_loop(work: Callable[[], Awaitable[T]], *, use_uvloop: bool = False) -> T:
    """Run `work` in an event loop, where signals interrupt nothing: it waits for `asked` by itself."""
    with _heard_as(_Mode.NOTIFY):
        return anyio.run(work, backend_options={"use_uvloop": use_uvloop})


async def asked(times: int = 1) -> str:
    """Wait until signals have asked to stop so many times; the name of the first one. Only for one task."""
    state = _state.get()
    while state.requests < times:
        await anyio.wait_readable(state.wakeup[0])
        state.drain()
    return state.first


async def unless_asked(
    work: Callable[[], Awaitable[T]], *, meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> T:
    """The result of `work`. Cancels it and raises Interrupted if a signal asks to stop.

    `meanwhile` runs beside it, and is cancelled at its end.
    """
    results: list[T] = []
    failure: Exception | None = None

    async def cancel_when_asked() -> None:
        await asked()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_when_asked)
        if meanwhile is not None:
            tasks.start_soon(meanwhile)
        try:
            results.append(await work())
        except Exception as error:  # noqa: BLE001 - raised below: the task group would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise interruption()
    return results[0]


def is_own_process() -> bool:
    """Whether this process does nothing but the command: no program has started the run in a thread."""
    return _state.get().hears_signals


def again_if_interrupted(work: Callable[[], T]) -> T:
    """The result of `work`, which must be able to begin again.

    polars ends its queries at a SIGINT, in whatever thread they run. Where a program hears the signals, a
    first SIGINT must not keep the run from writing its files.
    """
    state = _state.get()
    while True:
        try:
            return work()
        except KeyboardInterrupt:
            if state.hears_signals or state.requests > 1:
                raise


def stopping_instead(sequence: Iterable[T]) -> Iterator[T]:
    """The items of a sequence that polars reads. Raises Interrupted where a SIGINT ends its query."""
    try:
        yield from sequence
    except KeyboardInterrupt:
        raise interruption() from None


def wait(seconds: float) -> None:
    """Wait so long, or until a signal asks to stop."""
    state = _state.get()
    ends_at = time.monotonic() + seconds
    poll = select.poll()
    poll.register(state.wakeup[0], select.POLLIN)
    while not state.requests and (left := ends_at - time.monotonic()) > 0:
        poll.poll(left * 1000)
        state.drain()


def is_asked() -> bool:
    """Whether a signal has asked to stop."""
    return _state.get().requests > 0


def raise_if_asked() -> None:
    """Raise Interrupted if a signal has asked to stop."""
    if is_asked():
        raise interruption()


def is_ctrl_c() -> bool:
    """Whether a person at the terminal has asked to stop. A scheduler that sends SIGINT has no terminal."""
    return _state.get().first == signal.SIGINT.name and sys.stdin is not None and sys.stdin.isatty()


def interruption() -> Interrupted:
    """The error that says which signal stopped the command."""
    return Interrupted(f"stopped by {_state.get().first or 'Ctrl-C'}")


def end_server_at_signals() -> None:
    """Let these signals end this process, for a server that handles SIGINT and SIGTERM while it serves.

    The others do what SIGTERM does. Before and after serving, nothing can be lost.
    """
    for number in _ALWAYS_HEARD:
        signal.signal(number, lambda *_: os._exit(0))
    for number in _others_to_hear():
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))


def ignore_sighup() -> None:
    """Let SIGHUP do nothing from now on."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def _heard_as(mode: _Mode) -> Iterator[None]:
    state = _state.get()
    if not state.hears_signals or threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = state.mode
    # Also in inner blocks: polars puts a SIGINT handler of its own in front of the one that it finds.
    heard = (*_ALWAYS_HEARD, *_others_to_hear())
    before = {number: signal.signal(number, state.hear) for number in heard}
    state.mode = mode
    try:
        yield
    finally:
        # What follows the files of a run are messages: no signal changes the exit code of the run any more.
        is_over = outer is _Mode.INTERRUPT and mode is _Mode.FINISH
        state.mode = _Mode.FINISH if is_over else outer
        if outer is None:
            for number, handler in before.items():
                signal.signal(number, handler)
            state.forget()


def _others_to_hear() -> list[signal.Signals]:
    return [number for number in _OTHERS if signal.getsignal(number) is not signal.SIG_IGN]
