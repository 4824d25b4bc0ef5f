"""The forms of each fault, and what the sandbox remembers after one, in process."""

from collections.abc import Awaitable, Callable

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchlic.carrier.bodies import DECODE_ERRORS, decode
from batchlic.carrier.messages import ReceivedSubscriptions, Subscription, Subscriptions
from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.config import Fault, LatencyConfig, Poison, SandboxConfig
from batchlic.sandbox.gateway_answers import DAMAGES, FORMS, LONG_HEADERS, ODD_COUNTS, ODD_WAIT_S
from batchlic.sandbox.responses import ASKED_WAIT, REPEAT_AFTER_S
from tests.sandbox.caller import (
    COUNTS,
    GRANT,
    IMEI,
    KEYS,
    LOGIN,
    OAUTH,
    OTHER_IMEI,
    USER,
    Caller,
    caller_of,
    device,
    http_client_of,
    request_body,
)

ONE, OTHER = request_body(device(IMEI)), request_body(device(OTHER_IMEI))
MANY = 120
"""Requests that meet every form of a fault."""


def faulty(fault: Fault, *, outage_s: float = 2.0, poison: tuple[Poison, ...] = (), seed: int = 0) -> Sandbox:
    return Sandbox(
        SandboxConfig(faults={fault: 1.0}, poison=poison, seed=seed, latency=LatencyConfig(outage_s=outage_s))
    )


def call(sandbox: Sandbox, use: Callable[[Caller], Awaitable[None]]) -> None:
    """Call `use` with a caller that is logged in, in virtual time."""

    async def run() -> None:
        async with caller_of(sandbox) as caller:
            await use(caller)

    trio.run(run, clock=MockClock(autojump_threshold=0))


def answers(fault: Fault, *, poison: tuple[Poison, ...] = ()) -> list[httpx.Response]:
    """MANY answers that met the fault."""
    met: list[httpx.Response] = []

    async def use(caller: Caller) -> None:
        for _ in range(MANY):
            met.append(await caller.assign(ONE))
            await caller.log_in()

    call(faulty(fault, outage_s=0, poison=poison), use)
    return met


STATIC = [
    Fault.GATEWAY_404,
    Fault.SESSION_FLAP,
    Fault.THROTTLED_403,
    Fault.AUTH_XML,
    Fault.LOST_UPSTREAM_503,
    Fault.REFUSING_503,
]


@pytest.mark.parametrize("fault", STATIC)
def test_every_form_of_a_fault_is_met(fault: Fault) -> None:
    assert {(answer.status_code, answer.content) for answer in answers(fault)} == {
        (form.status, form.body) for form in FORMS[fault]
    }


@pytest.mark.slow
def test_the_same_seed_draws_the_same_forms() -> None:
    assert [a.content for a in answers(Fault.GATEWAY_404)] == [a.content for a in answers(Fault.GATEWAY_404)]


def test_every_kind_of_damage_is_met_and_the_request_id_can_be_read() -> None:
    bodies = {answer.content.replace(_request_id(answer), b"ID") for answer in answers(Fault.DAMAGED_JSON)}
    assert bodies == {damage(b'{"requestId":"ID"}') for damage in DAMAGES}


def _request_id(answer: httpx.Response) -> bytes:
    return answer.content.split(b'"requestId":"')[1].split(b'"')[0]


def test_a_refusal_can_be_damaged_too() -> None:
    refusals = answers(Fault.DAMAGED_JSON, poison=(Poison(identifier=IMEI),))
    assert {answer.status_code for answer in refusals} == {400}
    assert all(b"INPUT_INVALID.DeviceState.Invalid" in answer.content for answer in refusals)
    assert len({answer.content for answer in refusals}) == len(DAMAGES)


def test_headers_are_long_in_each_of_their_forms() -> None:
    met = answers(Fault.LONG_HEADER)
    lengths = {sum(len(n) + len(v) for n, v in answer.headers.raw) for answer in met}
    assert len(lengths) == len(LONG_HEADERS)
    assert min(lengths) >= 9_000
    assert all(answer.json().keys() == {"requestId"} for answer in met)


@pytest.mark.slow
def test_every_odd_form_asks_for_the_same_wait() -> None:
    met = answers(Fault.ODD_RETRY_AFTER)
    values = {tuple(answer.headers.get_list("retry-after")) for answer in met if "date" not in answer.headers}
    assert values == {("2s",), ("+2",), ('"2"',), ("2, 1",), ("2", "1"), ("1", "2")}
    dated = [answer for answer in met if "date" in answer.headers]
    assert any("nextAccessTime" in answer.json() for answer in dated)
    assert {len(answer.headers.get("retry-after", "")) for answer in dated} == {0, 10, 13, 20}
    assert {answer.extensions[ASKED_WAIT] for answer in met} == {ODD_WAIT_S}


@pytest.mark.parametrize("fault", [Fault.GATEWAY_404, Fault.SESSION_FLAP])
def test_an_outage_is_met_by_every_request_in_one_form(fault: Fault) -> None:
    async def use(caller: Caller) -> None:
        first = await caller.assign(ONE)
        await trio.sleep(1.9)
        assert (await caller.unassign(ONE)).content == first.content

    sandbox = faulty(fault)
    call(sandbox, use)
    assert sandbox.totals().requests == {fault: 2}


@pytest.mark.parametrize("fault", [Fault.GATEWAY_404, Fault.SESSION_FLAP])
def test_an_outage_ends_after_its_time(fault: Fault) -> None:
    accepted: list[bool] = []

    async def use(caller: Caller) -> None:
        for _ in range(40):
            accepted.append((await caller.assign(ONE)).is_success)
            await trio.sleep(2.01)

    call(Sandbox(SandboxConfig(faults={fault: 0.5})), use)
    assert any(accepted[accepted.index(False) :])


@pytest.mark.parametrize(("fault", "status"), [(Fault.GATEWAY_404, {403, 404}), (Fault.SESSION_FLAP, {200})])
def test_only_a_gateway_without_routes_refuses_logins(fault: Fault, status: set[int]) -> None:
    async def use(caller: Caller) -> None:
        await caller.assign(ONE)
        token = await caller.http.post(OAUTH, data=GRANT, auth=KEYS)
        session = await caller.http.post(LOGIN, json=USER, headers=caller.headers)
        assert {token.status_code, session.status_code} <= status

    call(faulty(fault), use)


def test_tokens_are_valid_again_after_a_session_flap() -> None:
    async def use(caller: Caller) -> None:
        assert (await caller.assign(ONE)).status_code == 401
        assert (
            await caller.http.post(COUNTS, json={"accountName": "acc"}, headers=caller.headers)
        ).is_success

    call(faulty(Fault.SESSION_FLAP), use)


def test_a_token_in_an_xml_fault_has_expired_for_all_until_a_new_login() -> None:
    async def use(caller: Caller) -> None:
        for _ in range(20):
            await caller.assign(ONE)
            listeners = "/m2m/v1/callbacks/acc"
            assert (await caller.http.get(listeners, headers=caller.headers)).status_code == 401
            await caller.log_in()
            assert (await caller.http.get(listeners, headers=caller.headers)).status_code == 200

    call(faulty(Fault.AUTH_XML), use)


def test_a_repetition_is_refused_as_a_duplicate_and_not_executed() -> None:
    sandbox, refusals = faulty(Fault.DUPLICATE_REFUSED), []

    async def use(caller: Caller) -> None:
        for number in range(MANY):
            with pytest.raises(httpx.ReadError):
                await caller.assign(ONE, f"1-{number:05}")
            refusals.append(await caller.assign(ONE, f"1-{number:05}"))

    call(sandbox, use)
    assert {(answer.status_code, answer.content) for answer in refusals} == {
        (form.status, form.body) for form in FORMS[Fault.DUPLICATE_REFUSED]
    }
    assert sandbox.totals().executions == MANY
    assert sandbox.totals().requests == {Fault.DUPLICATE_REFUSED: 2 * MANY}


def test_a_duplicate_has_the_same_method_and_x_request_id() -> None:
    sandbox = faulty(Fault.DUPLICATE_REFUSED)

    async def use(caller: Caller) -> None:
        for assign in (caller.assign(ONE, "1-0001"), caller.assign(ONE, "1-0002")):
            with pytest.raises(httpx.ReadError):
                await assign
        for undo in (caller.unassign(ONE, "1-0001"), caller.unassign(None, "1-0001")):
            with pytest.raises(httpx.ReadError):
                await undo
        for anonymous in (caller.assign(ONE), caller.assign(ONE)):
            with pytest.raises(httpx.ReadError):
                await anonymous

    call(sandbox, use)
    assert sandbox.totals().executions == 6


def test_the_repetition_of_a_refused_request_is_no_duplicate() -> None:
    sandbox = faulty(Fault.DUPLICATE_REFUSED, poison=(Poison(identifier=IMEI),))

    async def use(caller: Caller) -> None:
        for _ in range(2):
            with pytest.raises(httpx.ReadError):
                await caller.assign(ONE, "1-0001")

    call(sandbox, use)
    assert sandbox.totals().executions == 0


def test_a_cached_answer_has_the_request_id_of_the_latest_200() -> None:
    sandbox = faulty(Fault.CACHED_ANSWER)

    async def use(caller: Caller) -> None:
        first = await caller.assign(ONE)
        await trio.sleep(7)
        cached = await caller.assign(OTHER)
        assert cached.content == first.content
        assert (cached.headers["age"], cached.headers["x-cache"]) == ("7", "HIT")

    call(sandbox, use)
    assert sandbox.totals().executions == 1
    assert sandbox.totals().requests == {"200": 1, Fault.CACHED_ANSWER: 1}


def test_an_answer_that_no_caller_got_is_not_cached() -> None:
    sandbox = Sandbox(SandboxConfig(faults={Fault.CACHED_ANSWER: 0.5, Fault.CUT_BODY: 0.5}))

    async def use(caller: Caller) -> None:
        for _ in range(20):
            try:
                await caller.assign(ONE)
            except httpx.RemoteProtocolError:
                continue
            else:
                break

    call(sandbox, use)
    assert sandbox.totals().requests.get(Fault.CACHED_ANSWER, 0) == 0


def test_a_stale_answer_is_that_of_the_next_request_which_is_lost() -> None:
    sandbox = faulty(Fault.STALE_ANSWER)

    async def use(caller: Caller) -> None:
        first = await caller.assign(ONE)
        at_once = await caller.assign(OTHER)
        await trio.sleep(REPEAT_AFTER_S)
        assert (await caller.counts())["licenseAssigned"] == 2
        stale = [await caller.assign(OTHER), await caller.assign(OTHER)]
        assert [answer.content for answer in stale] == [first.content, at_once.content]
        assert first.content != at_once.content

    call(sandbox, use)
    assert sandbox.totals().executions == 2


def test_a_refusal_does_not_arrive_twice() -> None:
    sandbox = faulty(Fault.STALE_ANSWER, poison=(Poison(identifier=IMEI),))

    async def use(caller: Caller) -> None:
        assert (await caller.assign(ONE)).status_code == 400
        await trio.sleep(1)
        assert (await caller.assign(OTHER)).status_code == 200

    call(sandbox, use)


def test_no_stale_answer_arrives_on_new_connections() -> None:
    sandbox = faulty(Fault.STALE_ANSWER)

    async def run() -> None:
        transport = sandbox.transport()
        for executions in (1, 2):
            http = httpx.AsyncClient(base_url="http://127.0.0.1/api", transport=transport)
            caller = Caller(http)
            await caller.log_in()
            await caller.assign(ONE)
            await http.aclose()
            await trio.sleep(1)
            assert len(sandbox.books.executions) == executions

    trio.run(run, clock=MockClock(autojump_threshold=0))


@pytest.mark.anyio
async def test_a_throttled_login_asks_to_wait_and_spends_no_wrong_login() -> None:
    sandbox = faulty(Fault.LOGIN_403)
    async with http_client_of(sandbox) as http:
        met = [await http.post(OAUTH, data=GRANT, auth=("wrong", "secret")) for _ in range(MANY)]
    assert {(answer.status_code, answer.content) for answer in met} == {
        (form.status, form.body) for form in FORMS[Fault.LOGIN_403]
    }
    assert {answer.headers["retry-after"] for answer in met} == {"1"}
    assert sandbox.totals().requests == {Fault.LOGIN_403: MANY}


@pytest.mark.anyio
async def test_the_rate_of_login_403_is_that_of_the_logins() -> None:
    sandbox = Sandbox(SandboxConfig(faults={Fault.LOGIN_403: 0.5}))
    async with http_client_of(sandbox) as http:
        tokens = [await http.post(OAUTH, data=GRANT, auth=KEYS) for _ in range(200)]
        caller = Caller(http)
        token = next(msgspec.json.decode(t.content) for t in tokens if t.is_success)["access_token"]
        caller.headers["Authorization"] = f"Bearer {token}"
        sessions = [await http.post(LOGIN, json=USER, headers=caller.headers) for _ in range(200)]
        caller.headers["VZ-M2M-Token"] = next(s for s in sessions if s.is_success).json()["sessionToken"]
        assert {(await caller.assign(ONE)).status_code for _ in range(20)} == {200}
    for logins in (tokens, sessions):
        assert sum(login.status_code == 403 for login in logins) == pytest.approx(100, abs=30)


@pytest.mark.parametrize("form", ODD_COUNTS)
def test_odd_license_counts_are_read_as_the_books_have_them_or_not_at_all(
    form: Callable[[Subscriptions], bytes],
) -> None:
    counts = Subscriptions("acc", [Subscription("sku", "x", 2000, 1500, 500)])
    try:
        received = decode(form(counts), ReceivedSubscriptions).read()
    except DECODE_ERRORS:
        return
    for found in received:
        assert (found.license_purchased, found.license_assigned, found.license_available) in {
            (2000, 1500, 500),
            (None, None, None),
        }


@pytest.mark.anyio
async def test_the_rate_of_odd_counts_is_that_of_the_requests_for_counts() -> None:
    sandbox = Sandbox(SandboxConfig(faults={Fault.ODD_COUNTS: 0.5}))
    async with caller_of(sandbox) as caller:
        question = {"accountName": "0000123456-00001"}
        met = {
            (await caller.http.post(COUNTS, json=question, headers=caller.headers)).content
            for _ in range(200)
        }
        assert {(await caller.assign(ONE)).status_code for _ in range(20)} == {200}
    assert len(met) == 1 + len(ODD_COUNTS)
    assert sandbox.totals().requests[Fault.ODD_COUNTS] == pytest.approx(100, abs=30)
