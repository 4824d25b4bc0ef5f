"""The events at the beginning and at the end of a run."""

from collections.abc import Callable

from batchlic.aliases import shown
from batchlic.carrier.answers import Outcome
from batchlic.errors import BatchlicError, Declined, ExitCode
from batchlic.events import EventStream, PlanReady, RunEnded, RunStarted
from batchlic.job import Job
from batchlic.journal import RunIdentity
from batchlic.runs.explained import explained
from batchlic.runs.folder import RunFolder
from batchlic.runs.signals import Interrupted, is_ctrl_c
from batchlic.writer.summary import Summary


def run_started(
    job: Job, folder: RunFolder, carrier: str, run_id: str, *, is_resumed: bool = False
) -> RunStarted:
    """The event for a command that begins to work on a run."""
    return RunStarted(
        run_id=run_id,
        job=job.name or job.action,
        action=job.action,
        carrier=carrier,
        folder=shown(str(folder.path)),
        is_resumed=is_resumed,
    )


def plan_ready(identity: RunIdentity) -> PlanReady:
    """The event for the plan of a run."""
    return PlanReady(
        rows_read=identity.rows_read,
        rejected=identity.rejected,
        planned=identity.planned,
        excluded=identity.excluded,
        batches=identity.batches,
        notes=tuple(identity.notes),
    )


def observed(events: EventStream, work: Callable[[], Summary]) -> Summary:
    """Do the work of a command on a run, and emit how the command ends, whatever happens."""
    try:
        with explained():
            summary = work()
    except BatchlicError as error:
        is_by_person = isinstance(error, Declined) or (isinstance(error, Interrupted) and is_ctrl_c())
        events.emit(RunEnded(exit_code=error.exit_code, reason=str(error), is_by_person=is_by_person))
        raise
    except BaseException as error:
        reason = f"unexpected error ({type(error).__name__})"  # its text may hold a secret (promise F)
        events.emit(RunEnded(exit_code=ExitCode.BUG, reason=reason))
        raise
    events.emit(_run_ended(summary))
    return summary


def _run_ended(summary: Summary) -> RunEnded:
    return RunEnded(
        exit_code=summary.exit_code or ExitCode.OK,
        reason=summary.stopped_because,
        is_by_person=summary.exit_code == ExitCode.STOPPED and is_ctrl_c(),
        statuses=summary.statuses,
        rows_read=summary.rows_read,
        rejected=summary.rejected,
        requests=summary.requests["total"],
        throttled=summary.requests.get(Outcome.THROTTLED.value, 0),
        devices_per_second=summary.devices_per_second,
        notes=tuple(summary.notes),
    )
