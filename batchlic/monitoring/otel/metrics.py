"""The metrics of a run."""

from dataclasses import replace
from functools import partial
from importlib.metadata import version
from time import time_ns
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)

from batchlic.events import RunEnded, RunEvent
from batchlic.monitoring.instruments import INSTRUMENTS, SECONDS, Instrument, Kind, label_names
from batchlic.monitoring.otel.endpoint import flush, resource
from batchlic.monitoring.plain_meter import Histogram as Durations
from batchlic.monitoring.plain_meter import PlainMeter
from batchlic.monitoring.run_metrics import RunMetrics


class OtlpMetrics:
    """A subscriber that measures a run, and sends the metrics every minute and at the end."""

    def __init__(self, labels: tuple[str, ...] = ()) -> None:
        """`labels` are those of the job, if they are known before the run begins."""
        meter = OtelMeter()
        self._meter = meter
        self._exporter = _MetricExporter(meter)
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(self._exporter)], resource=resource(), shutdown_on_exit=False
        )
        meter.register(self._provider)
        self._measure = RunMetrics(meter, labels)

    @property
    def problems(self) -> list[str]:
        """Whether the last metrics did not arrive, as a sentence."""
        if self._exporter.is_delivered:
            return []
        return ["OpenTelemetry: the last metrics of the run did not arrive at the endpoint"]

    def __call__(self, event: RunEvent) -> None:
        """Measure what an event says."""
        self._measure(event)
        if isinstance(event, RunEnded):
            self._exporter.is_delivered = not self._meter.has_values
            flush(self._provider.shutdown)


class OtelMeter(PlainMeter):
    """Keeps measurements until OpenTelemetry sends them.

    The names of its instruments become those of Prometheus again in a collector, which adds `_total` and the
    unit.
    """

    def __init__(self) -> None:
        super().__init__(INSTRUMENTS)
        self._since = time_ns()

    def register(self, provider: MeterProvider) -> None:
        """Let a provider read the counters and gauges."""
        meter = provider.get_meter("batchlic", version("batchlic"))
        create = {
            Kind.COUNTER: meter.create_observable_counter,
            Kind.GAUGE: meter.create_observable_gauge,
        }
        for one in INSTRUMENTS:
            if one.kind in create:
                name, unit = _name_and_unit(one)
                create[one.kind](name, [partial(self._observed, one)], unit, one.help)

    def durations(self, temporality: AggregationTemporality) -> list[Metric]:
        """The histograms so far; with DELTA, what came since the last call.

        OpenTelemetry's own histograms can't be observed, and take ten times longer for each measurement.
        """
        is_delta = temporality is AggregationTemporality.DELTA
        since, now = self._since, time_ns()
        if is_delta:
            self._since = now
        read = self.take_histograms if is_delta else self.histograms
        metrics = []
        for one in self.instruments:
            if one.kind is Kind.HISTOGRAM:
                points = [self._point(one, labels, found, since, now) for labels, found in read(one)]
                name, unit = _name_and_unit(one)
                metrics.append(Metric(name, one.help, unit, Histogram(points, temporality)))
        return metrics

    def _point(
        self, instrument: Instrument, labels: tuple[str, ...], found: Durations, since: int, now: int
    ) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=self._named(instrument, labels),
            start_time_unix_nano=since,
            time_unix_nano=now,
            count=sum(found.counts),
            sum=found.total,
            bucket_counts=found.counts,
            explicit_bounds=SECONDS,
            min=found.shortest,
            max=found.longest,
        )

    def _observed(self, instrument: Instrument, _options: CallbackOptions) -> list[Observation]:
        """The values of a counter or gauge. This is called in another thread."""
        return [
            Observation(value, self._named(instrument, labels)) for labels, value in self.values(instrument)
        ]

    def _named(self, instrument: Instrument, labels: tuple[str, ...]) -> dict[str, str]:
        """The labels with their names."""
        return dict(zip(label_names(instrument), labels, strict=True))


def _name_and_unit(instrument: Instrument) -> tuple[str, str]:
    """`batchlic_request_duration_seconds` is `batchlic.request_duration` in `s`."""
    name = instrument.name.removesuffix("_total").replace("batchlic_", "batchlic.", 1)
    return (name.removesuffix("_seconds"), "s") if name.endswith("_seconds") else (name, "")


class _MetricExporter(OTLPMetricExporter):
    """Adds the durations, and remembers whether the last metrics arrived."""

    is_delivered = True

    def __init__(self, meter: OtelMeter) -> None:
        super().__init__()
        self._meter = meter

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float | None = 10000,
        **kwargs: Any,  # noqa: ANN401 - as OTLPMetricExporter
    ) -> MetricExportResult:
        result = super().export(self._completed(metrics_data), timeout_millis, **kwargs)
        self.is_delivered = result is MetricExportResult.SUCCESS
        return result

    def _completed(self, data: MetricsData) -> MetricsData:
        preferred = (self._preferred_temporality or {}).get(HistogramInstrument)
        durations = self._meter.durations(preferred or AggregationTemporality.CUMULATIVE)
        return MetricsData(
            [
                replace(
                    measured,
                    scope_metrics=[
                        replace(scope, metrics=[*scope.metrics, *durations])
                        for scope in measured.scope_metrics
                    ],
                )
                for measured in data.resource_metrics
            ]
        )
