"""Metrics of a listener for Prometheus. They need the extra `batchlic[metrics]`."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from batchlic.callbacks.counts import Counts

__all__ = ["CONTENT_TYPE", "ListenerMetrics", "exposition"]


def exposition(counts: Counts) -> bytes:
    """The counts in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ListenerMetrics(counts))
    return generate_latest(registry)


class ListenerMetrics(Collector):
    """The counts of a listener as metrics."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """The counts as metrics."""
        counts = self._counts
        yield _counter("received", "Messages that came to the path of callbacks.", counts.received)
        yield _counter("stored", "Messages that are durable, repeated ones included.", counts.stored)
        yield _counter("unjudged", "Stored messages that report no success or failure.", counts.unjudged)
        help_text = "Messages that were not stored, by status of the answer."
        refused = CounterMetricFamily("batchlic_callbacks_refused", help_text, labels=["status"])
        for status, messages in sorted(counts.refused.items()):
            refused.add_metric([str(status)], messages)
        yield refused
        help_text = "Messages that wait for the store."
        yield GaugeMetricFamily("batchlic_callbacks_waiting", help_text, counts.waiting)
        if counts.last_stored_at is not None:
            name, help_text = "last_stored_timestamp_seconds", "When the last message was stored."
            yield GaugeMetricFamily(f"batchlic_callbacks_{name}", help_text, counts.last_stored_at)


def _counter(name: str, help_text: str, value: int) -> Metric:
    return CounterMetricFamily(f"batchlic_callbacks_{name}", help_text, value)
