"""A circuit breaker: while the carrier can't be reached, one request at a time probes whether it can again.

Nygard, "Release It!" (2007), chapter 5.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import anyio

from batchlic.carrier.answers import Answer, Outcome

THRESHOLD = 5
"""Unavailable or ambiguous answers in a row, over all workers, that open the circuit."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds before each probe: doubling from the first to the longest."""


class CircuitBreaker:
    """Shared by all workers: each makes its request inside `passage` and records the answer there."""

    def __init__(self) -> None:
        self._failures = 0
        self._probes = 0
        self._probing = anyio.Lock()
        self._closed = anyio.Event()
        self._closed.set()

    @property
    def is_open(self) -> bool:
        """Whether requests are held back."""
        return not self._closed.is_set()

    def passage(self) -> AbstractAsyncContextManager[None]:
        """Enter at once while the circuit is closed, otherwise alone and after a pause, as the probe."""
        return self._probe() if self.is_open else nullcontext()

    @asynccontextmanager
    async def _probe(self) -> AsyncIterator[None]:
        while self.is_open:
            async with self._probing:
                if self.is_open:
                    await self._pause()
                    yield
                    return
        yield

    def record(self, answer: Answer) -> None:
        """Learn from an answer: any definite one closes the circuit."""
        if answer.outcome not in {Outcome.UNAVAILABLE, Outcome.AMBIGUOUS}:
            self._failures = self._probes = 0
            self._closed.set()
        else:
            self._failures += 1
            if self._failures >= THRESHOLD and not self.is_open:
                self._closed = anyio.Event()

    async def _pause(self) -> None:
        self._probes += 1
        pause = growing_pause(self._probes)
        with anyio.move_on_after(pause):
            await self._closed.wait()


def growing_pause(number: int) -> float:
    """Seconds of a pause by its number, from 1: doubling from `FIRST_PAUSE` to `LONGEST_PAUSE`."""
    return min(FIRST_PAUSE * 2.0 ** min(number - 1, 32), LONGEST_PAUSE)
