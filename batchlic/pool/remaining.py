"""What of a plan is still to be sent, given what its journal knows (promises C and D)."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import attrgetter

from batchlic.carrier.answers import Outcome
from batchlic.chunker import Batch, parse_ranges
from batchlic.journal import Attempt, Journal, Standing
from batchlic.journal.standing import standing_of

BATCHES_PER_LOOK = 500
"""Batches whose attempts are in memory at once (promise H)."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A batch, or what is left of one, to be seen through.

    `attempts` were already made to send exactly these devices; `is_refused` says that the last of them was
    refused as it stands, so that only parts may be sent.
    """

    batch: Batch
    attempts: int = 0
    is_refused: bool = False


def remaining(batches: Iterable[Batch], journal: Journal, resendable: Collection[str]) -> Iterator[Delivery]:
    """What is left to deliver of `batches`, in their order.

    Accepted and failed devices are left out, and those in doubt unless their SKU is `resendable`.
    """
    if journal.is_fresh:
        yield from map(Delivery, batches)
        return
    batches = iter(batches)
    while group := list(islice(batches, BATCHES_PER_LOOK)):
        attempts = journal.attempts(batches=range(group[0].batch_id, group[-1].batch_id + 1))
        of_batch = {key: list(found) for key, found in groupby(attempts, key=attrgetter("batch_id"))}
        for batch in group:
            yield from rest_of(batch, of_batch.get(batch.batch_id, []), resendable)


def rest_of(batch: Batch, attempts: list[Attempt], resendable: Collection[str]) -> Iterator[Delivery]:
    """What is left of one batch: its unsettled devices, grouped by the part that carried them last.

    A device in doubt that was refused for good since then stays in doubt: asking again is of no use.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for offsets, carriers in _fates(batch, attempts):
        last = carriers[-1] if carriers else None
        match standing_of(carriers):
            case Standing.PENDING:
                groups[last.part if last else ""].extend(offsets)
            case Standing.IN_DOUBT if last and not last.final and batch.sku_number in resendable:
                groups[last.part].extend(offsets)
    for offsets in groups.values():
        part = batch if len(offsets) == len(batch.offsets) else batch.take(offsets)
        of_part = [attempt for attempt in attempts if attempt.part == part.part]
        is_refused = bool(of_part) and of_part[-1].outcome == Outcome.REFUSED
        yield Delivery(part, attempts=len(of_part), is_refused=is_refused)


def _fates(batch: Batch, attempts: list[Attempt]) -> Iterator[tuple[Sequence[int], list[Attempt]]]:
    """Devices and the attempts that carried them: all together where the batch was never split."""
    if not any(attempt.part for attempt in attempts):
        yield batch.offsets, attempts
        return
    carried = [
        frozenset(parse_ranges(attempt.part) if attempt.part else batch.offsets) for attempt in attempts
    ]
    for offset in batch.offsets:
        yield (
            [offset],
            [attempt for attempt, offsets in zip(attempts, carried, strict=True) if offset in offsets],
        )
