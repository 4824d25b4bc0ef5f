"""Time limits count only while the program runs: an answer that arrived counts, whatever the clock says."""

from collections.abc import AsyncIterator, Sequence

import anyio
import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.client import open_client
from batchlic.carrier.http_client import MAX_READ, Timeouts
from batchlic.carrier.time_limits import TimeLimits
from tests.carrier.script import GUID, TOKENS, Exchange, client_of, response, submission

TAKEN = msgspec.json.encode({"requestId": GUID})


class Script(httpx.AsyncBaseTransport, httpx.AsyncByteStream):
    """A carrier in virtual time: it pauses `before` its status and `between` the bytes of its body (seconds).

    A negative pause is a freeze: the clock goes on, the program does not, and the bytes are there afterwards.
    """

    def __init__(self, clock: MockClock, before: Sequence[float], between: float, body: bytes) -> None:
        self._clock = clock
        self._before = before
        self._between = between
        self._body = body

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        del request
        for seconds in self._before:
            await self._pause(seconds)
        return httpx.Response(200, stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for byte in self._body:
            await self._pause(self._between)
            yield bytes([byte])

    async def _pause(self, seconds: float) -> None:
        if seconds < 0:
            self._clock.jump(-seconds)
            await anyio.lowlevel.checkpoint()
        else:
            await anyio.sleep(seconds)


def submitted(*before: float, between: float = 0, body: bytes = TAKEN) -> tuple[Answer, float]:
    """The answer, and the virtual seconds that it took."""
    clock = MockClock(autojump_threshold=0)

    async def submit() -> tuple[Answer, float]:
        transport = Script(clock, before, between, body)
        async with open_client("https://carrier.test", TOKENS, transport=transport) as client:
            answer = await client.submit(submission())
        return answer, trio.current_time()

    return trio.run(submit, clock=clock)


@pytest.mark.parametrize("seconds", [61, 66, 3600, 86400])
def test_an_answer_that_waits_after_a_freeze_counts(seconds: float) -> None:
    answer, _ = submitted(-seconds)
    assert answer.outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("seconds", [61, 3600])
def test_a_body_that_waits_after_a_freeze_counts(seconds: float) -> None:
    answer, _ = submitted(1, between=-seconds)
    assert answer.outcome is Outcome.ACCEPTED


def test_an_answer_counts_after_silence_and_a_freeze() -> None:
    answer, _ = submitted(60.5, -66)
    assert answer.outcome is Outcome.ACCEPTED


def test_silence_ends_an_exchange_in_doubt() -> None:
    answer, seconds = submitted(3600)
    assert (answer.outcome, answer.error_message) == (
        Outcome.AMBIGUOUS,
        "no answer: nothing arrived for 60 s",
    )
    assert 60 <= seconds <= 63


def test_a_slow_answer_is_read_as_long_as_bytes_arrive() -> None:
    answer, seconds = submitted(50, between=5)
    assert answer.outcome is Outcome.ACCEPTED
    assert seconds > 300


def test_an_answer_that_drips_for_ever_ends() -> None:
    answer, seconds = submitted(between=30, body=TAKEN + b" " * 1000)
    assert (answer.outcome, answer.http_status, answer.request_id) == (Outcome.AMBIGUOUS, 200, None)
    assert 600 <= seconds <= 603


def test_an_answer_that_drips_through_freezes_is_read() -> None:
    answer, seconds = submitted(-700, between=-700)
    assert answer.outcome is Outcome.ACCEPTED
    assert seconds > 600


def test_a_freeze_does_not_hide_silence_for_ever() -> None:
    clock = MockClock(autojump_threshold=0)

    async def wait() -> float:
        limits = TimeLimits(60, 600)
        async with limits.running():
            with limits.waiting() as waiting:
                while not waiting.scope.cancel_called:
                    clock.jump(10)
                    await anyio.sleep(0.5)
        return waiting.silent_s

    assert trio.run(wait, clock=clock) <= 2 * 60 + 1


def test_nothing_counts_while_nothing_is_sent() -> None:
    clock = MockClock(autojump_threshold=0)

    async def rest() -> bool:
        limits = TimeLimits(60, 600)
        async with limits.running():
            with limits.waiting():
                await anyio.sleep(3)
            await anyio.sleep(3600)
            return limits._is_busy.is_set()

    assert not trio.run(rest, clock=clock)


@pytest.mark.anyio
async def test_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError) as caught:
        async with TimeLimits(60, 600).running():
            raise KeyError("x")
    assert caught.value.__cause__ is None


@pytest.mark.anyio
async def test_a_cancellation_passes() -> None:
    with anyio.CancelScope() as scope:
        async with TimeLimits(60, 600).running():
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_a_shielded_exchange_has_its_limits_after_a_cancellation() -> None:
    limits = TimeLimits(0.1, 600)
    with anyio.CancelScope() as scope:
        async with limits.running():
            scope.cancel()
            with anyio.CancelScope(shield=True), limits.waiting() as waiting:
                await anyio.sleep_forever()
    assert waiting.reason == "nothing arrived for 0.1 s"


@pytest.mark.anyio
async def test_silence_within_a_body_keeps_its_request_id() -> None:
    async def hang_at_the_end(exchange: Exchange) -> None:
        await exchange.raw(response(200, TAKEN + b"    ")[:-4])
        await anyio.sleep_forever()

    async with client_of(hang_at_the_end, timeouts=Timeouts(exchange=0.2)) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.request_id) == (Outcome.AMBIGUOUS, GUID)


@pytest.mark.anyio
async def test_headers_that_drip_are_read() -> None:
    async def drip(exchange: Exchange) -> None:
        head, body = response(200, TAKEN).split(b"\r\n\r\n")
        for number in range(10):
            await exchange.raw(b"%b\r\nX-%d: y" % (head if number == 0 else b"", number))
        await exchange.raw(b"\r\n\r\n" + body)

    async with client_of(drip) as (client, _):
        answer = await client.submit(submission())
    assert answer.outcome is Outcome.ACCEPTED


@pytest.mark.anyio
async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.raw(b"HTTP/1.1 429 Words\r\nRetry-After: 7\r\n\r\n")
        while True:
            await exchange.raw(b" " * 65536)
            sent += 65536

    async with client_of(flood) as (client, _):
        answer = await client.submit(submission())
    assert (answer.outcome, answer.retry_after_s) == (Outcome.THROTTLED, 7)
    assert sent < 100 * MAX_READ
