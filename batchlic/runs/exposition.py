"""Metrics of the runs below a folder, for a server that Prometheus scrapes.

They need the extra `batchlic[metrics]`.
"""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from batchlic.errors import ExitCode
from batchlic.journal import SANDBOX
from batchlic.monitoring import instruments as of
from batchlic.monitoring.prometheus import PrometheusMeter
from batchlic.runs.folder import RunFolder
from batchlic.runs.listing import ListedRun, list_runs
from batchlic.runs.related import is_rollback

__all__ = ["CONTENT_TYPE", "exposition", "metrics_of_runs"]

_SHOWN = (of.ROWS_REJECTED, of.DEVICES_PLANNED, of.DEVICES, *of.LAST)


def metrics_of_runs(folder: Path) -> bytes:
    """The last run of each job below `folder`, and its last success, in the text format of Prometheus.

    Raises what `list_runs` raises.
    """
    return exposition(list_runs(folder))


def exposition(runs: Iterable[ListedRun]) -> bytes:
    """As `metrics_of_runs`. Rehearsals and rollbacks don't count, nor runs at work or that can't be read."""
    meter = PrometheusMeter(_SHOWN)
    last: dict[tuple[str, str], ListedRun] = {}
    for run in sorted(filter(_counts, runs), key=_ended_at):
        job = (run.job or "", run.action or "")
        last[job] = run
        if run.exit_code == ExitCode.OK:
            meter.set(of.LAST_SUCCESS, job, _ended_at(run))
    for job, run in last.items():
        meter.set(of.LAST_RUN_END, job, _ended_at(run))
        meter.set(of.LAST_RUN_EXIT_CODE, job, run.exit_code or ExitCode.OK)
        meter.set(of.LAST_RUN_DURATION, job, run.seconds or 0)
        meter.set(of.DEVICES_PLANNED, job, run.planned or 0)
        for status, devices in run.statuses.items():
            meter.set(of.DEVICES, (*job, status.value), devices)
        for reason, rows in run.rejected.items():
            meter.set(of.ROWS_REJECTED, (*job, reason), rows)
    return meter.exposition()


def _counts(run: ListedRun) -> bool:
    has_ended = run.ended_at is not None and run.exit_code is not None
    return has_ended and run.carrier != SANDBOX and not is_rollback(RunFolder(Path(run.run_dir)))


def _ended_at(run: ListedRun) -> float:
    """Seconds since 1970."""
    return datetime.fromisoformat(run.ended_at or "").timestamp()
