"""`batchlic check` finds what would fail at night, hides nothing, and sends no license request."""

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from batchlic.sandbox.config import SandboxConfig
from tests.carrier.script import LICENSES, LOGIN, OAUTH, Exchange
from tests.carrier.test_probe import server
from tests.endtoend.carrier import answering, say_counts
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    LIFETIME,
    Ended,
    batchlic,
    bound,
    fleet,
    keys,
    totals,
)
from tests.forking import serving

UNKNOWN_CODE = {"errorCode": "UnifiedWebService.REQUEST_FAILED.Login.Rejected", "errorMessage": "wrong"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A sandbox with one account, which has 20 licenses of each SKU."""
    with serving(SandboxConfig(accounts=(ACCOUNT,), licenses={FLEXIBLE: 20, LIFETIME: 20})) as url:
        yield url


def job(
    folder: Path, *, devices: int = 3, account: str = ACCOUNT, sku: str = FLEXIBLE, more: str = ""
) -> Path:
    fleet(folder / "fleet.csv", devices)
    path = folder / "nightly.toml"
    path.write_text(
        'action = "assign"\n[inventory]\nfiles = ["fleet.csv"]\n'
        f'[license]\naccount = "{account}"\nsku = "{sku}"\n{more}\n'
    )
    return path


def check(folder: Path, settings: dict[str, str], *options: str) -> tuple[Ended, dict[str, list[str]]]:
    """Run the check of a job; its levels by check."""
    ended = batchlic("check", "nightly.toml", "--json", *options, settings=settings, cwd=folder)
    return ended, levels(ended)


def levels(ended: Ended) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in findings(ended):
        found.setdefault(line["check"], []).append(line["level"])
    return found


def findings(ended: Ended) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ended.out)["checks"]
    return found


def message(ended: Ended, check: str, level: str = "error") -> str:
    """The only message of a check with this level."""
    (found,) = [
        line["message"] for line in findings(ended) if (line["check"], line["level"]) == (check, level)
    ]
    return str(found)


def test_a_job_that_would_run_is_exit_0_and_nothing_is_sent_or_left(tmp_path: Path, url: str) -> None:
    job(tmp_path)
    ended, found = check(tmp_path, keys(url))
    assert ended.code == 0, ended.out
    assert [name for name, all_levels in found.items() if all_levels != ["ok"]] == ["listener"]
    assert {"settings", "inventory", "plan", "dns", "tls", "clock", "login", "account", "licenses"} <= {
        *found
    }
    assert totals(url)["requests"] == {}
    assert {path.name for path in tmp_path.rglob("*")} == {"nightly.toml", "fleet.csv"}


def test_a_sandbox_needs_no_credentials_and_the_lines_are_for_people(tmp_path: Path) -> None:
    job(tmp_path)
    ended = batchlic("check", "nightly.toml", "--sandbox", cwd=tmp_path)
    assert ended.code == 0, ended.out
    assert "\nok       login         accepted by sandbox\n" in ended.out


def test_g_a_wrong_password_is_tried_once_and_is_exit_5(tmp_path: Path) -> None:
    async def reject(exchange: Exchange) -> None:
        await exchange.say(401, UNKNOWN_CODE)

    job(tmp_path, devices=0)
    settings = {"BATCHLIC_PASSWORD": "planted-password", "BATCHLIC_CLIENT_SECRET": "planted-secret"}
    with answering(say_counts) as carrier:
        carrier.login_script = reject
        ended, found = check(tmp_path, keys(carrier.url, **settings))
        assert len(carrier.paths(OAUTH)) == len(carrier.paths(LOGIN)) == 1
        assert {request.path for request in carrier.requests} <= {"", "/", "/api", OAUTH, LOGIN}
    assert ended.code == 5
    assert "BATCHLIC_PASSWORD" in message(ended, "login")
    assert found["plan"] == ["error"]  # the empty inventory: one error does not hide the other
    assert "planted" not in ended.out + ended.err


def test_without_a_login_nothing_that_needs_one_is_asked(tmp_path: Path) -> None:
    job(tmp_path)
    with answering(say_counts) as carrier:
        ended, found = check(tmp_path, keys(carrier.url), "--no-login")
        assert not carrier.paths(OAUTH) + carrier.paths(LOGIN) + carrier.paths(LICENSES)
    assert (ended.code, "login" in found, found["clock"]) == (0, False, ["ok"])


@pytest.mark.parametrize(
    ("ahead", "level", "code"), [(5, "ok", 0), (90, "warning", 0), (7200, "error", 3), (-7200, "error", 3)]
)
def test_a_clock_that_differs_from_the_carriers_is_found(
    tmp_path: Path, ahead: int, level: str, code: int
) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(seconds=ahead), usegmt=True)
    job(tmp_path)
    with server(f"Date: {date}") as place:
        settings = keys(f"http://{place}/api")
        ended, found = check(tmp_path, settings, "--no-login")
    assert (found["clock"], ended.code) == ([level], code)


@pytest.mark.parametrize(("days", "level"), [(-1, "error"), (3, "warning"), (60, "ok")])
def test_a_certificate_that_expires_is_found_before_the_night(tmp_path: Path, days: int, level: str) -> None:
    authority, now = trustme.CA(), datetime.now(UTC)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(
        "127.0.0.1", not_before=now - timedelta(days=9), not_after=now + timedelta(days=days)
    ).configure_cert(context)
    job(tmp_path)
    with server(context=context) as place:
        settings = keys(f"https://{place}/api", SSL_CERT_FILE=str(tmp_path / "ca.pem"))
        ended, found = check(tmp_path, settings, "--no-login")
    assert found["tls"] == [level]
    if days < 0:
        assert (ended.code, "expired" in message(ended, "tls")) == (3, True)


def test_an_unknown_account_is_found_and_the_rest_is_still_checked(tmp_path: Path, url: str) -> None:
    job(tmp_path, account="0000999999-00009")
    ended, found = check(tmp_path, keys(url))
    assert (ended.code, found["account"], found["login"]) == (3, ["error"], ["ok"])
    assert "0000999999-00009" in message(ended, "account")


@pytest.mark.parametrize(
    ("more", "level", "code"), [("", "error", 3), ("[limits]\nallow_partial = true", "warning", 0)]
)
def test_too_few_licenses_for_the_inventory_are_named_with_the_numbers(
    tmp_path: Path, url: str, more: str, level: str, code: int
) -> None:
    job(tmp_path, devices=21, more=more)
    ended, _ = check(tmp_path, keys(url))
    assert ended.code == code
    assert f"20 licenses of {FLEXIBLE} left for 21 devices" in message(ended, "licenses", level)


@pytest.mark.slow
def test_what_a_run_would_refuse_is_an_error_with_its_advice(tmp_path: Path) -> None:
    async def count_7_assigned(exchange: Exchange) -> None:
        await say_counts(exchange, assigned=7)

    job(tmp_path, sku=LIFETIME)
    (tmp_path / "nightly.toml").chmod(0o600)
    with answering(count_7_assigned) as carrier:
        ended, _ = check(tmp_path, keys(carrier.url))
    assert ended.code == 3
    assert "--consent-lifetime" in message(ended, "consent")
    assert f"7 licenses of {LIFETIME}" in message(ended, "ledger")


@pytest.mark.parametrize(
    ("settings", "check_name", "text"),
    [
        ({"BATCHLIC_PASWORD": "x"}, "settings", "did you mean BATCHLIC_PASSWORD"),
        ({"BATCHLIC_STATE_DIR": "here"}, "settings", "absolute path"),
        ({"BATCHLIC_USERNAME": ""}, "credentials", "BATCHLIC_USERNAME"),
        ({"BATCHLIC_BASE_URL": "http://127.0.0.1:9/api"}, "connection", "refused"),
        ({"BATCHLIC_LISTENER_STORE": "/nowhere/at/all/store.db"}, "store", "batchlic listen"),
    ],
)
def test_one_wrong_setting_hides_no_other_check(
    tmp_path: Path, url: str, settings: dict[str, str], check_name: str, text: str
) -> None:
    job(tmp_path)
    ended, found = check(tmp_path, keys(url, **settings), "--no-login")
    lines = [line["message"] for line in findings(ended) if line["check"] == check_name]
    assert any(text in line for line in lines), ended.out
    assert found["inventory"] == found["open files"] == ["ok"]
    assert ended.code == (0 if check_name == "store" else 3)


@pytest.mark.slow
def test_a_job_file_or_inventory_that_is_missing_is_an_error(tmp_path: Path, url: str) -> None:
    ended, found = check(tmp_path, keys(url))
    assert (ended.code, found["job"], found["login"]) == (3, ["error"], ["ok"])
    job(tmp_path)
    (tmp_path / "fleet.csv").unlink()
    ended, found = check(tmp_path, keys(url))
    assert (ended.code, found["inventory"], found["licenses"]) == (3, ["error"], ["ok"])


@pytest.mark.slow
def test_damaged_and_read_only_files_are_found(tmp_path: Path, url: str) -> None:
    job(tmp_path)
    (tmp_path / "runs").mkdir(mode=0o700)
    (tmp_path / "runs/ledger.db").write_text("not a ledger")
    ended, found = check(tmp_path, keys(url))
    assert (ended.code, found["ledger"][0], found["state folder"]) == (3, "error", ["ok"])
    assert (tmp_path / "runs/ledger.db").read_text() == "not a ledger"
    (tmp_path / "runs/ledger.db").unlink()
    tmp_path.chmod(0o755)
    (tmp_path / "runs").chmod(0o555)
    ended = bound("check", "--json", settings=keys(url), cwd=tmp_path)
    assert (ended.code, levels(ended)["state folder"]) == (3, ["error"])


@pytest.mark.slow
def test_a_listener_is_looked_at_from_here(tmp_path: Path, url: str) -> None:
    job(tmp_path)
    listener = {"BATCHLIC_LISTENER_USERNAME": "planted-user", "BATCHLIC_LISTENER_PASSWORD": "planted"}
    with server() as place:
        where = ("--account", ACCOUNT, "--url", f"http://{place}/secret-path")
        registered = batchlic("callbacks", "register", *where, settings=keys(url, **listener), cwd=tmp_path)
        assert registered.code == 0
        ended, found = check(tmp_path, keys(url, **listener))
        assert (ended.code, found["listener"][-1]) == (0, "ok")
        ended, found = check(tmp_path, keys(url, **listener | {"BATCHLIC_LISTENER_USERNAME": "other"}))
        assert "another user" in ended.out
    assert "planted-user" not in ended.out
    assert "secret-path" not in ended.out
    ended, found = check(tmp_path, keys(url, **listener))
    assert (ended.code, found["listener"][-1]) == (0, "warning")
    assert "can't be reached from here" in ended.out
