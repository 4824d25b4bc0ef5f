"""The devices that may hold two licenses: their request was sent again after a lost answer."""

from collections.abc import Iterable

import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.journal import Attempt, JournalQueries, is_lost
from batchlic.reader.streaming import Schema
from batchlic.writer.outcomes import offsets_of

PLACES: Schema = {"batch_id": pl.UInt32(), "offset": pl.Int64()}
"""A device by its batch, and its place in that batch, from 0."""


def resent_devices(journal: JournalQueries) -> pl.DataFrame:
    """The devices whose request may have been executed, and one after it was or may have been, too.

    Columns: PLACES. There are none in a migration: it takes back what a lost request may have done before it
    goes on.
    """
    batches = {lost.batch_id for lost in journal.lost_answers()}
    if not batches or journal.identity.to_sku:
        return pl.DataFrame(schema=PLACES)
    attempts = journal.attempts(batches=range(min(batches), max(batches) + 1))
    is_sync = journal.identity.is_sync  # it also unassigns, which gives no second license
    places = _resent(
        attempt
        for attempt in attempts
        if attempt.batch_id in batches and not (is_sync and attempt.action == Action.UNASSIGN)
    )
    return pl.DataFrame(sorted(places), schema=PLACES, orient="row")


def _resent(attempts: Iterable[Attempt]) -> set[tuple[int, int]]:
    """Batch and offset of these devices."""
    lost, resent = set[tuple[int, int]](), set[tuple[int, int]]()
    for attempt in attempts:
        if not is_lost(attempt) and not _was_executed(attempt):
            continue
        devices = {(attempt.batch_id, offset) for offset in offsets_of(attempt)}
        resent |= lost & devices
        if is_lost(attempt):
            lost |= devices
    return resent


def _was_executed(attempt: Attempt) -> bool:
    """Whether the request itself was accepted. A trusted duplicate has no requestId."""
    return attempt.outcome == Outcome.ACCEPTED and attempt.request_id is not None
