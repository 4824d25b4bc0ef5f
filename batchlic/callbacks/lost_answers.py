"""Counts the requests for each device whose answers were lost: the carrier may have executed them."""

from collections import Counter, defaultdict
from collections.abc import Iterator

import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.chunker import Step, parse_ranges
from batchlic.journal import JournalQueries, is_lost
from batchlic.reader.streaming import Schema
from batchlic.writer.outcomes import offsets_of

LOST_ANSWERS: Schema = {
    "batch_id": pl.UInt32(),
    "step": pl.String(),
    "offset": pl.Int64(),
    "lost": pl.UInt32(),
    "is_only_step": pl.Boolean(),
    "cleared_by": pl.String(),
}
"""The number of requests (`lost`) for a batch, or for one step of it, that have no known answer.

- `offset`: the place of the device in its batch; null: the row is about all devices of the batch.
- `is_only_step`: all lost requests are of this step, so a message about an unknown request is about it.
- `cleared_by`: the requestId of the accepted request that takes back the licenses which the lost requests may
  have assigned. Once that request is confirmed, the lost requests no longer count.
"""


def lost_answers(journal: JournalQueries) -> pl.DataFrame:
    """Return the lost answers of a run (columns LOST_ANSWERS)."""
    rows = _of_single_requests(journal) if journal.identity.to_sku is None else _of_migration(journal)
    return pl.DataFrame(list(rows), LOST_ANSWERS, orient="row")


def _of_single_requests(
    journal: JournalQueries,
) -> Iterator[tuple[int, None, int | None, int, bool, None]]:
    for batch_id, part, requests in journal.lost_answers():
        for offset in parse_ranges(part) if part else [None]:
            yield batch_id, None, offset, requests, True, None


def _of_migration(journal: JournalQueries) -> Iterator[tuple[int, str, int, int, bool, str | None]]:
    """Yield rows by device, because a message does not say which step it is about.

    A lost assign no longer counts once a later unassign (the step CLEAR) has taken its license back. An
    accepted CLEAR is not enough, because it can still fail. A late message about either request could be
    mistaken for one about a later request.
    """
    lost = Counter[tuple[int, str, int, str | None]]()
    steps = defaultdict[tuple[int, int], set[str]](set)
    for attempt in journal.attempts():
        step = str(attempt.step)
        if step != Step.CLEAR and not is_lost(attempt):
            continue
        for offset in offsets_of(attempt):
            if is_lost(attempt):
                lost[attempt.batch_id, step, offset, None] += 1
            elif attempt.outcome == Outcome.ACCEPTED:
                assign = attempt.batch_id, Step.ASSIGN.value, offset
                lost[*assign, attempt.request_id] += lost.pop((*assign, None), 0)
            steps[attempt.batch_id, offset].add(step)
    for (batch_id, step, offset, cleared_by), requests in lost.items():
        yield batch_id, step, offset, requests, len(steps[batch_id, offset]) == 1, cleared_by
