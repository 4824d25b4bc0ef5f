"""Metrics of runs that have ended, for a process that serves what it finds below a folder."""

from collections.abc import Iterable, Mapping

import msgspec

from batchlic.errors import ExitCode
from batchlic.monitoring import instruments as of
from batchlic.monitoring.prometheus import PrometheusMeter

_SHOWN = (of.ROWS_REJECTED, of.DEVICES_PLANNED, of.DEVICES, *of.LAST)


class FinishedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in figures, as its summary has them. `ended_at` is in seconds since 1970."""

    job: str
    action: str
    ended_at: float
    seconds: float
    exit_code: int
    planned: int
    statuses: Mapping[str, int]
    rejected: Mapping[str, int]


def exposition(runs: Iterable[FinishedRun]) -> bytes:
    """The last run of each job, and its last success, in the text format of Prometheus.

    Leave out runs against a sandbox: they would count as success of the job.
    """
    meter = PrometheusMeter(_SHOWN)
    last: dict[tuple[str, str], FinishedRun] = {}
    for run in sorted(runs, key=lambda run: run.ended_at):
        labels = (run.job, run.action)
        last[labels] = run
        if run.exit_code == ExitCode.OK:
            meter.set(of.LAST_SUCCESS, labels, run.ended_at)
    for labels, run in last.items():
        meter.set(of.LAST_RUN_END, labels, run.ended_at)
        meter.set(of.LAST_RUN_EXIT_CODE, labels, run.exit_code)
        meter.set(of.LAST_RUN_DURATION, labels, run.seconds)
        meter.set(of.DEVICES_PLANNED, labels, run.planned)
        for status, devices in run.statuses.items():
            meter.set(of.DEVICES, (*labels, status), devices)
        for reason, rows in run.rejected.items():
            meter.set(of.ROWS_REJECTED, (*labels, reason), rows)
    return meter.exposition()
