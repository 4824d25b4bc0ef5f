"""The trace of a run.

A run is a span. It has a span for each phase, and the sending phase has one for each batch, whose attempts
are its events. A trace that the environment names (TRACEPARENT) is continued. Endpoint, headers, sampling and
limits are those of the standard variables. No attribute holds a secret (promise F).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from batchlic.errors import ExitCode
from batchlic.events import (
    AttemptEnded,
    LimitChanged,
    Phase,
    PhaseEnded,
    PhaseStarted,
    PlanReady,
    RunEnded,
    RunEvent,
    RunStarted,
    Warned,
)
from batchlic.figures import counted
from batchlic.logs import Redaction
from batchlic.monitoring.otel.endpoint import flush, resource

MOST_OPEN_BATCHES = 2000
"""Spans of batches that may be open. Beyond that, the oldest one ends."""
MOST_PLAIN_BATCHES = 200
"""Spans of batches that were accepted at once. In a larger plan, evenly spread ones stand for all of them:
100,000 spans would slow the run, and tracing systems cut off such a trace."""
_TEXT_LENGTH = 200


class RunTraces:
    """A subscriber that makes a trace of a run, and sends it."""

    def __init__(
        self, *, secrets: Iterable[str], began_at: int, environment: Mapping[str, str] = os.environ
    ) -> None:
        """`began_at` is when the run began, in nanoseconds since 1970."""
        self._redact = Redaction(secrets)
        self._exporter = _SpanExporter()
        self._provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("batchlic", version("batchlic"))
        names = ("traceparent", "tracestate")
        carrier = {name: environment[name.upper()] for name in names if name.upper() in environment}
        parent = TraceContextTextMapPropagator().extract(carrier)
        self._run = self._tracer.start_span("batchlic", context=parent, start_time=began_at)
        self._phases: list[tuple[Phase, Span]] = []
        self._batches: dict[tuple[int, str | None], _OpenBatch] = {}
        self._one_in = 1
        """Of how many batches that were accepted at once one has a span."""
        self._spans = 1

    @property
    def problems(self) -> list[str]:
        """Which spans did not arrive, as a sentence."""
        lost = (
            self._spans - self._exporter.delivered if self._run.get_span_context().trace_flags.sampled else 0
        )
        return [f"OpenTelemetry: {counted(lost, 'span')} did not arrive at the endpoint"] if lost else []

    def __call__(self, event: RunEvent) -> None:
        """Begin or end the spans that an event is about."""
        match event:
            case AttemptEnded():
                self._attempt(event)
            case RunStarted():
                self._begin(event)
            case PhaseStarted():
                self._phases.append((event.phase, self._start(event.phase.value, event.at)))
            case PhaseEnded():
                self._end_phase(event)
            case PlanReady():
                self._plan(event)
            case LimitChanged():
                attributes = {"found": event.found, "concurrency": event.concurrency}
                if event.account is not None:
                    attributes["account"] = event.account
                self._current.add_event("limit changed", _prefixed(attributes), event.at * 1000)
            case Warned():
                attributes = {"message": self._text(event.message)}
                self._run.add_event("warning", _prefixed(attributes), event.at * 1000)
            case RunEnded():
                self._end(event)
            case _:
                pass

    @property
    def _current(self) -> Span:
        return self._phases[-1][1] if self._phases else self._run

    def _start(
        self,
        name: str,
        at: int,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
    ) -> Span:
        self._spans += 1
        context = set_span_in_context(self._current)
        return self._tracer.start_span(name, context, kind, attributes, start_time=at * 1000)

    def _begin(self, event: RunStarted) -> None:
        self._run.update_name(f"batchlic {event.action}")
        fields = ("run_id", "job", "action", "carrier", "is_resumed")
        self._run.set_attributes(_prefixed({name: getattr(event, name) for name in fields}))

    def _plan(self, event: PlanReady) -> None:
        self._one_in = -(-event.batches // MOST_PLAIN_BATCHES) or 1
        attributes = {"rows_read": event.rows_read, "planned": event.planned, "batches": event.batches}
        self._run.set_attributes(_prefixed({**attributes, "plain_batch_spans_one_in": self._one_in}))

    def _attempt(self, event: AttemptEnded) -> None:
        is_accepted = event.outcome.value == "accepted"
        key = (event.batch_id, event.step)
        batch = self._batches.get(key)
        if batch is None:
            if is_accepted and event.attempt == 1 and event.batch_id % self._one_in:
                return
            batch = self._batches[key] = self._open(event)
        attributes = {
            "attempt": event.attempt,
            "outcome": event.outcome.value,
            "part": event.part or None,
            "x_request_id": event.x_request_id,
            "http_status": event.http_status,
            "duration_ms": event.duration_ms,
            "error_code": event.error_code and self._text(event.error_code),
        }
        batch.span.add_event("attempt", _prefixed(attributes), event.at * 1000)
        if is_accepted or event.is_final:
            batch.settle(event.devices, is_accepted=is_accepted)
            if batch.devices_left <= 0:
                self._batches.pop(key).end(event.at)

    def _open(self, event: AttemptEnded) -> "_OpenBatch":
        if len(self._batches) >= MOST_OPEN_BATCHES:
            self._batches.pop(next(iter(self._batches))).end(event.at)
        attributes = {"batch_id": event.batch_id, "step": event.step, "devices": event.devices}
        span = self._start("batch", event.started_at, SpanKind.CLIENT, _prefixed(attributes))
        return _OpenBatch(span, event.devices)

    def _end_phase(self, event: PhaseEnded) -> None:
        if self._phases and self._phases[-1][0] is event.phase:
            if event.phase is Phase.SENDING:
                self._end_batches(event.at)
            self._phases.pop()[1].end(event.at * 1000)

    def _end_batches(self, at: int) -> None:
        for batch in self._batches.values():
            batch.end(at)
        self._batches.clear()

    def _end(self, event: RunEnded) -> None:
        self._end_batches(event.at)
        while self._phases:
            self._phases.pop()[1].end(event.at * 1000)
        statuses = {f"devices.{status}": devices for status, devices in event.statuses.items()}
        self._run.set_attributes(_prefixed({"exit_code": event.exit_code, **statuses}))
        if event.exit_code != ExitCode.OK:
            self._run.set_status(StatusCode.ERROR, self._text(event.reason or f"exit code {event.exit_code}"))
        self._run.end(event.at * 1000)
        flush(self._provider.shutdown)

    def _text(self, text: str) -> str:
        """A text that may hold anything, without secrets and not too long."""
        cleaned: str = self._redact(None, "", {"text": text})["text"]
        return cleaned[:_TEXT_LENGTH]


@dataclass(slots=True)
class _OpenBatch:
    """The span of a batch until all of its devices have a final answer."""

    span: Span
    devices_left: int
    is_accepted: bool = True

    def settle(self, devices: int, *, is_accepted: bool) -> None:
        self.devices_left -= devices
        self.is_accepted = self.is_accepted and is_accepted

    def end(self, at: int) -> None:
        if self.devices_left > 0:
            self.span.set_status(StatusCode.ERROR, "no final answer in this session")
        elif not self.is_accepted:
            self.span.set_status(StatusCode.ERROR, "not all devices were accepted")
        self.span.end(at * 1000)


def _prefixed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"batchlic.{name}": value for name, value in attributes.items() if value is not None}


class _SpanExporter(OTLPSpanExporter):
    """Counts what arrives."""

    delivered = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self.delivered += len(spans)
        return result
