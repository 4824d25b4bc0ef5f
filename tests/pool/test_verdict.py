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
PARTIAL = replace(AMBIGUOUS, is_partial=True, http_status=207)
MANY, ONE = Delivery(batch(8)), Delivery(batch(1))


def verdict(
    delivery: Delivery,
    answer: Answer,
    *,
    is_proven: bool = False,
    is_resendable: bool = True,
    trusts_duplicates: bool = True,
) -> Verdict:
    return judge(
        delivery,
        answer,
        is_proven=is_proven,
        is_resendable=is_resendable,
        trusts_duplicates=trusts_duplicates,
    )


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


@pytest.mark.parametrize("is_resendable", [False, True])
@pytest.mark.parametrize("delivery", [MANY, ONE, in_doubt(MANY)])
def test_d_a_batch_that_is_partly_accepted_is_not_sent_again(
    delivery: Delivery, *, is_resendable: bool
) -> None:
    found = verdict(delivery, PARTIAL, is_resendable=is_resendable)
    assert found == Verdict(PARTIAL, Next.LEAVE_IN_DOUBT)
    assert found.is_final


@pytest.mark.parametrize("refusal", [BAD_DEVICE, REFUSED])
def test_a_refused_batch_is_split_if_a_device_may_be_the_reason(refusal: Answer) -> None:
    assert verdict(MANY, refusal) == Verdict(refusal, Next.SPLIT)
    assert not verdict(MANY, refusal).is_final


def test_a_known_code_fails_a_device_by_itself() -> None:
    assert verdict(ONE, BAD_DEVICE) == Verdict(BAD_DEVICE, Next.END)
    assert verdict(ONE, BAD_DEVICE).is_final


def test_an_unknown_code_fails_a_device_only_if_others_prove_it() -> None:
    alone = verdict(ONE, REFUSED)
    assert alone == Verdict(replace(REFUSED, outcome=Outcome.UNAVAILABLE), Next.PARK)
    assert not alone.is_final
    proven = verdict(ONE, REFUSED, is_proven=True)
    assert proven == Verdict(REFUSED, Next.END)
    assert proven.is_final


@pytest.mark.parametrize("delivery", [MANY, ONE])
@pytest.mark.parametrize("is_proven", [False, True])
def test_a_refusal_of_the_whole_request_fails_no_device(delivery: Delivery, *, is_proven: bool) -> None:
    found = verdict(delivery, BAD_ACCOUNT, is_proven=is_proven)
    assert found == Verdict(replace(BAD_ACCOUNT, outcome=Outcome.UNAVAILABLE), Next.PARK)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_step_that_will_be_undone_counts_any_refusal_that_is_proven(devices: int) -> None:
    second = Delivery(batch(devices), position=Position.SECOND_RESTORABLE)
    assert verdict(second, BAD_ACCOUNT).next is Next.PARK
    assert verdict(second, BAD_ACCOUNT, is_proven=True) == Verdict(BAD_ACCOUNT, Next.END)


def test_a_step_that_will_be_undone_needs_evidence_for_an_unknown_code() -> None:
    second = replace(ONE, position=Position.SECOND_RESTORABLE)
    assert verdict(second, REFUSED).next is Next.PARK
    assert verdict(second, REFUSED, is_proven=True) == Verdict(REFUSED, Next.END)
    assert verdict(second, BAD_DEVICE) == Verdict(BAD_DEVICE, Next.END)


@pytest.mark.parametrize("refusal", [BAD_DEVICE, REFUSED, BAD_ACCOUNT])
@pytest.mark.parametrize("delivery", [MANY, ONE])
@pytest.mark.parametrize("is_proven", [False, True])
def test_d_a_refused_repetition_says_nothing_while_the_first_is_in_doubt(
    delivery: Delivery, refusal: Answer, *, is_proven: bool
) -> None:
    found = verdict(in_doubt(delivery), refusal, is_proven=is_proven)
    assert found == Verdict(refusal, Next.LEAVE_IN_DOUBT)
    assert found.is_final


@pytest.mark.parametrize("delivery", [MANY, ONE])
def test_a_duplicate_shows_that_the_request_in_doubt_was_executed(delivery: Delivery) -> None:
    found = verdict(in_doubt(delivery), DUPLICATE)
    assert found == Verdict(replace(DUPLICATE, outcome=Outcome.ACCEPTED), Next.END)


@pytest.mark.parametrize("delivery", [MANY, ONE])
@pytest.mark.parametrize(("is_resendable", "trusts_duplicates"), [(False, True), (True, False)])
def test_d_a_duplicate_leaves_doubt_for_lifetime_or_if_not_trusted(
    delivery: Delivery, *, is_resendable: bool, trusts_duplicates: bool
) -> None:
    found = verdict(
        in_doubt(delivery), DUPLICATE, is_resendable=is_resendable, trusts_duplicates=trusts_duplicates
    )
    assert found == Verdict(DUPLICATE, Next.LEAVE_IN_DOUBT)
    assert found.is_final


@pytest.mark.parametrize("answer", [THROTTLED, UNAVAILABLE])
def test_d_an_inferred_answer_leaves_doubt_for_lifetime_licenses(answer: Answer) -> None:
    inferred = replace(answer, is_inferred=True)
    assert verdict(MANY, inferred) == Verdict(inferred, Next.REPEAT)
    found = verdict(MANY, inferred, is_resendable=False)
    assert found == Verdict(replace(inferred, outcome=Outcome.AMBIGUOUS), Next.REPEAT)


def test_a_license_that_is_there_already_settles_the_doubt_of_one_device() -> None:
    already = replace(REFUSED, says_already=True)
    assert verdict(in_doubt(ONE), already) == Verdict(replace(already, outcome=Outcome.ACCEPTED), Next.END)
    assert verdict(in_doubt(MANY), already).next is Next.LEAVE_IN_DOUBT
    assert verdict(in_doubt(ONE), already, is_resendable=False).next is Next.LEAVE_IN_DOUBT
    assert verdict(ONE, already).next is Next.PARK


def test_d_a_duplicate_without_an_earlier_request_leaves_doubt() -> None:
    assert verdict(MANY, DUPLICATE) == Verdict(DUPLICATE, Next.LEAVE_IN_DOUBT)


def undoing(devices: int, step: Step, action: Action) -> Delivery:
    return Delivery(
        replace(batch(devices), request=StepRequest(step=step, action=action)), position=Position.UNDO
    )


@pytest.mark.parametrize("is_in_doubt", [False, True])
def test_only_a_refusal_of_the_device_shows_that_nothing_is_left_to_clear(*, is_in_doubt: bool) -> None:
    many, one = (
        replace(undoing(devices, Step.CLEAR, Action.UNASSIGN), is_in_doubt=is_in_doubt) for devices in (8, 1)
    )
    assert verdict(many, REFUSED).next is Next.SPLIT
    assert verdict(one, BAD_DEVICE) == Verdict(BAD_DEVICE, Next.END)
    assert verdict(one, REFUSED).next is Next.PARK
    assert verdict(one, BAD_ACCOUNT).next is Next.PARK
    assert verdict(many, BAD_ACCOUNT).next is Next.PARK


@pytest.mark.parametrize("is_in_doubt", [False, True])
def test_a_proven_refusal_of_a_clear_counts_unless_it_blames_the_request(*, is_in_doubt: bool) -> None:
    clear = replace(undoing(1, Step.CLEAR, Action.UNASSIGN), is_in_doubt=is_in_doubt)
    assert verdict(clear, REFUSED, is_proven=True) == Verdict(REFUSED, Next.END)
    assert verdict(clear, BAD_ACCOUNT, is_proven=True).next is Next.PARK


@pytest.mark.parametrize("action", [Action.ASSIGN, Action.UNASSIGN])
@pytest.mark.parametrize("refusal", [REFUSED, BAD_ACCOUNT])
def test_a_refused_restore_counts_only_if_it_is_proven(action: Action, refusal: Answer) -> None:
    assert verdict(undoing(1, Step.RESTORE, action), refusal).next is Next.PARK
    assert verdict(undoing(1, Step.RESTORE, action), refusal, is_proven=True).next is Next.END


def test_a_refused_restore_in_doubt_stays_in_doubt() -> None:
    request = StepRequest(step=Step.RESTORE, action=Action.ASSIGN)
    restore = Delivery(replace(batch(8), request=request), position=Position.UNDO)
    assert verdict(in_doubt(restore), REFUSED).next is Next.LEAVE_IN_DOUBT
