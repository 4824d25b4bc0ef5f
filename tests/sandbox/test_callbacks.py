"""The sandbox's callbacks: each device's outcome is posted as configured."""

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


class RecordingListener:
    """A listener that records messages; it refuses the first `refuse_first` of them."""

    def __init__(self, refuse_first: int = 0) -> None:
        self.messages: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.forwarded_for: list[str | None] = []
        self.refuse_first = refuse_first
        self.url = ""

    @property
    def imeis(self) -> list[str]:
        return [message["deviceIds"][0]["id"] for message in self.messages]


@contextmanager
def listening(listener: RecordingListener) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            listener.bodies.append(body)
            listener.messages.append(json.loads(body.decode("utf-8-sig")))
            listener.forwarded_for.append(self.headers["X-Forwarded-For"])
            self.send_response(500 if len(listener.messages) <= listener.refuse_first else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        listener.url = f"http://127.0.0.1:{server.server_port}/cb"
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def licensed(
    listener: RecordingListener, config: SandboxConfig, *, url: str | None = None
) -> tuple[str, dict[str, Any]]:
    """License IMEIS in one request and wait for its callbacks; return its requestId and the totals."""
    with listening(listener), serving(config) as base, httpx.Client(base_url=base, trust_env=False) as http:
        headers = log_in(http)
        registration = {
            "name": "CarrierService",
            "url": url or listener.url,
            "username": "u",
            "password": "p",
        }
        assert http.post(CALLBACKS, json=registration, headers=headers).status_code == 200
        answer = http.post(LICENSES, json=request_body(*map(device, IMEIS)), headers=headers)
        while (totals := http.get(http.base_url.join("/sandbox/totals")).json())["callbacks_pending"]:
            pass
        books = http.get(http.base_url.join("/sandbox/books")).text
        totals["licensed"] = {
            row["imei"] for row in map(json.loads, books.splitlines()) if row["sku_number"] is not None
        }
        return answer.json()["requestId"], totals


@pytest.mark.slow
def test_each_outcome_is_posted_once_with_the_registered_credentials() -> None:
    listener = RecordingListener()
    request_id, totals = licensed(listener, SandboxConfig())
    assert sorted(listener.imeis) == IMEIS
    assert {message["requestId"] for message in listener.messages} == {request_id}
    assert {(message["username"], message["password"]) for message in listener.messages} == {("u", "p")}
    assert {message["deviceIds"][0]["kind"] for message in listener.messages} == {"imei", "Imei", "IMEI"}
    assert totals["callbacks"] == {"posted": 40, "acknowledged": 40}


@pytest.mark.slow
def test_a_failed_device_has_no_license_and_a_reason() -> None:
    listener = RecordingListener()
    _, totals = licensed(listener, SandboxConfig(callbacks=CallbackConfig(failure_share=0.5), seed=3))
    served = {m["deviceIds"][0]["id"] for m in listener.messages if m["status"] == "Success"}
    assert served == totals["licensed"]
    assert 0 < len(served) < len(IMEIS)
    failed = [message for message in listener.messages if message["status"] == "Failed"]
    assert all(message["faultResponse"]["faultcode"].startswith("UnifiedWebService.") for message in failed)


@pytest.mark.slow
def test_jitter_changes_the_order_of_outcomes() -> None:
    listener = RecordingListener()
    licensed(listener, SandboxConfig(callbacks=CallbackConfig(jitter_s=0.2)))
    assert sorted(listener.imeis) == IMEIS
    assert listener.imeis != IMEIS


@pytest.mark.slow
def test_an_acknowledged_outcome_can_be_repeated() -> None:
    listener = RecordingListener()
    licensed(listener, SandboxConfig(callbacks=CallbackConfig(repeat_share=1.0)))
    assert set(Counter(listener.imeis).values()) == {2}


@pytest.mark.slow
def test_early_outcomes_arrive_before_the_answer() -> None:
    listener = RecordingListener()
    early = serving(SandboxConfig(callbacks=CallbackConfig(early_share=1.0)))
    with listening(listener), early as base, httpx.Client(base_url=base, trust_env=False) as http:
        headers = log_in(http)
        http.post(CALLBACKS, json={"name": "CarrierService", "url": listener.url}, headers=headers)
        http.post(LICENSES, json=request_body(*map(device, IMEIS)), headers=headers)
        assert sorted(listener.imeis) == IMEIS


@pytest.mark.slow
def test_an_unacknowledged_outcome_is_posted_four_times() -> None:
    listener = RecordingListener(refuse_first=10_000)
    _, totals = licensed(listener, SandboxConfig(callbacks=CallbackConfig(retry_s=0.01)))
    assert set(Counter(listener.imeis).values()) == {4}
    assert {message["callbackCount"] for message in listener.messages} == {1, 2, 3, 4}
    assert totals["callbacks"] == {"posted": 160, "given-up": 40}


@pytest.mark.slow
def test_a_listener_that_recovers_gets_every_outcome() -> None:
    listener = RecordingListener(refuse_first=20)
    _, totals = licensed(listener, SandboxConfig(callbacks=CallbackConfig(retry_s=0.01)))
    assert totals["callbacks"]["acknowledged"] == 40
    assert set(listener.imeis) == set(IMEIS)


@pytest.mark.slow
def test_an_odd_outcome_is_the_same_outcome_in_an_unusual_form() -> None:
    listener = RecordingListener()
    config = CallbackConfig(failure_share=0.5, odd_share=1.0)
    request_id, totals = licensed(listener, SandboxConfig(callbacks=config, seed=3))
    assert {message["requestId"] for message in listener.messages} == {request_id.upper()} != {request_id}
    assert all(body.startswith(b"\xef\xbb\xbf{") for body in listener.bodies)
    assert set(listener.forwarded_for) == {"127.0.0.1:17085"}
    failed = [message for message in listener.messages if "faultResponse" in message]
    assert {message["status"] for message in failed}.isdisjoint({"Success", "Failed"})
    served = {m["deviceIds"][0]["id"] for m in listener.messages if m["status"] == "Success"}
    assert served == totals["licensed"]
    assert len(served) + len(failed) == len(IMEIS)


@pytest.mark.slow
def test_the_odd_share_is_that_of_the_outcomes() -> None:
    listener = RecordingListener()
    licensed(listener, SandboxConfig(callbacks=CallbackConfig(odd_share=0.5)))
    assert 5 < sum(body.startswith(b"{") for body in listener.bodies) < 35


@pytest.mark.slow
def test_nothing_is_posted_beyond_loopback() -> None:
    _, totals = licensed(RecordingListener(), SandboxConfig(), url="http://192.0.2.1/cb")
    assert totals["callbacks"] == {"no-listener": 40}


@pytest.mark.parametrize("name", ["early_share", "repeat_share", "failure_share", "odd_share"])
def test_a_share_above_one_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        CallbackConfig(**{name: 1.5})


@pytest.mark.slow
def test_half_of_the_odd_outcomes_come_after_a_message_that_decides_nothing() -> None:
    listener = RecordingListener()
    licensed(listener, SandboxConfig(callbacks=CallbackConfig(failure_share=0.5, odd_share=1.0)))
    interim = [m for m in listener.messages if m["status"] != "Success" and "faultResponse" not in m]
    assert 8 < len(interim) < 32
    assert any("ONHOLD" in message["status"] for message in interim)
    assert len(listener.messages) == len(IMEIS) + len(interim)


@pytest.mark.slow
def test_odd_failures_can_be_canceled_requests() -> None:
    listener = RecordingListener()
    licensed(listener, SandboxConfig(callbacks=CallbackConfig(failure_share=1.0, odd_share=1.0)))
    codes = {m["faultResponse"]["faultcode"].split(".")[1] for m in listener.messages if "faultResponse" in m}
    assert codes == {"REQUEST_FAILED", "REQUEST_CANCELLED"}
