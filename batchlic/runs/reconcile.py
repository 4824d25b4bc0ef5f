"""A run and its callbacks: what the messages in the store report goes into outcomes, results and summary."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC as UTC_ZONE
from datetime import datetime

import polars as pl

from batchlic.atomic import is_moved, staged_path
from batchlic.callbacks.identifiers import request_key
from batchlic.callbacks.lost_answers import lost_answers
from batchlic.callbacks.matching import (
    DEVICE_STEP,
    LAST_TRY,
    REQUESTS,
    first_outcomes,
    first_undecided,
    reports_of,
)
from batchlic.callbacks.store import Store
from batchlic.callbacks.verdicts import SUCCESS, with_verdicts
from batchlic.chunker import DeviceStatus, Step
from batchlic.errors import (
    BatchlicError,
    CredentialsRejected,
    ExitCode,
    NoAccess,
    RunFolderError,
    StoppedEarly,
)
from batchlic.journal import SETTLED_BY_CALLBACK, FilePlace, Journal, StorePlace
from batchlic.reader.scans import scan_parquet
from batchlic.reader.streaming import UTC, Schema
from batchlic.runs.finalize import finalize, has_ended, now
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import job_of, refuse_changed_plan, sha256_of
from batchlic.runs.ledger_sync import ledger_sync
from batchlic.runs.settle import parts_of
from batchlic.runs.signals import finishing, is_asked, wait
from batchlic.runs.staging import recovered_journal, remove_report
from batchlic.runs.states import recorded_reports
from batchlic.writer.callback_outcomes import (
    outcomes_of,
    read_reports,
    undecided_of,
    unjudged_of,
    write_reports,
)
from batchlic.writer.device_states import request_states
from batchlic.writer.summary import Summary, read_summary

POLL_EVERY = 2.0
"""Seconds between two reads of the store, where somebody waits."""

_DAY = 24 * 3600 * 1_000_000

_CLOCK_DIFFERENCE = 3600 * 1_000_000
"""Microseconds that the listener's clock may be behind the run's; older messages are not even read."""

_ID: Schema = {"id": pl.Int64()}
_TEXTS = ("request_id", "imei", "iccid", "further_ids", "account_name")
_PLAIN_SUCCESS: Schema = dict.fromkeys(_TEXTS, pl.String()) | {"received_at": pl.Int64()}
_FAULT: Schema = dict.fromkeys(("error_code", "error_message"), pl.String())
_OTHER: Schema = _PLAIN_SUCCESS | _FAULT | {"status": pl.String()}
"""What matching needs of a message, as the store has it."""

_KNOWN_REQUESTS: Schema = {"request_id": pl.String()}

_MESSAGES: Schema = _PLAIN_SUCCESS | _FAULT | {"received_at": UTC, "verdict": pl.String()}

_PLACED_REQUESTS: Schema = REQUESTS | {"batch_size": pl.UInt32()}


def reconcile(folder: RunFolder, store: Store) -> Summary:
    """Match the store's messages with the run, and write its files again if that changes anything.

    What callbacks prove about devices in doubt is settled in the journal, so that nothing is sent for them
    any more. In a migration, `resume` then sends the next step. Raises RefusedToStart where a session is at
    work, RunFolderError where there is no run, StoreError.
    """
    with finishing(), folder.locked(), closing(recovered_journal(folder)) as journal:
        began = time.monotonic()
        refuse_changed_plan(folder, journal.identity)
        job, stopped = job_of(journal.identity), _why_not_done(folder, journal)
        requests = _requests(folder, journal)
        earlier = recorded_reports(folder, journal).collect()
        reports = _reports(folder, journal, requests, store, earlier)
        if not reports.equals(earlier):
            with ledger_sync(job, journal.identity.carrier, locked=(folder,)) as ledger:
                ledger.reopen(folder, journal)
            remove_report(folder)
            # The journal first: what was executed must not be sent again, even after a kill right here.
            _settle_proven(folder, journal, requests, outcomes_of(reports.lazy()).collect())
            write_reports(staged_path(folder.outcomes), reports.lazy())
        elif _is_up_to_date(folder, journal):
            return read_summary(folder.summary)
        return finalize(job, folder, journal, began=began, stopped=stopped)


def follow(
    folder: RunFolder,
    store: Store,
    *,
    patience: float | None,
    is_over: Callable[[Summary], bool] | None = None,
) -> Summary:
    """Reconcile as messages come in, until every device is settled, or for `patience` seconds.

    `is_over` says what else ends the wait. A signal ends it, too.
    """
    is_over = is_over or is_settled
    ends_at = math.inf if patience is None else time.monotonic() + patience
    with finishing():
        while True:
            began, seen = time.monotonic(), store.extent()
            summary = reconcile(folder, store)
            is_done = is_over(summary)
            took = time.monotonic() - began
            while True:
                left = ends_at - time.monotonic()
                if is_done or left <= 0 or is_asked():
                    return summary
                wait(min(left, max(POLL_EVERY, 2 * took)))
                if store.extent() != seen:
                    break


def is_settled(summary: Summary) -> bool:
    """Whether no callback can change anything any more."""
    return not summary.statuses.keys() & _OPEN_STATUSES


_OPEN_STATUSES = {DeviceStatus.ACCEPTED, DeviceStatus.IN_DOUBT, DeviceStatus.PENDING}


def unconfirmed(folder: RunFolder) -> pl.DataFrame:
    """`imei` and `iccid` of the accepted devices without any callback after the carrier's last try."""
    is_overdue = pl.lit(datetime.now(UTC_ZONE)) - pl.col("last_attempt_at") > LAST_TRY
    is_accepted = pl.col("status") == DeviceStatus.ACCEPTED.value
    results = scan_parquet(folder.results).with_row_index("plan_row").filter(is_accepted & is_overdue)
    reported = undecided_of(read_reports(folder.outcomes)).select("plan_row")
    return results.join(reported, on="plan_row", how="anti").select("imei", "iccid").collect()


def has_reports(folder: RunFolder) -> bool:
    """Whether any callback about the run was reconciled."""
    return not read_reports(folder.outcomes).head(1).collect().is_empty()


def _requests(folder: RunFolder, journal: Journal) -> pl.DataFrame:
    """The requests for the run's devices, by the carrier's answers alone (columns: _PLACED_REQUESTS)."""
    columns = [pl.col(name).cast(kind) for name, kind in _PLACED_REQUESTS.items()]
    frames = (rows.select(columns).drop_nulls("status") for rows in request_states(folder.plan, journal))
    return pl.concat([pl.DataFrame(schema=_PLACED_REQUESTS), *frames])


def _reports(
    folder: RunFolder, journal: Journal, requests: pl.DataFrame, store: Store, earlier: pl.DataFrame
) -> pl.DataFrame:
    """What the store's messages report of the run, and what was reported before (columns: OUTCOMES)."""
    messages, lost = _messages(store, since=journal.created_at - _CLOCK_DIFFERENCE), lost_answers(journal)
    known_requests = None if lost.is_empty() else _known_requests(folder, journal)
    new = reports_of(requests, messages, lost, known_requests)
    outcomes = first_outcomes([outcomes_of(earlier.lazy()), new.outcomes]).collect().lazy()
    undecided = first_undecided([undecided_of(earlier.lazy()), new.undecided])
    open_undecided = undecided.join(
        outcomes, on=DEVICE_STEP, how="anti", nulls_equal=True, maintain_order="left"
    )
    unjudged = _unjudged(earlier.lazy(), new.unjudged, messages.lazy())
    return pl.concat([outcomes, open_undecided, unjudged]).collect()


def _unjudged(earlier: pl.LazyFrame, new: pl.LazyFrame, messages: pl.LazyFrame) -> pl.LazyFrame:
    """The messages that could not be judged: new ones, and earlier ones that the store no longer has."""
    key = request_key(pl.col("request_id"))
    stored = messages.select(key.alias("key"), "received_at")
    gone = unjudged_of(earlier).join(
        stored,
        left_on=[key, "settled_at"],
        right_on=["key", "received_at"],
        how="anti",
        maintain_order="left",
    )
    return pl.concat([gone, new])


def _messages(store: Store, *, since: int) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=_MESSAGES), *_read_messages(store, since=since)])


def _read_messages(store: Store, *, since: int) -> Iterator[pl.DataFrame]:
    for rows in store.read(list(_PLAIN_SUCCESS), plain_success=True, since=since):
        frame = pl.DataFrame(rows, schema=_ID | _PLAIN_SUCCESS, orient="row")
        empty = [pl.lit("").alias(name) for name in _FAULT]
        yield _typed(frame.with_columns(pl.lit(SUCCESS).alias("verdict"), *empty))
    for rows in store.read(list(_OTHER), plain_success=False, since=since):
        yield _typed(with_verdicts(pl.DataFrame(rows, schema=_ID | _OTHER, orient="row")))


def _typed(messages: pl.DataFrame) -> pl.DataFrame:
    return messages.select(pl.col(name).cast(kind) for name, kind in _MESSAGES.items())


def _known_requests(folder: RunFolder, journal: Journal) -> pl.LazyFrame | None:
    """`request_id` of the requests of this run and of the recent runs beside it.

    A run that was not at work in the day before this one began is not recent. An ambiguous answer of ours may
    still name its request: a message about that one reports one of our lost answers, so it is left out here.
    None where one of the runs can't be read: then nobody knows which run an unknown message is about.
    """
    found = journal.request_ids(of_lost_answers=False)
    outermost = folder
    while RunFolder(outermost.parent).journal.exists():  # a rollback lies in the folder of its run
        outermost = RunFolder(outermost.parent)
    if isinstance(folder.journal, StorePlace):
        found += folder.journal.request_ids_of_others(since=journal.created_at - _DAY)
    for path in outermost.parent.rglob(folder.journal_file.name):
        files = (file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())
        if any(map(is_moved, path.parts)):
            continue
        is_recent = max((file.stat().st_mtime for file in files), default=0) * 1e6 > journal.created_at - _DAY
        if is_recent and not path.parent.samefile(folder.path):
            try:
                with FilePlace(path).inspect() as other:
                    found += other.request_ids()
            except (RunFolderError, NoAccess):
                return None
    return pl.LazyFrame({"request_id": found}, _KNOWN_REQUESTS)


def _settle_proven(
    folder: RunFolder, journal: Journal, requests: pl.DataFrame, outcomes: pl.DataFrame
) -> None:
    """Settle in the journal what callbacks prove about devices in doubt, where it is not settled yet."""
    proven = (
        requests.filter(pl.col("status") == DeviceStatus.IN_DOUBT.value)
        .drop("status")
        .join(
            outcomes.with_columns(pl.col("status").replace(_PROVEN_STATUS)), on=DEVICE_STEP, nulls_equal=True
        )
        .select(*DEVICE_STEP, "batch_id", "offset", "batch_size", "status")
    )
    if proven.is_empty():
        return
    settled = pl.concat(
        rows.filter(pl.col("settled_by") == SETTLED_BY_CALLBACK).select(*DEVICE_STEP, "status")
        for rows in request_states(folder.plan, journal, with_settlements=True)
    )
    new = proven.join(settled, on=[*DEVICE_STEP, "status"], how="anti", nulls_equal=True)
    in_order = new.sort(pl.col("step").cast(pl.Enum([step.value for step in Step])), "batch_id", "offset")
    for (status,), devices in in_order.group_by("status", maintain_order=True):
        journal.settle(
            parts_of(devices),
            DeviceStatus(status),
            settled_by=SETTLED_BY_CALLBACK,
            reason=_REASON,
            settled_at=now(),
        )


_PROVEN_STATUS = {DeviceStatus.CONFIRMED.value: DeviceStatus.ACCEPTED.value}
_REASON = "a callback came for a request whose answer was lost"


def _is_up_to_date(folder: RunFolder, journal: Journal) -> bool:
    """Whether the files of the run hold everything that is known."""
    outcomes_hash = sha256_of(folder.outcomes) if folder.outcomes.exists() else None
    is_whole = all(path.is_file() for path in folder.session_files)
    is_recorded = journal.file_hashes().get(folder.outcomes.name) == outcomes_hash
    return is_whole and journal.final_session_end is not None and is_recorded


def _why_not_done(folder: RunFolder, journal: Journal) -> BatchlicError | None:
    """Why the run is not done; None where it is. Callbacks change nothing about that."""
    if has_ended(journal):
        return None
    reason = read_summary(folder.summary).stopped_because if folder.summary.is_file() else None
    ends = [] if journal.sent_since_end else journal.session_ends()
    is_rejected = bool(ends) and ends[-1].exit_code == ExitCode.CREDENTIALS
    kind = CredentialsRejected if is_rejected else StoppedEarly
    return kind(reason or "the run was killed; resume it")
