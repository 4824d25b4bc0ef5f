"""What follows from an answer, case by case."""

from dataclasses import replace

import pytest

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Step, StepRequest
from batchlic.pool.remaining import Delivery, Position
from batchlic.pool.verdict import Next, Verdict, judge
from tests.pool.builders import (
    ACCEPTED,
    AMBIGUOUS,
    BAD_ACCOUNT,
    BAD_DEVICE,
    REFUSED,
    THROTTLED,
    UNAUTHORIZED,
    UNAVAILABLE,
    batch,
)

DUPLICATE = replace(AMBIGUOUS, is_duplicate=True, http_status=409)
UNKNOWN_ABOUT_ACCOUNT = replace(BAD_ACCOUNT, is_known=False)
MANY, ONE = Delivery(batch(8)), Delivery(batch(1))


def verdict(
    delivery: Delivery, answer: Answer, *, is_explained: bool = False, trusts_duplicates: bool = True
) -> Verdict:
    return judge(delivery, answer, is_explained=is_explained, trusts_duplicates=trusts_duplicates)


def in_doubt(delivery: Delivery) -> Delivery:
    return replace(delivery, is_in_doubt=True)


@pytest.mark.parametrize("delivery", [MANY, ONE, in_doubt(MANY)])
def test_an_acceptance_ends_a_delivery(delivery: Delivery) -> None:
    assert verdict(delivery, ACCEPTED) == Verdict(ACCEPTED, Next.END)
    assert not verdict(delivery, ACCEPTED).is_final


@pytest.mark.parametrize("answer", [THROTTLED, UNAVAILABLE, UNAUTHORIZED, AMBIGUOUS])
@pytest.mark.parametrize("delivery", [MANY, ONE, in_doubt(MANY)])
def test_what_is_not_definite_is_repeated(delivery: Delivery, answer: Answer) -> None:
    assert verdict(delivery, answer) == Verdict(answer, Next.REPEAT)
    assert not verdict(delivery, answer).is_final


@pytest.mark.parametrize("refusal", [BAD_DEVICE, REFUSED])
def test_a_refused_batch_is_split_if_a_device_may_be_the_reason(refusal: Answer) -> None:
    assert verdict(MANY, refusal) == Verdict(refusal, Next.SPLIT)
    assert not verdict(MANY, refusal).is_final


@pytest.mark.parametrize("refusal", [BAD_DEVICE, BAD_ACCOUNT])
def test_a_known_code_fails_a_device_by_itself(refusal: Answer) -> None:
    assert verdict(ONE, refusal) == Verdict(refusal, Next.END)
    assert verdict(ONE, refusal).is_final


def test_a_known_code_about_the_account_fails_the_whole_batch() -> None:
    assert verdict(MANY, BAD_ACCOUNT) == Verdict(BAD_ACCOUNT, Next.END)


@pytest.mark.parametrize(
    ("delivery", "refusal"), [(ONE, REFUSED), (ONE, UNKNOWN_ABOUT_ACCOUNT), (MANY, UNKNOWN_ABOUT_ACCOUNT)]
)
def test_an_unknown_code_fails_only_while_others_are_accepted(delivery: Delivery, refusal: Answer) -> None:
    alone = verdict(delivery, refusal)
    assert alone == Verdict(replace(refusal, outcome=Outcome.UNAVAILABLE), Next.POSTPONE)
    assert not alone.is_final
    among_others = verdict(delivery, refusal, is_explained=True)
    assert among_others == Verdict(refusal, Next.END)
    assert among_others.is_final


@pytest.mark.parametrize("refusal", [BAD_DEVICE, REFUSED, BAD_ACCOUNT, UNKNOWN_ABOUT_ACCOUNT])
@pytest.mark.parametrize("delivery", [MANY, ONE])
@pytest.mark.parametrize("is_explained", [False, True])
def test_d_a_refused_repetition_says_nothing_while_the_first_is_in_doubt(
    delivery: Delivery, refusal: Answer, *, is_explained: bool
) -> None:
    found = verdict(in_doubt(delivery), refusal, is_explained=is_explained)
    assert found == Verdict(refusal, Next.LEAVE_IN_DOUBT)
    assert found.is_final


@pytest.mark.parametrize("delivery", [MANY, ONE])
def test_a_duplicate_shows_that_the_request_in_doubt_was_executed(delivery: Delivery) -> None:
    found = verdict(in_doubt(delivery), DUPLICATE)
    assert found == Verdict(replace(DUPLICATE, outcome=Outcome.ACCEPTED), Next.END)


@pytest.mark.parametrize("delivery", [MANY, ONE])
def test_d_a_duplicate_leaves_doubt_for_lifetime_licenses(delivery: Delivery) -> None:
    found = verdict(in_doubt(delivery), DUPLICATE, trusts_duplicates=False)
    assert found == Verdict(DUPLICATE, Next.LEAVE_IN_DOUBT)
    assert found.is_final


def test_d_a_duplicate_without_an_earlier_request_leaves_doubt() -> None:
    assert verdict(MANY, DUPLICATE) == Verdict(DUPLICATE, Next.LEAVE_IN_DOUBT)


def taking_back(devices: int) -> Delivery:
    request = StepRequest(step=Step.CLEAR, action=Action.UNASSIGN)
    return Delivery(replace(batch(devices), request=request), position=Position.UNDO)


def test_a_refused_clearing_is_definite_even_in_doubt() -> None:
    assert verdict(taking_back(8), REFUSED).next is Next.SPLIT
    assert verdict(in_doubt(taking_back(8)), REFUSED).next is Next.SPLIT
    assert verdict(in_doubt(taking_back(1)), REFUSED) == Verdict(REFUSED, Next.END)


def test_a_refused_restore_in_doubt_stays_in_doubt() -> None:
    request = StepRequest(step=Step.RESTORE, action=Action.ASSIGN)
    restore = Delivery(replace(batch(8), request=request), position=Position.UNDO)
    assert verdict(in_doubt(restore), REFUSED).next is Next.LEAVE_IN_DOUBT
