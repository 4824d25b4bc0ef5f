"""What people are told about a carrier in trouble, and how often."""

from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest

from batchlic.carrier.answers import Answer, Outcome
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import only
from batchlic.runs.health import GRACE_S, Health
from batchlic.runs.outage import TELL_AGAIN_S, TELL_OTHER_S, Outage
from tests.pool.builders import ACCEPTED

REFUSED_CONNECTION = Answer(outcome=Outcome.UNAVAILABLE, error_message="connection refused")
BROKEN = Answer(outcome=Outcome.AMBIGUOUS, http_status=503, error_message="upstream is down")


def told_over(seconds: float, tell: Callable[[Outage], None], *, every: float = 1.0) -> list[str]:
    """The lines that are told if the same happens again and again."""
    lines: list[str] = []

    async def repeat() -> None:
        outage, clock = Outage("carrier.example", lines.append), Clock()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(anyio, "current_time", clock)
            while clock.now < seconds:
                tell(outage)
                clock.now += every

    anyio.run(repeat)
    return lines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_is_reported_at_once_and_then_from_time_to_time() -> None:
    lines = told_over(2 * TELL_AGAIN_S, lambda outage: outage.unreachable("no login: connection refused"))
    assert lines == ["no answer from carrier.example: connection refused; trying again"] * 2


def test_another_reason_is_reported_sooner_but_not_each_time() -> None:
    numbers = iter(range(1000))
    lines = told_over(TELL_AGAIN_S, lambda outage: outage.failing(f"HTTP 50{next(numbers) % 3}"))
    assert 3 <= len(lines) <= TELL_AGAIN_S / TELL_OTHER_S


def test_a_report_of_silence_has_its_seconds() -> None:
    assert told_over(1, lambda outage: outage.silent(3.2)) == [
        "no answer from carrier.example for 3 s; still waiting"
    ]


def test_a_wait_before_a_question_has_its_seconds_and_its_reason() -> None:
    assert told_over(1, lambda outage: outage.waits(2.0, "HTTP 429")) == [
        "batchlic waits 2 s before it asks carrier.example again: HTTP 429"
    ]


class Watched:
    """The health of a carrier at a clock that the test sets, and what is told about it."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        patched.setattr(anyio, "current_time", self.clock)
        self.lines: list[str] = []
        self.limiter = Limiter(max_concurrency=1, clock=self.clock)
        self.health = Health(Outage("carrier.example", self.lines.append), only(self.limiter))

    def answer(self, answer: Answer) -> None:
        self.health.learn(answer)

    def check_at(self, now: float) -> None:
        self.clock.now = now
        self.health.check()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    async def make() -> Watched:
        return Watched(monkeypatch)

    return anyio.run(make)


def test_the_first_failure_is_reported_at_once_with_its_words(watched: Watched) -> None:
    watched.answer(REFUSED_CONNECTION)
    assert watched.lines == ["no answer from carrier.example: connection refused; trying again"]


def test_a_status_is_reported_with_the_words_of_the_answer(watched: Watched) -> None:
    watched.answer(replace(BROKEN, outcome=Outcome.UNAVAILABLE))
    assert watched.lines == ["carrier.example reports an error: HTTP 503: upstream is down; trying again"]


@pytest.mark.parametrize("status", [503, None])
def test_a_request_in_doubt_is_not_said_to_be_tried_again(watched: Watched, status: int | None) -> None:
    watched.answer(replace(BROKEN, http_status=status))
    [line] = watched.lines
    assert line.endswith("upstream is down; the request may have been executed")


def test_a_failed_login_is_reported(watched: Watched) -> None:
    watched.health.missed("no OAuth login (HTTP 503: an empty answer)")
    [line] = watched.lines
    assert line == "no answer from carrier.example: no OAuth login (HTTP 503: an empty answer); trying again"


def test_one_failure_among_good_answers_is_not_reported(watched: Watched) -> None:
    for answer in (ACCEPTED, BROKEN, ACCEPTED):
        watched.answer(answer)
    watched.check_at(60)
    assert watched.lines == []


def test_failures_that_last_are_reported_within_seconds(watched: Watched) -> None:
    watched.answer(ACCEPTED)
    watched.answer(BROKEN)
    watched.check_at(GRACE_S / 2)
    assert watched.lines == []
    watched.check_at(GRACE_S)
    assert len(watched.lines) == 1


def test_a_carrier_that_never_answered_is_reported_within_5_seconds(watched: Watched) -> None:
    watched.check_at(1)
    assert watched.lines == []
    watched.check_at(4)
    assert watched.lines == ["no answer from carrier.example for 4 s; still waiting"]


def test_a_wait_that_the_carrier_asked_for_is_no_silence(watched: Watched) -> None:
    watched.limiter.hold(600)
    watched.check_at(60)
    assert watched.lines == []


def test_a_long_wait_is_reported_with_the_answer_that_asked_for_it(watched: Watched) -> None:
    for seconds in (1.0, 120.0):
        throttled = Answer(
            outcome=Outcome.THROTTLED, http_status=429, error_message="quota exceeded", retry_after_s=seconds
        )
        watched.answer(throttled)
    assert watched.lines == ["carrier.example asks batchlic to wait 120 s: HTTP 429: quota exceeded"]
