"""The outcomes of the devices of a batch, from its history: attempts that carried them, and settlements."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from batchlic.chunker import DeviceStatus, parse_ranges
from batchlic.journal import Attempt, Event, Settlement, status_of


class DeviceOutcome(NamedTuple):
    """Columns of results.parquet whose values come from the history. Times: microseconds since 1970, UTC.

    Two of them are no columns. `awaits_resend`: the device was settled as pending, although it may have its
    license, and has no definite answer since then. `is_refused`: the last answer about the device was a
    refusal, whatever its status.
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
    awaits_resend: bool
    is_refused: bool


class BatchOutcome(NamedTuple):
    """The outcome of one step of a batch: of the device at `offset`, or of all its devices if that is None.

    `step` is None in a run that is not a migration.
    """

    batch_id: int
    step: str | None
    offset: int | None
    outcome: DeviceOutcome


def batch_outcomes(history: Iterable[Event]) -> Iterator[BatchOutcome]:
    """The outcomes of batches, step by step: one outcome for a whole batch if it was never split.

    `history` is sorted by batch; the events of a batch are in their order.
    """
    for batch_id, events in groupby(history, key=attrgetter("batch_id")):
        by_step = defaultdict[str | None, list[Event]](list)
        for event in events:
            by_step[event.step].append(event)
        for step, of_step in by_step.items():
            if all(event.part == "" for event in of_step):
                yield BatchOutcome(batch_id, step, None, outcome_of(of_step))
                continue
            for offset, of_device in _by_offset(of_step).items():
                yield BatchOutcome(batch_id, step, offset, outcome_of(of_device))


def count_statuses(history: Iterable[Event]) -> Counter[DeviceStatus]:
    """The devices of batches with a history, by status, without their plan. Not for migrations.

    `history` is as in `batch_outcomes`.
    """
    statuses: Counter[DeviceStatus] = Counter()
    for _, events in groupby(history, key=attrgetter("batch_id")):
        of_batch = list(events)
        if all(event.part == "" for event in of_batch):
            statuses[status_of(of_batch)] += max(event.device_count for event in of_batch)
        else:
            statuses.update(map(status_of, _by_offset(of_batch).values()))
    return statuses


def outcome_of(history: Sequence[Event]) -> DeviceOutcome:
    """The outcome of a device with this history, which begins with an attempt."""
    status = status_of(history)
    attempts = [event for event in history if isinstance(event, Attempt)]
    settlement = _settlement(history)
    decisive = _decisive(attempts, status if settlement is None else DeviceStatus.IN_DOUBT)
    if settlement is not None:
        settled_at: int | None = settlement.settled_at
    elif status in {DeviceStatus.ACCEPTED, DeviceStatus.FAILED} and decisive.duration_ms is not None:
        settled_at = decisive.started_at + round(decisive.duration_ms * 1000)
    else:
        settled_at = None
    return DeviceOutcome(
        x_request_id=decisive.x_request_id,
        request_id=decisive.request_id,
        status=status.value,
        http_status=decisive.http_status,
        error_code=decisive.error_code,
        error_message=decisive.error_message,
        attempts=len(attempts),
        first_attempt_at=attempts[0].started_at,
        last_attempt_at=attempts[-1].started_at,
        settled_at=settled_at,
        settled_by=settlement.settled_by if settlement is not None else None,
        awaits_resend=status is DeviceStatus.PENDING
        and any(status_of([attempt]) is DeviceStatus.IN_DOUBT for attempt in attempts),
        is_refused=bool(attempts[-1].is_refusal),
    )


def offsets_of(attempt: Attempt) -> Sequence[int]:
    """The places in the batch, from 0, of the devices that an attempt carried."""
    return parse_ranges(attempt.part) if attempt.part else range(attempt.device_count)


def _settlement(history: Sequence[Event]) -> Settlement | None:
    """The last event, if it is a settlement that decides the status; None if it says to send again."""
    last = history[-1]
    return last if isinstance(last, Settlement) and last.status != DeviceStatus.PENDING else None


def _decisive(attempts: Sequence[Attempt], status: DeviceStatus) -> Attempt:
    """The attempt that decided the status: the first accepted or lost one, or for other statuses the last."""
    for attempt in attempts:
        if status in {DeviceStatus.ACCEPTED, DeviceStatus.IN_DOUBT} and status_of([attempt]) is status:
            return attempt
    return attempts[-1]


def _by_offset(history: Sequence[Event]) -> dict[int, list[Event]]:
    """The events about each device of a split batch, which include the events about the whole batch.

    Devices without events are left out: some are never sent for the second step of a migration.
    """
    whole_batch = range(max((event.device_count for event in history if not event.part), default=0))
    by_offset: defaultdict[int, list[Event]] = defaultdict(list)
    for event in history:
        for offset in parse_ranges(event.part) if event.part else whole_batch:
            by_offset[offset].append(event)
    return by_offset
