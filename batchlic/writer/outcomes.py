"""What became of each device of a batch, from the attempts that carried it and what was decided of them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from batchlic.chunker import parse_ranges
from batchlic.journal import Attempt, Event, Settlement, Standing, Verdict
from batchlic.journal.status import standing_of


class DeviceOutcome(NamedTuple):
    """The fields of results.parquet that the history decides; times in microseconds since 1970, UTC.

    And `is_awaited`, which is none: it may have been executed, and is to be sent again all the same.
    """

    x_request_id: str
    request_id: str | None
    status: str
    http_status: int | None
    error_code: str | None
    error_message: str | None
    attempts: int
    first_attempt_at: int
    last_attempt_at: int
    settled_at: int | None
    settled_by: str | None
    is_awaited: bool


def outcomes_of_batches(history: Iterable[Event]) -> Iterator[tuple[int, int | None, DeviceOutcome]]:
    """Batch, offset and outcome; offset None speaks for every device of a batch that was never split.

    `history` comes batch by batch, in the order of its events.
    """
    for batch_id, group in groupby(history, key=attrgetter("batch_id")):
        of_batch = list(group)
        if all(event.part == "" for event in of_batch):
            yield batch_id, None, outcome_of(of_batch)
            continue
        for offset, of_device in _by_offset(of_batch).items():
            yield batch_id, offset, outcome_of(of_device)


def outcome_of(history: list[Event]) -> DeviceOutcome:
    """The outcome of a device of this history: at least one attempt that carried it comes first."""
    standing = standing_of(history)
    attempts = [event for event in history if isinstance(event, Attempt)]
    settlement = _settlement(history)
    decisive = _decisive(attempts, standing if settlement is None else Standing.IN_DOUBT)
    if settlement is not None:
        settled_at: int | None = settlement.settled_at
    elif standing in {Standing.ACCEPTED, Standing.FAILED} and decisive.duration_ms is not None:
        settled_at = decisive.started_at + round(decisive.duration_ms * 1000)
    else:
        settled_at = None
    return DeviceOutcome(
        x_request_id=decisive.x_request_id,
        request_id=decisive.request_id,
        status=standing.value,
        http_status=decisive.http_status,
        error_code=decisive.error_code,
        error_message=decisive.error_message,
        attempts=len(attempts),
        first_attempt_at=attempts[0].started_at,
        last_attempt_at=attempts[-1].started_at,
        settled_at=settled_at,
        settled_by=settlement.settled_by if settlement is not None else None,
        is_awaited=standing is Standing.PENDING
        and any(standing_of([attempt]) is Standing.IN_DOUBT for attempt in attempts),
    )


def _settlement(history: list[Event]) -> Settlement | None:
    """The operator's decision that stands; after `resend` nothing is settled."""
    last = history[-1]
    return last if isinstance(last, Settlement) and last.verdict != Verdict.RESEND else None


def _decisive(attempts: list[Attempt], standing: Standing) -> Attempt:
    """The attempt that made the standing what it is: the accepted or doubtful one, otherwise the last."""
    for attempt in attempts:
        if standing in {Standing.ACCEPTED, Standing.IN_DOUBT} and standing_of([attempt]) is standing:
            return attempt
    return attempts[-1]


def _by_offset(history: list[Event]) -> dict[int, list[Event]]:
    """The events that concern each device of a split batch; one of the whole batch concerns all of them.

    A device that no event concerns is not there: of a migration's second step, some may never be sent.
    """
    everyone = range(max((event.device_count for event in history if not event.part), default=0))
    of_device: defaultdict[int, list[Event]] = defaultdict(list)
    for event in history:
        for offset in parse_ranges(event.part) if event.part else everyone:
            of_device[offset].append(event)
    return of_device
