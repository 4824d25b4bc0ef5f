"""What the bursts between two pauses tell of a bucket's rate, where each refusal stops everyone.

A token bucket lets in its burst, and beyond that what has flowed into it meanwhile.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

Burst: TypeAlias = Sequence[float]
"""When each request of a burst left that was let in, and last the refused one; in seconds."""

_DRAINS = 2.0
"""Times the rate that flows in at which a burst empties a bucket without wasting what flows."""


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
    count, flowed = len(burst) - 1, flows * (burst[-1] - burst[0])
    return math.ceil(count - flowed) if count >= _DRAINS * flowed else count


def _least(burst: Burst, size: int, pause: float) -> float:
    end, least = burst[-1], max(len(burst) - 1, 0.5) / (burst[-1] - burst[0] + pause)
    for back in range(size + 1, len(burst)):
        if (seconds := end - burst[-1 - back]) > 0:
            least = max(least, (back - size) / seconds)
    return least
