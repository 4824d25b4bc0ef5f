"""Which quotas and periods make a window, and which periods carriers configure."""

import math

_FEWEST = 5
"""Requests that a window lets in, at least."""
TOLD_LATE_S = 2.0
"""Seconds by which a told wait is too long at most: whole seconds, or an HTTP date."""
_TOLD_SHARE = 0.7
"""Share of it that is right at least, for a window of usual length."""
_NEAR = 0.3
"""Share of its length by which a usual window may differ from what was measured."""
_EARLY = 0.94
"""Share of a measured length after which a window that has no usual one is expected."""
_USUAL_WINDOWS_S = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)


def is_window(quota: int, period: float, round_trip: float) -> bool:
    """Whether it makes sense to wait for such a window, rather than to send at its rate."""
    return quota >= _FEWEST and period * min(2, quota / 20) >= 8 * round_trip


def is_usual(period: float) -> bool:
    """Whether carriers configure windows of this length."""
    return period in _USUAL_WINDOWS_S


def enclosing(took: float, pause: float, *, is_exact: bool) -> float:
    """The window that probably ends after a pause; one that is not exact was probably rounded up."""
    longest = took + pause
    if is_exact:
        return longest
    return next((usual for usual in _USUAL_WINDOWS_S if longest - 1 <= usual <= longest), longest)


def renewed(first: float, second: float, *, is_exact: bool) -> float:
    """The window that ended twice, so many seconds after the first request of a burst, as far as was told.

    The first burst may have begun within a window, the second one began when it opened, or soon after.
    """
    longest = max(first, second)
    if is_exact:
        return longest
    shortest = max(longest - TOLD_LATE_S, _TOLD_SHARE * longest)
    return max((usual for usual in _USUAL_WINDOWS_S if shortest <= usual <= longest), default=longest)


def configured(measured: float, *, least: float = 0.0, most: float = math.inf) -> float:
    """The window that was probably configured, of a length between two, in seconds.

    It is a usual one that is not far from what was measured; otherwise a little less than that.
    """
    near = [usual for usual in _USUAL_WINDOWS_S if abs(usual - measured) < _NEAR * usual]
    possible = [usual for usual in near if least <= usual <= most]
    return min(possible, key=lambda usual: abs(math.log(usual / measured)), default=_EARLY * measured)
