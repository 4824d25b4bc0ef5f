"""Calls that may hang, all at once and within a time limit."""

import threading
import time
from collections.abc import Callable, Sequence
from time import time_ns

TOLD_WITHIN_S = 4.5
"""Seconds that the end of a run waits for all targets. It is less than `batchlic.events.GOODBYE_S`."""
SHORTEST_S = 0.5

Problem = str | None
"""Why a message or ping did not arrive, without any part of a URL (promise F). None: it arrived."""


def all_within(seconds: float, calls: Sequence[Callable[[], Problem]]) -> list[Problem]:
    """The results of the calls, in their order. A call that raises or takes too long is a problem, too.

    The calls run in daemon threads: one that hangs keeps neither the run nor the process from ending.
    """
    problems: list[Problem] = [f"no answer within {seconds:.1f} s"] * len(calls)

    def run(number: int, call: Callable[[], Problem]) -> None:
        try:
            problem = call()
        except Exception as error:  # noqa: BLE001 - its text may hold a URL (promise F)
            problem = type(error).__name__
        problems[number] = problem

    threads = [
        threading.Thread(target=run, args=(number, call), daemon=True) for number, call in enumerate(calls)
    ]
    ends_at = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, ends_at - time.monotonic()))
    return list(problems)


def seconds_left(since: int) -> float:
    """Seconds left to report an event that happened at `since`."""
    passed = (time_ns() // 1000 - since) / 1e6
    return min(TOLD_WITHIN_S, max(SHORTEST_S, TOLD_WITHIN_S - passed))
