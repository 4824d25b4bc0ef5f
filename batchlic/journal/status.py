"""The status of the devices of a batch, by the batch's history (promises C and D)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from batchlic.carrier.answers import Outcome
from batchlic.chunker.status import DeviceStatus
from batchlic.journal.records import Settlement


class Answered(Protocol):
    """The fields of an attempt that `status_of` reads. Without a recorded answer, `outcome` is None."""

    @property
    def outcome(self) -> str | None: ...  # noqa: D102 - as in Attempt
    @property
    def final(self) -> bool | None: ...  # noqa: D102


def status_of(history: Iterable[Answered | Settlement]) -> DeviceStatus:
    """The status of a device after its history: the attempts that carried it and its settlements, in order.

    1. One accepted attempt makes the device accepted.
    2. A lost answer puts the device in doubt. A later refusal or throttling is only about its own attempt, so
       the device stays in doubt.
    3. Throttled, unavailable and unauthorized attempts were not executed and change nothing.
    4. A settlement replaces the status before it. After `pending`, the device is in doubt again as soon as a
       repetition is refused.
    """
    status, was_in_doubt = DeviceStatus.PENDING, False
    for event in history:
        if isinstance(event, Settlement):
            status = DeviceStatus(event.status)
        elif event.outcome == Outcome.ACCEPTED:
            return DeviceStatus.ACCEPTED
        elif is_lost(event):
            status, was_in_doubt = DeviceStatus.IN_DOUBT, True
        elif event.outcome == Outcome.REFUSED and event.final and status is DeviceStatus.PENDING:
            status = DeviceStatus.IN_DOUBT if was_in_doubt else DeviceStatus.FAILED
    return status


def is_lost(attempt: Answered) -> bool:
    """Whether the attempt may have been executed, and its answer is not known."""
    return attempt.outcome is None or attempt.outcome == Outcome.AMBIGUOUS
