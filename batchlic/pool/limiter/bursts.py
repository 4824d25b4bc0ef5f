"""Where refusals stop everyone, the bursts between two pauses tell a bucket's rate from a window's quota.

A token bucket lets in its burst, and beyond that what has flowed into it meanwhile; a window lets in as many
however long they take.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

from batchlic.pool.limiter.findings import Window
from batchlic.pool.limiter.samples import Samples
from batchlic.pool.limiter.windows.periods import enclosing, is_window

Burst: TypeAlias = Sequence[float]
"""When each request of a burst left that was let in, and last the refused one; in seconds."""

_FEWEST = 4
"""Requests of a burst that says something about a window, the refused one included."""
_ALIKE = 0.1
"""Share by which two bursts may differ that a window let in."""
_WOULD_SHOW = 0.8
"""Share of a window's average rate above which a bucket of that rate would have let in more."""
_DRAINS = 2.0
"""Times the rate that flows in at which a burst empties a bucket without wasting what flows."""
_LAST = 10
"""Requests over which the rate at the end of a burst is taken."""


def least_rates(bursts: Sequence[Burst], pause: float) -> list[float]:
    """For each burst, requests/s that flow into the bucket at least.

    The bucket holds no more than the smallest burst let in. Whatever left in the last so many seconds before
    a refusal, beyond what the bucket holds, has flowed in. With the waiting, each burst could be repeated.
    """
    least = [0.0]
    for _ in range(2):  # what flowed in during a burst was not in the bucket
        size = max(1, min(_held(burst, max(least)) for burst in bursts))
        least = [_least(burst, size, pause) for burst in bursts]
    return least


def _held(burst: Burst, flows: float) -> int:
    """Requests that the bucket held at most when the burst began."""
    count, flowed = len(burst) - 1, flows * took(burst)
    return math.ceil(count - flowed) if count >= _DRAINS * flowed else count


def _least(burst: Burst, size: int, pause: float) -> float:
    end, least = burst[-1], max(len(burst) - 1, 0.5) / (took(burst) + pause)
    for back in range(size + 1, len(burst)):
        if (seconds := end - burst[-1 - back]) > 0:
            least = max(least, (back - size) / seconds)
    return least


def rate_at_end(burst: Burst) -> float:
    """Requests/s at which a burst was sent when it was refused."""
    last = burst[-1 - _LAST :]
    return (len(last) - 1) / seconds if (seconds := last[-1] - last[0]) > 0 else math.inf


def window_shown(samples: Samples) -> Window | None:
    """The window that let in as many twice, where a bucket as large would have let in more meanwhile."""
    bursts = [burst for burst in samples.bursts() if len(burst) >= _FEWEST]
    if not bursts or bursts[-1] != samples.bursts()[-1]:
        return None
    quick, slow = min(bursts, key=took), bursts[-1]
    if took(slow) < max(2 * took(quick), took(quick) + samples.round_trip):
        return None
    quota, period = len(quick) - 1, enclosing(took(slow), samples.pause, is_exact=samples.is_exact)
    if not (1 - _ALIKE) * len(quick) <= len(slow) <= (1 + _ALIKE) * len(quick) + 1:
        return None
    could_flow = (max(0, len(slow) - len(quick)) + 1) / (took(slow) - took(quick))
    if could_flow > _WOULD_SHOW * quota / period or not is_window(quota, period, samples.round_trip):
        return None
    return Window(quota, period)


def took(burst: Burst) -> float:
    """Seconds from the first request to the refused one."""
    return burst[-1] - burst[0]
