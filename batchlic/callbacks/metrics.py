"""Metrics of a listener for Prometheus."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "ListenerMetrics"]


class ListenerMetrics(Collector):
    """Counts messages since the listener began."""

    def __init__(self) -> None:
        self.received = 0
        self.stored = 0
        self.unjudged = 0
        self.refused: Counter[int] = Counter()
        """By status of the answer."""
        self.waiting = 0
        self.last_stored_at: float | None = None
        """Seconds since 1970."""

    def collect(self) -> Iterable[Metric]:
        """The counts as metrics."""
        yield _counter("received", "Messages that came to the path of callbacks.", self.received)
        yield _counter("stored", "Messages that are durable, repeated ones included.", self.stored)
        yield _counter("unjudged", "Stored messages that report no success or failure.", self.unjudged)
        help_text = "Messages that were not stored, by status of the answer."
        refused = CounterMetricFamily("batchlic_callbacks_refused", help_text, labels=["status"])
        for status, messages in sorted(self.refused.items()):
            refused.add_metric([str(status)], messages)
        yield refused
        help_text = "Messages that wait for the store."
        yield GaugeMetricFamily("batchlic_callbacks_waiting", help_text, self.waiting)
        if self.last_stored_at is not None:
            name, help_text = "last_stored_timestamp_seconds", "When the last message was stored."
            yield GaugeMetricFamily(f"batchlic_callbacks_{name}", help_text, self.last_stored_at)

    def exposition(self) -> bytes:
        """The counts in the text format of Prometheus."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)


def _counter(name: str, help_text: str, value: int) -> Metric:
    return CounterMetricFamily(f"batchlic_callbacks_{name}", help_text, value)
