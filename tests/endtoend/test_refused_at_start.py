"""What no retry can heal is told before the first license request: wrong URL, account or permission."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from batchlic.carrier.base_url import find_root
from batchlic.sandbox.config import RuleConfig, SandboxConfig
from tests.carrier.script import LICENSES, Exchange, take
from tests.endtoend.carrier import COUNTS, answering
from tests.endtoend.program import ACCOUNT, FLEXIBLE, LIFETIME, Ended, batchlic, fleet, keys, totals
from tests.forking import serving

ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run")
QUICKLY = ("--give-up-after", "1")
SERVICE = "UnifiedWebService"


def assign_at(url: str, folder: Path, *options: str) -> Ended:
    fleet(folder / "fleet.csv", 3)
    return batchlic(*ASSIGN, *QUICKLY, *options, settings=keys(url), cwd=folder)


def answered(folder: Path, status: int, body: object) -> tuple[Ended, int]:
    """How a run ends whose question for license counts is answered so, and its license requests."""

    async def script(exchange: Exchange) -> None:
        if exchange.request.path == COUNTS:
            await exchange.say(status, body)
        elif exchange.request.path == LICENSES:
            await take(exchange)
        else:
            await exchange.say(200, b"[]")

    with answering(script) as carrier:
        ended = assign_at(carrier.url, folder)
        return ended, len(carrier.paths(LICENSES))


@pytest.mark.parametrize("path", ["", "/api/m2m/v1"])
def test_a_wrong_path_is_exit_2_and_the_right_url_is_named(tmp_path: Path, path: str) -> None:
    with serving(SandboxConfig()) as url:
        ended = assign_at(url.removesuffix("/api") + path, tmp_path)
        assert totals(url)["requests"] == {}
    assert (ended.code, f"The API answers at {url}\n" in ended.err) == (2, True), ended.err


@pytest.mark.anyio
async def test_the_right_url_is_found_from_every_wrong_path() -> None:
    paths = ("", "/", "/apis", "/v1", "/api/m2m", "/api/m2m/v1", "/API", "/api/api")
    with serving(SandboxConfig()) as url:
        found = [await find_root(url.removesuffix("/api") + path) for path in paths]
        assert found == [url] * len(paths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<html><title>404 Not Found</title></html>"),
        (404, b""),
        (404, {"fault": {"code": "900906", "message": "No matching resource found"}}),
        (200, b"<html><title>Maintenance</title></html>"),
        (503, b"no healthy upstream"),
        (301, b""),
    ],
)
def test_an_answer_that_may_be_an_outage_stays_exit_6(tmp_path: Path, status: int, body: object) -> None:
    async def down(exchange: Exchange) -> None:
        await exchange.say(status, body)

    with answering(down) as carrier:
        carrier.oauth_script = down
        ended = assign_at(carrier.url, tmp_path)
    assert ended.code == 6, ended.err


@pytest.mark.slow
def test_an_unreachable_host_stays_exit_6(tmp_path: Path) -> None:
    assert assign_at("https://carrier.invalid/api", tmp_path).code == 6


@pytest.mark.parametrize("url", ["http://thingspace.verizon.com/api", "http://carrier.example/api"])
def test_an_unencrypted_base_url_is_exit_2(tmp_path: Path, url: str) -> None:
    ended = assign_at(url, tmp_path)
    assert (ended.code, "use https" in ended.err) == (2, True)


def test_an_account_that_the_carrier_does_not_know_is_exit_4(tmp_path: Path) -> None:
    with serving(SandboxConfig(accounts=("0000999999-00001",))) as url:
        ended = assign_at(url, tmp_path)
        assert totals(url)["requests"] == {}
    assert (ended.code, f"account {ACCOUNT}" in ended.err) == (4, True), ended.err


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (404, f"{SERVICE}.REQUEST_FAILED.AccountNotFound", "Account not found"),
        (400, "400", "The account does not exist"),
    ],
)
def test_a_refused_account_is_exit_4(tmp_path: Path, status: int, code: str, text: str) -> None:
    ended, sent = answered(tmp_path, status, {"errorCode": code, "errorMessage": text})
    assert (ended.code, sent) == (4, 0), ended.err
    assert f"account {ACCOUNT}" in ended.err


@pytest.mark.slow
def test_a_login_that_may_not_manage_licenses_is_exit_5(tmp_path: Path) -> None:
    with serving(SandboxConfig(rules=RuleConfig(permission=False))) as url:
        ended = assign_at(url, tmp_path)
        assert totals(url)["requests"] == {}
    assert (ended.code, "permission" in ended.err) == (5, True), ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"fault": {"code": "900908", "message": "Resource forbidden", "description": "x"}}),
        (400, {"errorCode": "REQUEST_FAILED.User", "errorMessage": "The user is not authorized"}),
    ],
)
def test_a_refused_permission_is_exit_5(tmp_path: Path, status: int, body: Mapping[str, object]) -> None:
    ended, sent = answered(tmp_path, status, body)
    assert (ended.code, sent) == (5, 0), ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, b"<html><title>403 Forbidden</title></html>"),
        (403, {"message": "Forbidden"}),
        (404, b"404 page not found\n"),
        (500, {"errorCode": "500", "errorMessage": "account not found"}),
        (503, {"fault": {"code": "101503", "message": "Error connecting to the back end"}}),
        (400, {"errorCode": f"{SERVICE}.REQUEST_FAILED.UnexpectedError", "errorMessage": "failed"}),
        (400, {"errorCode": "400", "errorMessage": "skuNumber is required"}),
    ],
)
def test_other_refusals_of_license_counts_do_not_stop_a_run(
    tmp_path: Path, status: int, body: object
) -> None:
    ended, sent = answered(tmp_path, status, body)
    assert (ended.code, sent) == (0, 1), ended.err


def test_one_unknown_account_among_others_is_named(tmp_path: Path) -> None:
    with serving(SandboxConfig(accounts=(ACCOUNT,), licenses={FLEXIBLE: 10, LIFETIME: 10})) as url:
        (tmp_path / "two.csv").write_text(
            f"IMEI,Account\n864508030000019,{ACCOUNT}\n864508030000027,0000777777-00001\n"
        )
        options = ("--sku", FLEXIBLE, "--run-dir", "run")
        ended = batchlic("assign", "two.csv", *options, settings=keys(url), cwd=tmp_path)
        assert totals(url)["requests"] == {}
    assert (ended.code, "0000777777-00001" in ended.err, ACCOUNT in ended.err) == (4, True, False), ended.err
