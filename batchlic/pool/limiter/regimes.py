"""How the carrier's limit is found: each regime suits one kind of limit and, refuted, names its successor.

A 429 says that there is a limit, not of which kind. What tells the kinds apart is what happens next:

    SlowStart ──▶ Capped     requests beyond a number in flight are refused, others never: a cap on calls
        │           │ others are refused too
        │           ▼
        │         Paced      some are refused, some are let in: a rate, as of a token bucket
        │           │ nothing is let in any more
        │           ▼
        └──────▶ Waiting     until something is: a window has opened
                    │        what was let in until then, and since when, is its quota and its length
                    ▼
                 Windowed    a quota for each window, fixed or sliding; also where Retry-After says so
                             (a sliding one that others use too is Paced again)
"""

from batchlic.pool.limiter.observed import Observed
from batchlic.pool.limiter.rates import Capped, Paced, SlowStart
from batchlic.pool.limiter.regime import Cap, Found, NoLimit, Rate, Regime, Shut, Window
from batchlic.pool.limiter.windows import Waiting, Windowed


def regime_for(found: Found, seen: Observed) -> Regime:
    """The regime that suits what was found."""
    match found:
        case NoLimit(concurrency):
            return SlowStart(seen, concurrency)
        case Cap(calls):
            return Capped(seen, calls)
        case Rate():
            return Paced(seen, found)
        case Shut(rate):
            return Waiting(seen, rate)
        case Window():
            return Windowed(seen, found)
