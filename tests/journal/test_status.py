"""Where a device stands: accepted once is accepted, a doubt is not talked away."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.answers import Outcome
from batchlic.journal import Settlement, Standing, Verdict
from batchlic.journal.status import standing_of


@dataclass(frozen=True)
class Told:
    outcome: str | None
    final: bool | None = False


ACCEPTED, THROTTLED, UNAVAILABLE = Told("accepted"), Told("throttled"), Told("unavailable")
UNAUTHORIZED, AMBIGUOUS, UNANSWERED = Told("unauthorized"), Told("ambiguous"), Told(None, None)
REFUSED_FOR_NOW, REFUSED_FOR_GOOD = Told("refused", final=False), Told("refused", final=True)
ALL = [
    ACCEPTED,
    THROTTLED,
    UNAVAILABLE,
    UNAUTHORIZED,
    AMBIGUOUS,
    UNANSWERED,
    REFUSED_FOR_NOW,
    REFUSED_FOR_GOOD,
]

histories = st.lists(st.sampled_from(ALL))


def settled(verdict: Verdict) -> Settlement:
    return Settlement(1, 1, "", 10, verdict, "alice", "a reason", 0)


AS_ACCEPTED, AS_FAILED, AS_RESEND = map(settled, Verdict)


@pytest.mark.parametrize(
    ("attempts", "standing"),
    [
        ([], Standing.PENDING),
        ([THROTTLED, UNAVAILABLE, UNAUTHORIZED, REFUSED_FOR_NOW], Standing.PENDING),
        ([THROTTLED, ACCEPTED], Standing.ACCEPTED),
        ([UNANSWERED], Standing.IN_DOUBT),
        ([AMBIGUOUS], Standing.IN_DOUBT),
        ([AMBIGUOUS, THROTTLED], Standing.IN_DOUBT),
        ([AMBIGUOUS, REFUSED_FOR_GOOD], Standing.IN_DOUBT),
        ([AMBIGUOUS, ACCEPTED], Standing.ACCEPTED),
        ([REFUSED_FOR_NOW, REFUSED_FOR_GOOD], Standing.FAILED),
        ([AMBIGUOUS, AS_ACCEPTED], Standing.ACCEPTED),
        ([AMBIGUOUS, AS_FAILED], Standing.FAILED),
        ([AMBIGUOUS, AS_FAILED, AS_ACCEPTED], Standing.ACCEPTED),
        ([AMBIGUOUS, AS_RESEND], Standing.PENDING),
        ([AMBIGUOUS, AS_RESEND, THROTTLED], Standing.PENDING),
        ([AMBIGUOUS, AS_RESEND, ACCEPTED], Standing.ACCEPTED),
        ([AMBIGUOUS, AS_RESEND, AMBIGUOUS], Standing.IN_DOUBT),
        ([AMBIGUOUS, AS_RESEND, REFUSED_FOR_GOOD], Standing.IN_DOUBT),
    ],
)
def test_the_rule(attempts: list[Told | Settlement], standing: Standing) -> None:
    assert standing_of(attempts) is standing


@given(histories)
def test_d_a_device_fails_only_where_nothing_can_have_been_executed(attempts: list[Told]) -> None:
    may_be_licensed = {AMBIGUOUS, UNANSWERED, ACCEPTED}.intersection(attempts)
    assert not (standing_of(attempts) is Standing.FAILED and may_be_licensed)


@given(histories, histories)
def test_c_what_is_accepted_stays_accepted(before: list[Told], after: list[Told]) -> None:
    assert standing_of([*before, ACCEPTED, *after]) is Standing.ACCEPTED


@given(histories)
def test_d_without_an_operator_doubt_ends_with_an_acceptance_only(attempts: list[Told]) -> None:
    expected = Standing.ACCEPTED if ACCEPTED in attempts else Standing.IN_DOUBT
    assert standing_of([AMBIGUOUS, *attempts]) is expected


def test_every_outcome_is_covered() -> None:
    assert {told.outcome for told in ALL} == {*Outcome, None}
