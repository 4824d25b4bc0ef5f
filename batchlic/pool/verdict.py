"""What follows from an answer: whether it ends a delivery, and what is sent next."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.catalog import Action
from batchlic.pool.remaining import Delivery, Position


class Next(Enum):
    """What is to be done about the devices of a request after its answer."""

    END = auto()
    """Nothing: they are accepted, or failed."""
    LEAVE_IN_DOUBT = auto()
    """Nothing: an earlier request may have been executed, and another one would not show whether it was."""
    REPEAT = auto()
    """Send the same request again, as the retry policy says."""
    SPLIT = auto()
    """Send smaller parts: the refusal may be about some of the devices only."""
    POSTPONE = auto()
    """Send the request again after others: the refusal may be about the carrier instead of the devices."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer as it is recorded, and what follows from it."""

    answer: Answer
    next: Next

    @property
    def is_final(self) -> bool:
        """Whether the journal records that nothing more is sent for devices that were not accepted."""
        is_refusal = self.answer.outcome is Outcome.REFUSED
        return self.next is Next.LEAVE_IN_DOUBT or (is_refusal and self.next is Next.END)


def judge(delivery: Delivery, answer: Answer, *, is_explained: bool, trusts_duplicates: bool) -> Verdict:
    """Judge an answer to a delivery.

    - `is_explained`: other answers show that a refusal is about the devices (see `suspicion`).
    - `trusts_duplicates`: a delivery in doubt counts as accepted if the carrier refuses its repetition as a
      duplicate.
    """
    if answer.outcome is Outcome.REFUSED:
        return _judge_refusal(delivery, answer, is_explained=is_explained)
    if answer.outcome is Outcome.AMBIGUOUS and answer.is_duplicate:
        if delivery.is_in_doubt and trusts_duplicates:
            return Verdict(replace(answer, outcome=Outcome.ACCEPTED), Next.END)
        return Verdict(answer, Next.LEAVE_IN_DOUBT)
    return Verdict(answer, Next.END if answer.outcome is Outcome.ACCEPTED else Next.REPEAT)


def _judge_refusal(delivery: Delivery, refusal: Answer, *, is_explained: bool) -> Verdict:
    if delivery.is_in_doubt and not _takes_back(delivery):
        return Verdict(refusal, Next.LEAVE_IN_DOUBT)
    if delivery.batch.is_divisible and refusal.blame is not Blame.ACCOUNT:
        return Verdict(refusal, Next.SPLIT)
    if is_explained or is_definite(delivery, refusal):
        return Verdict(refusal, Next.END)
    return Verdict(replace(refusal, outcome=Outcome.UNAVAILABLE), Next.POSTPONE)


def is_definite(delivery: Delivery, refusal: Answer) -> bool:
    """Whether a refusal counts, whatever the carrier answers to other requests. There are three cases.

    - Its code is known.
    - The request takes a license back after a lost answer. It is often refused because the device has no
      license, so other requests show nothing.
    - The refused step of a migration can be undone: the device must not wait without a license.
    """
    is_restored = delivery.position is Position.SECOND_RESTORABLE
    return refusal.is_known or is_restored or _takes_back(delivery)


def _takes_back(delivery: Delivery) -> bool:
    """Whether the delivery takes licenses back: sending it twice does no harm."""
    return delivery.position is Position.UNDO and delivery.batch.action is Action.UNASSIGN
