"""How many requests for each device lost their answers, and so may have been executed."""

from collections import Counter, defaultdict
from collections.abc import Iterator

import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.chunker import Step, parse_ranges
from batchlic.journal import Attempt, JournalQueries, is_lost
from batchlic.reader.streaming import Schema

LOST_ANSWERS: Schema = {
    "batch_id": pl.UInt32(),
    "step": pl.String(),
    "offset": pl.Int64(),
    "lost": pl.UInt32(),
    "is_only_step": pl.Boolean(),
    "cleared_by": pl.String(),
}
"""How many requests for a batch, or for one step of it, have no known answer.

They are about all devices of the batch where `offset` is null. `is_only_step`: all that was lost is of this
one step, so a message about an unknown request can only be about it. `cleared_by`: the requestId of the
request that took back what the lost ones may have given; once that is known to be executed, they are void.
"""


def lost_answers(journal: JournalQueries) -> pl.DataFrame:
    """The lost answers of a run (columns: LOST_ANSWERS)."""
    rows = _of_single_requests(journal) if journal.identity.to_sku is None else _of_migration(journal)
    return pl.DataFrame(list(rows), LOST_ANSWERS, orient="row")


def _of_single_requests(
    journal: JournalQueries,
) -> Iterator[tuple[int, None, int | None, int, bool, None]]:
    for batch_id, part, requests in journal.lost_answers():
        for offset in parse_ranges(part) if part else [None]:
            yield batch_id, None, offset, requests, True, None


def _of_migration(journal: JournalQueries) -> Iterator[tuple[int, str, int, int, bool, str | None]]:
    """Device by device, because a message does not say which step it is about.

    What a lost assign may have given is void once it was cleared. An accepted clearing is not enough: it may
    still fail. A message about either that comes later could be mistaken for one about what came after.
    """
    lost = Counter[tuple[int, str, int, str | None]]()
    steps = defaultdict[tuple[int, int], set[str]](set)
    for attempt in journal.attempts():
        step = str(attempt.step)
        if step != Step.CLEAR and not is_lost(attempt):
            continue
        for offset in _offsets(attempt):
            if is_lost(attempt):
                lost[attempt.batch_id, step, offset, None] += 1
            elif attempt.outcome == Outcome.ACCEPTED:
                assign = attempt.batch_id, Step.ASSIGN.value, offset
                lost[*assign, attempt.request_id] += lost.pop((*assign, None), 0)
            steps[attempt.batch_id, offset].add(step)
    for (batch_id, step, offset, cleared_by), requests in lost.items():
        yield batch_id, step, offset, requests, len(steps[batch_id, offset]) == 1, cleared_by


def _offsets(attempt: Attempt) -> list[int] | range:
    return parse_ranges(attempt.part) if attempt.part else range(attempt.device_count)
