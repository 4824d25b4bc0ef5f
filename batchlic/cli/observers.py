"""The observers that a command attaches to its run."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING

from batchlic.cli.output import print_notice, print_warning
from batchlic.cli.verbosity import QUIET, VERBOSE, verbosity

if TYPE_CHECKING:
    from batchlic.events import EventStream, RunEvent
    from batchlic.job import Job, MetricsUse
    from batchlic.monitoring.otel.metrics import OtlpMetrics
    from batchlic.monitoring.otel.traces import RunTraces
    from batchlic.monitoring.prometheus import PrometheusMeter


@contextmanager
def observers(metrics: "MetricsUse", job: "Job | None" = None) -> Iterator["EventStream"]:
    """The events of a run in the block; afterward print what went wrong with observers.

    `job` is that of the run, if it is known before the run begins.
    """
    from batchlic.events import EventStream

    events = EventStream()
    metrics = _possible(metrics)
    try:
        with (
            _progress(events),
            _details(events),
            _metrics(events, metrics, job),
            _opentelemetry(events, _labels(job)),
        ):
            yield events
    finally:
        for problem in events.problems:
            print_warning(problem)


@contextmanager
def _progress(events: "EventStream") -> Iterator[None]:
    """Show the progress of the block, unless the command is quiet."""
    if verbosity() == QUIET:
        yield
        return
    from contextlib import closing

    from batchlic.monitoring.progress import Progress

    with closing(Progress()) as progress, events.attached("progress", progress):
        yield


@contextmanager
def _details(events: "EventStream") -> Iterator[None]:
    """Show the events of the run's log on stderr, if the command is verbose."""
    if verbosity() != VERBOSE:
        yield
        return
    from batchlic.logs import details
    from batchlic.monitoring.run_log import LogWriter

    with events.attached("--verbose", LogWriter(details(secrets=_secrets()))):
        yield


def _possible(metrics: "MetricsUse") -> "MetricsUse":
    """The metrics that can be written: none without the library, since an observer must not stop a run."""
    if metrics.file is None and metrics.port is None:
        return metrics
    from batchlic.monitoring.instruments import NO_METRICS, has_prometheus

    if has_prometheus():
        return metrics
    print_warning(f"the job's {NO_METRICS}. The run goes on without metrics.")
    return metrics.model_copy(update={"file": None, "port": None})


@contextmanager
def _metrics(events: "EventStream", metrics: "MetricsUse", job: "Job | None") -> Iterator[None]:
    """Measure the block once, for a file and for a server."""
    if metrics.file is None and metrics.port is None:
        yield
        return
    from pathlib import Path

    from batchlic.events import EventStream
    from batchlic.monitoring.prometheus import MetricsFile, PrometheusMeter
    from batchlic.monitoring.run_metrics import RunMetrics

    meter = PrometheusMeter()
    measure = RunMetrics(meter, _labels(job))
    with _metrics_server(meter, metrics.port):
        if metrics.file is None:
            with events.attached("metrics", measure):
                yield
            return
        file = MetricsFile(Path(metrics.file), meter, _labels(job))
        measured = EventStream()  # a disk that hangs must not hold back what the server shows

        def pass_on(event: "RunEvent") -> None:
            measure(event)
            if file.is_due(event):
                measured.emit(event)

        try:
            with (
                measured.attached(f"--metrics-file {metrics.file}", file),
                events.attached("metrics", pass_on),
            ):
                yield
        finally:
            events.problems += [*measured.problems, *file.problems]


def _labels(job: "Job | None") -> tuple[str, ...]:
    """The values of JOB_LABELS, if the job is known."""
    return (job.name or job.action, job.action) if job is not None else ()


@contextmanager
def _metrics_server(meter: "PrometheusMeter", port: int | None) -> Iterator[None]:
    """Serve the metrics of the block on this machine. A port that is in use is a warning, not an error."""
    if port is None:
        yield
        return
    from contextlib import closing

    from batchlic.monitoring.prometheus import HOST, MetricsServer

    try:
        server = MetricsServer(meter, port)
    except OSError as error:
        print_warning(f"--metrics-port {port}: can't listen on {HOST}: {error.strerror}")
        yield
        return
    print_notice(f"Metrics of this run: {server.url}")
    with closing(server):
        yield


@contextmanager
def _opentelemetry(events: "EventStream", labels: tuple[str, ...]) -> Iterator[None]:
    """Send what the standard variables of OpenTelemetry ask for. What is wrong with them is no error."""
    from batchlic.monitoring.otel.settings import wanted

    traces, metrics = wanted("traces", os.environ), wanted("metrics", os.environ)
    events.problems += dict.fromkeys(filter(None, (traces.problem, metrics.problem)))
    subscribers = [
        *([_Late(partial(_traces, _secrets(), time_ns()))] if traces.is_on else []),
        *([_Late(partial(_otlp_metrics, labels))] if metrics.is_on else []),
    ]
    try:
        with ExitStack() as attached:
            for subscriber in subscribers:
                attached.enter_context(events.attached("OpenTelemetry", subscriber))
            yield
    finally:
        events.problems += dict.fromkeys(problem for one in subscribers for problem in one.problems)


class _Late:
    """A subscriber that is made in its own thread, by the first event: importing its library takes long."""

    def __init__(self, make: "Callable[[], RunTraces | OtlpMetrics]") -> None:
        self._make = make
        self._is_made = False
        self._subscriber: RunTraces | OtlpMetrics | None = None
        self._problem: str | None = None

    @property
    def problems(self) -> list[str]:
        """What went wrong, as sentences."""
        found = self._subscriber.problems if self._subscriber is not None else []
        return [self._problem, *found] if self._problem else found

    def __call__(self, event: "RunEvent") -> None:
        """Pass an event on; drop it if the library is missing or can't start."""
        if not self._is_made:
            self._is_made = True
            try:
                self._subscriber = self._make()
            except ImportError:
                reason = "an OTEL_ variable names an endpoint, but batchlic has no OpenTelemetry"
                self._problem = f"{reason}: pip install 'batchlic[otel]'"
            except Exception as error:  # noqa: BLE001 - a wrong OTEL_ variable must not stop a run
                kind = type(error).__name__  # not its text: it may quote a variable with a secret (promise F)
                self._problem = f"OpenTelemetry can't start with these OTEL_ variables ({kind})"
        if self._subscriber is not None:
            self._subscriber(event)


def _traces(secrets: list[str], began_at: int) -> "RunTraces":
    from batchlic.monitoring.otel.endpoint import silence_library
    from batchlic.monitoring.otel.traces import RunTraces

    silence_library()
    return RunTraces(secrets=secrets, began_at=began_at)


def _otlp_metrics(labels: tuple[str, ...]) -> "OtlpMetrics":
    from batchlic.monitoring.otel.endpoint import silence_library
    from batchlic.monitoring.otel.metrics import OtlpMetrics

    silence_library()
    return OtlpMetrics(labels)


def _secrets() -> list[str]:
    """Texts that must not leave this machine. If the settings are wrong, the run says so itself."""
    from batchlic.errors import BatchlicError
    from batchlic.settings import load_settings

    try:
        return load_settings().secrets()
    except BatchlicError:
        return []
