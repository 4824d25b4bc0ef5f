"""Requests whose answers were lost: how many of each device may have been executed for all that is known."""

from collections import Counter, defaultdict
from collections.abc import Iterator

import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.chunker import parse_ranges
from batchlic.journal import Attempt, Journal
from batchlic.journal.steps import Step
from batchlic.writer.schemas import Schema

LOSSES: Schema = {
    "number": pl.UInt32(),
    "offset": pl.Int64(),
    "lost": pl.UInt32(),
    "is_alone": pl.Boolean(),
    "cleared_by": pl.String(),
}
"""How many requests for a batch, or for a step of it (`number`), had no known answer: for all of its devices
where `offset` is null. `is_alone`: a message about an unknown request can only be about one of these.
`cleared_by`: the request that took back what these may have given, void once it is known to be executed."""

_LOST = (None, Outcome.AMBIGUOUS)


def losses(journal: Journal) -> pl.DataFrame:
    """What was lost of a run (columns: LOSSES)."""
    batches = journal.identity.batches
    rows = list(_of_batches(journal) if journal.identity.to_sku is None else _of_steps(journal, batches))
    return pl.DataFrame(rows, LOSSES, orient="row")


def _of_batches(journal: Journal) -> Iterator[tuple[int, int | None, int, bool, None]]:
    for number, part, count in journal.lost_answers():
        for offset in parse_ranges(part) if part else [None]:
            yield number, offset, count, True, None


def _of_steps(journal: Journal, batches: int) -> Iterator[tuple[int, int | None, int, bool, str | None]]:
    """Of a migration, device by device: a message does not say which of its steps it is about.

    What a lost assign may have given is void once it was taken back. That the carrier has accepted to do so
    is not enough: it may fail yet. What is heard of either later could be taken for what came after.
    """
    lost = Counter[tuple[int, int, str | None]]()
    mixed = defaultdict[tuple[int, int], set[Step]](set)
    for attempt in journal.attempts():
        step, batch_id = Step.of(attempt.batch_id, batches)
        if step is not Step.CLEAR and attempt.outcome not in _LOST:
            continue
        for offset in _offsets(attempt):
            if attempt.outcome in _LOST:
                lost[attempt.batch_id, offset, None] += 1
            elif attempt.outcome == Outcome.ACCEPTED:
                assign = Step.ASSIGN.number(batch_id, batches)
                lost[assign, offset, attempt.request_id] += lost.pop((assign, offset, None), 0)
            mixed[batch_id, offset].add(step)
    for (number, offset, cleared_by), count in lost.items():
        is_alone = len(mixed[Step.of(number, batches)[1], offset]) == 1
        yield number, offset, count, is_alone, cleared_by


def _offsets(attempt: Attempt) -> list[int] | range:
    return parse_ranges(attempt.part) if attempt.part else range(attempt.device_count)
