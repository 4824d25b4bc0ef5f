"""A run and its callbacks: what the store tells of its devices goes into outcomes, results and summary."""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import polars as pl

from batchlic.callbacks.losses import losses
from batchlic.callbacks.matching import DEVICES, LAST_TRY, ONE, latest_word, told_outcomes
from batchlic.callbacks.store import Store
from batchlic.runs.settle import parts_of
from batchlic.atomic import staged_path, replacing
from batchlic.runs.finalize import has_ended, now, finalize
from batchlic.errors import (
    BatchlicError,
    CredentialsRejected,
    ExitCode,
    RunFolderError,
    StoppedEarly,
)
from batchlic.runs.identity import job_of, refuse_changed_plan, sha256_of
from batchlic.journal import Journal, Standing, Verdict
from batchlic.journal.settlement import BY_CALLBACK
from batchlic.runs.ledger_sync import ledger_sync
from batchlic.runs.folder import RunFolder
from batchlic.runs.staging import recovered_journal
from batchlic.writer.results import read_outcomes, requested_rows
from batchlic.writer.schemas import UTC as UTC_TIME
from batchlic.writer.schemas import Schema
from batchlic.writer.summary import Summary, read_summary

POLL_EVERY = 2.0
"""Seconds between two looks into the store, where somebody waits."""

_DAY = 24 * 3600 * 1_000_000

_CLOCKS_APART = 3600 * 1_000_000
"""Microseconds that the listener's clock may be behind the run's; older messages are not even read."""

_ID: Schema = {"id": pl.Int64()}
_SUCCESS: Schema = dict.fromkeys(("request_id", "imei", "iccid", "account_name"), pl.String()) | {
    "received_at": pl.Int64()
}
_FAILURE: Schema = _SUCCESS | dict.fromkeys(("error_code", "error_message"), pl.String())
"""What matching needs of a message, as the store has it."""

_REQUESTS: Schema = {"request_id": pl.String()}

_MESSAGES: Schema = _FAILURE | {"received_at": UTC_TIME, "succeeded": pl.Boolean()}


def reconcile(folder: RunFolder, store: Store) -> Summary:
    """Match the store's messages with the run, and write its files again if that changes anything.

    What callbacks prove of devices in doubt is settled in the journal, so that nothing is sent for them any
    more; of a migration, the step that comes after is to be sent then. Raises RefusedToStart where the run is
    at work, RunFolderError where there is none, StoreError.
    """
    with folder.locked(), closing(recovered_journal(folder)) as journal:
        refuse_changed_plan(folder, journal.identity)
        job, rest = job_of(journal.identity), _rest(folder, journal)
        devices = _devices(folder, journal)
        outcomes = _outcomes(folder, journal, devices, store)
        if not outcomes.equals(_known(folder)):
            with ledger_sync(job, journal.identity.carrier, holding=(folder,)) as past:
                past.reopen(folder, journal)
            # The journal first: what was executed must not be sent again, even if we are killed here.
            _settle_doubts(folder, journal, devices, outcomes)
            with replacing(staged_path(folder.outcomes)) as path:
                outcomes.write_parquet(path)
        elif _is_written_down(folder, journal):
            return read_summary(folder.summary)
        return finalize(job, folder, journal, started_at=now(), stopped=rest)


def follow(folder: RunFolder, store: Store, *, patience: float | None) -> Summary:
    """Reconcile as messages come in, until every device is settled or for `patience` seconds."""
    ends_at = math.inf if patience is None else time.monotonic() + patience
    while True:
        began, seen = time.monotonic(), store.extent()
        summary = reconcile(folder, store)
        took = time.monotonic() - began
        while True:
            left = ends_at - time.monotonic()
            if is_settled(summary) or left <= 0:
                return summary
            time.sleep(min(left, max(POLL_EVERY, 2 * took)))
            if store.extent() != seen:
                break


def is_settled(summary: Summary) -> bool:
    """Whether no callback can change anything any more."""
    return not summary.statuses.keys() & {"accepted", "in_doubt", "pending"}


def unconfirmed(folder: RunFolder) -> pl.DataFrame:
    """`imei` and `iccid` of the accepted devices that had no callback until after the carrier's last try."""
    gone = pl.lit(datetime.now(UTC)) - pl.col("last_attempt_at") > LAST_TRY
    results = pl.scan_parquet(folder.results).filter((pl.col("status") == "accepted") & gone)
    return results.select("imei", "iccid").collect()


def _devices(folder: RunFolder, journal: Journal) -> pl.DataFrame:
    """The devices of the plan, as the carrier's answers alone have them (columns: DEVICES, `batch_size`)."""
    schema = DEVICES | {"batch_size": pl.UInt32()}
    kept = [pl.col(name).cast(kind) for name, kind in schema.items()]
    frames = (
        rows.select(kept).drop_nulls("status")
        for rows in requested_rows(folder.plan, journal.identity, journal.attempts)
    )
    return pl.concat([pl.DataFrame(schema=schema), *frames])


def _outcomes(folder: RunFolder, journal: Journal, devices: pl.DataFrame, store: Store) -> pl.DataFrame:
    """What the store's messages tell of the run (columns: OUTCOMES), and what others told before."""
    messages, lost = _messages(store, since=journal.created_at - _CLOCKS_APART), losses(journal)
    known = None if lost.is_empty() else _known_requests(folder, journal)
    told = told_outcomes(devices.lazy(), messages.lazy(), lost, known)
    return latest_word([_known(folder).lazy(), told]).collect()


def _messages(store: Store, *, since: int) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=_MESSAGES), *_read(store, since=since)])


def _read(store: Store, *, since: int) -> Iterator[pl.DataFrame]:
    for succeeded, columns in ((True, _SUCCESS), (False, _FAILURE)):
        for rows in store.read(list(columns), succeeded=succeeded, since=since):
            frame = pl.DataFrame(rows, schema=_ID | columns, orient="row").with_columns(
                pl.lit(succeeded).alias("succeeded"),
                *(pl.lit("").alias(name) for name in _FAILURE if name not in columns),
            )
            yield frame.select(pl.col(name).cast(kind) for name, kind in _MESSAGES.items())


def _known_requests(folder: RunFolder, journal: Journal) -> pl.LazyFrame | None:
    """`request_id` of this run's requests, and of those of runs beside it, but for long gone ones.

    Those were not at work any more a day before it began. An answer that was cut short may name its request:
    a message about that one tells of a lost answer of ours. None where one of the runs can't be read: then
    nobody knows whose a strange message is.
    """
    found = journal.request_ids(doubtful=False)
    outermost = folder
    while RunFolder(outermost.parent).journal.exists():  # a rollback lies in the folder of its run
        outermost = RunFolder(outermost.parent)
    for path in outermost.parent.rglob(folder.journal.name):
        files = (file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())
        is_recent = max(file.stat().st_mtime for file in files) * 1e6 > journal.created_at - _DAY
        if is_recent and not path.samefile(folder.journal):
            try:
                with closing(Journal.open(path)) as other:
                    found += other.request_ids()
            except RunFolderError:
                return None
    return pl.LazyFrame({"request_id": found}, _REQUESTS)


def _settle_doubts(
    folder: RunFolder, journal: Journal, devices: pl.DataFrame, outcomes: pl.DataFrame
) -> None:
    """Write down in the journal what became of devices in doubt, where it does not say so yet."""
    proven = (
        devices.filter(pl.col("status") == Standing.IN_DOUBT.value)
        .drop("status")
        .join(outcomes.with_columns(pl.col("status").replace(_VERDICTS)), on=ONE, nulls_equal=True)
        .select(*ONE, "number", "offset", "batch_size", "status")
    )
    if proven.is_empty():
        return
    settled = pl.concat(
        rows.filter(pl.col("settled_by") == BY_CALLBACK).select(*ONE, "status")
        for rows in requested_rows(folder.plan, journal.identity, journal.history)
    )
    new = proven.join(settled, on=[*ONE, "status"], how="anti", nulls_equal=True)
    by_number = new.sort("number", "offset").select("status", "offset", "batch_size", batch_id="number")
    for (verdict,), chosen in by_number.group_by("status", maintain_order=True):
        journal.settle(
            parts_of(chosen.with_columns(step=None), journal.identity.batches),
            Verdict(verdict),
            settled_by=BY_CALLBACK,
            reason=_REASON,
            settled_at=now(),
        )


_VERDICTS = {"confirmed": Verdict.ACCEPTED.value, "failed": Verdict.FAILED.value}
_REASON = "a callback came for a request whose answer was lost"


def _known(folder: RunFolder) -> pl.DataFrame:
    """What was told before (columns: OUTCOMES)."""
    return read_outcomes(folder.outcomes).collect()


def _is_written_down(folder: RunFolder, journal: Journal) -> bool:
    """Whether the files of the run say all that is known."""
    known = sha256_of(folder.outcomes) if folder.outcomes.exists() else None
    is_whole = all(path.is_file() for path in folder.session_files)
    return is_whole and journal.final_session_end is not None and journal.file_hashes().get(folder.outcomes.name) == known


def _rest(folder: RunFolder, journal: Journal) -> BatchlicError | None:
    """Why the run is not done, where it is not: callbacks change nothing about that."""
    if has_ended(journal):
        return None
    why = read_summary(folder.summary).stopped_because if folder.summary.is_file() else None
    ended = [] if journal.sent_since_end else journal.session_ends()
    is_rejected = bool(ended) and ended[-1].exit_code == ExitCode.CREDENTIALS
    kind = CredentialsRejected if is_rejected else StoppedEarly
    return kind(why or "the run was killed: resume it")
