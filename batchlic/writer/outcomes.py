"""What became of each device of a batch, from the attempts that carried it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from batchlic.chunker import parse_ranges
from batchlic.journal import Attempt, Standing
from batchlic.journal.standing import standing_of


@dataclass(frozen=True, slots=True)
class DeviceOutcome:
    """The fields of results.parquet that attempts decide; times in microseconds since 1970, UTC."""

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


def outcomes_of_batches(attempts: Iterable[Attempt]) -> Iterator[tuple[int, int | None, DeviceOutcome]]:
    """Batch, offset and outcome; offset None speaks for every device of a batch that was never split.

    `attempts` come batch by batch, in the order they were made.
    """
    for batch_id, group in groupby(attempts, key=attrgetter("batch_id")):
        of_batch = list(group)
        if all(attempt.part == "" for attempt in of_batch):
            yield batch_id, None, outcome_of(of_batch)
            continue
        for offset, of_device in _by_offset(of_batch).items():
            yield batch_id, offset, outcome_of(of_device)


def outcome_of(attempts: list[Attempt]) -> DeviceOutcome:
    """The outcome of a device that these attempts carried, at least one, in the order they were made."""
    standing = standing_of(attempts)
    decisive = _decisive(attempts, standing)
    is_settled = standing in {Standing.ACCEPTED, Standing.FAILED} and decisive.duration_ms is not None
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
        settled_at=decisive.started_at + round((decisive.duration_ms or 0) * 1000) if is_settled else None,
    )


def _decisive(attempts: list[Attempt], standing: Standing) -> Attempt:
    """The attempt that made the standing what it is: the accepted or doubtful one, otherwise the last."""
    for attempt in attempts:
        if standing in {Standing.ACCEPTED, Standing.IN_DOUBT} and standing_of([attempt]) is standing:
            return attempt
    return attempts[-1]


def _by_offset(attempts: list[Attempt]) -> dict[int, list[Attempt]]:
    """The attempts that carried each device of a split batch; one of the whole batch carried all of them."""
    size = max(attempt.device_count for attempt in attempts)
    carried: dict[int, list[Attempt]] = {offset: [] for offset in range(size)}
    for attempt in attempts:
        for offset in parse_ranges(attempt.part) if attempt.part else range(size):
            carried[offset].append(attempt)
    return carried


def as_row(outcome: DeviceOutcome) -> tuple[Any, ...]:
    """The fields of an outcome in their order."""
    return tuple(getattr(outcome, name) for name in DeviceOutcome.__slots__)
