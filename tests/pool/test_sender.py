"""One batch: lost answers, duplicates, tokens that are rejected, and what a stop says."""

import itertools
import time
from dataclasses import replace

import pytest

from batchlic.carrier.answers import Answer, Outcome, RejectedToken, TokenKind
from batchlic.carrier.catalog import Action
from batchlic.chunker import DeviceStatus, Step, StepRequest
from batchlic.database.leases import LeaseLost
from batchlic.errors import CredentialsRejected, StoppedEarly
from batchlic.journal import Journal
from batchlic.pool.sender import FIRST_TOKEN_PAUSE, MAX_USELESS_TOKENS
from tests.pool.builders import (
    ACCEPTED,
    AMBIGUOUS,
    BAD_ACCOUNT,
    BAD_DEVICE,
    FLEXIBLE,
    LIFETIME,
    REFUSED,
    THROTTLED,
    UNAUTHORIZED,
    UNAVAILABLE,
    batch,
    identifier,
)
from tests.pool.virtual import ROUND_TRIP_S, Request, Script, run_session
from tests.writer.builders import journal_of

DUPLICATE = replace(AMBIGUOUS, is_duplicate=True, http_status=409)


def first_answer_is_lost(repetition: Answer) -> Script:
    """The carrier executes each request, but loses the first answer; it answers repetitions so."""
    seen: set[str] = set()

    def script(request: Request) -> Answer:
        if request.x_request_id in seen:
            return repetition
        seen.add(request.x_request_id)
        return AMBIGUOUS if len(seen) == 1 else ACCEPTED

    return script


@pytest.mark.parametrize("repetition", [REFUSED, BAD_DEVICE, BAD_ACCOUNT])
def test_d_a_batch_in_doubt_is_not_split_when_its_repetition_is_refused(repetition: Answer) -> None:
    batches = [batch(8, batch_id=n) for n in range(1, 6)]
    session = run_session(first_answer_is_lost(repetition), batches, workers=2)
    assert session.stopped is None
    assert len({request.x_request_id for request in session.requests}) == 5
    assert session.count(DeviceStatus.IN_DOUBT) == 8
    assert session.count(DeviceStatus.ACCEPTED) == 32


@pytest.mark.parametrize("repetition", [REFUSED, BAD_DEVICE, DUPLICATE])
def test_d_a_refused_repetition_is_not_sent_again_by_a_later_session(repetition: Answer) -> None:
    batches = [batch(8)]
    first = run_session(first_answer_is_lost(repetition), batches, trusts_duplicates=False)
    second = run_session(lambda _: ACCEPTED, batches, journal=first.journal)
    assert second.requests == []
    assert second.count(DeviceStatus.IN_DOUBT) == 8


def test_d_a_repetition_in_a_later_session_is_not_split_either() -> None:
    batches = [batch(8)]
    first = run_session(lambda _: AMBIGUOUS, batches)
    assert first.count(DeviceStatus.IN_DOUBT) == 8
    second = run_session(lambda _: REFUSED, batches, journal=first.journal)
    assert len(second.requests) == 1
    assert second.count(DeviceStatus.IN_DOUBT) == 8


def test_a_duplicate_after_a_lost_answer_means_accepted() -> None:
    session = run_session(first_answer_is_lost(DUPLICATE), [batch(8)])
    assert session.count(DeviceStatus.ACCEPTED) == 8
    assert len(session.requests) == 2


def test_d_a_duplicate_leaves_doubt_if_the_job_does_not_trust_it() -> None:
    session = run_session(first_answer_is_lost(DUPLICATE), [batch(8)], trusts_duplicates=False)
    assert session.count(DeviceStatus.IN_DOUBT) == 8
    assert len(session.requests) == 2


@pytest.mark.parametrize("sku", [FLEXIBLE, LIFETIME])
def test_d_a_duplicate_of_a_request_never_sent_before_leaves_doubt(sku: str) -> None:
    session = run_session(lambda _: DUPLICATE, [batch(8, sku=sku)])
    assert session.count(DeviceStatus.IN_DOUBT) == 8
    assert len(session.requests) == 1


def test_k_a_session_that_was_replaced_after_its_intent_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose(_: Journal) -> None:
        raise LeaseLost("another session has taken over")

    monkeypatch.setattr(Journal, "check_held", lose)
    session = run_session(lambda _: ACCEPTED, [batch(8)])
    assert session.requests == []
    assert isinstance(session.stopped, LeaseLost)
    assert session.count(DeviceStatus.IN_DOUBT) == 8  # its successor can't know that nothing was sent


def rejected(generation: int) -> Answer:
    return Answer(
        outcome=Outcome.UNAUTHORIZED,
        http_status=401,
        error_message="Jwt is expired",
        rejected=RejectedToken(TokenKind.EITHER, generation),
    )


def rejecting_until(end: float) -> Script:
    generations = iter(range(10_000))
    return lambda request: rejected(next(generations)) if request.at < end else ACCEPTED


@pytest.mark.parametrize("seconds", [0.5, 2.0, 10.0, 60.0])
def test_tokens_rejected_for_a_while_are_renewed_after_growing_pauses(seconds: float) -> None:
    session = run_session(rejecting_until(seconds), [batch(8)])
    assert session.stopped is None
    assert session.count(DeviceStatus.ACCEPTED) == 8
    assert len(session.renewals) <= 2 + max(0, int(seconds).bit_length())


def test_tokens_rejected_for_ever_stop_the_run_resumable() -> None:
    session = run_session(rejecting_until(1e9), [batch(8)])
    assert isinstance(session.stopped, StoppedEarly)
    assert "HTTP 401: Jwt is expired" in str(session.stopped)
    assert len(session.renewals) == MAX_USELESS_TOKENS + 1
    gaps = [b - a for a, b in zip(session.renewals, session.renewals[1:], strict=False)]
    assert gaps[0] >= FIRST_TOKEN_PAUSE
    assert gaps == sorted(gaps)


def test_tokens_that_expire_now_and_then_are_renewed_at_once_however_often() -> None:
    requests = itertools.count(1)

    def script(_: Request) -> Answer:
        number = next(requests)
        return ACCEPTED if number % 3 else rejected(number // 3 - 1)

    session = run_session(script, [batch(8, batch_id=n) for n in range(1, 101)])
    assert session.stopped is None
    assert len(session.renewals) > 3 * MAX_USELESS_TOKENS
    assert session.seconds <= 10


def test_a_proxy_that_wants_a_login_stops_the_run_at_once() -> None:
    answer = replace(UNAVAILABLE, http_status=407, error_message="proxy localhost:3128 requires a login")
    session = run_session(lambda _: answer, [batch(8)])
    assert isinstance(session.stopped, CredentialsRejected)
    assert "localhost:3128" in str(session.stopped)
    assert len(session.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        replace(UNAVAILABLE, http_status=301, error_message="redirected to https://elsewhere/"),
        replace(UNAVAILABLE, http_status=404, error_message="no Route matched"),
        replace(UNAVAILABLE, http_status=None, error_message="connection refused"),
    ],
)
def test_a_stop_without_progress_names_status_and_words_of_the_last_answer(answer: Answer) -> None:
    session = run_session(lambda _: answer, [batch(8)], give_up_after=60)
    assert isinstance(session.stopped, StoppedEarly)
    assert answer.error_message
    assert answer.error_message in str(session.stopped)
    assert str(answer.http_status or "") in str(session.stopped)


@pytest.mark.parametrize("delay", [0.0, 90.0])
def test_j_the_first_login_waits_as_long_as_the_carrier_asked(delay: float) -> None:
    session = run_session(lambda _: ACCEPTED, [batch(8)], login_delay_s=delay, give_up_after=60)
    assert session.stopped is None
    assert delay <= session.seconds < delay + 1


def test_b_c_at_each_request_its_intent_and_all_earlier_answers_are_durable() -> None:
    batches = [batch(2, batch_id=number + 1, first=2 * number) for number in range(3)]
    journal = journal_of([], [2, 2, 2])
    recorded: list[list[str | None]] = []

    def script(_: Request) -> Answer:
        recorded.append([attempt.outcome for attempt in journal.attempts()])
        return ACCEPTED

    run_session(script, batches, journal=journal)
    assert recorded == [[None], ["accepted", None], ["accepted", "accepted", None]]


def test_an_attempt_is_recorded_with_its_time_and_duration() -> None:
    before = time.time_ns() // 1000
    session = run_session(lambda _: ACCEPTED, [batch(8), batch(8, batch_id=2)])
    for attempt in session.journal.attempts():
        assert before <= attempt.started_at <= time.time_ns() // 1000
        assert attempt.duration_ms == pytest.approx(ROUND_TRIP_S * 1000)


@pytest.mark.parametrize("outcome", [Outcome.UNAVAILABLE, Outcome.THROTTLED])
@pytest.mark.parametrize(("wait", "is_too_long"), [(60.0, False), (60.5, True), (None, False)])
def test_a_wait_beyond_the_patience_of_the_run_stops_it(
    outcome: Outcome, wait: float | None, *, is_too_long: bool
) -> None:
    answers = iter([Answer(outcome=outcome, error_message="later", retry_after_s=wait)])
    session = run_session(lambda _: next(answers, ACCEPTED), [batch(8)], give_up_after=60)
    if is_too_long:
        assert "asks batchlic to wait 60 s; last answer: later" in str(session.stopped)
        assert len(session.requests) == 1
    else:
        assert session.stopped is None


def test_a_short_patience_stops_no_run_that_is_not_asked_to_wait() -> None:
    answers = iter([UNAVAILABLE])
    session = run_session(lambda _: next(answers, ACCEPTED), [batch(8)], give_up_after=0.9)
    assert session.stopped is None


def test_patience_begins_anew_with_each_definite_answer() -> None:
    wait = Answer(outcome=Outcome.THROTTLED, retry_after_s=20.0)
    answers = iter([wait, wait, ACCEPTED, wait, wait])
    batches = [batch(8, batch_id=n) for n in (1, 2)]
    session = run_session(lambda _: next(answers, ACCEPTED), batches, give_up_after=70)
    assert session.stopped is None
    assert session.seconds >= 80


def judging_each_id_once(script: Script, repetition: Answer | None) -> tuple[Script, set[str]]:
    """A carrier that judges each X-Request-ID once: it answers repetitions so, or again as the first time."""
    given: dict[str, Answer] = {}
    repeated: set[str] = set()

    def judge(request: Request) -> Answer:
        if request.x_request_id in given:
            repeated.add(request.x_request_id)
            return repetition or given[request.x_request_id]
        return given.setdefault(request.x_request_id, script(request))

    return judge, repeated


@pytest.mark.slow
@pytest.mark.parametrize("repetition", [DUPLICATE, None])
@pytest.mark.parametrize("sku", [FLEXIBLE, LIFETIME])
def test_a_refused_device_is_judged_anew_by_a_carrier_that_deduplicates(
    sku: str, repetition: Answer | None
) -> None:
    bad = identifier(17)
    script, repeated = judging_each_id_once(
        lambda request: REFUSED if bad in request.devices else ACCEPTED, repetition
    )
    batches = [batch(10, batch_id=n + 1, first=10 * n, sku=sku) for n in range(400)]
    session = run_session(script, batches, workers=2)
    assert session.stopped is None
    assert not repeated
    assert session.statuses[2, 7] is DeviceStatus.FAILED
    assert session.count(DeviceStatus.ACCEPTED) == 3999


@pytest.mark.slow
@pytest.mark.parametrize("repetition", [DUPLICATE, None])
@pytest.mark.parametrize("refusal", [REFUSED, BAD_ACCOUNT])
def test_an_outage_fails_no_device_at_a_carrier_that_deduplicates(
    refusal: Answer, repetition: Answer | None
) -> None:
    script, repeated = judging_each_id_once(
        lambda request: refusal if 0.5 < request.at < 2 else ACCEPTED, repetition
    )
    batches = [batch(10, batch_id=n + 1, first=10 * n) for n in range(400)]
    session = run_session(script, batches, workers=2)
    assert session.stopped is None
    assert not repeated
    assert session.count(DeviceStatus.ACCEPTED) == 4000


def test_a_later_session_sends_no_refused_x_request_id_again() -> None:
    batches = [batch(20, batch_id=n) for n in range(1, 7)]
    stopped = run_session(lambda _: BAD_ACCOUNT, batches)
    assert stopped.stopped is not None
    refused = {request.x_request_id for request in stopped.requests}
    resumed = run_session(
        lambda request: DUPLICATE if request.x_request_id in refused else ACCEPTED,
        batches,
        journal=stopped.journal,
    )
    assert resumed.count(DeviceStatus.ACCEPTED) == 120


@pytest.mark.parametrize("again", [AMBIGUOUS, UNAVAILABLE, THROTTLED, UNAUTHORIZED])
def test_d_only_a_refusal_changes_the_x_request_id(again: Answer) -> None:
    answers = iter([again, again, ACCEPTED])
    session = run_session(lambda _: next(answers), [batch(4)])
    assert session.count(DeviceStatus.ACCEPTED) == 4
    assert len({request.x_request_id for request in session.requests}) == 1


def test_d_a_request_that_is_lost_after_a_refusal_keeps_its_x_request_id() -> None:
    answers = iter([BAD_ACCOUNT, AMBIGUOUS, AMBIGUOUS])
    batches = [batch(4)]
    first = run_session(lambda _: next(answers, AMBIGUOUS), batches)
    assert first.count(DeviceStatus.IN_DOUBT) == 4
    second = run_session(lambda _: ACCEPTED, batches, journal=first.journal)
    refused, *lost = [request.x_request_id for request in (*first.requests, *second.requests)]
    assert len(set(lost)) == 1
    assert refused not in lost


@pytest.mark.parametrize("answer", [UNAVAILABLE, THROTTLED])
def test_d_an_inferred_answer_to_an_assign_of_a_migration_leaves_doubt(answer: Answer) -> None:
    request = StepRequest(step=Step.ASSIGN, action=Action.ASSIGN, is_repeatable=False)
    assign = replace(batch(4), request=request)
    session = run_session(lambda _: replace(answer, is_inferred=True), [assign])
    assert len(session.requests) == 1
    assert session.count(DeviceStatus.IN_DOUBT) == 4


@pytest.mark.parametrize("sku", [FLEXIBLE, LIFETIME])
def test_d_a_token_rejected_by_a_failed_service_is_renewed_and_leaves_doubt(sku: str) -> None:
    lost = replace(AMBIGUOUS, rejected=RejectedToken(TokenKind.EITHER, 0))
    answers = iter([lost])
    session = run_session(lambda _: next(answers, ACCEPTED), [batch(4, batch_id=n, sku=sku) for n in (1, 2)])
    assert len(session.renewals) == 1
    resent = sku == FLEXIBLE
    assert len(session.requests) == 2 + resent
    assert session.count(DeviceStatus.IN_DOUBT) == (0 if resent else 4)


def test_d_a_duplicate_that_may_be_another_request_leaves_doubt() -> None:
    perhaps = replace(DUPLICATE, is_inferred=True)
    session = run_session(first_answer_is_lost(perhaps), [batch(4)])
    assert session.count(DeviceStatus.IN_DOUBT) == 4


@pytest.mark.parametrize("wait_s", [2.0, 30.0])
@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.UNAVAILABLE, Outcome.ACCEPTED])
def test_j_all_workers_obey_a_retry_after_that_one_was_told(outcome: Outcome, wait_s: float) -> None:
    told_at: list[float] = []

    def script(request: Request) -> Answer:
        if told_at or len(request.devices) != 3:
            return ACCEPTED
        told_at.append(request.at + ROUND_TRIP_S)
        return Answer(outcome=outcome, retry_after_s=wait_s)

    batches = [batch(3 if n == 10 else 2, batch_id=n) for n in range(1, 41)]
    session = run_session(script, batches, workers=4)
    later = [request.at for request in session.requests if request.at > told_at[0]]
    assert len(later) >= 20
    assert min(later) >= told_at[0] + wait_s - 1e-5
