"""Faults: whether the request is executed, and what the caller sees, in process and over TCP."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from batchlic.errors import UsageError
from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.config import Fault, LatencyConfig, SandboxConfig
from batchlic.sandbox.faults import RandomFaults
from tests.forking import serving
from tests.sandbox.caller import (
    COUNTS,
    GRANT,
    IMEI,
    KEYS,
    LICENSES,
    LOGIN,
    OAUTH,
    USER,
    caller_of,
    code_of,
    device,
    http_client_of,
    request_body,
)

ONE = request_body(device(IMEI))

SEEN: dict[Fault, tuple[bool, int | set[int] | type[Exception]]] = {
    Fault.RESET_BEFORE: (False, httpx.ReadError),
    Fault.RESET_AFTER: (True, httpx.ReadError),
    Fault.HANG_BEFORE: (False, httpx.ReadTimeout),
    Fault.HANG_AFTER: (True, httpx.ReadTimeout),
    Fault.SLOW_BODY: (True, 200),
    Fault.CUT_BODY: (True, httpx.RemoteProtocolError),
    Fault.HTML_502_BEFORE: (False, 502),
    Fault.HTML_502_AFTER: (True, 502),
    Fault.EMPTY_503: (False, 503),
    Fault.ERROR_500_AFTER: (True, 500),
    Fault.ERROR_504_AFTER: (True, 504),
    Fault.NO_REQUEST_ID: (True, 200),
    Fault.TOKEN_EXPIRED: (False, 401),
    Fault.SESSION_EXPIRED: (False, 401),
    Fault.STALE_ANSWER: (True, 200),
    Fault.CACHED_ANSWER: (False, 200),
    Fault.DUPLICATE_REFUSED: (True, httpx.ReadError),
    Fault.GATEWAY_404: (False, {403, 404}),
    Fault.THROTTLED_403: (False, {400, 403, 420}),
    Fault.AUTH_XML: (False, 401),
    Fault.LONG_HEADER: (True, 200),
    Fault.DAMAGED_JSON: (True, 200),
    Fault.LOST_UPSTREAM_503: (True, {502, 503, 504}),
    Fault.REFUSING_503: (False, 503),
    Fault.SESSION_FLAP: (False, 401),
    Fault.LOGIN_403: (False, 403),
    Fault.ODD_RETRY_AFTER: (False, 429),
    Fault.ODD_COUNTS: (False, 200),
}
"""Fault: whether the request was executed, and the status, statuses or error that the caller sees."""


def meet(fault: Fault, seed: int = 0) -> tuple[Sandbox, httpx.Response | Exception]:
    """Assign once (or log in, or ask for license counts), meeting the fault, in virtual time."""
    sandbox = Sandbox(SandboxConfig(faults={fault: 1.0}, seed=seed))

    async def assign() -> httpx.Response | Exception:
        if fault is Fault.LOGIN_403:
            async with http_client_of(sandbox) as http:
                return await http.post(OAUTH, data=GRANT, auth=KEYS)
        async with caller_of(sandbox) as caller:
            if fault is Fault.ODD_COUNTS:
                return await caller.http.post(
                    COUNTS, json={"accountName": "0000123456-00001"}, headers=caller.headers
                )
            try:
                return await caller.assign(ONE)
            except httpx.TransportError as error:
                return error

    return sandbox, trio.run(assign, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.CACHED_ANSWER])
def test_a_fault_executes_or_not_as_its_name_says(fault: Fault) -> None:
    sandbox, met = meet(fault)
    executed, seen = SEEN[fault]
    assert sandbox.totals().executions == executed
    assert sandbox.totals().requests == {fault: 1}
    if isinstance(met, httpx.Response):
        assert met.status_code in (seen if isinstance(seen, set) else {seen})
    else:
        assert type(met) is seen


def _answer(fault: Fault) -> httpx.Response:
    _, met = meet(fault)
    assert isinstance(met, httpx.Response)
    return met


def test_proxy_and_server_errors_have_bodies_of_their_own() -> None:
    assert _answer(Fault.HTML_502_AFTER).headers["content-type"].startswith("text/html")
    assert _answer(Fault.EMPTY_503).content == b""
    assert _answer(Fault.NO_REQUEST_ID).json() == {}
    assert _answer(Fault.ERROR_504_AFTER).json()["errorCode"] == "504"
    assert _answer(Fault.SLOW_BODY).json().keys() == {"requestId"}


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.TOKEN_EXPIRED, "900903"), (Fault.SESSION_EXPIRED, "REQUEST_FAILED.SessionToken.Expired")],
)
@pytest.mark.anyio
async def test_an_expired_token_is_invalid_for_all_until_a_new_login(fault: Fault, code: str) -> None:
    sandbox = Sandbox(SandboxConfig(faults={fault: 1.0}))
    async with caller_of(sandbox) as caller:
        old = dict(caller.headers)
        assert code_of(await caller.assign(ONE)).endswith(code)
        assert (await caller.http.get("/m2m/v1/callbacks/acc", headers=old)).status_code == 401
        await caller.log_in()
        assert caller.headers != old
        assert (await caller.http.get("/m2m/v1/callbacks/acc", headers=caller.headers)).status_code == 200


@pytest.mark.anyio
async def test_the_read_timeout_applies_on_both_event_loops() -> None:
    async with caller_of(
        Sandbox(SandboxConfig(faults={Fault.HANG_AFTER: 1.0})), read_timeout_s=0.01
    ) as caller:
        with pytest.raises(httpx.ReadTimeout):
            await caller.assign(ONE)


def test_a_slow_body_arrives_if_no_pause_exceeds_the_timeout() -> None:
    async def assign(slow_body_s: float) -> httpx.Response:
        config = SandboxConfig(faults={Fault.SLOW_BODY: 1.0}, latency=LatencyConfig(slow_body_s=slow_body_s))
        async with caller_of(Sandbox(config), read_timeout_s=5) as caller:
            return await caller.assign(ONE)

    assert trio.run(assign, 100, clock=MockClock(autojump_threshold=0)).json().keys() == {"requestId"}
    with pytest.raises(httpx.ReadTimeout):
        trio.run(assign, 1000, clock=MockClock(autojump_threshold=0))


def test_a_refused_request_can_lose_its_answer_too() -> None:
    sandbox = Sandbox(SandboxConfig(faults={Fault.RESET_AFTER: 1.0}))

    async def assign() -> None:
        async with caller_of(sandbox) as caller:
            with pytest.raises(httpx.ReadError):
                await caller.assign({})

    trio.run(assign)
    assert sandbox.books.executions == []


def test_the_same_seed_draws_the_same_faults_at_their_rates() -> None:
    rates = {Fault.RESET_AFTER: 0.1, Fault.EMPTY_503: 0.3}
    dice, same, other = RandomFaults(rates, 1), RandomFaults(rates, 1), RandomFaults(rates, 2)
    drawn = [dice.draw() for _ in range(2000)]
    assert drawn == [same.draw() for _ in range(2000)]
    assert drawn != [other.draw() for _ in range(2000)]
    assert drawn.count(Fault.RESET_AFTER) == pytest.approx(200, abs=60)
    assert drawn.count(Fault.EMPTY_503) == pytest.approx(600, abs=90)


@pytest.mark.parametrize("rates", [{Fault.EMPTY_503: 1.1}, {Fault.EMPTY_503: 0.6, Fault.CUT_BODY: 0.6}])
def test_faults_of_more_than_every_request_are_refused(rates: dict[Fault, float]) -> None:
    with pytest.raises(UsageError):
        SandboxConfig(faults=rates)


@pytest.fixture(params=[Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.CUT_BODY, Fault.HANG_AFTER])
def over_tcp(request: pytest.FixtureRequest) -> Iterator[tuple[Fault, httpx.Client]]:
    fault: Any = request.param
    config = SandboxConfig(faults={fault: 1.0})
    with serving(config) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        yield fault, http


def test_a_connection_breaks_over_tcp_as_it_does_in_process(over_tcp: tuple[Fault, httpx.Client]) -> None:
    fault, http = over_tcp
    executed, seen = SEEN[fault]
    token = http.post(OAUTH, data=GRANT, auth=KEYS).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    headers["VZ-M2M-Token"] = http.post(LOGIN, json=USER, headers=headers).json()["sessionToken"]
    assert isinstance(seen, type)
    with pytest.raises(seen):
        http.post(LICENSES, json=ONE, headers=headers, timeout=0.3 if "hang" in fault else 30)
    totals = http.get(http.base_url.join("/sandbox/totals")).json()
    assert totals["executions"] == executed
