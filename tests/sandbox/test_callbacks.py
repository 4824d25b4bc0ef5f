"""The sandbox's callbacks: each device's outcome, posted as untidily as it was told to."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from batchlic.errors import UsageError
from batchlic.sandbox.config import CallbackConfig, SandboxConfig
from tests.forking import serving
from tests.sandbox.caller import CALLBACKS, LICENSES, device, request_body
from tests.sandbox.test_server import log_in

IMEIS = [f"{number:015d}" for number in range(40)]


class Heard:
    """A listener of the test: what came, and how it answers."""

    def __init__(self, refuse_first: int = 0) -> None:
        self.messages: list[dict[str, Any]] = []
        self.refuse_first = refuse_first
        self.url = ""

    @property
    def imeis(self) -> list[str]:
        return [message["deviceIds"][0]["id"] for message in self.messages]


@contextmanager
def listening(heard: Heard) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(heard.messages) <= heard.refuse_first else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        heard.url = f"http://127.0.0.1:{server.server_port}/cb"
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def told(heard: Heard, config: SandboxConfig, *, url: str | None = None) -> tuple[str, dict[str, Any]]:
    """License IMEIS in one request, wait for its callbacks; the requestId and the sandbox's totals."""
    with listening(heard), serving(config) as base, httpx.Client(base_url=base, trust_env=False) as http:
        headers = log_in(http)
        listener = {"name": "CarrierService", "url": url or heard.url, "username": "u", "password": "p"}
        assert http.post(CALLBACKS, json=listener, headers=headers).status_code == 200
        answer = http.post(LICENSES, json=request_body(*map(device, IMEIS)), headers=headers)
        while (totals := http.get(http.base_url.join("/sandbox/totals")).json())["callbacks_pending"]:
            pass
        books = http.get(http.base_url.join("/sandbox/books")).text
        totals["licensed"] = {
            row["imei"] for row in map(json.loads, books.splitlines()) if row["sku_number"] is not None
        }
        return answer.json()["requestId"], totals


def test_each_device_is_told_once_with_the_credentials_of_the_registration() -> None:
    heard = Heard()
    request_id, totals = told(heard, SandboxConfig())
    assert sorted(heard.imeis) == IMEIS
    assert {message["requestId"] for message in heard.messages} == {request_id}
    assert {(message["username"], message["password"]) for message in heard.messages} == {("u", "p")}
    assert {message["deviceIds"][0]["kind"] for message in heard.messages} == {"imei", "Imei", "IMEI"}
    assert totals["callbacks"] == {"posted": 40, "acknowledged": 40}


def test_what_failed_has_no_license_and_says_why() -> None:
    heard = Heard()
    _, totals = told(heard, SandboxConfig(callbacks=CallbackConfig(failure_share=0.5), seed=3))
    served = {m["deviceIds"][0]["id"] for m in heard.messages if m["status"] == "Success"}
    assert served == totals["licensed"]
    assert 0 < len(served) < len(IMEIS)
    failed = [message for message in heard.messages if message["status"] == "Failed"]
    assert all(message["faultResponse"]["faultcode"].startswith("UnifiedWebService.") for message in failed)


def test_outcomes_overtake_each_other() -> None:
    heard = Heard()
    told(heard, SandboxConfig(callbacks=CallbackConfig(jitter_s=0.2)))
    assert sorted(heard.imeis) == IMEIS
    assert heard.imeis != IMEIS


def test_repeats_come_though_the_first_was_acknowledged() -> None:
    heard = Heard()
    told(heard, SandboxConfig(callbacks=CallbackConfig(repeat_share=1.0)))
    assert set(Counter(heard.imeis).values()) == {2}


def test_early_outcomes_are_there_before_the_answer() -> None:
    heard = Heard()
    early = serving(SandboxConfig(callbacks=CallbackConfig(early_share=1.0)))
    with listening(heard), early as base, httpx.Client(base_url=base, trust_env=False) as http:
        headers = log_in(http)
        http.post(CALLBACKS, json={"name": "CarrierService", "url": heard.url}, headers=headers)
        http.post(LICENSES, json=request_body(*map(device, IMEIS)), headers=headers)
        assert sorted(heard.imeis) == IMEIS


def test_what_is_not_acknowledged_comes_three_times_more() -> None:
    heard = Heard(refuse_first=10_000)
    _, totals = told(heard, SandboxConfig(callbacks=CallbackConfig(retry_s=0.01)))
    assert set(Counter(heard.imeis).values()) == {4}
    assert {message["callbackCount"] for message in heard.messages} == {1, 2, 3, 4}
    assert totals["callbacks"] == {"posted": 160, "given-up": 40}


def test_a_listener_that_comes_back_gets_what_it_missed() -> None:
    heard = Heard(refuse_first=20)
    _, totals = told(heard, SandboxConfig(callbacks=CallbackConfig(retry_s=0.01)))
    assert totals["callbacks"]["acknowledged"] == 40
    assert set(heard.imeis) == set(IMEIS)


def test_nothing_is_posted_beyond_loopback() -> None:
    _, totals = told(Heard(), SandboxConfig(), url="http://192.0.2.1/cb")
    assert totals["callbacks"] == {"no-listener": 40}


@pytest.mark.parametrize("name", ["early_share", "repeat_share", "failure_share"])
def test_a_share_beyond_one_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        CallbackConfig(**{name: 1.5})
