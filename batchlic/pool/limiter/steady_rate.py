"""A limit on the rate, where a refusal costs little: measured, and gently probed.

The limit is the rate at which requests are let in, measured over the times at which they left, as BBR does
with bandwidth, rather than guessed from refusals (Cardwell et al. 2016,
https://queue.acm.org/detail.cfm?id=3022184). The probing has the shape of CUBIC (RFC 9438): flat near the
limit, steep away from it. It takes not much longer at low rates than at high ones, so of several processes
the faster is refused more often, which evens them out (Chiu and Jain 1989).
"""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Calls, Finding, NoLimit, Rate, Shut
from batchlic.pool.limiter.samples import Sample, Samples

_DIP = 0.02
"""Share of the rate that is given up after a refusal."""
_DIP_TIME = float(_DIP ** (1 / 3))
"""Share of the probing time until the rate is reached again."""
_GONE = 0.6
"""Share of the probing time after which a limit not met again is gone: growth becomes exponential."""
_GONE_GROWTH = 6.0
"""E-folds of that growth in one probing time."""
_LONGEST = 3.0
"""Probing times after which the rate grows no more."""
_MEASURABLE = 10
"""Requests let in from which on their rate is a measurement."""
_EVEN = 4
"""The same where the requests leave evenly and singly, as at low rates."""
_LEAST_OPEN = 0.1
"""Share of the time of a measurement, at least, that is taken for time without gaps and pauses."""
_ESTABLISHED = 5
"""Measurements after which it is known that this is no window."""
_RISEN = 1.1
"""Times the peak above which the limit has risen."""
_LATE_S = 0.005
"""Seconds by which timers of event loops may be late."""
_SHORTEST_GAP, _LONGEST_GAP = 2, 4
"""Requests that are left out after refusals in a row, so that a late one is not refused for being late."""
_CALLS = 8
"""Refusals in a row with more in flight than was ever let in, which show a limit on calls."""
_EARLY, _LOWER = 2, 0.92
"""Refusals after a gap that lower the rate before it can be measured, and the factor."""
_PROBE_S, _PROBE_ROUND_TRIPS = 0.3, 4.0
"""Probing time, at least: seconds, and round trips besides."""
_PROBE_ROOT = 6.4
"""Seconds for each root of requests/s: at lower rates a probe takes more seconds, but fewer requests."""
_PATIENCE = 0.6
"""Share of the patience with refusals that stop everyone, however briefly."""


class SteadyRate(Hypothesis):
    """The rate at which requests were let in since the last measurement, with CUBIC's probing around it.

    After a refusal there is a gap, twice as long with each one more in a row, so that a bucket refills. A
    rate that is refused after such gaps again and again, before it can be measured, is too high.
    """

    def __init__(self, samples: Samples, found: Rate) -> None:
        super().__init__(samples)
        self._is_no_window = found.is_no_window
        self._refused_above = 0
        self._refused_rate = math.inf
        self._measurements = -1
        self._resume_at = samples.now
        self._gap_s = 0.0
        self._since = self._latest = self._grows_since = self._left_at = samples.now
        self._let_in = self._most_in_flight = self._refused_early = 0
        self._shut_s = 0.0
        """Seconds since the last measurement in which nothing was sent, because of refusals."""
        self._probe_around(found.per_s)

    def rate(self) -> float:
        """See Estimator."""
        return self._rate_at(self._left_at)

    def _rate_at(self, moment: float) -> float:
        elapsed = min((moment - self._grows_since) / self._probe_s, _LONGEST) - _DIP_TIME
        if elapsed < _GONE:
            return self._peak * (1 + elapsed**3)
        return self._peak * (1 + _GONE**3) * math.exp(_GONE_GROWTH * (elapsed - _GONE))

    def wait(self) -> float:
        """See Estimator."""
        return self._resume_at - self._samples.now

    def found(self) -> Finding:
        """See Estimator."""
        return Rate(self._peak, is_no_window=self._is_no_window, refused_per_s=self._refused_rate)

    def on_sent(self, sample: Sample) -> None:
        """See Estimator; what was never used says nothing about what is allowed (RFC 7661)."""
        idle = sample.sent_at - self._left_at
        if idle > 2 / self.rate() + _LATE_S:
            self._grows_since += idle
        self._left_at = sample.sent_at

    def _on_admitted(self, sample: Sample) -> Finding | None:
        if sample.sent_at > self._since:
            self._let_in += 1
            self._latest = max(self._latest, sample.sent_at)
            self._most_in_flight = max(self._most_in_flight, sample.in_flight)
        if sample.sent_at >= self._resume_at:
            self._gap_s = 0.0
        samples = self._samples
        if not self._is_no_window and (spaced := self._as_spaced()):
            return spaced
        is_beyond = self.rate() > 2 * samples.max_in_flight / samples.round_trip
        return NoLimit(samples.max_in_flight) if is_beyond else None

    def _on_refused(self, sample: Sample) -> Finding | None:
        samples = self._samples
        if samples.all_is_refused:
            is_known = self._let_in >= _EVEN
            rate = self._measured(self._rate_at(sample.sent_at)) if is_known else (1 - _DIP) * self._peak
            return Shut(rate if self._is_no_window or self._measurements >= _ESTABLISHED else None)
        gap_ended = self._resume_at
        if sample.sent_at >= gap_ended:
            self._leave_gap(sample)
        if sample.sent_at <= self._since:
            return None
        if samples.refusals_are_costly:
            return Rate(self._peak, is_no_window=self._is_no_window)
        if self._let_in < _MEASURABLE:
            self._refused_early += sample.sent_at >= gap_ended > self._since
            if self._refused_early == _EARLY:
                self._probe_around(_LOWER * self._peak)
            return None
        self._refused_above = self._refused_above + 1 if sample.in_flight > self._most_in_flight else 0
        if self._refused_above >= _CALLS and samples.is_limit_on_calls(self._most_in_flight):
            return Calls(sample.in_flight - 1)
        refused_rate = self._rate_at(sample.sent_at)
        measured = self._measured(refused_rate)
        self._refused_rate = max(refused_rate, measured)
        self._probe_around(measured)
        return None

    def _leave_gap(self, sample: Sample) -> None:
        now = self._samples.now
        self._gap_s = min(max(2 * self._gap_s, _SHORTEST_GAP / self._peak), _LONGEST_GAP / self._peak)
        self._resume_at = now + max(self._gap_s, sample.retry_after_s)
        self._shut_s += self._resume_at - now

    def _measured(self, refused_rate: float) -> float:
        """Requests/s let in since the last measurement; if the limit has risen, it lies above that.

        A bucket refills during gaps and pauses; a limit without a burst does not. So the rate lies between
        those with and without their time, and the rate known before decides.
        """
        elapsed = self._latest - self._since
        least, most = (
            self._let_in / elapsed,
            self._let_in / max(elapsed - self._shut_s, _LEAST_OPEN * elapsed),
        )
        measured = min(max((1 - _DIP) * self._peak, least), most)
        return math.sqrt(measured * refused_rate) if refused_rate > _RISEN * self._peak else measured

    def _probe_around(self, peak: float) -> None:
        samples = self._samples
        self._peak = peak
        self._measurements += 1
        self._since = self._latest = self._grows_since = self._left_at = samples.now
        self._let_in = self._most_in_flight = self._refused_early = 0
        self._shut_s = max(0.0, self._resume_at - samples.now)
        self._probe_s = (
            _PROBE_S
            + _PROBE_ROOT / math.sqrt(peak)
            + _PROBE_ROUND_TRIPS * samples.round_trip
            + _PATIENCE * samples.patience
        )
