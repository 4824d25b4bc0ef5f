"""Does the work of a call in a thread of its own: it needs neither the caller's event loop nor signals.

While the caller waits, an exception (KeyboardInterrupt, a timeout by a signal) or a cancellation asks the run
to stop: it finishes the requests in flight and writes its files, and then the exception goes on. A second one
stops at once: requests in flight end in doubt.
"""

import contextvars
import os
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

from batchlic.errors import UsageError
from batchlic.runs.screen import no_screen
from batchlic.runs.signals import StopRequests

T = TypeVar("T")

LAST_FILES_S = 10.0
"""Seconds that a run gets to write its files after a second request to stop."""
LOOK_S = 0.1
"""Seconds after which a caller that waits hears a signal."""


def done(work: Callable[[], T], *, when_stopped: str) -> T:
    """The result of `work`. `when_stopped` is a note for an exception that stops it."""
    engine = _Engine(work)
    try:
        engine.start()
        engine.wait()
    except BaseException as interruption:
        engine.requests.ask(type(interruption).__name__)
        interruption.add_note(when_stopped)
        try:
            engine.wait()
        except BaseException:  # noqa: BLE001 - the first one is raised
            engine.requests.ask(type(interruption).__name__)
            engine.wait(LAST_FILES_S)
        raise
    return engine.result()


async def done_async(work: Callable[[], T], *, when_stopped: str) -> T:
    """As `done`, without blocking the event loop, which is that of asyncio or trio."""
    engine = _Engine(work)
    try:
        engine.start()
        await _waited(engine)
    except GeneratorExit:  # the event loop is gone, so there is nothing to wait with
        engine.requests.ask("the end of the event loop")
        raise
    except BaseException as interruption:
        is_cancelled = isinstance(interruption, anyio.get_cancelled_exc_class())
        name = "a cancellation" if is_cancelled else type(interruption).__name__
        engine.requests.ask(name)
        interruption.add_note(when_stopped)
        try:
            with anyio.CancelScope(shield=True):
                await _waited(engine)
        except GeneratorExit:
            engine.requests.ask(name)
            raise
        except BaseException:
            engine.requests.ask(name)
            with anyio.move_on_after(LAST_FILES_S, shield=True):
                await _waited(engine)
            raise
        raise
    return engine.result()


async def _waited(engine: "_Engine[T]") -> None:
    limiter = anyio.CapacityLimiter(1)  # the run is not to wait for other threads of the program
    await anyio.to_thread.run_sync(engine.wait, abandon_on_cancel=True, limiter=limiter)


class _Engine(Generic[T]):
    """The thread of one call.

    Raises UsageError in a process that was forked after an earlier call: polars would wait without end for
    its threads, which a fork does not copy.
    """

    _process: int | None = None

    def __init__(self, work: Callable[[], T]) -> None:
        if _Engine._process not in {None, os.getpid()}:
            raise UsageError(
                "this process was forked after a call of batchlic, and polars can't work in it: start "
                'processes by multiprocessing.get_context("spawn"), or call batchlic in them only'
            )
        _Engine._process = os.getpid()
        self._work = work
        self.requests = StopRequests()
        self._is_done = threading.Event()
        self._results: list[T] = []
        self._error: BaseException | None = None
        # An empty context: that of the caller may name an event loop, which is not in this thread.
        run = contextvars.Context().run
        self._thread = threading.Thread(target=run, args=(self._main,), name="batchlic run", daemon=True)

    def start(self) -> None:
        """Begin the work. An exception of a signal may end this method although the work has begun."""
        try:
            self._thread.start()
        except RuntimeError:  # the system has no thread left
            self.requests.close()
            raise

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of the work, at most `timeout` seconds; or not at all if it did not begin.

        polars handles SIGINT with SA_RESTART, so that no signal ends a wait for a lock: Python would raise
        KeyboardInterrupt only afterward. So this wait ends often.
        """
        ends_at = None if timeout is None else time.monotonic() + timeout
        while not self._is_done.wait(LOOK_S) and self._thread.is_alive():
            if ends_at is not None and time.monotonic() >= ends_at:
                return

    def result(self) -> T:
        """What the work returned. Raises what it raised."""
        if self._error is None:
            return self._results[0]
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del (
                error
            )  # its traceback has this frame and the engine, so that the frames of a program would stay

    def _main(self) -> None:
        try:
            with self.requests.obeyed(), no_screen():
                self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            self._error = error
        finally:
            self.requests.close()
            self._is_done.set()
