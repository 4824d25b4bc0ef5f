"""A requestId that was given to another request is not believed."""

import uuid

import anyio
import pytest

from batchlic.carrier.answers import Outcome
from batchlic.carrier.request_ids import RequestIds
from tests.carrier.script import GUID, Exchange, client_of, response, submission

pytestmark = pytest.mark.anyio

OTHER = "1-222"
"""An X-Request-ID that no other request has."""


async def test_a_request_id_of_another_request_is_no_acceptance() -> None:
    async with client_of() as (client, _):
        await client.submit(submission())
        answer = await client.submit(submission(x_request_id=OTHER))
    assert (answer.outcome, answer.http_status, answer.request_id) == (Outcome.AMBIGUOUS, 200, None)
    assert answer.error_message == f"requestId {GUID} already belongs to another request"


async def test_a_request_that_is_repeated_may_get_its_request_id_again() -> None:
    async with client_of() as (client, _):
        answers = [await client.submit(submission()) for _ in range(3)]
    assert {answer.outcome for answer in answers} == {Outcome.ACCEPTED}


async def test_a_request_that_is_repeated_may_get_a_new_request_id() -> None:
    async def take(exchange: Exchange) -> None:
        await exchange.say(200, {"requestId": str(uuid.uuid4())})

    async with client_of(take) as (client, _):
        answers = [await client.submit(submission()) for _ in range(3)]
    assert len({answer.request_id for answer in answers}) == 3


async def test_a_request_id_of_an_earlier_session_is_no_acceptance() -> None:
    async with client_of() as (client, _):
        client.remember([(GUID, "1-111"), ("another", OTHER)])
        answer = await client.submit(submission(x_request_id=OTHER))
    assert (answer.outcome, answer.request_id) == (Outcome.AMBIGUOUS, None)


async def test_a_request_id_of_an_earlier_session_may_come_again() -> None:
    async with client_of() as (client, _):
        client.remember([(GUID, OTHER)])
        answer = await client.submit(submission(x_request_id=OTHER))
    assert (answer.outcome, answer.request_id) == (Outcome.ACCEPTED, GUID)


async def test_an_answer_that_broke_off_has_no_request_id_of_another_request() -> None:
    async def take_then_break(exchange: Exchange) -> None:
        whole = response(200, {"requestId": GUID})
        await exchange.raw(whole if len(carrier.requests) == 1 else whole.replace(b"52", b"60", 1))
        if len(carrier.requests) > 1:
            await exchange.stream.aclose()

    async with client_of(take_then_break) as (client, carrier):
        await client.submit(submission())
        answer = await client.submit(submission(x_request_id=OTHER))
    assert (answer.outcome, answer.request_id) == (Outcome.AMBIGUOUS, None)


async def test_a_request_id_that_broke_off_belongs_to_its_request() -> None:
    async def break_then_take(exchange: Exchange) -> None:
        whole = response(200, {"requestId": GUID})
        await exchange.raw(whole.replace(b"52", b"60", 1) if len(carrier.requests) == 1 else whole)
        if len(carrier.requests) == 1:
            await exchange.stream.aclose()

    async with client_of(break_then_take) as (client, carrier):
        assert (await client.submit(submission())).request_id == GUID
        answer = await client.submit(submission(x_request_id=OTHER))
    assert answer.outcome is Outcome.AMBIGUOUS


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_answers_that_come_one_request_late_are_not_believed() -> None:
    ids = [str(uuid.uuid4()) for _ in range(9)]

    async def shift(exchange: Exchange) -> None:
        number = len(carrier.requests) - 1
        is_late = carrier.connections == 1 and number > 0
        await exchange.say(200, {"requestId": ids[number - is_late]})

    async with client_of(shift) as (client, carrier):
        answers = [await client.submit(submission(x_request_id=f"1-{n:03}")) for n in range(9)]
    accepted = [(number, answer.request_id) for number, answer in enumerate(answers) if answer.request_id]
    assert accepted == [(number, ids[number]) for number in range(9) if number != 1]


@pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})])
async def test_no_connection_outlives_an_answer_of_another_request() -> None:
    at_once = anyio.Event()

    async def take(exchange: Exchange) -> None:
        if exchange.request.headers["x-request-id"] == OTHER:
            await exchange.say(200, {"requestId": GUID})
            return
        if len(carrier.requests) == 4:
            at_once.set()
        await at_once.wait()
        await exchange.say(200, {"requestId": GUID if len(carrier.requests) > 4 else str(uuid.uuid4())})

    async with client_of(take) as (client, carrier):
        client.remember([(GUID, "1-111")])
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(client.submit, submission(x_request_id=f"1-{number:03}"))
        assert carrier.connections == 4
        await client.submit(submission(x_request_id=OTHER))
        await client.submit(submission(x_request_id="1-111"))
        await client.submit(submission(x_request_id="1-111"))
    assert carrier.connections == 5


def test_capital_letters_do_not_make_another_request_id() -> None:
    known = RequestIds()
    known.remember([(GUID.upper(), "1-111")])
    assert known.belongs(GUID, "1-111")
    assert not known.belongs(GUID, OTHER)


def test_a_request_id_stays_with_its_first_request() -> None:
    known = RequestIds()
    known.remember([(GUID, "1-111"), (GUID, OTHER)])
    assert known.belongs(GUID, "1-111")
    assert not known.belongs(GUID, OTHER)


@pytest.mark.parametrize(
    "header",
    [
        "Age: 12",
        "Age: 0012",
        "X-Cache: HIT",
        "X-Cache: Hit from cloudfront",
        "X-Cache: MISS, HIT",
        "X-Cache: TCP_MEM_HIT from proxy",
        "CF-Cache-Status: HIT",
        "X-Cache-Status: hit",
        "Cache-Status: edge; hit",
    ],
)
async def test_an_answer_of_a_cache_has_a_warning(header: str) -> None:
    async def take_from_cache(exchange: Exchange) -> None:
        await exchange.say(200, {"requestId": GUID}, header)

    async with client_of(take_from_cache) as (client, _):
        answer = await client.submit(submission())
    assert answer.outcome is Outcome.ACCEPTED
    assert header.lower() in (answer.warning or "").lower()


@pytest.mark.parametrize(
    "header",
    [
        "Age: 0",
        "Age: ",
        "Age: unknown",
        "X-Cache: MISS",
        "X-Cache: Miss from cloudfront",
        "CF-Cache-Status: DYNAMIC",
        "X-Cache-Status: BYPASS",
        "X-Cache: WHITE",
        "Cache-Status: edge; fwd=miss",
    ],
)
async def test_an_answer_that_passed_a_cache_is_no_warning(header: str) -> None:
    async def take_past_cache(exchange: Exchange) -> None:
        await exchange.say(200, {"requestId": GUID}, header)

    async with client_of(take_past_cache) as (client, _):
        answer = await client.submit(submission())
    assert answer.warning is None


async def test_the_warning_about_a_cache_comes_once() -> None:
    async def refuse_from_cache(exchange: Exchange) -> None:
        await exchange.say(400, {"errorCode": "400"}, "Age: 1")

    async with client_of(refuse_from_cache) as (client, _):
        answers = [await client.submit(submission()) for _ in range(3)]
    assert [answer.warning is not None for answer in answers] == [True, False, False]
