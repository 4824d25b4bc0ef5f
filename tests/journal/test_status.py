"""The status of a device by its history: accepted devices stay accepted, and a refusal does not end doubt."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.journal import Settlement
from batchlic.journal.status import status_of


@dataclass(frozen=True)
class Attempt:
    outcome: str | None
    final: bool | None = False


ACCEPTED, THROTTLED, UNAVAILABLE = Attempt("accepted"), Attempt("throttled"), Attempt("unavailable")
UNAUTHORIZED, AMBIGUOUS, UNANSWERED = Attempt("unauthorized"), Attempt("ambiguous"), Attempt(None, None)
REFUSED_FOR_NOW, REFUSED_FOR_GOOD = Attempt("refused", final=False), Attempt("refused", final=True)
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


def settled(status: DeviceStatus) -> Settlement:
    return Settlement(1, 1, None, "", 10, status, "alice", "a reason", 0)


AS_ACCEPTED = settled(DeviceStatus.ACCEPTED)
AS_FAILED = settled(DeviceStatus.FAILED)
AS_RESEND = settled(DeviceStatus.PENDING)


@pytest.mark.parametrize(
    ("attempts", "status"),
    [
        ([], DeviceStatus.PENDING),
        ([THROTTLED, UNAVAILABLE, UNAUTHORIZED, REFUSED_FOR_NOW], DeviceStatus.PENDING),
        ([THROTTLED, ACCEPTED], DeviceStatus.ACCEPTED),
        ([UNANSWERED], DeviceStatus.IN_DOUBT),
        ([AMBIGUOUS], DeviceStatus.IN_DOUBT),
        ([AMBIGUOUS, THROTTLED], DeviceStatus.IN_DOUBT),
        ([AMBIGUOUS, REFUSED_FOR_GOOD], DeviceStatus.IN_DOUBT),
        ([AMBIGUOUS, ACCEPTED], DeviceStatus.ACCEPTED),
        ([REFUSED_FOR_NOW, REFUSED_FOR_GOOD], DeviceStatus.FAILED),
        ([AMBIGUOUS, AS_ACCEPTED], DeviceStatus.ACCEPTED),
        ([AMBIGUOUS, AS_FAILED], DeviceStatus.FAILED),
        ([AMBIGUOUS, AS_ACCEPTED, REFUSED_FOR_GOOD], DeviceStatus.ACCEPTED),
        ([AMBIGUOUS, AS_FAILED, REFUSED_FOR_GOOD], DeviceStatus.FAILED),
        ([AMBIGUOUS, AS_FAILED, AS_ACCEPTED], DeviceStatus.ACCEPTED),
        ([AMBIGUOUS, AS_RESEND], DeviceStatus.PENDING),
        ([AMBIGUOUS, AS_RESEND, THROTTLED], DeviceStatus.PENDING),
        ([AMBIGUOUS, AS_RESEND, ACCEPTED], DeviceStatus.ACCEPTED),
        ([AMBIGUOUS, AS_RESEND, AMBIGUOUS], DeviceStatus.IN_DOUBT),
        ([AMBIGUOUS, AS_RESEND, REFUSED_FOR_GOOD], DeviceStatus.IN_DOUBT),
    ],
)
def test_a_history_gives_its_status(attempts: list[Attempt | Settlement], status: DeviceStatus) -> None:
    assert status_of(attempts) is status


@given(histories)
def test_d_a_device_fails_only_if_no_request_can_have_been_executed(attempts: list[Attempt]) -> None:
    may_be_licensed = {AMBIGUOUS, UNANSWERED, ACCEPTED}.intersection(attempts)
    assert not (status_of(attempts) is DeviceStatus.FAILED and may_be_licensed)


@given(histories, histories)
def test_c_an_accepted_device_stays_accepted(before: list[Attempt], after: list[Attempt]) -> None:
    assert status_of([*before, ACCEPTED, *after]) is DeviceStatus.ACCEPTED


@given(histories)
def test_d_without_an_operator_only_an_acceptance_ends_doubt(attempts: list[Attempt]) -> None:
    expected = DeviceStatus.ACCEPTED if ACCEPTED in attempts else DeviceStatus.IN_DOUBT
    assert status_of([AMBIGUOUS, *attempts]) is expected


def test_every_outcome_is_covered() -> None:
    assert {attempt.outcome for attempt in ALL} == {*Outcome, None}
