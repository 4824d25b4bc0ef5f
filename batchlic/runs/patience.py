"""Asks the carrier again after the wait that it asks for: a throttled question is not refused."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import anyio

from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.conclusions import TOO_MANY
from batchlic.events import EventStream, Warned

TIMES_ASKED_AGAIN = 3
"""After so many waits, a run goes on without the answer."""
SHORTEST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Seconds to wait at least, and at most: if the carrier asks for more, a run goes on without the answer."""
UNTOLD_WAIT_S = 2.0
"""Seconds to wait if the carrier does not say how long."""

OnWait: TypeAlias = Callable[[float, str], None]
"""Gets the seconds and the reason of a wait."""

_T = TypeVar("_T")


def say_nothing(_seconds: float, _reason: str) -> None:
    """Tell nobody that there is a wait."""


def warn(events: EventStream) -> OnWait:
    """Return what emits a warning for each wait."""
    return lambda seconds, reason: events.emit(
        Warned(message=f"batchlic waits {seconds:.0f} s before it asks again: {reason}")
    )


def is_long_wait(error: CarrierUnreachable) -> bool:
    """Whether the carrier asks for a wait that is too long for a question."""
    return (error.retry_after_s or 0.0) > LONGEST_WAIT_S


async def patiently(ask: Callable[[], Awaitable[_T]], on_wait: OnWait = say_nothing) -> _T:
    """Ask, and ask again up to `TIMES_ASKED_AGAIN` times if the carrier asks to wait.

    `on_wait` gets the seconds and the reason of each wait. Raises as `ask`.
    """
    for _ in range(TIMES_ASKED_AGAIN):
        try:
            return await ask()
        except CarrierUnreachable as error:
            wait = _wait(error)
            if wait is None or is_long_wait(error):
                raise
            on_wait(wait, str(error))
        await anyio.sleep(wait)
    return await ask()


def _wait(error: CarrierUnreachable) -> float | None:
    """Seconds to wait before the question is asked again; None if the carrier does not ask to wait."""
    if error.retry_after_s is not None:
        return max(error.retry_after_s, SHORTEST_WAIT_S)
    return UNTOLD_WAIT_S if error.http_status in TOO_MANY else None
