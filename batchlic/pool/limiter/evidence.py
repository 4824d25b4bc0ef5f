"""How sure the limit is that was found: how long it has stood, and how well its measurements agree."""

import statistics
from collections import deque
from dataclasses import dataclass, replace

from batchlic.pool.limiter.findings import Calls, Finding, Limit, Rate, Shut, Window, size
from batchlic.pool.limiter.samples import Ending, Sample, Samples

_STANDS_S, _STANDS_PERIODS = 5.0, 1.2
"""Seconds, and for a window also periods, that a kind of limit has to stand."""
_LET_IN, _REFUSED = 20, 2
"""Requests let in and refused meanwhile: the figure is measured, and was met again."""
_LONG_S = 60.0
"""Seconds after which a rate counts although it was met less often: a refusal may cost much."""
_MEASUREMENTS, _FIGURES = 8, 5
"""Latest measurements by which the figure is judged, if there are half as many; and those that make it."""
_ALIKE = 0.25
"""Share by which a measurement may differ from the median of the latest ones and still agree with it."""
_SEARCHED = 1.5
"""Factor between a rate and the refused one above which a distance is still searched for."""
_AGREE = 0.5
"""Share of the measurements that must agree; with fewer, most of what is seen is noise."""
_KINDS, _STOOD = 12, 0.25
"""Changes of the kind from which on most is noise, unless the last kind stood for this share of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A limit, as one run leaves it to the next one."""

    limit: Limit
    refusal_s: float = 0.0
    """Seconds that everyone waits after a refusal: what it costs."""
    is_noise: bool = False
    """Whether the refusals showed no limit that stands; then no run starts from it."""


class Evidence:
    """What speaks for the limit that was found. `NoLimit` is the absence of one, `Shut` says nothing."""

    def __init__(self, samples: Samples, known: Limit | None) -> None:
        self._samples = samples
        self._began_at = now = samples.now
        self._known_burst = known.burst if isinstance(known, Rate) else None
        self._first: tuple[int, float] | None = None
        """Requests that were let in before the first refusal, and the seconds that this took."""
        self._changes = 0
        self.begin(None, now)

    def begin(self, kind: type[Limit] | None, now: float) -> None:
        """Start again to collect evidence, about a kind of limit."""
        self._kind, self._since = kind, now
        self._limit: Limit | None = None
        self._let_in = self._refused = 0
        self._figures: deque[float] = deque(maxlen=_MEASUREMENTS)
        self._measured_at = now

    def add(self, found: Finding, sample: Sample, now: float) -> None:
        """Consider what is found after one more request has ended."""
        if sample.ending is Ending.REFUSED and self._first is None:
            self._first = self._samples.let_in_before(sample)
        if isinstance(found, Shut):
            return
        if not isinstance(found, Calls | Rate | Window):
            if self._kind is not None:
                self.begin(None, now)
            return
        if type(found) is not self._kind:
            self.begin(type(found), now)
            self._changes += 1
        if isinstance(found, Rate) and found.is_spaced and found.refused_per_s > _SEARCHED * found.per_s:
            return
        if sample.ending is Ending.ADMITTED:
            self._let_in += 1
        elif sample.ending is Ending.REFUSED:
            self._refused += 1
            self._measure(size(found), sample, now)
        if self._is_enough(found, now - self._since):
            self._limit = found

    @property
    def limit(self) -> Limit | None:
        """The limit; None while there is too little evidence. A rate is the median of the latest figures."""
        if isinstance(self._limit, Rate) and self._figures:
            latest = list(self._figures)[-_FIGURES:]
            per_s = statistics.median_high(latest)
            return replace(self._limit, per_s=per_s, burst=self.burst_beyond(per_s))
        return self._limit

    def is_noise(self, now: float) -> bool:
        """Whether the measurements do not agree, or the kind keeps changing."""
        stood = (now - self._since) / max(now - self._began_at, _STANDS_S)
        if self._changes >= _KINDS and stood < _STOOD:
            return True
        if len(self._figures) < _MEASUREMENTS / 2:
            return False
        median = statistics.median(self._figures)
        agree = sum(abs(figure / median - 1) <= _ALIKE for figure in self._figures)
        return agree < _AGREE * len(self._figures)

    def burst_beyond(self, per_s: float) -> int:
        """The burst that was let in at first. One that is known stays, unless fewer were let in."""
        if self._first is None:
            return self._known_burst or 0
        let_in, took = self._first
        if self._known_burst is not None:
            return min(self._known_burst, let_in)
        return max(0, int(let_in - per_s * took))

    def _measure(self, figure: float, sample: Sample, now: float) -> None:
        """Note what a refusal has shown. Refusals of requests that left before the latest one add to that."""
        if self._figures and sample.sent_at <= self._measured_at:
            self._figures[-1] = figure
        elif not self._figures or figure != self._figures[-1]:
            self._figures.append(figure)
            self._measured_at = now

    def _is_enough(self, found: Limit, stood_s: float) -> bool:
        least = max(_STANDS_S, _STANDS_PERIODS * found.period) if isinstance(found, Window) else _STANDS_S
        is_met = self._refused >= _REFUSED or not isinstance(found, Rate) or stood_s >= _LONG_S
        return stood_s >= least and self._let_in >= _LET_IN and is_met
