"""What follows from an answer: whether it ends a delivery, and what is sent next."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.chunker import Step
from batchlic.pool.remaining import Delivery


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
    PARK = auto()
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


def judge(
    delivery: Delivery, answer: Answer, *, is_proven: bool, is_resendable: bool, trusts_duplicates: bool
) -> Verdict:
    """Judge an answer to a delivery.

    - `is_proven`: other answers show that a refusal is about the devices (see `suspicion`).
    - `is_resendable`: the same request may be sent again after a lost answer. Otherwise the pool errs on the
      side of doubt: if only an inference says that a request was not executed, it may have been executed.
    - `trusts_duplicates`: a resendable delivery in doubt counts as accepted if the carrier says that its
      repetition is a duplicate.
    """
    if answer.is_inferred and not is_resendable:
        answer = replace(answer, outcome=Outcome.AMBIGUOUS)
    if delivery.is_in_doubt and is_resendable and trusts_duplicates and _says_executed(delivery, answer):
        return Verdict(replace(answer, outcome=Outcome.ACCEPTED), Next.END)
    if answer.outcome is Outcome.REFUSED:
        return _judge_refusal(delivery, answer, is_proven=is_proven)
    if answer.is_duplicate or answer.is_partial:
        return Verdict(answer, Next.LEAVE_IN_DOUBT)
    return Verdict(answer, Next.END if answer.outcome is Outcome.ACCEPTED else Next.REPEAT)


def _says_executed(delivery: Delivery, answer: Answer) -> bool:
    """Whether an answer to a repetition says that the first request was executed.

    That a device has the license already says so only if the request is about no other device.
    """
    is_duplicate = answer.is_duplicate and not answer.is_inferred
    return is_duplicate or (answer.says_already and len(delivery.batch.offsets) == 1)


def _judge_refusal(delivery: Delivery, refusal: Answer, *, is_proven: bool) -> Verdict:
    if delivery.is_in_doubt and delivery.batch.step is not Step.CLEAR:
        return Verdict(refusal, Next.LEAVE_IN_DOUBT)
    blames_all = refusal.blame is Blame.ACCOUNT
    if delivery.batch.is_divisible and not blames_all:
        return Verdict(refusal, Next.SPLIT)
    if is_definite(delivery, refusal) or (is_proven and can_be_proven(delivery, blames_all=blames_all)):
        return Verdict(refusal, Next.END)
    return Verdict(replace(refusal, outcome=Outcome.UNAVAILABLE), Next.PARK)


def is_definite(delivery: Delivery, refusal: Answer) -> bool:
    """Whether a refusal counts, whatever the carrier answers to other requests.

    It does if its code is known as one about a device, or about the size of a request with several devices.
    """
    return refusal.is_known and (refusal.blame is Blame.DEVICE or delivery.batch.is_divisible)


def can_be_proven(delivery: Delivery, *, blames_all: bool) -> bool:
    """Whether a refusal without a known code can count against the devices of a delivery.

    One that blames the whole request counts only if a device would otherwise stay between two steps of a
    migration. It never shows that there is nothing to clear.
    """
    is_clearing = delivery.batch.step is Step.CLEAR
    return not blames_all or (delivery.is_bounded and not is_clearing)
