"""OpenTelemetry: the trace of a run and its metrics, as an OTLP receiver decodes them."""

import socket
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from time import monotonic, sleep, time_ns

import pytest
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint

from batchlic.carrier.answers import Outcome
from batchlic.errors import ExitCode
from batchlic.events import RunEvent, Warned
from batchlic.monitoring.instruments import REQUEST_DURATION
from batchlic.monitoring.otel import endpoint
from batchlic.monitoring.otel import traces as traces_module
from batchlic.monitoring.otel.endpoint import silence_library
from batchlic.monitoring.otel.metrics import OtelMeter, OtlpMetrics
from batchlic.monitoring.otel.settings import wanted
from batchlic.monitoring.otel.traces import RunTraces
from tests.monitoring.builders import at, attempt, ended, rate, small_run, started
from tests.monitoring.otlp import Received, attributes, receiving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OK, ERROR = 1, 2


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of OpenTelemetry is set, and its log is silent as in the command."""
    for name in ("ENDPOINT", "HEADERS"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    silence_library()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    with receiving() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.url)
        yield received


def trace(
    events: Iterable[RunEvent], *, secrets: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> RunTraces:
    traces = RunTraces(secrets=secrets, began_at=time_ns(), environment=environment or {})
    for event in events:
        traces(event)
    return traces


def test_a_trace_has_a_span_for_the_run_each_phase_and_each_batch(receiver: Received) -> None:
    traces = trace(small_run(attempt(3), attempt(4, 1), attempt(5, 2)))
    [run], [planning], [sending] = map(receiver.named, ("batchlic assign", "planning", "sending"))
    batches = receiver.named("batch")
    assert {attributes(batch.attributes)["batch_id"] for batch in batches} == {0, 1, 2}
    assert {span.parent_span_id for span in batches} == {sending.span_id}
    assert {span.parent_span_id for span in (planning, sending)} == {run.span_id}
    assert (
        attributes(run.attributes).items()
        >= {"run_id": "r1", "exit_code": 0, "devices.accepted": 300}.items()
    )
    assert {span.trace_id for span in receiver.spans} == {run.trace_id}
    assert traces.problems == []


def test_a_batch_lasts_from_its_first_attempt_to_its_final_answer(receiver: Received) -> None:
    throttled = attempt(3, 0, Outcome.THROTTLED, duration_ms=100)
    trace(small_run(throttled, attempt(10, 0, attempt=2, duration_ms=500)))
    [batch] = receiver.named("batch")
    assert batch.start_time_unix_nano == (at(3) - 100_000) * 1000
    assert batch.end_time_unix_nano == at(10) * 1000
    events = [attributes(event.attributes) for event in batch.events]
    assert [event["outcome"] for event in events] == ["throttled", "accepted"]
    assert [event.time_unix_nano for event in batch.events] == [at(3) * 1000, at(10) * 1000]
    assert batch.status.code != ERROR


def test_the_parts_of_a_refused_batch_are_attempts_of_its_one_span(receiver: Received) -> None:
    split = [
        attempt(3, 0, Outcome.REFUSED),
        attempt(4, 0, part="0-50", devices=50),
        attempt(5, 0, Outcome.REFUSED, part="50-100", devices=50, is_final=True),
    ]
    trace(small_run(*split))
    [batch] = receiver.named("batch")
    assert [attributes(event.attributes).get("part") for event in batch.events] == [None, "0-50", "50-100"]
    assert batch.end_time_unix_nano == at(5) * 1000
    assert batch.status.code == ERROR


def test_a_batch_without_a_final_answer_ends_with_the_sending(receiver: Received) -> None:
    trace(small_run(attempt(3, 0, Outcome.UNAVAILABLE)))
    [batch], [sending] = map(receiver.named, ("batch", "sending"))
    assert batch.end_time_unix_nano == sending.end_time_unix_nano
    assert batch.status.message == "no final answer in this session"


def test_open_batches_are_bounded(receiver: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_module, "MOST_OPEN_BATCHES", 2)
    trace(small_run(*(attempt(3 + n, n, Outcome.UNAVAILABLE) for n in range(5))))
    ends = sorted(batch.end_time_unix_nano for batch in receiver.named("batch"))
    assert ends == [at(second) * 1000 for second in (5, 6, 7, 50, 50)]
    assert all(earlier <= later for earlier, later in pairwise(ends))


def test_in_a_large_plan_some_plain_batches_stand_for_all_and_troubles_are_kept(
    receiver: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces_module, "MOST_PLAIN_BATCHES", 2)  # the plan has 3 batches
    throttled = [attempt(4, 1, Outcome.THROTTLED), attempt(5, 1, attempt=2)]
    trace(small_run(attempt(3, 0), *throttled, attempt(6, 2), attempt(7, 3)))
    spans = [attributes(batch.attributes)["batch_id"] for batch in receiver.named("batch")]
    assert sorted(map(str, spans)) == ["0", "1", "2"]
    assert attributes(receiver.named("batchlic assign")[0].attributes)["plain_batch_spans_one_in"] == 2


@pytest.mark.parametrize("flags", ["01", "00"])
def test_the_trace_of_the_environment_is_continued(receiver: Received, flags: str) -> None:
    environment = {"TRACEPARENT": f"00-{TRACE}-{PARENT}-{flags}", "TRACESTATE": "vendor=1"}
    traces = trace(small_run(attempt(3)), environment=environment)
    if flags == "00":  # the caller does not record this trace
        assert (receiver.spans, traces.problems) == ([], [])
        return
    [run] = receiver.named("batchlic assign")
    assert (run.trace_id.hex(), run.parent_span_id.hex(), run.trace_state) == (TRACE, PARENT, "vendor=1")


@pytest.mark.parametrize("traceparent", ["", "00-zz-1-01", f"00-{TRACE}"])
def test_a_wrong_traceparent_begins_a_new_trace(receiver: Received, traceparent: str) -> None:
    trace(small_run(), environment={"TRACEPARENT": traceparent})
    [run] = receiver.named("batchlic assign")
    assert run.parent_span_id == b""


def test_a_run_that_failed_is_an_error_with_its_reason(receiver: Received) -> None:
    trace([started(), ended(5, ExitCode.REFUSED, reason="too few licenses")])
    [run] = receiver.named("batchlic assign")
    assert (run.status.code, run.status.message) == (ERROR, "too few licenses")


def test_f_no_secret_is_in_a_span(receiver: Received) -> None:
    refused = attempt(3, 0, Outcome.REFUSED, is_final=True, error_code="code hunter2")
    warned = Warned(at=at(4), message="the carrier says hunter2")
    ending = ended(60, ExitCode.STOPPED, reason="last answer: hunter2")
    trace([started(), refused, warned, ending], secrets=["hunter2"])
    assert receiver.spans
    assert not any(b"hunter2" in body for body in receiver.bodies)


def test_service_and_headers_are_those_of_the_variables(
    receiver: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t0ken")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=lab")
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process")
    trace(small_run())
    assert receiver.headers["authorization"] == "Bearer t0ken"
    assert receiver.resource["service.name"] == "batchlic"
    assert receiver.resource["deployment.environment"] == "lab"
    assert not [name for name in receiver.resource if name.startswith("process.")]
    assert not any(b"t0ken" in body for body in receiver.bodies)


def test_metrics_arrive_at_the_end_of_the_run(receiver: Received) -> None:
    metrics = OtlpMetrics()
    for event in small_run(attempt(3), attempt(4, 1, Outcome.THROTTLED), attempt(5, 1)):
        metrics(event)
    assert receiver.value("batchlic.requests", outcome="accepted", job_name="night") == 2
    assert receiver.value("batchlic.devices", status="accepted") == 300
    assert receiver.value("batchlic.last_success_timestamp") == pytest.approx(at(60) / 1e6)
    [durations] = receiver.metrics["batchlic.request_duration"].histogram.data_points
    assert (durations.count, receiver.metrics["batchlic.request_duration"].unit) == (3, "s")
    assert sum(durations.bucket_counts) == 3
    assert durations.min <= durations.sum / 3 <= durations.max
    assert metrics.problems == []


@pytest.mark.parametrize(
    ("preference", "temporality"),
    [("cumulative", AggregationTemporality.CUMULATIVE), ("delta", AggregationTemporality.DELTA)],
)
def test_durations_are_sent_with_the_preferred_temporality(
    receiver: Received,
    monkeypatch: pytest.MonkeyPatch,
    preference: str,
    temporality: AggregationTemporality,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    metrics = OtlpMetrics()
    for event in small_run(attempt(3)):
        metrics(event)
    assert (
        receiver.metrics["batchlic.request_duration"].histogram.aggregation_temporality == temporality.value
    )


def test_metrics_are_sent_while_the_run_goes_on(receiver: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    metrics = OtlpMetrics()
    for event in (started(), attempt(3), rate(4)):
        metrics(event)
    deadline = monotonic() + 20
    while "batchlic.request_duration" not in receiver.metrics and monotonic() < deadline:
        sleep(0.02)
    assert receiver.value("batchlic.requests", outcome="accepted") == 1
    assert receiver.value("batchlic.limiter_paused") == 1
    metrics(ended(60))


def test_a_run_that_was_refused_before_it_began_is_sent_if_its_job_is_known(receiver: Received) -> None:
    unknown = OtlpMetrics()
    unknown(ended(60, 2, reason="no such run"))
    assert (unknown.problems, receiver.metrics) == ([], {})
    known = OtlpMetrics(("night", "assign"))
    known(ended(60, 2, reason="no credentials"))
    assert known.problems == []
    assert receiver.value("batchlic.last_run_exit_code", job_name="night") == 2


def test_durations_are_all_or_those_since_the_last_time() -> None:
    assert [point.count for point in measured_three_times(AggregationTemporality.CUMULATIVE)] == [2, 3, 3]
    first, second = measured_three_times(AggregationTemporality.DELTA)
    assert (first.count, second.count) == (2, 1)
    assert second.start_time_unix_nano == first.time_unix_nano


def measured_three_times(temporality: AggregationTemporality) -> list[HistogramDataPoint]:
    """What is sent after two durations, after one more, and after none."""
    meter = OtelMeter()
    points: list[HistogramDataPoint] = []
    for durations in ([0.02, 0.2], [0.4], []):
        for seconds in durations:
            meter.observe(REQUEST_DURATION, ("night", "assign"), seconds)
        [metric] = meter.durations(temporality)
        assert isinstance(metric.data, Histogram)
        points += metric.data.data_points
    return points


@pytest.mark.parametrize("what", ["refused connection", "error", "silence"])
def test_an_endpoint_that_does_not_work_delays_no_event_and_is_named(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(endpoint, "FLUSH_S", 0.3)
    with receiving(status=400) as received, socket.create_server(("127.0.0.1", 0)) as silent:
        where = {"error": received.url, "silence": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", where.get(what, "http://127.0.0.1:1"))
        traces, metrics = trace(small_run(attempt(3))), OtlpMetrics()
        for event in small_run(attempt(3)):
            metrics(event)
    assert traces.problems == ["OpenTelemetry: 4 spans did not arrive at the endpoint"]
    assert metrics.problems == ["OpenTelemetry: the last metrics of the run did not arrive at the endpoint"]


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environment", "is_on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "night", "OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://collector/v1/metrics"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "True"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "console, otlp"}, True),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
    ],
)
def test_traces_are_sent_only_to_a_configured_endpoint(environment: dict[str, str], is_on: bool) -> None:  # noqa: FBT001
    found = wanted("traces", environment)
    assert (found.is_on, found.problem) == (is_on, None)


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "OTEL_TRACES_EXPORTER=zipkin: batchlic sends traces by otlp only",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: batchlic sends traces by http/protobuf only",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "me:pass@collector:4318"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: the endpoint must begin with http:// or https://",
        ),
    ],
)
def test_a_variable_that_cannot_work_is_named(environment: dict[str, str], problem: str) -> None:
    found = wanted("traces", {**ENDPOINT, **environment})
    assert (found.is_on, found.problem) == (False, problem)
