"""A limit without a burst: each request must keep a distance from the one let in before.

Every answer is exact here: a distance at which one was refused is too short, and one at which one was let in
is enough. So bisection finds the distance in a few requests, each of which may be refused.

Only fixed windows of one request, and other processes, let some in by chance. That is then a rate.
"""

import math

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Calls, Finding, NoLimit, Rate, Shut
from batchlic.pool.limiter.samples import Ending, Sample, Samples

_PRECISE = 1.02
"""Factor between a distance that is too short and one that is enough at which the search ends."""
_PRECISE_AT_A_COST = 1.1
"""The same where each refusal costs a wait in whole seconds."""
_SHORTER = 0.97
"""Share of the distance that is tried then, now and then: limits rise."""
_EDGE = 1.002
"""Factor on a distance that the carrier has told: at its very edge some are refused."""
_SHORTEST = 1 / 4
"""Share of a distance that is enough below which none is tried that may be too short."""
_REST_REQUESTS, _FIRST_REST_S, _LONGEST_REST_S = 20.0, 2.0, 30.0
"""Requests and seconds until the next trial after one in vain; the seconds double each time."""
_SOON, _REFUTATIONS = 100, 3
"""It is another limit if, within so many requests each, that many distances prove too short after all."""
_STANDS = 30
"""Requests let in before which one such distance is enough: others use up the limit, too."""
_AT_ONCE = 3
"""Requests let in within which a distance that proves too short again is far too short."""
_COUNTS = 2
"""Refusals in a row that show no fall if refused requests count; twice the distance is enough after them."""
_CONFIRMED = 3
"""Requests let in at a distance before a shorter one is tried at a cost."""
_SHARE = 0.5
"""Share of the limit that is used first if it is another one: others may use it, too."""
_FALLS = 8
"""Refusals in a row after which nothing is let in any more; fewer show by how much the limit has fallen."""
_ONE_CALL = 2
"""Most in flight where one at a time is let in: its answer may be on the way."""
_SETTLED = 10
"""Requests let in from which on this is no window of one request."""


class MinimumSpacing(Hypothesis):
    """The shortest distance that was enough; single requests try a shorter one.

    If one is refused at that distance, the next ones wait ever longer. The one after the second refusal waits
    for twice the distance, and so is let in if refused requests count, too.
    """

    def __init__(self, samples: Samples, found: Rate) -> None:
        super().__init__(samples)
        self._enough = _EDGE / found.per_s
        self._too_short = 1 / found.refused_per_s
        self._longer = self._enough
        """The distance that was enough before this one."""
        self._at_this = _CONFIRMED
        """Requests let in since this distance is enough."""
        self._trial: Sample | None = None
        self._try_at = samples.now
        self._known_from = samples.now
        """Whatever left until then knew nothing of the latest refusal: that it is refused is nothing new."""
        self._rest_s = _FIRST_REST_S
        self._latest_at = self._refused_at = -math.inf
        self._most_in_flight = 0
        """Most in flight at which one was let in."""
        self._let_in = self._since_refuted = self._refuted = self._in_a_row = 0
        self._surely = 0.0
        """The distance that was let in after the latest refusals at one that had been enough."""
        self._is_told = False
        """Whether the carrier has told the distance."""
        self._refused_count = False
        """Whether the carrier counts refused requests."""
        self._is_provoked = False
        """Whether the latest refusals at a distance that had been enough followed a trial in vain."""
        self._is_one_call = True
        """Whether none was refused that left alone."""

    def wait(self) -> float:
        """See Estimator; unlike a rate, it catches up nothing that was late."""
        samples = self._samples
        if self._in_a_row:
            return self._latest_at + self._in_a_row * self._enough - samples.now
        if self._refused_count and self._latest_at == self._refused_at:
            return self._latest_at + _COUNTS * self._enough - samples.now
        return samples.left_at(1) + (self._tried if self._tries else self._enough) - samples.now

    def shut(self) -> float:
        """See Estimator."""
        return 0.0

    def found(self) -> Finding:
        """See Estimator."""
        if not self._too_short:
            return NoLimit()
        return Rate(1 / self._enough, is_no_window=True, refused_per_s=1 / self._too_short, is_spaced=True)

    def on_sent(self, sample: Sample) -> None:
        """See Estimator."""
        self._latest_at = sample.sent_at
        before = self._samples.before(sample)
        if before and self._tries and sample.sent_at - before.sent_at < self._enough / math.sqrt(_PRECISE):
            self._trial = sample

    @property
    def _tries(self) -> bool:
        """Whether the next request tries a shorter distance."""
        samples = self._samples
        is_free = self._trial is None and not self._in_a_row and samples.now >= self._try_at
        is_confirmed = self._at_this >= _CONFIRMED or not self._is_costly
        return is_free and is_confirmed and samples.left_at(1) > self._refused_at

    @property
    def _tried(self) -> float:
        """The distance to try next."""
        if self._is_precise:
            return _SHORTER * self._enough
        return math.sqrt(max(self._too_short, _SHORTEST * self._enough) * self._enough)

    @property
    def _is_precise(self) -> bool:
        precise = _PRECISE_AT_A_COST if self._is_costly else _PRECISE
        return self._enough <= precise * self._too_short

    @property
    def _is_costly(self) -> bool:
        """Whether each refusal tells everyone to wait for whole seconds, which is longer than needed."""
        return self._samples.pause > 0 and not self._samples.is_exact

    def _on_admitted(self, sample: Sample) -> Finding | None:
        samples = self._samples
        self._let_in += 1
        self._most_in_flight = max(self._most_in_flight, sample.in_flight)
        self._since_refuted += 1
        self._at_this += 1
        before = samples.before(sample)
        if before is not None and before.ending is Ending.ADMITTED:
            distance = sample.sent_at - before.sent_at
            if sample is self._trial:
                self._shorten(distance)
            elif self._in_a_row and sample.sent_at > self._known_from:
                self._lengthen(distance)
        self._end_trial(sample)
        is_beyond = 1 / self._enough > 2 * samples.max_in_flight / samples.round_trip
        return NoLimit(samples.max_in_flight) if is_beyond else None

    def _on_lost(self, sample: Sample) -> None:
        self._end_trial(sample)

    def _end_trial(self, sample: Sample) -> bool:
        is_trial = sample is self._trial
        if is_trial:
            self._trial = None
        return is_trial

    def _shorten(self, distance: float) -> None:
        """A shorter distance was let in."""
        self._longer, self._enough, self._at_this = self._enough, min(self._enough, distance), 0
        if distance <= self._too_short:  # the limit has risen, or the refused ones before had counted
            self._too_short, self._rest_s = 0.0, _FIRST_REST_S

    def _lengthen(self, distance: float) -> None:
        """One was let in after refusals at a distance that had been enough."""
        if not self._is_provoked:
            self._surely = distance
            if self._in_a_row > _COUNTS:
                self._enough = max(self._enough, distance)
            elif not self._is_told:
                self._enough *= _PRECISE
        self._refused_count = self._is_provoked
        self._in_a_row = 0

    def _on_refused(self, sample: Sample) -> Finding | None:
        samples = self._samples
        self._is_one_call &= sample.in_flight > 1
        before = samples.before(sample)
        left_at = before.sent_at if before else sample.sent_at - self._enough
        distance = sample.sent_at - left_at
        is_first = left_at > self._refused_at
        told_s = sample.told_s if samples.is_exact and is_first else 0.0
        self._refused_at = max(self._refused_at, sample.sent_at)
        if self._end_trial(sample):
            self._in_vain(distance, told_s)
            return None
        if sample.sent_at <= self._known_from or distance < self._enough / _PRECISE:
            return None
        self._known_from = samples.now
        if self._is_costly:
            return self._refuted_at_a_cost(distance)
        if not self._in_a_row:
            self._is_provoked = not is_first
            if is_first:
                self._refute(distance, told_s)
        self._in_a_row += 1
        return self._refuted_as()

    def _in_vain(self, distance: float, told_s: float) -> None:
        """A shorter distance was refused. A told wait says how long it must be."""
        samples = self._samples
        self._too_short = max(self._too_short, distance)
        if self._refused_count:  # those that have left since are refused because of this one
            self._known_from = samples.now
        if told_s:
            self._enough = min(self._enough, max(_EDGE * (distance + told_s), self._too_short))
        self._try_at = samples.now
        if self._is_precise:
            self._try_at += max(self._rest_s + _REST_REQUESTS * self._enough, samples.patience)
            self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)

    def _refuted_at_a_cost(self, distance: float) -> Finding | None:
        """A distance was too short that had been enough: by chance, as of a fixed window, or of others."""
        self._refuted += 1
        if self._enough == self._longer and self._refuted < _REFUTATIONS:
            return None
        is_known = self._enough < self._longer and self._too_short
        refused_per_s = 1 / distance if is_known else math.inf
        return Rate(1 / self._longer, is_no_window=True, refused_per_s=refused_per_s)

    def _refute(self, distance: float, told_s: float) -> None:
        """A distance was too short that had been enough: the limit has fallen, or it is another one."""
        is_far_off = self._since_refuted <= _AT_ONCE
        self._refuted = self._refuted + 1 if self._since_refuted < _SOON else 1
        self._since_refuted = 0
        self._too_short, self._rest_s = max(self._too_short, distance), _FIRST_REST_S
        self._enough = max(self._enough, self._surely if is_far_off else _EDGE * (distance + told_s))
        self._is_told = told_s > 0
        self._try_at = self._samples.now

    def _refuted_as(self) -> Finding | None:
        """What the limit is instead, if it is not this one."""
        if self._in_a_row >= (_FALLS if self._let_in else 1):
            return Shut(1 / self._enough if self._let_in >= _SETTLED else None)
        if self._refuted >= (_REFUTATIONS if self._let_in >= _STANDS else 1):
            is_one_call = self._is_one_call and self._most_in_flight <= _ONE_CALL
            return Calls(1) if is_one_call else Rate(_SHARE / self._enough, is_no_window=True)
        return None
