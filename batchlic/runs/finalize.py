"""How a sitting of a run ends: results, audit and summary written from the journal, then sealed in it."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time_ns

import msgspec

from batchlic.atomic import staged_path
from batchlic.errors import BatchlicError, ExitCode
from batchlic.runs.identity import sha256_of
from batchlic.job import Job
from batchlic.journal import SessionEnd, Journal, Verdict
from batchlic.runs.ledger_sync import ledger_sync
from batchlic.runs.folder import RunFolder
from batchlic.runs.staging import publishing
from batchlic.writer.audit import write_audit
from batchlic.writer.results import write_results
from batchlic.writer.summary import (
    InventoryRows,
    Summary,
    count_requests,
    count_statuses,
    exit_code_of,
    read_summary,
    write_summary,
)

_FINISHED = {ExitCode.OK, ExitCode.INCOMPLETE}


def has_ended(journal: Journal) -> bool:
    """Whether the run ended by itself, and sent nothing since."""
    ended = journal.session_ends()[-1:]
    return bool(ended) and ended[0].exit_code in _FINISHED and not journal.sent_since_end


def is_finished(journal: Journal) -> bool:
    """Whether there is nothing to go on with: what was decided since the run ended sends nothing by itself.

    But for `resend`, and for the first step of a migration, after which comes the second.
    """
    sends = {Verdict.RESEND} if journal.identity.to_sku is None else {Verdict.RESEND, Verdict.ACCEPTED}
    return has_ended(journal) and not journal.settled_since_end & sends


def final_summary(job: Job, folder: RunFolder, journal: Journal) -> Summary:
    """The summary of a finished run; files that have gone, or say too little, are written again."""
    if journal.final_session_end is not None and all(path.is_file() for path in folder.session_files):
        return read_summary(folder.summary)
    return finalize(job, folder, journal, started_at=now())


def finalize(
    job: Job,
    folder: RunFolder,
    journal: Journal,
    *,
    started_at: int,
    stopped: BatchlicError | None = None,
    notes: Sequence[str] | None = None,
) -> Summary:
    """Write the files of a run as its journal has it, seal them there, then tell the ledger.

    `stopped` is why a sitting ended early, if it did; `notes` what is worth saying beside the identity's, by
    default what was noted last time. What callbacks told may have been written aside. The ending comes after
    the files: a run counts as finished only once they are there, in place or aside.
    """
    noted = _noted(folder, journal) if notes is None else notes
    with publishing(folder, journal):
        summary = _written(job, folder, journal, started_at=started_at, stopped=stopped, noted=noted)
    return _tell(job, folder, journal, summary)


def _written(
    job: Job,
    folder: RunFolder,
    journal: Journal,
    *,
    started_at: int,
    stopped: BatchlicError | None,
    noted: Sequence[str],
) -> Summary:
    """Write the files aside, and seal them."""
    results, outcomes = staged_path(folder.results), _newest(folder.outcomes)
    write_results(results, plan=folder.plan, journal=journal, outcomes=outcomes)
    write_audit(staged_path(folder.audit), journal=journal)
    statuses = count_statuses(results)
    if not statuses.keys() & {"pending", "in_doubt"}:
        stopped = None  # by then everything was done
    ending = SessionEnd(started_at, now(), _exit_code(job, journal, statuses, stopped))
    session_ends = [*journal.session_ends(), ending]
    summary = summarize(journal, statuses, session_ends, ending, stopped)
    summary = msgspec.structs.replace(summary, notes=[*summary.notes, *noted])
    write_summary(staged_path(folder.summary), summary)
    sealed = (folder.rejects, *folder.session_files, *([folder.outcomes] if outcomes.exists() else []))
    file_hashes = {path.name: sha256_of(_newest(path)) for path in sealed}
    journal.end(ending, file_hashes={**file_hashes, "identity": identity_sha256(journal)})
    return summary


def _tell(job: Job, folder: RunFolder, journal: Journal, summary: Summary) -> Summary:
    """Tell the ledger how it ended; what it can't take now, it asks for later."""
    try:
        with ledger_sync(job, journal.identity.carrier, holding=(folder,)) as past:
            past.record(folder, journal)
    except BatchlicError as error:
        note = f"the ledger could not be told, the next run will read it from here: {error}"
        return msgspec.structs.replace(summary, notes=[*summary.notes, note])
    return summary


def summarize(
    journal: Journal,
    statuses: dict[str, int],
    session_ends: list[SessionEnd],
    final_session_end: SessionEnd | None,
    stopped: BatchlicError | None = None,
) -> Summary:
    """The run in figures; `last_word` is how it ended, None while it has not."""
    identity = journal.identity
    seconds = sum(ending.ended_at - ending.started_at for ending in session_ends) / 1e6
    settled = sum(statuses.get(name, 0) for name in ("accepted", "confirmed", "failed"))
    return Summary(
        run_id=identity.run_id,
        job=identity.job["name"] or identity.job_action,
        action=identity.job_action,
        carrier=identity.carrier,
        sources=[InventoryRows(name, rows) for name, rows in identity.sources],
        rows_read=identity.rows_read,
        rejected=identity.rejected,
        planned=identity.planned,
        statuses=statuses,
        batches=identity.batches,
        requests=count_requests(journal),
        started_at=_iso(journal.created_at),
        finished_at=_iso(final_session_end.ended_at) if final_session_end else None,
        devices_per_second=round(settled / seconds, 1) if seconds else None,
        exit_code=final_session_end.exit_code if final_session_end else None,
        stopped_because=str(stopped) if stopped else None,
        notes=identity.notes,
    )


def identity_sha256(journal: Journal) -> str:
    """SHA-256 of what makes the run this run, as JSON."""
    return hashlib.sha256(msgspec.json.encode(journal.identity)).hexdigest()


def now() -> int:
    """Microseconds since 1970."""
    return time_ns() // 1000


def _newest(path: Path) -> Path:
    return written if (written := staged_path(path)).exists() else path


def _noted(folder: RunFolder, journal: Journal) -> list[str]:
    notes = read_summary(folder.summary).notes if folder.summary.is_file() else []
    return notes[len(journal.identity.notes) :]


def _exit_code(
    job: Job, journal: Journal, statuses: dict[str, int], stopped: BatchlicError | None
) -> ExitCode:
    if stopped:
        return stopped.exit_code
    rejected = sum(journal.identity.rejected.values())
    return exit_code_of(statuses, rejected=rejected, max_rejects=job.limits.max_rejects)


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="milliseconds")
