"""What the carrier's limit can be found to be, in figures and in words."""

import math
from dataclasses import dataclass
from typing import TypeAlias

_PERIODS = {1.0: "a second", 60.0: "a minute", 3600.0: "an hour", 86400.0: "a day"}


@dataclass(frozen=True, slots=True)
class NoLimit:
    """No limit is known; so many requests in flight went through, or are to begin with."""

    calls: int = 10
    """RFC 6928, section 2: the initial window."""

    def __str__(self) -> str:
        return "no limit found"


@dataclass(frozen=True, slots=True)
class Calls:
    """A number of requests in flight."""

    calls: int

    def __str__(self) -> str:
        return f"{self.calls:,} requests at a time"


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests/s; `is_no_window` where waiting for a window to open has been tried."""

    per_s: float
    is_no_window: bool = False
    pause_s: float = 0.0
    """Silence after a refusal that the carrier needs before it lets anything in again; 0 if none."""
    refused_per_s: float = math.inf
    """Requests/s at which some were refused; infinite if unknown."""
    burst: int = 0
    """Requests beyond the rate that were let in when a run began, before any was refused."""
    is_spaced: bool = False
    """Whether each request must keep a distance from the one before: there is no burst."""

    def __str__(self) -> str:
        spaced = ", without a burst" if self.is_spaced else ""
        for seconds, name in _PERIODS.items():
            if self.per_s * seconds >= 1 or name == "a day":
                return f"{self.per_s * seconds:,.3g} requests {name}{spaced}"
        raise AssertionError


@dataclass(frozen=True, slots=True)
class Shut:
    """Nothing is let in at present; `rate` is the limit where that is known not to be a window's."""

    rate: float | None = None

    def __str__(self) -> str:
        return "the carrier lets nothing in at present"


@dataclass(frozen=True, slots=True)
class Window:
    """A quota for each period of so many seconds; when one opened is known to `late` seconds.

    `is_fixed` is None while it is not known whether the window is fixed or sliding.
    """

    quota: int
    period: float
    late: float = 0.0
    is_fixed: bool | None = None
    opened_at: float | None = None
    """When the present one opened, if that was not when the carrier opened."""
    is_recalled: bool = False
    """Whether an earlier run has found it, and nothing shows yet that it still holds."""
    is_told: bool = False
    """Whether exact waits have told it: a sliding window, or a fixed one that is used like one."""

    def __str__(self) -> str:
        kind = "window" if self.is_fixed is None else "fixed window" if self.is_fixed else "sliding window"
        for seconds, name in _PERIODS.items():
            if math.isclose(self.period, seconds, rel_tol=0.01):
                return f"{self.quota:,} requests {name}, {kind}"
        return f"{self.quota:,} requests in {self.period:,.3g} s, {kind}"


@dataclass(frozen=True, slots=True)
class Reopened:
    """Something was let in after a long silence: a window has opened, or the silence is why; in seconds.

    The quota of the `window` was used in `took_s`. Then everything was refused for `shut_s`, and nothing was
    sent for the last `silence_s` of these.
    """

    window: Window
    took_s: float
    shut_s: float
    silence_s: float

    def __str__(self) -> str:
        return str(self.window)


@dataclass(frozen=True, slots=True)
class ToldToWait:
    """The first refusal told everyone to wait for so many seconds, and nothing else is known yet."""

    wait_s: float

    def __str__(self) -> str:
        return f"the carrier asks for a wait of {self.wait_s:.3g} s"


Limit: TypeAlias = Calls | Rate | Window
"""A limit that has a figure."""
Finding: TypeAlias = NoLimit | Shut | Reopened | ToldToWait | Limit
"""What the limit is, as the answers so far show it."""


def size(finding: Finding) -> float:
    """The figure of a finding: two of a kind differ by their sizes."""
    match finding:
        case NoLimit() | Shut() | Reopened() | ToldToWait():
            return 1.0
        case Calls(calls):
            return float(calls)
        case Rate(per_s):
            return per_s
        case Window(quota, period):
            return quota / period
