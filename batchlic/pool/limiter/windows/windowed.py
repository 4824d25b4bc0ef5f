"""A quota for each period, of a fixed or a sliding window."""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Finding, NoLimit, Rate, Shut, Window
from batchlic.pool.limiter.samples import Sample, Samples
from batchlic.pool.limiter.windows.attempts import Attempts
from batchlic.pool.limiter.windows.cycle import LATE_S, Cycle
from batchlic.pool.limiter.windows.extras import Extras
from batchlic.pool.limiter.windows.periods import configured, is_window
from batchlic.pool.limiter.windows.shape import Shape
from batchlic.pool.limiter.windows.sharing import Sharing
from batchlic.pool.limiter.windows.shorter import Shorter
from batchlic.pool.limiter.windows.unexpected import Unexpected

_HOLDS = 0.5
"""Share of its quota that the first window lets in at least if what is known of it still holds."""
_BURST = 20.0
"""How much faster than its average a quota is used, so that the last window is done early."""
_EARLIER_S, _SHORTEST_ASKED_S = 1.0, 1.5
"""Seconds by which a window may open earlier than told, and that it lasts at least if that is asked."""
_OPEN = 0.7
"""Share of its quota that a window lets in at least if it has opened when it was expected."""
_TOLD_LESS = 0.02
"""Share of a told quota by which less may be let in: any less refutes it."""
_EDGE_S = 0.002
"""Seconds by which a window is entered late, so as not to be early."""
_YIELD = 0.04
"""Share of a quota that is left to others after each probe in vain, where others were let in instead."""


class Windowed(Hypothesis):
    """A quota in any stretch as long as the period; now and then a little more.

    A request leaves when the one a quota before it did, a period later (a log of our own, as of a sliding
    window): what the carrier let in once it will let in again, be the window fixed or sliding. Single
    requests ask now and then whether the quota is more by now (and then four more, sixteen more...); whether
    a window has opened earlier than thought; and, while the quota is not used up, whether the window is a
    fixed one, so that all of it may be used at once. Where others are let in instead, which shows in a quota
    that is now less and now more, a share is left to whoever comes first, which evens processes out: additive
    increase, multiplicative decrease (Chiu and Jain 1989). A sliding window that is shared becomes a rate.
    """

    def __init__(self, samples: Samples, found: Window) -> None:
        super().__init__(samples)
        now = samples.now
        opened = samples.opened_at if found.opened_at is None else found.opened_at
        self._cycle = Cycle(opened, found.period, samples.left_since(opened), found.late)
        self._quota = found.quota
        self._is_recalled = found.is_recalled
        self._is_told = found.is_told
        self._shape = Shape(is_sliding=found.is_told)
        self._sharing = Sharing()
        self._extras = Extras(probe_at=now + samples.patience)
        self._unexpected = Unexpected(now)
        self._blocked: Attempts | None = None
        self._earlier = 0
        """Windows that were open when one asked."""
        self._is_told_late = samples.refusals_are_costly and not samples.is_exact
        """Whether the next window may open before the moment that was told, in whole seconds."""
        self._shorter = Shorter(found.period, is_on=self._is_told_late)
        self._plan_questions()

    def found(self) -> Finding:
        """See Estimator."""
        return Window(self._quota, self._cycle.period, is_fixed=self._shape.is_fixed)

    def rate(self) -> float:
        """See Estimator."""
        samples = self._samples
        average = self._quota / self._cycle.period
        return min(_BURST * average, 1.25 * samples.max_in_flight / samples.round_trip)

    def calls(self) -> int:
        """See Estimator."""
        return 1 if self._blocked and self._samples.refused_in_a_row > 2 else self._samples.max_in_flight

    def wait(self) -> float:
        """See Estimator."""
        if self._blocked:
            return self._blocked.wait()
        now, extras = self._samples.now, self._extras
        if self._unexpected.held_until > now:
            return self._unexpected.held_until - now
        if extras.left and not self._cycle.is_over(now):
            return 0.0
        extras.drop()
        due, probe, question = self._due(), self._probe_due(), self._question_due()
        if due < min(probe, question) + 2 * _EDGE_S:
            return due
        if question <= 0:
            extras.plan_question()
        elif probe <= 0:
            extras.plan_probes(one=self._is_contended)
        return min(probe, question)

    def _due(self) -> float:
        """Seconds until the quota allows one more."""
        samples = self._samples
        left_at = samples.left_at(self._quota)
        return (
            left_at + self._cycle.period + _EDGE_S - samples.now
            if left_at >= self._shape.counts_from
            else 0.0
        )

    def _probe_due(self) -> float:
        """Seconds until one more than the quota may leave, well after the latest other, lest it overtakes."""
        samples, cycle = self._samples, self._cycle
        if self._extras.probes or (self._shape.is_fixed and cycle.used < self._quota):
            return math.inf
        at = max(self._extras.probe_at, samples.left_at(1) + LATE_S)
        is_ambiguous = at > cycle.opened + 0.9 * cycle.period and not self._shape.is_sliding
        return math.inf if is_ambiguous else at - samples.now

    def _question_due(self) -> float:
        """Seconds until one may ask whether the next window is open, once this one is used up."""
        now, cycle = self._samples.now, self._cycle
        if self._extras.question or cycle.used < self._quota or cycle.is_over(now):
            return math.inf
        return cycle.question_due(now)

    def on_sent(self, sample: Sample) -> None:
        """See Estimator."""
        if self._blocked:
            self._blocked.on_sent()
        elif self._extras.asks:
            self._extras.asked(sample)
            self._cycle.asked()
        elif self._extras.left:
            self._extras.probed(sample)
        elif self._cycle.is_over(sample.sent_at):
            self._opens(sample, by_plan=True)
        self._cycle.used += 1

    def _on_admitted(self, sample: Sample) -> Finding | None:
        samples, cycle, extras = self._samples, self._cycle, self._extras
        if sample in extras.probes:
            self._probe_admitted(sample)
        elif sample is extras.question:
            self._answered(sample)
        elif self._blocked and sample.sent_at >= self._blocked.since:
            self._readmitted(sample, self._blocked)
        else:
            cycle.admitted(sample)
        self._shape.compare(sample, samples, cycle)
        if self._quota / cycle.period > 2 * samples.max_in_flight / samples.round_trip:
            return NoLimit(samples.max_in_flight)
        return self._settled() or self._shared()

    def _answered(self, sample: Sample) -> None:
        """The next window is open already: the period is shorter, or the present one had opened before."""
        took = sample.sent_at - self._cycle.opened
        self._opens(sample)
        self._earlier += 1
        if not self._is_told_late or self._earlier > 1:
            self._suppose_fixed(configured(took), sample.sent_at)
        self._plan_questions()

    def _probe_admitted(self, sample: Sample) -> None:
        """The quota is more by now or, if it was not used up, the window may be a fixed one."""
        cycle, extras = self._cycle, self._extras
        extras.probes.remove(sample)
        if self._shape.is_fixed is None and cycle.used < self._quota:
            self._suppose_fixed(cycle.period, cycle.opened)
            return
        self._learn(self._quota + 1)
        if extras.size == 1 and self._is_inexplicable(self._quota - extras.full):
            self._suspect(is_clear=True)
        if self._is_contended:
            extras.probe_at = self._samples.now + 0.2 * cycle.period

    def _on_refused(self, sample: Sample) -> Finding | None:
        samples, cycle, extras = self._samples, self._cycle, self._extras
        cycle.used -= sample.sent_at >= cycle.opened
        if sample in extras.probes:
            extras.probes.remove(sample)
            self._shape.probe_refused()
            self._rest()
        elif sample is extras.question:
            extras.question, self._is_told_late = None, False
        elif self._blocked:
            self._blocked.refused(sample)
            if samples.now - self._blocked.since > 1.5 * cycle.period:
                return Shut()
        elif self._unexpected.is_new(sample):
            self._unexpected.hold(sample, samples.now + 1.5 * samples.round_trip)
            extras.drop()
        return self._settled()

    def _on_lost(self, sample: Sample) -> None:
        self._extras.lost(sample)

    def _settled(self) -> Finding | None:
        """Once all are answered that left before a refusal within the quota was known: what it says.

        The window has not opened yet, or the quota is less by now, or this is no window.
        """
        samples, cycle, unexpected = self._samples, self._cycle, self._unexpected
        refused_at = unexpected.refused_at
        if refused_at is None or (samples.in_flight and samples.now < unexpected.held_until):
            return None
        since = cycle.opened if self._shape.is_fixed else refused_at - cycle.period
        admitted = samples.left_between(since, refused_at)
        cycle.used = samples.left_since(cycle.opened)
        unexpected.settle(samples.now)
        if self._shape.fails_trial(cycle, self._quota) or self._came_too_early():
            return None
        if self._is_recalled and cycle.used < _HOLDS * self._quota:
            return NoLimit()
        is_refuted = self._is_told and admitted < (1 - _TOLD_LESS) * self._quota - 1
        if is_refuted or unexpected.is_one_too_many() or not self._makes_sense:
            return self._as_rate()
        if cycle.used >= 0.9 * self._quota:
            if admitted < self._quota - 1:
                self._less_is_let_in(admitted)
            self._learn(min(self._quota, admitted))
        elif cycle.used < max(3, 0.1 * self._quota):
            cycle.has_not_begun()
            self._blocked = Attempts(samples, max(cycle.period / self._quota, samples.round_trip / 4))
        elif samples.refusals_are_costly:
            self._learn(max(admitted, 3 * self._quota // 4))
        else:
            self._less_is_let_in(admitted)
            least = self._quota // 2 if self._is_contended else max(self._quota // 2, cycle.used)
            self._learn(max(min(self._quota - 1, admitted), least))
        return self._shared()

    @property
    def _makes_sense(self) -> bool:
        return self._is_told or is_window(self._quota, self._cycle.period, self._samples.round_trip)

    def _came_too_early(self) -> bool:
        """Whether a shorter window was tried that did not open; then it is as long as before."""
        cycle = self._cycle
        if cycle.used >= _OPEN * self._quota and self._makes_sense:
            return False
        if (longer := self._shorter.fails(cycle.period)) is None:
            return False
        cycle.has_not_begun()
        cycle.period = longer
        return True

    def _is_inexplicable(self, difference: float) -> bool:
        """Whether refused requests that count, and one at the very edge of a window, do not explain it."""
        return difference > 1 + self._recent_refusals()

    def _less_is_let_in(self, admitted: int) -> None:
        is_clear = self._is_inexplicable(self._quota - admitted)
        if is_clear or self._shape.opens_anytime:
            self._suspect(is_clear=is_clear)

    def _suspect(self, *, is_clear: bool) -> None:
        """The quota is not what it was: it has changed or, if that happens again, others use it too."""
        if not self._cycle.is_confirmed:
            return
        self._extras.full = math.inf
        if self._sharing.changed(self._samples.now, self._cycle.period, is_clear=is_clear):
            self._shape.forget()

    def _recent_refusals(self) -> int:
        """Requests refused that a carrier which counts those may still count."""
        return self._samples.refused_from(self._samples.now - 2 * self._cycle.period)

    def _shared(self) -> Finding | None:
        """A sliding window that others use too is as good as a rate, and shares of that even out."""
        if not (self._is_contended and self._sharing.is_shared and self._shape.opens_anytime):
            return None
        return self._as_rate()

    def _as_rate(self) -> Rate:
        """What was let in of late, as a rate; that may be nothing, which would be no rate."""
        samples, period = self._samples, self._cycle.period
        recent = samples.left_since(samples.now - period)
        return Rate(max(recent, self._quota / 2) / period, is_no_window=True)

    @property
    def _is_contended(self) -> bool:
        return self._sharing.is_contended(self._samples.now)

    def _rest(self) -> None:
        """Probe no more for a while; in about a hundred requests one may be refused."""
        samples, extras = self._samples, self._extras
        extras.full = self._quota + self._recent_refusals()
        if self._is_contended:
            periods = 0.7
            self._learn(self._quota - math.ceil(_YIELD * self._quota))
        else:
            periods = max(0.4 if self._cycle.is_confirmed else 1.0, min(100 / self._quota, 2.0))
        extras.probe_at = samples.now + max(periods * self._cycle.period, samples.patience)
        extras.size = 0
        extras.drop()

    def _suppose_fixed(self, period: float, opened: float) -> None:
        self._shape.suppose_fixed(self._cycle, period, opened)
        self._extras.size = 0

    def _readmitted(self, sample: Sample, attempts: Attempts) -> None:
        """The carrier lets requests in again: a new window, or a part of a sliding one."""
        samples, cycle = self._samples, self._cycle
        took = sample.sent_at - cycle.opened
        if not cycle.is_confirmed and took > 1.1 * cycle.period:
            cycle.period = configured(took, least=took - attempts.step, most=took + cycle.late)
        if not self._shape.is_fixed:
            self._learn(min(self._quota, samples.left_since(sample.sent_at - cycle.period)))
        self._blocked, cycle.late = None, attempts.step
        self._extras.probe_at = samples.now
        self._opens(sample)

    def _opens(self, sample: Sample, *, by_plan: bool = False) -> None:
        """A window has opened, as `sample` shows."""
        if self._cycle.used >= 0.9 * self._quota:
            self._shape.end_trial()
            self._unexpected.fits()
            self._cycle.period = self._shorter.fits(self._cycle.period)
        used = 0 if by_plan else self._samples.left_since(sample.sent_at)
        self._cycle.begin(sample.sent_at, used, by_plan=by_plan)
        self._shape.opened(sample.sent_at)
        self._is_recalled = False
        self._extras.size = 0
        self._extras.drop()
        self._plan_questions()

    def _plan_questions(self) -> None:
        self._extras.question = None
        if self._is_told_late and self._cycle.period > _SHORTEST_ASKED_S:
            self._cycle.ask_earlier(_EARLIER_S)
        elif self._samples.refusals_are_costly or self._shape.is_sliding:
            self._cycle.ask_nothing()
        else:
            self._cycle.ask()

    def _learn(self, quota: int) -> None:
        self._quota = max(1, quota)
