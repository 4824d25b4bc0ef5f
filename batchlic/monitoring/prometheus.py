"""Metrics for Prometheus: in a file for node_exporter, and over HTTP while a run goes on."""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from batchlic.atomic import replacing
from batchlic.errors import ExitCode, StoppedEarly
from batchlic.events import PhaseEnded, PhaseStarted, PlanReady, RunEnded, RunEvent, RunStarted
from batchlic.monitoring.instruments import (
    INSTRUMENTS,
    JOB_LABELS,
    LAST,
    RUN_ACTIVE,
    SECONDS,
    Instrument,
    Kind,
    label_names,
)
from batchlic.monitoring.plain_meter import Histogram, PlainMeter

WRITE_INTERVAL_S = 10.0
"""Seconds between two versions of a metrics file while requests are sent."""
HOST = "127.0.0.1"

_MILESTONES = (RunStarted, PlanReady, PhaseStarted, PhaseEnded, RunEnded)
"""Events after which a metrics file is written at once."""


class PrometheusMeter(PlainMeter, Collector):
    """Shows measurements to prometheus-client when they are read. `registry` is what to export."""

    def __init__(self, instruments: Iterable[Instrument] = INSTRUMENTS) -> None:
        super().__init__(instruments)
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """All metrics that have a value. The library calls this, perhaps in another thread."""
        for one in self.instruments:
            metric = self._family(one)
            if metric.samples:
                yield metric

    def exposition(self) -> bytes:
        """All measurements in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _family(self, one: Instrument) -> Metric:
        names = label_names(one)
        match one.kind:
            case Kind.COUNTER:
                counter = CounterMetricFamily(one.name, one.help, labels=names)
                for labels, value in self.values(one):
                    counter.add_metric(labels, value)
                return counter
            case Kind.GAUGE:
                gauge = GaugeMetricFamily(one.name, one.help, labels=names)
                for labels, value in self.values(one):
                    gauge.add_metric(labels, value)
                return gauge
            case Kind.HISTOGRAM:
                histogram = HistogramMetricFamily(one.name, one.help, labels=names)
                for labels, found in self.histograms(one):
                    histogram.add_metric(labels, _buckets(found), found.total)
                return histogram


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """How many durations do not exceed each bound."""
    bounds = (*map(str, SECONDS), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


class MetricsFile:
    """A subscriber that writes measurements to a file for the textfile collector of node_exporter.

    It takes the events that `is_due` picks, after they are measured. The metrics in LAST are kept from the
    file as another run left it, for all jobs in it. `labels` are those of the job, if they are known before
    the run begins.
    """

    def __init__(self, path: Path, meter: PrometheusMeter, labels: tuple[str, ...] = ()) -> None:
        self._path = path
        self._labels = labels
        self._meter = meter
        self._due_at = 0.0
        """When to write again, in seconds since 1970."""
        self._has_begun = False
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> list[str]:
        """What is wrong with the file, as sentences."""
        return list(self._problems.values())

    def is_due(self, event: RunEvent) -> bool:
        """Whether to write the file after this event: from time to time, and at the milestones of a run."""
        now = event.at / 1e6
        was_set_back = now < self._due_at - WRITE_INTERVAL_S  # the clock of the machine
        is_due = now >= self._due_at or was_set_back or isinstance(event, _MILESTONES)
        if is_due:
            self._due_at = now + WRITE_INTERVAL_S
        return is_due

    def __call__(self, event: RunEvent) -> None:
        """Write the file. If the run was refused before it began, only its end is written."""
        if isinstance(event, RunStarted):
            self._restore()
            self._has_begun = True
        elif isinstance(event, RunEnded) and not self._has_begun and self._labels:
            is_marked = self._restore().get((RUN_ACTIVE.name, self._labels)) == 1  # also after a kill
            self._has_begun = not is_marked or event.exit_code != ExitCode.REFUSED
        if self._has_begun:
            self._write()

    def _restore(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """Take over what another run left in the file, and return it by name and labels of the job."""
        try:
            text = self._path.read_text(encoding="utf-8")
            samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            self._problems["read"] = (
                f"{self._path}: could not be read, so the time of the last success is lost"
            )
            return {}
        found = {
            (one.name, tuple(one.labels[name] for name in JOB_LABELS)): one.value
            for one in samples
            if one.labels.keys() == {*JOB_LABELS}
        }
        for instrument in LAST:
            for (name, labels), value in found.items():
                if name == instrument.name:
                    self._meter.set_default(instrument, labels, value)
        return found

    def _write(self) -> None:
        try:
            with replacing(self._path) as temporary:
                temporary.write_bytes(self._meter.exposition())
                temporary.chmod(0o644)  # node_exporter runs as another user
        except StoppedEarly as error:
            cause = error.__cause__
            reason = (isinstance(cause, OSError) and cause.strerror) or "unknown reason"
            self._problems["write"] = f"--metrics-file {self._path}: can't be written: {reason}"
        else:
            self._problems.pop("write", None)


class MetricsServer:
    """Serves measurements over HTTP on this machine. Raises OSError without a port."""

    def __init__(self, meter: PrometheusMeter, port: int) -> None:
        self._server = make_server(HOST, port, make_wsgi_app(meter.registry), _Server, _SilentHandler)
        self.url = f"http://{HOST}:{self._server.server_port}/metrics"
        threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="batchlic metrics server", daemon=True
        ).start()

    def close(self) -> None:
        """Stop serving."""
        with suppress(OSError):  # some systems can't wake a socket that waits for connections
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()


_POLL_S = 0.1
"""Seconds until the server notices that it is to stop, on a system that can't wake its socket."""


class _Server(ThreadingWSGIServer):
    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver
        """Say nothing: a scraper that hangs up is no event for the operator of a run."""


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server
        """Log no request."""
