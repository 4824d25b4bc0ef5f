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
}
"""How many requests for a batch, or for a step of it (`number`), had no known answer: for all of its devices
where `offset` is null. `is_alone`: a message about an unknown request can only be about one of these."""

_LOST = (None, Outcome.AMBIGUOUS)


def losses(journal: Journal) -> pl.DataFrame:
    """What was lost of a run (columns: LOSSES)."""
    batches = journal.identity.batches
    rows = list(_of_batches(journal) if journal.identity.to_sku is None else _of_steps(journal, batches))
    return pl.DataFrame(rows, LOSSES, orient="row")


def _of_batches(journal: Journal) -> Iterator[tuple[int, int | None, int, bool]]:
    for number, part, count in journal.lost_answers():
        for offset in parse_ranges(part) if part else [None]:
            yield number, offset, count, True


def _of_steps(journal: Journal, batches: int) -> Iterator[tuple[int, int | None, int, bool]]:
    """Of a migration, device by device: a message does not say which of its steps it is about.

    What a lost assign may have given is void once it was taken back, so it does not count any more; what
    is heard of it later could be taken for what came after.
    """
    lost = Counter[tuple[int, int]]()
    mixed = defaultdict[tuple[int, int], set[Step]](set)
    for attempt in journal.attempts():
        step, batch_id = Step.of(attempt.batch_id, batches)
        if step is not Step.CLEAR and attempt.outcome not in _LOST:
            continue
        for offset in _offsets(attempt):
            if attempt.outcome in _LOST:
                lost[attempt.batch_id, offset] += 1
            mixed[batch_id, offset].add(step)
            if step is Step.CLEAR:
                lost.pop((Step.ASSIGN.number(batch_id, batches), offset), None)
    for (number, offset), count in lost.items():
        yield number, offset, count, len(mixed[Step.of(number, batches)[1], offset]) == 1


def _offsets(attempt: Attempt) -> list[int] | range:
    return parse_ranges(attempt.part) if attempt.part else range(attempt.device_count)
