"""Which estimator suits what was found. An estimator that is refuted says what it found instead.

A 429 says that there is a limit, but not of which kind. What happens next tells the kinds apart:

    SlowStart ──▶ Concurrency   requests beyond a number in flight are refused, others never
        │             │ others are refused, too
        │             ▼
        │         SteadyRate    some are refused, some are let in: a rate, as of a token bucket
        │         CarefulRate   (the careful one, where a refusal stops everyone for long)
        │         MinimumSpacing  (where of many sent at once only one is let in: there is no burst)
        │             │ nothing is let in any more
        │             ▼
        └──────▶  Closed        until something is let in: a window has opened
                      │         what was let in until then, and since when, is its quota and its length
                      ▼
                  Windowed      a quota for each window, fixed or sliding; also where Retry-After says so
                                (a sliding one that others use, too, is a SteadyRate again)

After a long silence, Closed goes on to AfterSilence: a window has opened, or the carrier wants silence after
each refusal. Then it is a CarefulRate. If the first refusal tells a long wait, AfterToldWait asks the same.
"""

from batchlic.pool.limiter.careful_rate import CarefulRate
from batchlic.pool.limiter.closed import Closed
from batchlic.pool.limiter.concurrency import Concurrency
from batchlic.pool.limiter.estimator import Estimator
from batchlic.pool.limiter.findings import Calls, Finding, NoLimit, Rate, Reopened, Shut, ToldToWait, Window
from batchlic.pool.limiter.minimum_spacing import MinimumSpacing
from batchlic.pool.limiter.samples import Samples
from batchlic.pool.limiter.slow_start import SlowStart
from batchlic.pool.limiter.steady_rate import SteadyRate
from batchlic.pool.limiter.windows.after_silence import AfterSilence
from batchlic.pool.limiter.windows.after_told_wait import AfterToldWait
from batchlic.pool.limiter.windows.windowed import Windowed


def estimator_for(found: Finding, samples: Samples) -> Estimator:
    """The estimator that suits what was found."""
    match found:
        case NoLimit(calls):
            return SlowStart(samples, calls)
        case Calls(calls):
            return Concurrency(samples, calls)
        case Rate():
            return _for_rate(found, samples)
        case Window():
            return Windowed(samples, found)
    return _for_silence(found, samples)


def _for_rate(found: Rate, samples: Samples) -> Estimator:
    if found.is_spaced:
        return MinimumSpacing(samples, found)
    return CarefulRate(samples, found) if samples.refusals_are_costly else SteadyRate(samples, found)


def _for_silence(found: Shut | Reopened | ToldToWait, samples: Samples) -> Estimator:
    match found:
        case Shut(rate):
            return Closed(samples, rate)
        case Reopened():
            return AfterSilence(samples, found)
        case ToldToWait():
            return AfterToldWait(samples, found)
