"""Where the devices of a batch stand, as the journal tells it (promises C and D)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from batchlic.carrier.answers import Outcome
from batchlic.journal.settlement import Settlement, Verdict


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


_SETTLED = {
    Verdict.ACCEPTED: Standing.ACCEPTED,
    Verdict.FAILED: Standing.FAILED,
    Verdict.RESEND: Standing.PENDING,
}


def standing_of(history: Iterable[Answered | Settlement]) -> Standing:
    """Where a device stands after all that was sent for it and decided of it, in that order.

    Accepted once is accepted. A doubt is not taken away by a later refusal or throttling: those speak only
    of their own attempt. Throttled, unavailable and unauthorized attempts were not executed and say nothing.
    Otherwise the operator's last word counts; sending again leaves what came before as doubtful as it was.
    """
    standing, was_doubtful = Standing.PENDING, False
    for event in history:
        if isinstance(event, Settlement):
            standing = _SETTLED[Verdict(event.verdict)]
        elif event.outcome == Outcome.ACCEPTED:
            return Standing.ACCEPTED
        elif event.outcome is None or event.outcome == Outcome.AMBIGUOUS:
            standing, was_doubtful = Standing.IN_DOUBT, True
        elif event.outcome == Outcome.REFUSED and event.final and standing is Standing.PENDING:
            standing = Standing.IN_DOUBT if was_doubtful else Standing.FAILED
    return standing
