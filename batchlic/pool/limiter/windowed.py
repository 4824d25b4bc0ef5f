"""Limits that let a quota in and then nothing until a window opens: fixed ones, and sliding ones."""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Finding, NoLimit, Rate, Shut, Window
from batchlic.pool.limiter.samples import Sample, Samples

_LONG_SILENCE_S = 2.0
"""Seconds of silence after which it may be the silence that the carrier wanted, and no window opened."""
_FIRST_QUESTION = 0.1
_QUESTIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of a period after which a question is asked: has a window opened? The first where it may be none."""
_TOO_EARLY = 0.4
"""Share of a period after which a window cannot have opened again, however late it was noticed."""
_HOLDS = 0.5
"""Share of its quota that the first window lets in at least if what is known of it still holds."""
_FEWEST = 5
"""Requests that a window lets in, at least."""
_BURST = 20.0
"""How much faster than its average a quota is used, so that the last window is done early."""
_EDGE_S = 0.002
"""Seconds by which a window is entered late, so as not to be early."""
_LATE_S = 0.005
"""Seconds by which timers of event loops may be late, and requests overtake each other."""
_YIELD = 0.04
"""Share of a quota that is left to others after each probe in vain, where others were let in instead."""
_CONTENTION_PERIODS = 30
"""For how long after that."""
_MOST_MISFITS = 12
"""Times that a window may let next to nothing in before it is taken for none."""
_USUAL_WINDOWS_S = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)


class Attempts:
    """Moments to try again, ever more rarely the longer it takes."""

    def __init__(self, samples: Samples, first_s: float) -> None:
        self.since = samples.now
        self.in_vain = 0
        self._samples = samples
        self.step = first_s
        self._next = samples.now + first_s

    def wait(self) -> float:
        """Seconds until the next attempt."""
        return self._next - self._samples.now

    def on_sent(self) -> None:
        """The next attempt leaves when this one has failed, or after another step."""
        self._next = self._samples.now + self.step

    def refused(self, sample: Sample) -> None:
        """The latest attempt came too early."""
        if sample.sent_at >= self.since:
            waited = self._samples.now - self.since
            self.in_vain += 1
            self.step = max(self.step, min(0.25, 0.1 + 0.01 * waited) * waited)
            self._next = self._samples.now + self.step


class Cycle:
    """The present window: since when it is open, when the next one will be, and how much of it is used.

    A period may be too long without a refusal, so it is asked in the first cycle whether the next window has
    opened already, and later by how much an opening was noticed too late, halving what that may be.
    """

    def __init__(self, opened: float, period: float, used: int, late: float) -> None:
        self.period = period
        self.opened = opened
        self.used = used
        """Requests let in since then, as far as is known."""
        self.is_confirmed = False
        """Whether a window has opened when it was expected."""
        self.late = late
        self._before = opened
        self._is_by_plan = False
        self._questions: list[float] = []

    def is_over(self, moment: float) -> bool:
        """Whether the next window is expected to be open."""
        return moment >= self.opened + self.period

    def begin(self, opened: float, used: int, *, by_plan: bool) -> None:
        """A window has opened, or is thought to."""
        self._before, self.opened, self._is_by_plan = self.opened, opened, by_plan
        self.used = used

    def admitted(self, sample: Sample) -> None:
        """A request was let in, and so confirms that its window was open."""
        self.is_confirmed |= self._is_by_plan and sample.sent_at >= self.opened

    def has_not_begun(self) -> None:
        """The window that was to open by plan is not open yet."""
        if self._is_by_plan:
            self.opened, self._is_by_plan = self._before, False

    def ask(self, *, doubtful: bool) -> None:
        """Plan the questions of this cycle."""
        if not self.is_confirmed:
            shares = (_FIRST_QUESTION, *_QUESTIONS) if doubtful else _QUESTIONS
            self._questions = [self.opened + share * self.period for share in shares]
        elif self.late > 2 * _LATE_S:
            self.late /= 2
            self._questions = [self.opened + self.period - self.late]
        else:
            self._questions = []

    def ask_nothing(self) -> None:
        """Drop the questions of this cycle."""
        self._questions = []

    def question_due(self, now: float) -> float:
        """Seconds until the next question; of those that were missed only the latest is asked."""
        while len(self._questions) > 1 and self._questions[1] < now:
            self._questions.pop(0)
        return self._questions[0] - now if self._questions else math.inf

    def asked(self) -> None:
        """The question that was due is asked."""
        self._questions.pop(0)


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
        opened = samples.opened_at
        self._cycle = Cycle(opened, found.period, samples.left_since(opened), found.late)
        self._quota = found.quota
        self._silence_s = found.silence_s
        self._is_doubtful = found.silence_s > _LONG_SILENCE_S
        self._is_recalled = found.is_recalled
        self._in_flight_until = samples.now if found.includes_in_flight else -math.inf
        self._is_fixed: bool | None = None
        self._is_sliding = False
        """Whether it was taken for a fixed one, wrongly."""
        self._counts_from = -math.inf
        self._before_trial: tuple[float, float] | None = None
        self._probes: set[Sample] = set()
        self._probe_size = self._probes_left = 0
        self._probe_at = samples.now + samples.patience
        self._full = math.inf
        """The quota at which one more was refused, and what earlier refusals may have used up."""
        self._shut_at = -math.inf
        """When the latest request left that was refused before one was let in."""
        self._opens_anytime = self._is_shared = False
        """Whether it has opened twice within its length; whether others use it too, as far as is known."""
        self._question: Sample | None = None
        self._asks = False
        self._blocked: Attempts | None = None
        self._refused_at: float | None = None
        self._held_until = self._settled_at = samples.now
        self._lowered = 0
        """Times in a row."""
        self._suspicious_until = self._contended_until = -math.inf
        self._misfits = 0
        self._plan_questions()

    def found(self) -> Finding:
        """See Estimator."""
        return Window(self._quota, self._cycle.period, is_fixed=self._is_fixed)

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
        if self._held_until > self._samples.now:
            return self._held_until - self._samples.now
        if self._probes_left and not self._cycle.is_over(self._samples.now):
            return 0.0
        self._drop_probes()
        due, probe, question = self._due(), self._probe_due(), self._question_due()
        if due < min(probe, question) + 2 * _EDGE_S:
            return due
        if question <= 0:
            self._asks, self._probes_left = True, 1
        elif probe <= 0:
            self._probe_size = self._probes_left = 1 if self._is_contended else max(1, 4 * self._probe_size)
        return min(probe, question)

    def _due(self) -> float:
        """Seconds until the quota allows one more."""
        samples = self._samples
        left_at = samples.left_at(self._quota)
        return left_at + self._cycle.period + _EDGE_S - samples.now if left_at >= self._counts_from else 0.0

    def _probe_due(self) -> float:
        """Seconds until one more than the quota may leave, well after the latest other, lest it overtakes."""
        samples, cycle = self._samples, self._cycle
        if self._probes or (self._is_fixed and cycle.used < self._quota):
            return math.inf
        at = max(self._probe_at, samples.left_at(1) + _LATE_S)
        is_ambiguous = at > cycle.opened + 0.9 * cycle.period and not self._is_sliding
        return math.inf if is_ambiguous else at - samples.now

    def _question_due(self) -> float:
        """Seconds until one may ask whether the next window is open, once this one is used up."""
        now, cycle = self._samples.now, self._cycle
        if self._question or cycle.used < self._quota or cycle.is_over(now):
            return math.inf
        return cycle.question_due(now)

    def _drop_probes(self) -> None:
        """Send none of the probes, nor the question, that were to leave next."""
        self._probes_left, self._asks = 0, False

    def on_sent(self, sample: Sample) -> None:
        """See Estimator."""
        if self._blocked:
            self._blocked.on_sent()
        elif self._asks:
            self._question = sample
            self._drop_probes()
            self._cycle.asked()
        elif self._probes_left:
            self._probes_left -= 1
            self._probes.add(sample)
        elif self._cycle.is_over(sample.sent_at):
            self._opens(sample, by_plan=True)
        self._cycle.used += 1

    def _on_admitted(self, sample: Sample) -> Finding | None:
        samples, cycle = self._samples, self._cycle
        if sample in self._probes:
            self._probes.remove(sample)
            if self._is_fixed is None and cycle.used < self._quota:
                self._suppose_fixed(cycle.period, cycle.opened)
            else:
                self._learn(self._quota + 1)
                if self._probe_size == 1 and self._is_inexplicable(self._quota - self._full):
                    self._suspect(is_clear=True)
                if self._is_contended:
                    self._probe_at = samples.now + 0.2 * cycle.period
        elif sample is self._question:
            took = sample.sent_at - cycle.opened
            if self._is_doubtful and not cycle.is_confirmed and took < _TOO_EARLY * cycle.period:
                return Rate(self._quota / took, is_no_window=True, pause_s=self._silence_s)
            self._opens(sample)
            self._suppose_fixed(configured(took), sample.sent_at)
            self._plan_questions()
        elif self._blocked and sample.sent_at >= self._blocked.since:
            self._readmitted(sample, self._blocked)
        else:
            cycle.admitted(sample)
        if sample.sent_at >= self._settled_at:
            self._lowered = 0
        self._compare(sample)
        if self._quota / cycle.period > 2 * samples.max_in_flight / samples.round_trip:
            return NoLimit(samples.max_in_flight)
        return self._settled() or self._shared()

    def _on_refused(self, sample: Sample) -> Finding | None:
        samples, cycle = self._samples, self._cycle
        cycle.used -= sample.sent_at >= cycle.opened
        if sample in self._probes:
            self._probes.remove(sample)
            self._is_fixed = bool(self._is_fixed)
            self._rest()
        elif sample is self._question:
            self._question = None
        elif self._blocked:
            self._blocked.refused(sample)
            if samples.now - self._blocked.since > 1.5 * cycle.period:
                return Shut()
        elif sample.sent_at <= self._in_flight_until:
            self._learn(self._quota - 1)
        elif self._refused_at is None and sample.sent_at >= self._settled_at:
            self._refused_at, self._held_until = sample.sent_at, samples.now + 1.5 * samples.round_trip
            self._drop_probes()
        return self._settled()

    def _on_lost(self, sample: Sample) -> None:
        self._probes.discard(sample)
        if sample is self._question:
            self._question = None

    def _settled(self) -> Finding | None:
        """Once all are answered that left before a refusal within the quota was known: what it says.

        The window has not opened yet, or the quota is less by now, or this is no window.
        """
        samples, cycle = self._samples, self._cycle
        if self._refused_at is None or (samples.in_flight and samples.now < self._held_until):
            return None
        since = cycle.opened if self._is_fixed else self._refused_at - cycle.period
        admitted = samples.left_between(since, self._refused_at)
        cycle.used = samples.left_since(cycle.opened)
        self._refused_at, self._held_until, self._settled_at = None, samples.now, samples.now
        if self._before_trial and cycle.used < 0.5 * self._quota:
            cycle.period, self._counts_from = self._before_trial
            self._before_trial, self._is_fixed, self._is_sliding = None, False, True
            return None
        if self._is_recalled and cycle.used < _HOLDS * self._quota:
            return NoLimit()
        self._misfits += 1
        if self._misfits > _MOST_MISFITS or not is_window(self._quota, cycle.period, samples.round_trip):
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
            self._learn(max(min(self._quota - 2**self._lowered, admitted), self._quota // 2))
            self._lowered += 1
        return self._shared()

    def _compare(self, sample: Sample) -> None:
        """A fixed window does not open twice within its length."""
        refused_at = self._samples.refused_at
        if sample.sent_at > refused_at + _LATE_S and refused_at > self._shut_at:
            if sample.sent_at < self._shut_at + 0.9 * self._cycle.period:
                self._opens_anytime, self._is_fixed, self._is_sliding = True, False, True
                self._before_trial = None
                self._cycle.ask_nothing()
            self._shut_at = refused_at

    def _is_inexplicable(self, difference: float) -> bool:
        """Whether refused requests that count, and one at the very edge of a window, do not explain it."""
        return difference > 1 + self._recent_refusals()

    def _less_is_let_in(self, admitted: int) -> None:
        is_clear = self._is_inexplicable(self._quota - admitted)
        if is_clear or self._opens_anytime:
            self._suspect(is_clear=is_clear)

    def _suspect(self, *, is_clear: bool) -> None:
        """The quota is not what it was: it has changed or, if that happens again, others use it too."""
        if not self._cycle.is_confirmed:
            return
        now, self._full = self._samples.now, math.inf
        if now < self._suspicious_until:
            self._contended_until = now + _CONTENTION_PERIODS * self._cycle.period
            self._is_shared = self._is_shared or is_clear
            if not self._is_fixed and not self._is_sliding:
                self._is_fixed = None
        self._suspicious_until = now + _CONTENTION_PERIODS * self._cycle.period

    def _recent_refusals(self) -> int:
        """Requests refused that a carrier which counts those may still count."""
        return self._samples.refused_from(self._samples.now - 2 * self._cycle.period)

    def _shared(self) -> Finding | None:
        """A sliding window that others use too is as good as a rate, and shares of that even out."""
        if not (self._is_contended and self._is_shared and self._opens_anytime):
            return None
        return self._as_rate()

    def _as_rate(self) -> Rate:
        """What was let in of late, as a rate; that may be nothing, which would be no rate."""
        samples, period = self._samples, self._cycle.period
        recent = samples.left_since(samples.now - period)
        return Rate(max(recent, self._quota / 2) / period, is_no_window=True)

    @property
    def _is_contended(self) -> bool:
        return self._samples.now < self._contended_until

    def _rest(self) -> None:
        """Probe no more for a while; in about a hundred requests one may be refused."""
        samples = self._samples
        self._full = self._quota + self._recent_refusals()
        if self._is_contended:
            periods = 0.7
            self._learn(self._quota - math.ceil(_YIELD * self._quota))
        else:
            periods = max(0.4 if self._cycle.is_confirmed else 1.0, min(100 / self._quota, 2.0))
        self._probe_at = samples.now + max(periods * self._cycle.period, samples.patience)
        self._probe_size = 0
        self._drop_probes()

    def _suppose_fixed(self, period: float, opened: float) -> None:
        """Take it for a fixed window that opened at that moment, until that is refuted."""
        self._before_trial = self._cycle.period, self._counts_from
        self._is_fixed, self._cycle.period, self._counts_from = True, period, opened
        self._probe_size = 0

    def _readmitted(self, sample: Sample, attempts: "Attempts") -> None:
        """The carrier lets requests in again: a new window, or a part of a sliding one."""
        samples, cycle = self._samples, self._cycle
        took = sample.sent_at - cycle.opened
        if not cycle.is_confirmed and took > 1.1 * cycle.period:
            cycle.period = configured(took)
        if not self._is_fixed:
            self._learn(min(self._quota, samples.left_since(sample.sent_at - cycle.period)))
        self._blocked, cycle.late = None, attempts.step
        self._probe_at = samples.now
        self._opens(sample)

    def _opens(self, sample: Sample, *, by_plan: bool = False) -> None:
        """A window has opened, as `sample` shows."""
        if self._cycle.used >= 0.9 * self._quota:
            self._before_trial, self._misfits = None, 0
        used = 0 if by_plan else self._samples.left_since(sample.sent_at)
        self._cycle.begin(sample.sent_at, used, by_plan=by_plan)
        if self._is_fixed:
            self._counts_from = sample.sent_at
        self._is_recalled = False
        self._probe_size = 0
        self._drop_probes()
        self._plan_questions()

    def _plan_questions(self) -> None:
        self._question = None
        if self._samples.refusals_are_costly or self._is_sliding:
            self._cycle.ask_nothing()
        else:
            self._cycle.ask(doubtful=self._is_doubtful)

    def _learn(self, quota: int) -> None:
        self._quota = max(1, quota)


def is_window(quota: int, period: float, round_trip: float) -> bool:
    """Whether it makes sense to wait for such a window, rather than to send at its rate."""
    return quota >= _FEWEST and period * min(2, quota / 20) >= 8 * round_trip


def enclosing(took: float, pause: float) -> float:
    """The window that probably ends after a pause; one in whole seconds was probably rounded up."""
    longest = took + pause
    if pause % 1 > 0:
        return longest
    return next((usual for usual in _USUAL_WINDOWS_S if longest - 1 <= usual <= longest), longest)


def configured(period: float) -> float:
    """The window that was probably configured; one of no usual length is tried a little early."""
    usual = min(_USUAL_WINDOWS_S, key=lambda usual: abs(math.log(usual / period)))
    return usual if abs(usual - period) < 0.3 * usual else 0.94 * period
