"""Turns the events of a run into measurements."""

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version

from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode
from batchlic.events import (
    OUTCOMES,
    AttemptEnded,
    DevicesCounted,
    Phase,
    PhaseEnded,
    PhaseStarted,
    PlanReady,
    RateMeasured,
    RunEnded,
    RunEvent,
    RunStarted,
    SessionEnded,
)
from batchlic.monitoring import instruments as of
from batchlic.monitoring.instruments import Instrument, Meter


class RunMetrics:
    """A subscriber that measures a run.

    `labels` are the values of JOB_LABELS, if they are known before RunStarted: then a command that is refused
    before its run begins is measured, too.
    """

    def __init__(self, meter: Meter, labels: tuple[str, ...] = ()) -> None:
        self._meter = meter
        self._started: RunStarted | None = None
        self._labels = labels
        self._planned = 0
        self._excluded: Counter[str] = Counter()

    def __call__(self, event: RunEvent) -> None:
        """Measure what an event says."""
        if isinstance(event, AttemptEnded) and self._started is not None:  # first: most events are attempts
            self._meter.add(of.REQUESTS, (*self._labels, event.outcome.value))
            self._meter.observe(of.REQUEST_DURATION, self._labels, event.duration_ms / 1000)
        elif isinstance(event, RunStarted):
            self._begin(event)
        elif self._started is not None:
            self._measure(event, self._started)
        elif isinstance(event, RunEnded) and self._labels:
            self._remember(event, began_at=event.at)

    def _measure(self, event: RunEvent, started: RunStarted) -> None:
        match event:
            case RateMeasured():
                self._measure_rate(event)
            case DevicesCounted():
                self._count_devices(self._excluded + Counter[str](event.statuses))
            case PlanReady():
                self._plan(event)
            case PhaseStarted():
                self._set(of.RUN_PHASE, 1, event.phase.value)
            case PhaseEnded():
                self._set(of.RUN_PHASE, 0, event.phase.value)
            case SessionEnded():
                self._rest()
                self._count_devices(Counter[str](event.statuses))
            case RunEnded():
                self._end(event, started)
            case _:
                pass

    def _begin(self, event: RunStarted) -> None:
        self._started = event
        self._labels = (event.job, event.action)
        self._set(of.BUILD_INFO, 1, version("batchlic"))
        self._set(of.RUN_ACTIVE, 1)
        self._set(of.RUN_START, event.at / 1e6)
        for phase in Phase:
            self._set(of.RUN_PHASE, 0, phase.value)
        for outcome in OUTCOMES:
            self._meter.add(of.REQUESTS, (*self._labels, outcome.value), 0)
        self._rest()

    def _plan(self, event: PlanReady) -> None:
        self._planned, self._excluded = event.planned, Counter(event.excluded)
        self._set(of.ROWS_READ, event.rows_read)
        for reason, rows in event.rejected.items():
            self._set(of.ROWS_REJECTED, rows, reason)
        self._set(of.DEVICES_PLANNED, event.planned)
        self._set(of.BATCHES_PLANNED, event.batches)
        self._count_devices(self._excluded)

    def _measure_rate(self, event: RateMeasured) -> None:
        self._set(of.LIMITER_RATE, event.requests_per_s)
        self._set(of.LIMITER_CONCURRENCY, event.concurrency)
        self._set(of.LIMITER_PAUSED, int(event.is_paused))
        self._set(of.REQUESTS_IN_FLIGHT, event.in_flight)

    def _count_devices(self, statuses: Mapping[str, int]) -> None:
        """Set the devices by status; those that have none yet are pending."""
        others = sum(devices for status, devices in statuses.items() if status != DeviceStatus.PENDING)
        for status in DeviceStatus:
            self._set(of.DEVICES, statuses.get(status, 0), status.value)
        self._set(of.DEVICES, self._planned - others, DeviceStatus.PENDING.value)

    def _rest(self) -> None:
        """Nothing is sent now."""
        for instrument in (of.REQUESTS_IN_FLIGHT, of.LIMITER_RATE, of.LIMITER_PAUSED):
            self._set(instrument, 0)

    def _end(self, event: RunEnded, started: RunStarted) -> None:
        self._rest()
        self._set(of.RUN_ACTIVE, 0)
        for phase in Phase:
            self._set(of.RUN_PHASE, 0, phase.value)
        if event.statuses:
            self._count_devices(Counter[str](event.statuses))
        self._remember(event, began_at=started.at)

    def _remember(self, event: RunEnded, *, began_at: int) -> None:
        self._set(of.LAST_RUN_END, event.at / 1e6)
        self._set(of.LAST_RUN_EXIT_CODE, event.exit_code)
        self._set(of.LAST_RUN_DURATION, (event.at - began_at) / 1e6)
        if event.exit_code == ExitCode.OK:
            self._set(of.LAST_SUCCESS, event.at / 1e6)

    def _set(self, instrument: Instrument, value: float, label: str | None = None) -> None:
        labels = self._labels if label is None else (*self._labels, label)
        self._meter.set(instrument, labels, value)
