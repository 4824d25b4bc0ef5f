"""Where the devices of a batch stand, as the journal tells it (promises C and D)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from batchlic.carrier.answers import Outcome


class Standing(Enum):
    """What is known of the devices of one part of a batch."""

    PENDING = "pending"
    """Surely not executed, and still to be sent."""
    IN_DOUBT = "in_doubt"
    """May have been executed; the answer is not known."""
    ACCEPTED = "accepted"
    """The carrier took it. Never sent again."""
    FAILED = "failed"
    """The carrier refused it for good. Never sent again."""


class Answered(Protocol):
    """What the rule below reads of an attempt; `outcome` is None where no answer was recorded."""

    @property
    def outcome(self) -> str | None: ...  # noqa: D102 - said above
    @property
    def final(self) -> bool | None: ...  # noqa: D102


def standing_of(attempts: Iterable[Answered]) -> Standing:
    """Where a device stands after all the attempts that carried it, in the order they were made.

    Accepted once is accepted. A doubt is not taken away by a later refusal or throttling: those speak only
    of their own attempt. Throttled, unavailable and unauthorized attempts were not executed and say nothing.
    """
    standing = Standing.PENDING
    for attempt in attempts:
        if attempt.outcome == Outcome.ACCEPTED:
            return Standing.ACCEPTED
        if attempt.outcome is None or attempt.outcome == Outcome.AMBIGUOUS:
            standing = Standing.IN_DOUBT
        elif attempt.outcome == Outcome.REFUSED and attempt.final and standing is Standing.PENDING:
            standing = Standing.FAILED
    return standing
