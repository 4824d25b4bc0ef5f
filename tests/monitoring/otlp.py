"""A receiver of OTLP over HTTP, in a thread of the tests."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Received:
    """What arrived at the receiver."""

    url: str
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    """By name, as they came last."""
    resource: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def value(self, metric: str, **labels: str) -> float:
        """The value of a gauge or a sum whose attributes include these."""
        data = self.metrics[metric]
        [point] = [
            point
            for point in (*data.gauge.data_points, *data.sum.data_points)
            if labels.items() <= attributes(point.attributes).items()
        ]
        return float(point.as_double or point.as_int)


def attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    """Attributes without the prefix of batchlic."""
    return {
        pair.key.removeprefix("batchlic."): getattr(pair.value, pair.value.WhichOneof("value") or "")
        for pair in pairs
    }


@contextmanager
def receiving(status: int = 200) -> Iterator[Received]:
    """Receive on a free port until the block ends, and answer with a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.bodies.append(body)
            received.headers.update({name.lower(): value for name, value in self.headers.items()})
            if self.path == "/v1/traces":
                for traces in ExportTraceServiceRequest.FromString(body).resource_spans:
                    received.resource.update(attributes(traces.resource.attributes))
                    for scope in traces.scope_spans:
                        received.spans += scope.spans
            else:
                assert self.path == "/v1/metrics"
                for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for measurements in measured.scope_metrics:
                        received.metrics.update({one.name: one for one in measurements.metrics})
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Received(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
