"""One login for all workers (promise G), and no secret in any text (promise F)."""

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import pytest

from batchlic.carrier.answers import Answer, Outcome, RejectedToken, TokenKind
from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.client import Carrier, open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.carrier.http_client import Timeouts
from batchlic.carrier.messages import AccessToken, CallbackRegistration, Login, Session
from batchlic.errors import CredentialsRejected, StoppedEarly, UsageError
from tests.carrier.script import (
    GUID,
    KEYS,
    LOGIN,
    OAUTH,
    TOKENS,
    Exchange,
    ScriptedCarrier,
    client_of,
    scripted,
    submission,
)

pytestmark = pytest.mark.anyio

EXPIRED = {
    "errorCode": "UnifiedWebService.REQUEST_FAILED.SessionToken.Expired",
    "errorMessage": "log in again",
}
BAD_ACCESS = {"fault": {"code": "900901", "message": "Invalid Credentials"}}
BAD_LOGIN = {"errorCode": "UnifiedWebService.INPUT_INVALID.Login.Invalid", "errorMessage": "wrong password"}
MIXED = Credentials(
    client_id=Secret("key"),
    client_secret=Secret("secret"),
    username=Secret("user"),
    password=Secret("password"),
    access_token=Secret("ready-access"),
    session_token=Secret("ready-session"),
)


def only(access: str | None = None, session: str | None = None) -> Callable[[Exchange], Awaitable[None]]:
    """A carrier that knows one access token or one session, and rejects any other."""

    async def script(exchange: Exchange) -> None:
        headers = exchange.request.headers
        if access is not None and headers["authorization"] != f"Bearer {access}":
            await exchange.say(401, BAD_ACCESS)
        elif session is not None and headers["vz-m2m-token"] != session:
            await exchange.say(400, EXPIRED)
        else:
            await exchange.say(200, {"requestId": GUID})

    return script


def always(status: int, body: object = b"", *headers: str) -> Callable[[Exchange], Awaitable[None]]:
    async def script(exchange: Exchange) -> None:
        await exchange.say(status, body, *headers)

    return script


async def resets(exchange: Exchange) -> None:
    await exchange.reset()


async def submit_until_taken(client: Carrier) -> Answer:
    while (answer := await client.submit(submission())).outcome is Outcome.UNAUTHORIZED:
        await client.renew(answer)
    return answer


async def test_a_thousand_workers_that_see_an_expired_session_log_in_once() -> None:
    async with client_of(only(session="session-2"), KEYS) as (client, carrier):
        answer = await client.submit(submission())
        assert answer == Answer(
            outcome=Outcome.UNAUTHORIZED,
            http_status=400,
            error_code="REQUEST_FAILED.SessionToken.Expired",
            error_message="log in again",
            rejected=RejectedToken(TokenKind.SESSION, generation=2),
        )
        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(client.renew, answer)
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED
    assert (len(carrier.paths(LOGIN)), len(carrier.paths(OAUTH))) == (2, 1)


async def test_many_requests_in_flight_when_the_session_expires_cost_one_login() -> None:
    async with (
        client_of(only(session="session-2"), KEYS) as (client, carrier),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(60):
            tasks.start_soon(submit_until_taken, client)
    assert len(carrier.paths(LOGIN)) == 2


async def test_an_answer_of_an_older_generation_renews_nothing() -> None:
    async with client_of(only(session="session-2"), KEYS) as (client, carrier):
        late = await client.submit(submission())
        await submit_until_taken(client)
        await client.renew(late)
    assert len(carrier.paths(LOGIN)) == 2


async def test_a_new_access_token_keeps_the_session() -> None:
    async with client_of(only(access="access-2", session="session-1"), KEYS) as (client, carrier):
        assert (await submit_until_taken(client)).outcome is Outcome.ACCEPTED
    assert (len(carrier.paths(LOGIN)), len(carrier.paths(OAUTH))) == (1, 2)


async def test_both_tokens_expired_are_both_renewed() -> None:
    async with client_of(only(access="access-2", session="session-2"), KEYS) as (client, carrier):
        assert (await submit_until_taken(client)).outcome is Outcome.ACCEPTED
    assert (len(carrier.paths(LOGIN)), len(carrier.paths(OAUTH))) == (2, 2)


async def test_a_401_with_an_unchanged_access_token_renews_the_session() -> None:
    async def script(exchange: Exchange) -> None:
        is_new = exchange.request.headers["vz-m2m-token"] == "session-2"
        await (exchange.say(200, {"requestId": GUID}) if is_new else exchange.say(401))

    async with scripted(script) as carrier, open_client(carrier.url, KEYS) as client:
        carrier.oauth_script = always(200, {"access_token": "same-within-the-hour"})
        await client.login()
        assert (await submit_until_taken(client)).outcome is Outcome.ACCEPTED
    assert (len(carrier.paths(LOGIN)), len(carrier.paths(OAUTH))) == (2, 2)


async def test_a_401_with_a_new_access_token_each_time_renews_the_session_next() -> None:
    async def script(exchange: Exchange) -> None:
        is_new = exchange.request.headers["vz-m2m-token"] == "session-2"
        await (exchange.say(200, {"requestId": GUID}) if is_new else exchange.say(401))

    async with client_of(script, KEYS) as (client, carrier):
        assert (await submit_until_taken(client)).outcome is Outcome.ACCEPTED
    assert (len(carrier.paths(LOGIN)), len(carrier.paths(OAUTH))) == (2, 2)


async def test_the_same_access_token_again_is_no_rejected_login() -> None:
    async with scripted(only(access="another")) as carrier, open_client(carrier.url, KEYS) as client:
        carrier.oauth_script = always(200, {"access_token": "same-within-the-hour"})
        await client.login()
        answer = await client.submit(submission())
        with pytest.raises(CarrierUnreachable, match="returns the access token that the carrier rejects"):
            await client.renew(answer)
    assert len(carrier.paths(OAUTH)) == 2


REJECTIONS = [
    (401, BAD_LOGIN),
    (400, BAD_LOGIN),
    (403, BAD_LOGIN),
    (440, BAD_LOGIN),
    (403, {"errorCode": "403", "errorMessage": "words"}),
    (401, b""),
    (401, b"<html>no</html>"),
    (423, b""),
    *((400, {"error": error}) for error in ("invalid_client", "unauthorized_client", "invalid_grant")),
    (401, {"error": "invalid_client"}),
    (200, {"error": "invalid_client"}),
    (200, BAD_LOGIN),
]


@pytest.mark.parametrize("where", ["login_script", "oauth_script"])
@pytest.mark.parametrize(("status", "body"), REJECTIONS)
async def test_a_rejected_login_is_never_repeated(where: str, status: int, body: object) -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        setattr(carrier, where, always(status, body))
        with pytest.raises(CredentialsRejected, match="BATCHLIC_"):
            await client.login()
        seen = len(carrier.requests)
        for _ in range(10):
            with pytest.raises(CredentialsRejected):
                await client.login()
        assert len(carrier.requests) == seen


async def test_a_thousand_workers_share_one_rejection() -> None:
    rejected = 0
    async with client_of(only(session="session-2"), KEYS) as (client, carrier):
        carrier.login_script = always(401, BAD_LOGIN)
        answer = await client.submit(submission())

        async def renew() -> None:
            nonlocal rejected
            with pytest.raises(CredentialsRejected):
                await client.renew(answer)
            rejected += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(renew)
    assert (rejected, len(carrier.paths(LOGIN))) == (1000, 2)


OUTAGES = [
    *((status, b"", ()) for status in (429, 503, 500, 502, 504, 302, 403, 400, 404, 419, 440, 498)),
    (403, b"<h1>Developer Over Rate</h1>", ("Retry-After: 0",)),
    (403, {"errorMessage": "Developer Over Rate"}, ()),
    (403, {"errorCode": "403", "errorMessage": "API rate limit exceeded"}, ()),
    (403, {"errorCode": "403", "errorMessage": "words"}, ("Retry-After: 0",)),
    (403, b"<html>Access denied by the firewall</html>", ()),
    (404, {"message": "no Route matched with those values"}, ()),
    (404, {"fault": {"code": "900906", "message": "no such resource"}}, ()),
    (400, {"error": "temporarily_unavailable"}, ()),
    (400, {"error": "slow_down"}, ()),
    (400, {"errorCode": "UnifiedWebService.REQUEST_FAILED.UnexpectedError"}, ()),
    (413, b"<html>nginx</html>", ()),
    (200, b"<html>Sign in</html>", ()),
    (200, {"errorCode": "UnifiedWebService.REQUEST_FAILED.UnexpectedError"}, ()),
    (200, {"error": "temporarily_unavailable"}, ()),
    (200, {"errorCode": 0}, ()),
    (200, {"errorCode": "SUCCESS"}, ()),
    (200, {"errorCode": "503", "errorMessage": "Service unavailable"}, ()),
    (200, {"errorCode": "UnifiedWebService.REQUEST_FAILED.Timeout"}, ()),
]


@pytest.mark.parametrize("where", ["login_script", "oauth_script"])
@pytest.mark.parametrize(("status", "body", "headers"), OUTAGES)
async def test_an_outage_does_not_count_as_a_rejected_login(
    where: str, status: int, body: object, headers: tuple[str, ...]
) -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        setattr(carrier, where, always(status, body, *headers))
        with pytest.raises(CarrierUnreachable):
            await client.login()
        setattr(carrier, where, None)
        await client.login()
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (403, b"<html>no</html>"),
        (403, b"Authentication required"),
        (403, {"status": 403, "error": "Forbidden", "message": "Please log in"}),
        (400, b""),
        (400, {"errorCode": "UnifiedWebService.REQUEST_FAILED.UnexpectedError"}),
        (409, {"message": "words"}),
        (200, b"<html>Sign in</html>"),
    ],
)
async def test_g_unknown_answers_to_logins_never_lock_the_login(status: int, body: object) -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = always(status, body)
        await log_in_in_vain(client, 3)
        with pytest.raises(StoppedEarly, match="lock"):
            await client.login()
    assert len(carrier.paths(LOGIN)) == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"message": "no Route matched with those values"}),
        (503, b"no healthy upstream"),
        (403, {"errorMessage": "Developer Over Rate"}),
        (302, b""),
        (401, BAD_ACCESS),
    ],
)
async def test_logins_that_a_gateway_did_not_pass_on_have_no_limit(status: int, body: object) -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = always(status, body)
        await log_in_in_vain(client, 6)


async def test_hiding_a_short_secret_does_not_turn_a_rejection_into_an_outage() -> None:
    async with (
        scripted() as carrier,
        open_client(carrier.url, replace(KEYS, password=Secret("client"))) as client,
    ):
        carrier.oauth_script = always(400, {"error": "invalid_client"})
        with pytest.raises(CredentialsRejected):
            await client.login()


async def test_a_token_endpoint_with_a_gateway_code_rejects_the_key() -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.oauth_script = always(400, BAD_ACCESS)
        with pytest.raises(CredentialsRejected, match="BATCHLIC_CLIENT_ID"):
            await client.login()


BOM = b"\xef\xbb\xbf"
TOKEN_ANSWERS = [
    {"access_token": "t"},
    {"access_token": "t", "token_type": "bearer", "expires_in": "3600"},
    {"access_token": "t", "expires_in": None},
    {"access_token": "t", "expires_in": 3599.5},
    {"access_token": "t", "expires_in": "soon"},
    {"access_token": "t", "scope": None, "token_type": None},
    {"access_token": "t", "scope": ["a", "b"], "new": {"x": [1]}},
    {"Access_Token": " t\n"},
    BOM + b'{"access_token":"t"}',
    b'{"access_token":"t","expires_in":NaN}',
    b'{"access_token":"t","note":"two\nlines"}\n-- end',
    '{"access_token":"t"}'.encode("utf-16"),
]


@pytest.mark.parametrize("body", TOKEN_ANSWERS, ids=str)
async def test_a_token_answer_is_read_whatever_else_it_holds(body: object) -> None:
    async with scripted(only(access="t")) as carrier, open_client(carrier.url, KEYS) as client:
        carrier.oauth_script = always(200, body)
        await client.login()
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    "body",
    [{"SessionToken": "s"}, {"sessionToken": "s", "errorCode": None}, BOM + b'{"sessionToken":"s"}'],
    ids=str,
)
async def test_a_session_answer_is_read_whatever_else_it_holds(body: object) -> None:
    async with scripted(only(session="s")) as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = always(200, body)
        await client.login()
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("token", [7, None, ["t"], {"t": 1}, "", "two words", "é"])
async def test_a_token_of_an_odd_type_is_refused_by_its_field(token: object) -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.oauth_script = always(200, {"access_token": token})
        with pytest.raises(CarrierUnreachable, match="HTTP 200 without a usable access_token"):
            await client.login()


async def test_an_unreachable_carrier_error_has_the_requested_wait() -> None:
    async def busy(exchange: Exchange) -> None:
        await exchange.say(503, b"", "Retry-After: 30")

    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.oauth_script = busy
        with pytest.raises(CarrierUnreachable) as caught:
            await client.login()
    assert caught.value.retry_after_s == 30


async def log_in_in_vain(client: Carrier, times: int) -> None:
    for _ in range(times):
        with pytest.raises(CarrierUnreachable):
            await client.login()


async def test_g_the_fourth_unanswered_login_is_not_sent() -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = resets
        await log_in_in_vain(client, 3)
        with pytest.raises(StoppedEarly, match="lock"):
            await client.login()
    assert len(carrier.paths(LOGIN)) == 3


async def test_g_a_login_may_have_failed_if_a_5xx_says_that_the_access_token_is_wrong() -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = always(500, BAD_ACCESS)
        await log_in_in_vain(client, 1)
        with pytest.raises(StoppedEarly, match="lock"):
            await client.login()
    assert len(carrier.paths(LOGIN)) == 3


async def test_a_throttled_login_does_not_reset_the_unanswered_count() -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        for _ in range(3):
            carrier.login_script = always(429)
            await log_in_in_vain(client, 2)
            carrier.login_script = resets
            await log_in_in_vain(client, 1)
        with pytest.raises(StoppedEarly, match="lock"):
            await client.login()


async def test_a_login_that_was_cancelled_counts_as_unanswered() -> None:
    async def hang(_: Exchange) -> None:
        await anyio.sleep_forever()

    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = hang
        with anyio.move_on_after(0.2):
            await client.login()
        carrier.login_script = resets
        await log_in_in_vain(client, 2)
        with pytest.raises(StoppedEarly, match="lock"):
            await client.login()


async def test_logins_that_were_not_sent_have_no_limit() -> None:
    async with scripted() as carrier:
        url = carrier.url
    credentials = Credentials(access_token=Secret("a"), username=Secret("u"), password=Secret("p"))
    async with open_client(url, credentials) as client:
        await log_in_in_vain(client, 10)


async def test_an_accepted_password_has_no_limit_of_unanswered_logins() -> None:
    async with client_of(only(session="another"), KEYS) as (client, carrier):
        answer = await client.submit(submission())
        carrier.login_script = resets
        for _ in range(10):
            with pytest.raises(CarrierUnreachable):
                await client.renew(answer)


async def test_ready_tokens_are_used_without_a_login() -> None:
    async with client_of(only(access="ready-access", session="ready-session"), MIXED) as (client, carrier):
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED
    assert len(carrier.requests) == 1


async def test_rejected_ready_tokens_are_renewed_where_credentials_exist() -> None:
    async with client_of(only(access="access-1", session="session-1"), MIXED) as (client, _):
        assert (await submit_until_taken(client)).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("accepted", "setting"),
    [(only(access="another"), "BATCHLIC_ACCESS_TOKEN"), (only(session="another"), "BATCHLIC_SESSION_TOKEN")],
)
async def test_a_rejected_ready_token_without_credentials_names_its_setting(
    accepted: Callable[[Exchange], Awaitable[None]], setting: str
) -> None:
    async with client_of(accepted) as (client, carrier):
        answer = await client.submit(submission())
        for _ in range(2):
            with pytest.raises(CredentialsRejected, match=setting):
                await client.renew(answer)
    assert len(carrier.requests) == 1


@pytest.mark.parametrize("has_key", [True, False])
@pytest.mark.parametrize("rejections", [1, 3, 7])
async def test_a_ready_session_that_worked_survives_rejections_without_a_reason(
    rejections: int, *, has_key: bool
) -> None:
    ready = Credentials(
        client_id=Secret("key") if has_key else None,
        client_secret=Secret("secret") if has_key else None,
        access_token=None if has_key else Secret("ready-access"),
        session_token=Secret("ready-session"),
    )

    requests = itertools.count()

    async def flapping(exchange: Exchange) -> None:
        is_rejected = next(requests) in range(1, 1 + rejections)
        await (exchange.say(401, b"") if is_rejected else exchange.say(200, {"requestId": "1"}))

    async with client_of(flapping, ready) as (client, _):
        await client.login()
        assert (await client.submit(submission())).outcome is Outcome.ACCEPTED
        for _ in range(rejections):
            answer = await client.submit(submission())
            assert answer.outcome is Outcome.UNAUTHORIZED
            await client.renew(answer)
        assert (await client.submit(submission())).outcome is not Outcome.UNAUTHORIZED


@pytest.mark.parametrize(
    ("works_first", "status", "body"),
    [
        (False, 401, b""),
        (True, 400, {"errorCode": "UnifiedWebService.REQUEST_FAILED.SessionToken.Expired"}),
        (True, 401, {"errorCode": "UnifiedWebService.INPUT_INVALID.SessionToken.Invalid"}),
    ],
)
async def test_a_ready_session_that_never_worked_or_is_named_is_rejected(
    status: int, body: object, *, works_first: bool
) -> None:
    ready = Credentials(access_token=Secret("ready-access"), session_token=Secret("ready-session"))

    async def script(exchange: Exchange) -> None:
        is_first = len(carrier.requests) == 1
        await (
            exchange.say(200, {"requestId": "1"}) if works_first and is_first else exchange.say(status, body)
        )

    async with client_of(script, ready) as (client, carrier):
        if works_first:
            await client.submit(submission())
        answer = await client.submit(submission())
        with pytest.raises(CredentialsRejected, match="BATCHLIC_SESSION_TOKEN"):
            await client.renew(answer)


async def test_an_expired_ready_access_token_is_renewed_for_the_login_too() -> None:
    credentials = Credentials(
        client_id=Secret("key"),
        client_secret=Secret("secret"),
        username=Secret("user"),
        password=Secret("password"),
        access_token=Secret("expired"),
    )

    async def login(exchange: Exchange) -> None:
        if exchange.request.headers["authorization"] == "Bearer expired":
            await exchange.say(401, BAD_ACCESS)
        else:
            await exchange.say(200, {"sessionToken": "session-1"})

    async with scripted(only(access="access-1", session="session-1")) as carrier:
        carrier.login_script = login
        async with open_client(carrier.url, credentials) as client:
            await client.login()
            assert (await client.submit(submission())).outcome is Outcome.ACCEPTED


def expects(access: Callable[[], str], refusal: tuple[int, object]) -> Callable[[Exchange], Awaitable[None]]:
    """A login that refuses any other access token."""
    numbers = itertools.count(1)

    async def login(exchange: Exchange) -> None:
        if exchange.request.headers["authorization"] == f"Bearer {access()}":
            await exchange.say(200, {"sessionToken": f"session-{next(numbers)}"})
        else:
            await exchange.say(*refusal)

    return login


VAGUE_401: list[object] = [b"", {"errorCode": "401", "errorMessage": "Unauthorized"}, b"<html>no</html>"]


@pytest.mark.parametrize("body", VAGUE_401)
async def test_g_a_vague_401_to_a_login_that_worked_renews_the_access_token(body: object) -> None:
    valid = "access-1"
    async with scripted(only(session="session-2")) as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = expects(lambda: valid, (401, body))
        await client.login()
        valid = "access-2"
        assert (await submit_until_taken(client)).outcome is Outcome.ACCEPTED
    assert (len(carrier.paths(LOGIN)), len(carrier.paths(OAUTH))) == (3, 2)


@pytest.mark.parametrize(("body", "logins"), [*((body, 3) for body in VAGUE_401), (BAD_LOGIN, 2)])
async def test_g_a_login_that_stays_rejected_is_repeated_at_most_once(body: object, logins: int) -> None:
    valid = "access-1"
    async with scripted(only(session="session-2")) as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = expects(lambda: valid, (401, body))
        await client.login()
        valid = "never"
        for _ in range(2):
            with pytest.raises(CredentialsRejected, match="BATCHLIC_PASSWORD"):
                await submit_until_taken(client)
    assert len(carrier.paths(LOGIN)) == logins


@pytest.mark.parametrize(
    "body",
    [
        {"errorCode": "401", "errorMessage": "Invalid username or password"},
        {"errorCode": "REQUEST_FAILED.LoginFailed", "errorMessage": "words"},
        {"errorCode": "REQUEST_FAILED.Login.AccountLocked", "errorMessage": "4 failed attempts"},
        {"message": "Bad credentials"},
        b"<html>The account is locked</html>",
    ],
    ids=str,
)
async def test_g_a_401_about_the_password_is_not_repeated(body: object) -> None:
    async with scripted(only(session="session-2")) as carrier, open_client(carrier.url, KEYS) as client:
        await client.login()
        carrier.login_script = always(401, body)
        with pytest.raises(CredentialsRejected, match="BATCHLIC_PASSWORD"):
            await submit_until_taken(client)
    assert (len(carrier.paths(LOGIN)), len(carrier.paths(OAUTH))) == (2, 1)


@pytest.mark.parametrize("body", VAGUE_401)
async def test_g_a_login_is_not_repeated_with_the_same_access_token(body: object) -> None:
    async with scripted(only(session="session-2")) as carrier, open_client(carrier.url, KEYS) as client:
        carrier.oauth_script = always(200, {"access_token": "access-1"})
        await client.login()
        carrier.login_script = always(401, body)
        with pytest.raises(CredentialsRejected, match="BATCHLIC_PASSWORD"):
            await submit_until_taken(client)
    assert len(carrier.paths(LOGIN)) == 2


@pytest.mark.parametrize("body", VAGUE_401)
async def test_g_a_vague_401_to_the_first_login_is_not_repeated(body: object) -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = always(401, body)
        with pytest.raises(CredentialsRejected, match="BATCHLIC_PASSWORD"):
            await client.login()
    assert len(carrier.paths(LOGIN)) == 1


@pytest.mark.parametrize(
    "body", [{"sessionToken": "two\nlines"}, {"sessionToken": ""}, b"<html>", b"[" * 60_000]
)
async def test_a_login_without_a_usable_token_counts_as_unanswered(body: object) -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        carrier.login_script = always(200, body)
        with pytest.raises(CarrierUnreachable, match="the session login failed"):
            await client.login()


async def test_logging_out_ends_a_session_opened_here_once() -> None:
    async with client_of(always(200, {"sessionToken": "session-1"}), KEYS) as (client, carrier):
        await client.logout()
        await client.logout()
    assert [request.headers["vz-m2m-token"] for request in carrier.paths("/m2m/v1/session/logout")] == [
        "session-1"
    ]


async def test_logging_out_leaves_a_ready_session_alone() -> None:
    async with client_of() as (client, carrier):
        await client.logout()
    assert carrier.requests == []


async def test_logging_out_never_fails() -> None:
    async with client_of(resets, KEYS) as (client, _):
        await client.logout()


PARTS = {"client_id": Secret("key"), "client_secret": Secret("secret"), "username": Secret("user")}


@pytest.mark.parametrize(
    ("credentials", "match"),
    [
        ({}, "BATCHLIC_CLIENT_ID"),
        (PARTS, "BATCHLIC_PASSWORD"),
        ({"access_token": Secret("x"), "username": Secret("user")}, "BATCHLIC_SESSION_TOKEN"),
        ({"access_token": Secret("planted x"), "session_token": Secret("y")}, "BATCHLIC_ACCESS_TOKEN"),
        ({"access_token": Secret("x"), "session_token": Secret("planted\n")}, "BATCHLIC_SESSION_TOKEN"),
    ],
)
def test_credentials_that_cannot_work_are_refused_by_name(credentials: dict[str, Secret], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        Credentials(**credentials)
    assert "planted" not in str(caught.value)


# Promise F


def planted(carrier: ScriptedCarrier) -> set[str]:
    """Everything secret that went over the wire, as the carrier saw it."""
    headers = [request.headers for request in carrier.requests]
    tokens = {
        h[name].split(" ")[-1] for h in headers for name in ("authorization", "vz-m2m-token") if h.get(name)
    }
    return tokens | {"planted-client-secret", "planted-password", "planted-access", "planted-session"}


def echo(status: int, form: str) -> Callable[[Exchange], Awaitable[None]]:
    """Answer with everything the request held, in the carrier's fields or as it is."""

    async def script(exchange: Exchange) -> None:
        echoed = f"{exchange.request.headers} {exchange.request.body.decode()}"
        bodies = {
            "message": {"errorCode": "400", "errorMessage": echoed},
            "code": {"errorCode": echoed, "errorMessage": "words"},
            "fault": {"fault": {"code": echoed, "message": echoed, "description": echoed}},
            "request id": {"requestId": exchange.request.headers.get("vz-m2m-token", "")},
            "page": f"<html><title>{echoed}</title>".encode(),
            "words": echoed.encode(),
        }
        await exchange.say(status, bodies[form])

    return script


@pytest.mark.parametrize("form", ["message", "code", "fault", "request id", "page", "words"])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("credentials", [KEYS, TOKENS], ids=["keys", "tokens"])
async def test_a_carrier_that_echoes_secrets_does_not_get_them_into_an_answer(
    credentials: Credentials, status: int, form: str
) -> None:
    async with client_of(echo(status, form), credentials) as (client, carrier):
        answer = await client.submit(submission())
    assert not [secret for secret in planted(carrier) if secret in repr(answer)]


async def test_hiding_a_short_secret_does_not_change_the_outcome() -> None:
    short = replace(KEYS, password=Secret("e"))
    async with client_of(only(access="another"), short) as (client, _):
        answer = await client.submit(submission())
        assert answer.rejected is not None
        assert answer.rejected.kind is TokenKind.ACCESS
        await client.renew(answer)
    async with client_of(credentials=short) as (client, _):
        assert (await client.submit(submission())).request_id == GUID


async def test_a_secret_is_hidden_before_the_text_is_cut() -> None:
    async def echo_at_the_bound(exchange: Exchange) -> None:
        token = exchange.request.headers["vz-m2m-token"]
        await exchange.say(404, f"<html><title>{'x' * 440}{token}</title>".encode())

    long = replace(TOKENS, session_token=Secret("planted-" * 20))
    async with client_of(echo_at_the_bound, long) as (client, _):
        assert "planted" not in repr(await client.submit(submission()))


@pytest.mark.parametrize("where", ["login_script", "oauth_script"])
@pytest.mark.parametrize("form", ["message", "code", "fault", "page", "words"])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500, 503])
async def test_a_login_that_echoes_secrets_does_not_get_them_into_an_error(
    where: str, form: str, status: int
) -> None:
    async with scripted() as carrier, open_client(carrier.url, KEYS) as client:
        setattr(carrier, where, echo(status, form))
        with pytest.raises((CredentialsRejected, CarrierUnreachable)) as caught:
            await client.login()
    error: BaseException | None = caught.value
    while error is not None:
        assert not [secret for secret in planted(carrier) if secret in f"{error} {error!r}"]
        error = error.__cause__ or error.__context__


async def test_nothing_that_holds_a_secret_shows_it() -> None:
    async with client_of(credentials=KEYS) as (client, carrier):
        await client.submit(submission())
        shown = [
            repr([client, client._http, client._token_manager, client._token_manager.tokens, KEYS, TOKENS]),
            f"{KEYS.password} {KEYS.password!s} {KEYS.password!r}",
            repr(Login(username="u", password="planted-password")),
            repr(AccessToken(access_token="planted-access")),
            repr(Session(session_token="planted-session")),
            repr(CallbackRegistration(name="n", url="u", password="planted-password")),
        ]
    assert not [text for text in shown for secret in planted(carrier) if secret in text]


async def test_a_login_without_an_answer_shows_no_secret() -> None:
    async with scripted() as carrier:
        carrier.login_script = resets
        async with open_client(carrier.url, KEYS, timeouts=Timeouts(exchange=5)) as client:
            with pytest.raises(CarrierUnreachable) as caught:
                await client.login()
    assert not [secret for secret in planted(carrier) if secret in repr(caught.value)]
