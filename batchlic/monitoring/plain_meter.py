"""Counters, gauges and histograms as plain numbers."""

import threading
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from batchlic.monitoring.instruments import SECONDS, Instrument, Kind


@dataclass(slots=True)
class Histogram:
    """Durations in seconds, counted by the smallest bound in SECONDS that they do not exceed."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    """One for each bound, and one for what exceeds them all."""
    total: float = 0.0
    shortest: float = inf
    longest: float = 0.0

    def observe(self, seconds: float) -> None:
        """Add a duration."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds
        self.shortest = min(self.shortest, seconds)
        self.longest = max(self.longest, seconds)

    def copy(self) -> "Histogram":
        """The histogram as it is now."""
        return Histogram(self.counts.copy(), self.total, self.shortest, self.longest)


class PlainMeter:
    """Keeps measurements until an exporter reads them, perhaps in another thread.

    A run measures thousands of times between two reads, and the objects of a metrics library take several
    times longer for each measurement.
    """

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self.instruments = tuple(instruments)
        self._values: dict[str, dict[tuple[str, ...], float]] = {one.name: {} for one in self.instruments}
        self._lock = threading.Lock()
        """Held while histograms change: a reader must not miss a duration."""
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {
            one.name: {} for one in self.instruments if one.kind is Kind.HISTOGRAM
        }

    @property
    def has_values(self) -> bool:
        """Whether anything was measured."""
        return any(self._values.values())

    def add(self, instrument: Instrument, labels: tuple[str, ...], value: float = 1) -> None:
        """Increase a counter."""
        values = self._values[instrument.name]
        values[labels] = values.get(labels, 0) + value

    def set(self, instrument: Instrument, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        self._values[instrument.name][labels] = value

    def set_default(self, instrument: Instrument, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge that has no value yet."""
        self._values[instrument.name].setdefault(labels, value)

    def observe(self, instrument: Instrument, labels: tuple[str, ...], value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            histograms = self._histograms[instrument.name]
            if labels not in histograms:
                histograms[labels] = Histogram()
            histograms[labels].observe(value)

    def values(self, instrument: Instrument) -> list[tuple[tuple[str, ...], float]]:
        """The values of a counter or gauge by labels."""
        return list(self._values[instrument.name].items())

    def histograms(self, instrument: Instrument) -> list[tuple[tuple[str, ...], Histogram]]:
        """The histograms of an instrument by labels."""
        with self._lock:
            return [(labels, one.copy()) for labels, one in self._histograms[instrument.name].items()]

    def take_histograms(self, instrument: Instrument) -> list[tuple[tuple[str, ...], Histogram]]:
        """As `histograms`, and reset them."""
        with self._lock:
            taken, self._histograms[instrument.name] = self._histograms[instrument.name], {}
        return list(taken.items())
