"""Where refusals tell everyone to wait, what is let in between two pauses tells a bucket's rate from a quota.

A token bucket lets in its burst, and beyond that what has flowed into it meanwhile; a window lets in as many
however long they take.
"""

from batchlic.pool.limiter.observed import Observed
from batchlic.pool.limiter.regime import Rate, Window
from batchlic.pool.limiter.windows import enclosing, is_window

_FEWEST = 4
"""Requests of a burst that says something, the refused one included."""
_MOST_DOUBT = 0.2
"""Share of a rate that is given up, at most, as few requests have shown it."""
_ROUGH = 0.1
_ROUGH_PROBE_S, _ROUGH_PROBE = 8.0, 40
"""Seconds in which a rate doubles that is known no better than that, and requests, at least."""
_ALIKE = 0.1
"""Share by which two bursts may differ that a window let in."""
_WOULD_SHOW = 0.8
"""Share of a window's average rate above which a bucket of that rate would have let in more."""


def shown_by_bursts(seen: Observed) -> Rate | Window | None:
    """What the quickest burst of late and the latest one show together, if that one took twice as long."""
    if not seen.refusals_are_costly or not seen.bursts:
        return None
    bursts = [seen.let_in_during(burst) for burst in seen.bursts]
    slow = bursts[-1]
    if len(slow) < _FEWEST:
        return None
    quick = min((burst for burst in bursts if len(burst) >= _FEWEST), key=_took)
    if _took(slow) < max(2 * _took(quick), _took(quick) + seen.round_trip):
        return None
    return _window(quick, slow, seen) or _rate(quick, slow)


def _window(quick: list[float], slow: list[float], seen: Observed) -> Window | None:
    """The window that let in as many twice, where a bucket as large would have let in more meanwhile."""
    quota, period = len(quick) - 1, enclosing(seen.pause)
    if not (1 - _ALIKE) * len(quick) <= len(slow) <= (1 + _ALIKE) * len(quick) + 1:
        return None
    could_flow = (max(0, len(slow) - len(quick)) + 1) / (_took(slow) - _took(quick))
    if could_flow > _WOULD_SHOW * quota / period or not is_window(quota, period, seen.round_trip):
        return None
    return Window(quota, period)


def _rate(quick: list[float], slow: list[float]) -> Rate | None:
    """The rate at which a bucket must be filled that let in `slow` and, when full, no more than `quick`.

    Whatever left in the last so many seconds before the refusal was let in out of a bucket that was full at
    most; the number of seconds that shows most is the one that counts.
    """
    least = best = doubt = 0.0
    for back in range(len(quick) + 1, len(slow) + 1):
        took = slow[-1] - slow[-back] - _took(quick)
        more = back - len(quick)
        if took > _took(quick) and (more - 1) / took > least:
            least, best, doubt = (more - 1) / took, more / took, 1 / more
    if not best:
        return None
    probe_s = max(_ROUGH_PROBE_S, _ROUGH_PROBE / best) if doubt > _ROUGH else None
    return Rate(best * (1 - min(doubt, _MOST_DOUBT)), probe_s)


def _took(burst: list[float]) -> float:
    return burst[-1] - burst[0]
