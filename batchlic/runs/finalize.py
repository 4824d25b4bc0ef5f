"""How a session ends: its files are written from the journal and published, the ledger is updated.

The report comes last: whatever happens to it, the run has ended.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic, time_ns

import msgspec

from batchlic.atomic import staged_path
from batchlic.chunker import DeviceStatus
from batchlic.errors import BatchlicError, ExitCode
from batchlic.figures import time_in_files
from batchlic.job import Job
from batchlic.journal import Journal, JournalQueries, SessionEnd
from batchlic.objectstore.copies import save
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of
from batchlic.runs.kept import kept_of, with_note_on_kept
from batchlic.runs.ledger_sync import ledger_sync
from batchlic.runs.report_data import write_at_end
from batchlic.runs.signals import again_if_interrupted, finishing
from batchlic.runs.staging import publishing
from batchlic.writer.audit import write_audit
from batchlic.writer.callback_outcomes import read_outcomes
from batchlic.writer.device_states import device_states
from batchlic.writer.results import write_results
from batchlic.writer.summary import (
    InventoryRows,
    Summary,
    count_requests,
    exit_code_of,
    read_summary,
    write_summary,
)

_FINISHED = {ExitCode.OK, ExitCode.INCOMPLETE}

_UNDECIDED = {DeviceStatus.PENDING, DeviceStatus.IN_DOUBT}


def has_ended(journal: JournalQueries) -> bool:
    """Whether the run ended by itself, and has sent nothing since."""
    last = journal.session_ends()[-1:]
    return bool(last) and last[0].exit_code in _FINISHED and not journal.sent_since_end


def is_finished(journal: JournalQueries) -> bool:
    """Whether nothing is left to send: a settlement after the end sends nothing by itself.

    Exceptions are devices settled as pending, and the first step of a migration settled as accepted: the
    second step comes after it.
    """
    leads_to_requests = {DeviceStatus.PENDING}
    if journal.identity.to_sku is not None:
        leads_to_requests.add(DeviceStatus.ACCEPTED)
    return has_ended(journal) and not journal.settled_since_end & leads_to_requests


def final_summary(job: Job, folder: RunFolder, journal: Journal) -> Summary:
    """The summary of a finished run; files that are missing or out of date are written again."""
    if journal.final_session_end is not None and all(path.is_file() for path in folder.session_files):
        return read_summary(folder.summary)
    return finalize(job, folder, journal, began=monotonic())


def finalize(
    job: Job,
    folder: RunFolder,
    journal: Journal,
    *,
    began: float,
    stopped: BatchlicError | None = None,
    notes: Sequence[str] | None = None,
) -> Summary:
    """Write the files of a run as its journal has it, record and publish them, then update the ledger.

    `began` is the time of the monotonic clock when the session began: the other clock may have been set
    since. `stopped` is why the session ended early, if it did. `notes` go into the summary beside those of
    the run's identity; by default the notes of last time. Outcomes of callbacks may be staged already.

    The end of the session is recorded after its files are written: a run counts as finished only when they
    exist.
    """
    with finishing():
        session_notes = _earlier_notes(folder, journal) if notes is None else notes
        stage = partial(_stage, job, folder, journal, began=began, stopped=stopped, notes=session_notes)
        with publishing(folder, journal):
            summary = again_if_interrupted(stage)
        summary = again_if_interrupted(partial(_update_ledger, job, folder, journal, summary))
        return again_if_interrupted(partial(_write_report, job, folder, journal, summary))


def _stage(
    job: Job,
    folder: RunFolder,
    journal: Journal,
    *,
    began: float,
    stopped: BatchlicError | None,
    notes: Sequence[str],
) -> Summary:
    """Stage the files of the run, and record them in the journal."""
    outcomes = _staged_or_published(folder.outcomes)
    kept = kept_of(folder, journal.identity)
    states = device_states(folder.plan, journal, read_outcomes(outcomes), kept)
    statuses = write_results(staged_path(folder.results), states, kept)
    write_audit(staged_path(folder.audit), journal)
    if not statuses.keys() & _UNDECIDED and not is_bug(stopped):
        stopped = None  # everything was done before the stop took effect
    ended_at = now()
    started_at = ended_at - round((monotonic() - began) * 1e6)
    end = SessionEnd(started_at, ended_at, _exit_code(job, journal, statuses, stopped))
    summary = summarize(journal, statuses, end, stopped)
    unconfirmed = statuses.get(DeviceStatus.ACCEPTED, 0) if job.limits.require_confirmation else 0
    summary = msgspec.structs.replace(
        summary, unconfirmed=unconfirmed, notes=[*summary.notes, *with_note_on_kept(notes, kept)]
    )
    write_summary(staged_path(folder.summary), summary)
    recorded = [folder.rejects, *folder.session_files]
    if outcomes.exists():
        recorded.append(folder.outcomes)
    file_hashes = {path.name: sha256_of(_staged_or_published(path)) for path in recorded}
    save(folder.path)
    journal.end(end, file_hashes={**file_hashes, "identity": identity_sha256(journal)})
    return summary


def _update_ledger(job: Job, folder: RunFolder, journal: Journal, summary: Summary) -> Summary:
    """Record the run in the ledger; if that fails now, the next run of the ledger does it."""
    try:
        with ledger_sync(job, journal.identity.carrier, locked=(folder,)) as ledger:
            ledger.record(folder, journal)
    except BatchlicError as error:
        note = f"the ledger could not be updated; the next run reads this run's journal instead: {error}"
        return msgspec.structs.replace(summary, notes=[*summary.notes, note])
    return summary


def _write_report(job: Job, folder: RunFolder, journal: Journal, summary: Summary) -> Summary:
    """Write report.html if the job wants it; a failure is a note, and `batchlic report` can make it later."""
    if not job.report.write:
        return summary
    try:
        write_at_end(job, folder, journal, summary, made_at=now())
    except Exception as error:  # noqa: BLE001 - drawing and rendering never stop a run
        reason = str(error) if isinstance(error, BatchlicError) else type(error).__name__
        note = f"report.html could not be written; `batchlic report {folder.argument}` tries again: {reason}"
        return msgspec.structs.replace(summary, notes=[*summary.notes, note])
    return summary


def summarize(
    journal: JournalQueries,
    statuses: Mapping[DeviceStatus, int],
    final_session_end: SessionEnd | None,
    stopped: BatchlicError | None = None,
) -> Summary:
    """The run in figures; `final_session_end` is how it ended, None while a session is at work."""
    identity = journal.identity
    queries = {file.name: file.query for file in identity.inputs if file.query is not msgspec.UNSET}
    return Summary(
        run_id=identity.run_id,
        job=identity.job["name"] or identity.job_action,
        action=identity.job_action,
        carrier=identity.carrier,
        sources=[InventoryRows(name, rows, queries.get(name)) for name, rows in identity.sources],
        rows_read=identity.rows_read,
        rejected=identity.rejected,
        planned=identity.planned,
        statuses=dict(statuses),
        batches=identity.batches,
        requests=count_requests(journal),
        started_at=time_in_files(journal.created_at),
        finished_at=time_in_files(final_session_end.ended_at) if final_session_end else None,
        devices_per_second=journal.sending(final_session_end).devices_per_second,
        exit_code=final_session_end.exit_code if final_session_end else None,
        stopped_because=str(stopped) if stopped else None,
        notes=identity.notes,
    )


def is_bug(stopped: BatchlicError | None) -> bool:
    """Whether an unexpected error stopped the session."""
    return stopped is not None and stopped.exit_code is ExitCode.BUG


def identity_sha256(journal: JournalQueries) -> str:
    """SHA-256 of the run's identity, as JSON."""
    return hashlib.sha256(msgspec.json.encode(journal.identity)).hexdigest()


def now() -> int:
    """Microseconds since 1970."""
    return time_ns() // 1000


def _staged_or_published(path: Path) -> Path:
    return staged if (staged := staged_path(path)).exists() else path


def _earlier_notes(folder: RunFolder, journal: JournalQueries) -> list[str]:
    notes = read_summary(folder.summary).notes if folder.summary.is_file() else []
    return notes[len(journal.identity.notes) :]


def _exit_code(
    job: Job,
    journal: JournalQueries,
    statuses: Mapping[DeviceStatus, int],
    stopped: BatchlicError | None,
) -> ExitCode:
    if stopped:
        return stopped.exit_code
    rejected = sum(journal.identity.rejected.values())
    return exit_code_of(
        statuses,
        rejected=rejected,
        max_rejects=job.limits.max_rejects,
        require_confirmation=job.limits.require_confirmation,
    )
