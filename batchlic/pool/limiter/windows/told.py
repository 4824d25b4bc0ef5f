"""The window that exact waits tell.

A sliding window opens when the request that was let in a quota ago is as old as the window is long. So if a
refusal tells to the millisecond when the next request will be let in, that moment minus the moment at which
each earlier request left is the length, for the right one of them. The same number of requests back gives the
same length at each refusal; any other number doesn't, unless requests leave evenly.
"""

from collections import deque
from itertools import dropwhile, islice

from batchlic.pool.limiter.estimator import Hypothesis
from batchlic.pool.limiter.findings import Finding, Window
from batchlic.pool.limiter.samples import Sample, Samples

_REFUSALS = 3
"""Refusals that must tell the same."""
_ALIKE = 0.01
"""Share by which the lengths may differ."""
_LARGEST = 3000
"""Largest quota that is looked for."""


class ToldWindow(Hypothesis):
    """Finds a window if the latest refusals tell the same one twice; one that is refuted never again."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(samples)
        self._told: deque[tuple[float, float]] = deque(maxlen=_REFUSALS)
        """When the latest refused requests left, and the next one was to be let in."""
        self._opens_at = samples.now
        self._quota = 0
        self._is_found = False

    def _on_refused(self, sample: Sample) -> Finding | None:
        is_exact = sample.told_s % 1 > 0
        if self._is_found or not is_exact or sample.sent_at < self._opens_at:
            return None
        self._opens_at = self._samples.now + sample.told_s
        self._told.append((sample.sent_at, sample.sent_at + sample.told_s))
        before = self._quota
        self._quota, period = self._fit()
        self._is_found = self._quota > 1 and self._quota == before
        return Window(self._quota, period, is_told=True) if self._is_found else None

    def _fit(self) -> tuple[int, float]:
        """The quota and the length in seconds that all of the latest refusals tell; a quota of 0 if none."""
        if len(self._told) < _REFUSALS:
            return 0, 0.0
        fits, *others = (self._ages(sent_at, opens_at) for sent_at, opens_at in self._told)
        for ages in others:
            shared = fits.keys() & ages.keys()
            fits = {quota: ages[quota] for quota in shared if abs(ages[quota] / fits[quota] - 1) <= _ALIKE}
        if not fits or max(fits.values()) - min(fits.values()) > 2 * _ALIKE * max(fits.values()):
            return 0, 0.0
        quota = max(fits)
        return quota, fits[quota]

    def _ages(self, sent_at: float, opens_at: float) -> dict[int, float]:
        """For each number of requests back, how old that one is when the next request is let in."""
        before = dropwhile(lambda left_at: left_at >= sent_at, self._samples.left_latest())
        return {quota: opens_at - left_at for quota, left_at in enumerate(islice(before, _LARGEST), 1)}
