"""Both logins, their tokens, and the lock after wrong logins."""

import base64

import pytest

from batchlic.sandbox.app import Sandbox
from batchlic.sandbox.auth import Authenticator
from batchlic.sandbox.config import TokenConfig
from batchlic.sandbox.refusals import Refusal
from batchlic.sandbox.request_bodies import LoginBody
from tests.sandbox.caller import (
    CALLBACKS,
    GRANT,
    KEYS,
    LICENSES,
    LOGIN,
    LOGOUT,
    OAUTH,
    USER,
    caller_of,
    code_of,
)

GRANT_FORM = b"grant_type=client_credentials"
RIGHT, WRONG = LoginBody("sandbox", "sandbox"), LoginBody("sandbox", "guess")


def authenticator() -> Authenticator:
    ids = iter(range(1000))
    lifetimes = TokenConfig(access_life_s=3600, session_idle_s=1200)
    return Authenticator(lifetimes, new_id=lambda: f"token-{next(ids)}")


def basic(name: str, secret: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Basic " + base64.b64encode(f"{name}:{secret}".encode())}


def bearer(token: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {token}".encode()}


def session(token: str) -> dict[bytes, bytes]:
    return {b"vz-m2m-token": token.encode()}


def refused(refusal: pytest.ExceptionInfo[Refusal]) -> str:
    return refusal.value.body.decode()


def test_an_access_token_stays_the_same_for_an_hour() -> None:
    carrier = authenticator()
    first = carrier.access_token(basic(*KEYS), GRANT_FORM, 0)
    again = carrier.access_token(basic(*KEYS), GRANT_FORM, 3599)
    assert (again.access_token, again.expires_in) == (first.access_token, 1)
    assert carrier.access_token(basic(*KEYS), GRANT_FORM, 3600).access_token != first.access_token
    with pytest.raises(Refusal) as refusal:
        carrier.check_access(bearer(first.access_token), 3600)
    assert "900903" in refused(refusal)


def test_a_session_ends_after_twenty_minutes_unused() -> None:
    carrier = authenticator()
    token = carrier.open_session(RIGHT, 0).session_token
    for now in (1199, 2398, 3597):
        assert carrier.check_session(session(token), now) == token
    with pytest.raises(Refusal) as refusal:
        carrier.check_session(session(token), 3597 + 1200)
    assert "REQUEST_FAILED.SessionToken.Expired" in refused(refusal)


def fail_to_log_in(carrier: Authenticator, times: int) -> None:
    for _ in range(times):
        with pytest.raises(Refusal):
            carrier.open_session(WRONG, 0)


def test_the_fifth_wrong_login_in_a_row_locks_that_login_for_good() -> None:
    carrier = authenticator()
    fail_to_log_in(carrier, 5)
    with pytest.raises(Refusal) as refusal:
        carrier.open_session(RIGHT, 0)
    assert "locked" in refused(refusal)
    assert carrier.access_token(basic(*KEYS), GRANT_FORM, 0).access_token, "the other login is not locked"


def test_a_right_login_resets_the_count_of_wrong_ones() -> None:
    carrier = authenticator()
    for _ in range(3):
        fail_to_log_in(carrier, 4)
        assert carrier.open_session(RIGHT, 0).session_token


def test_five_wrong_client_secrets_lock_the_oauth_login() -> None:
    carrier = authenticator()
    for _ in range(5):
        with pytest.raises(Refusal):
            carrier.access_token(basic("sandbox", "guess"), GRANT_FORM, 0)
    with pytest.raises(Refusal) as refusal:
        carrier.access_token(basic(*KEYS), GRANT_FORM, 0)
    assert "locked" in refused(refusal)


@pytest.mark.anyio
async def test_oauth_answers_as_rfc_6749_says() -> None:
    async with caller_of(Sandbox()) as caller:
        answer = await caller.http.post(OAUTH, data=GRANT, auth=KEYS)
        assert answer.json().keys() == {"access_token", "token_type", "expires_in", "scope"}
        assert answer.json()["token_type"] == "bearer"
        assert (await caller.http.post(OAUTH, data={"grant_type": "password"}, auth=KEYS)).status_code == 400
        assert (await caller.http.post(OAUTH, data=GRANT)).status_code == 401


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": ""}, "900902"),
        ({"Authorization": "Bearer unknown"}, "900901"),
        ({"Authorization": "Basic c2FuZGJveDpzYW5kYm94"}, "900902"),
        ({"VZ-M2M-Token": ""}, "UnifiedWebService.REQUEST_FAILED.SessionToken.Format"),
        ({"VZ-M2M-Token": "unknown"}, "UnifiedWebService.INPUT_INVALID.SessionToken.Invalid"),
    ],
)
async def test_every_call_needs_both_tokens(headers: dict[str, str], code: str) -> None:
    async with caller_of(Sandbox()) as caller:
        for method, path in (("POST", LICENSES), ("DELETE", LICENSES), ("GET", CALLBACKS), ("POST", LOGOUT)):
            answer = await caller.http.request(method, path, headers=caller.headers | headers)
            assert (answer.status_code, code_of(answer)) == (401, code)


@pytest.mark.anyio
async def test_a_session_is_invalid_after_logout() -> None:
    async with caller_of(Sandbox()) as caller:
        token = caller.headers["VZ-M2M-Token"]
        assert (await caller.http.post(LOGOUT, headers=caller.headers)).json() == {"sessionToken": token}
        answer = await caller.http.get(CALLBACKS, headers=caller.headers)
        assert code_of(answer).endswith("SessionToken.Invalid")
        assert (await caller.http.post(LOGIN, json=USER, headers=caller.headers)).status_code == 200
