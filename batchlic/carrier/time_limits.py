"""Time limits for exchanges, in seconds. Only time during which the program runs counts.

A process that was stopped (SIGSTOP, a suspended machine, a paused VM) finds its answers in the sockets when
it continues. By the clock, all of them are too late. So the limits count wake-ups of the event loop instead
of seconds. A late wake-up ends no exchange, because the loop has not yet read what arrived meanwhile.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import anyio

_MAX_TICK_S = 1.0
_TICKS = 8
"""A limit has at least so many wake-ups."""


class Wait:
    """A block that waits for an answer. If the wait is cancelled, the block ends without an error."""

    def __init__(self, waits: "set[Wait]") -> None:
        self._waits = waits
        self.scope = anyio.CancelScope()
        self.silent_s = 0.0
        self.total_s = 0.0
        self.reason = ""
        """Why it was cancelled."""

    def __enter__(self) -> Self:
        self._waits.add(self)
        self.scope.__enter__()
        return self

    def __exit__(
        self, *error: *tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
    ) -> bool:
        self._waits.discard(self)
        return self.scope.__exit__(*error) or False

    def received(self) -> None:
        """Note that bytes arrived."""
        self.silent_s = 0.0


class TimeLimits:
    """Cancels an exchange after `silence_s` seconds without a byte, or after `total_s` seconds altogether."""

    def __init__(self, silence_s: float, total_s: float) -> None:
        self._silence_s = silence_s
        self._total_s = total_s
        self._tick_s = min(_MAX_TICK_S, silence_s / _TICKS)
        self._waits: set[Wait] = set()
        self._is_busy = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Count in the background while the block runs."""
        # Shielded: an exchange that is finished after a cancellation still has its limits.
        counting = anyio.CancelScope(shield=True)
        error: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._count, counting)
                try:
                    yield
                finally:
                    counting.cancel()
        except BaseExceptionGroup as group:  # the task group wraps what the caller raised
            (error,) = group.exceptions
        if error is not None:
            raise error

    def waiting(self) -> Wait:
        """Limit an exchange: `with limits.waiting() as wait`."""
        self._is_busy.set()
        return Wait(self._waits)

    async def _count(self, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                await self._is_busy.wait()
                before = anyio.current_time()
                await anyio.sleep(self._tick_s)
                is_late = anyio.current_time() - before > 2 * self._tick_s
                for wait in self._waits:
                    self._tick(wait, is_late=is_late)
                if not self._waits:
                    self._is_busy = anyio.Event()

    def _tick(self, wait: Wait, *, is_late: bool) -> None:
        wait.silent_s += self._tick_s
        wait.total_s += self._tick_s
        # A loop that is always late still ends its exchanges, after twice the time.
        factor = 2 if is_late else 1
        if wait.silent_s > factor * self._silence_s:
            wait.reason = f"nothing arrived for {self._silence_s:g} s"
        elif wait.total_s > factor * self._total_s:
            wait.reason = f"no whole answer within {self._total_s:g} s"
        if wait.reason:
            wait.scope.cancel()
