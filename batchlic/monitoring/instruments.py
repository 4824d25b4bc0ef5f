"""The metrics of a run: names, kinds and labels, for Prometheus and OpenTelemetry alike."""

from enum import StrEnum
from importlib.util import find_spec
from typing import Protocol

import msgspec

JOB_LABELS = ("job_name", "action")
"""Labels of each metric of a run. A label `job` would clash with the one that Prometheus adds to a target."""

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the buckets of durations."""

NO_METRICS = "metrics need prometheus-client, which is not installed: pip install 'batchlic[metrics]'"


def has_prometheus() -> bool:
    """If the extra `batchlic[metrics]` is installed."""
    return find_spec("prometheus_client") is not None


class Kind(StrEnum):
    """How the values of a metric develop."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Instrument(msgspec.Struct, frozen=True):
    """A metric: its name by the conventions of Prometheus, and its one label beside those of the job."""

    name: str
    kind: Kind
    help: str
    label: str | None = None


class Meter(Protocol):
    """Takes measurements. `labels` are the values of `label_names(instrument)`."""

    def add(self, instrument: Instrument, labels: tuple[str, ...], value: float = 1) -> None:
        """Increase a counter."""

    def set(self, instrument: Instrument, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""

    def observe(self, instrument: Instrument, labels: tuple[str, ...], value: float) -> None:
        """Add a value to a histogram."""


def label_names(instrument: Instrument) -> tuple[str, ...]:
    """The names of all labels of an instrument."""
    return (*JOB_LABELS, instrument.label) if instrument.label else JOB_LABELS


def _gauge(name: str, help_text: str, label: str | None = None) -> Instrument:
    return Instrument(f"batchlic_{name}", Kind.GAUGE, help_text, label)


BUILD_INFO = _gauge("build_info", "Always 1; the label is the version of batchlic.", "version")
RUN_ACTIVE = _gauge("run_active", "1 while a process works on the run, 0 after it.")
RUN_START = _gauge("run_start_timestamp_seconds", "When the process began to work on the run.")
RUN_PHASE = _gauge("run_phase", "1 for each phase that the run is in, 0 for the others.", "phase")
ROWS_READ = _gauge("rows_read", "Data rows of the inventories.")
ROWS_REJECTED = _gauge("rows_rejected", "Rows that are not planned, by reason.", "reason")
DEVICES_PLANNED = _gauge("devices_planned", "Devices of the plan.")
BATCHES_PLANNED = _gauge("batches_planned", "Batches of the plan.")
DEVICES = _gauge("devices", "Planned devices by status; the sum is batchlic_devices_planned.", "status")

REQUESTS = Instrument(
    "batchlic_requests_total",
    Kind.COUNTER,
    "Requests of this process with a recorded answer, by outcome.",
    "outcome",
)
REQUEST_DURATION = Instrument(
    "batchlic_request_duration_seconds", Kind.HISTOGRAM, "Time from sending a request to its answer."
)
REQUESTS_IN_FLIGHT = _gauge("requests_in_flight", "Requests that wait for an answer.")
LIMITER_RATE = _gauge("limiter_rate", "Requests per second that the carrier let in over the last seconds.")
LIMITER_CONCURRENCY = _gauge("limiter_concurrency", "Requests that the limiter allows in flight.")
LIMITER_PAUSED = _gauge("limiter_paused", "1 while all workers wait because the carrier asks for it.")

LAST_RUN_END = _gauge("last_run_timestamp_seconds", "When the last run ended.")
LAST_RUN_EXIT_CODE = _gauge("last_run_exit_code", "Exit code of the last run that ended.")
LAST_RUN_DURATION = _gauge("last_run_duration_seconds", "Duration of the last run that ended.")
LAST_SUCCESS = _gauge("last_success_timestamp_seconds", "When the last run with exit code 0 ended.")

LAST = (LAST_RUN_END, LAST_RUN_EXIT_CODE, LAST_RUN_DURATION, LAST_SUCCESS)
"""Metrics that hold until another run ends: a metrics file keeps them when the next run begins."""

INSTRUMENTS = (
    BUILD_INFO,
    RUN_ACTIVE,
    RUN_START,
    RUN_PHASE,
    ROWS_READ,
    ROWS_REJECTED,
    DEVICES_PLANNED,
    BATCHES_PLANNED,
    DEVICES,
    REQUESTS,
    REQUEST_DURATION,
    REQUESTS_IN_FLIGHT,
    LIMITER_RATE,
    LIMITER_CONCURRENCY,
    LIMITER_PAUSED,
    *LAST,
)
"""All metrics of a run."""
