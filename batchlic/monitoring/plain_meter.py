"""Counters and gauges as plain numbers."""

from collections.abc import Iterable

from batchlic.monitoring.instruments import Instrument


class PlainMeter:
    """Keeps counters and gauges until an exporter reads them.

    A run measures thousands of times between two reads, and the objects of a metrics library take several
    times longer for each measurement.
    """

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {one.name: {} for one in instruments}

    def add(self, instrument: Instrument, labels: tuple[str, ...], value: float = 1) -> None:
        """Increase a counter."""
        values = self._values[instrument.name]
        values[labels] = values.get(labels, 0) + value

    def set(self, instrument: Instrument, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        self._values[instrument.name][labels] = value

    def values(self, instrument: Instrument) -> list[tuple[tuple[str, ...], float]]:
        """The values of a counter or gauge by labels. Another thread may call this."""
        return list(self._values[instrument.name].items())
