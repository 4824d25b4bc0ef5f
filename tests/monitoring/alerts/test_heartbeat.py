"""The heartbeat: a ping at the start and at the end of a run, as healthchecks.io takes it."""

import uuid
from collections.abc import Collection
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from batchlic.events import RunEvent
from batchlic.monitoring.alerts import heartbeat
from batchlic.monitoring.alerts.heartbeat import Heartbeat
from tests.monitoring.alerts.builders import ORIGIN, ended, started
from tests.monitoring.alerts.receivers import WebServer, free_port, web_server


def pinged(port: int, *events: RunEvent, ok: Collection[int] = (0,), path: str = "/hunter2") -> list[str]:
    """Ping for these events; return what went wrong."""
    observer = Heartbeat(SecretStr(f"http://127.0.0.1:{port}{path}"), ok, ORIGIN)
    for event in events:
        observer(event)
    return observer.problems


@pytest.mark.parametrize(
    ("code", "ok", "last"),
    [
        (0, [0], "/hunter2"),
        (3, [0], "/hunter2/fail"),
        (3, [0, 3], "/hunter2"),
        (6, [0, 3], "/hunter2/fail"),
        (1, [0], "/hunter2/fail"),
    ],
)
def test_a_run_pings_its_start_and_its_end(code: int, ok: list[int], last: str) -> None:
    with web_server() as server:
        assert pinged(server.port, started(), ended(code, "down"), ok=ok) == []
    assert server.paths == ["/hunter2/start", last]


@pytest.mark.parametrize("code", [2, 4, 5])
def test_a_run_that_is_refused_before_it_starts_pings_its_failure(code: int) -> None:
    with web_server() as server:
        assert pinged(server.port, ended(code, "no such file")) == []
    ((path, body),) = server.requests
    assert path == "/hunter2/fail"
    assert "no such file" in body


def test_a_run_that_a_person_ends_pings_nothing() -> None:
    with web_server() as server:
        pinged(server.port, started(), ended(6, "stopped by SIGINT", is_by_person=True))
    assert server.paths == ["/hunter2/start"]


def ids(server: WebServer) -> list[str]:
    return [parse_qs(urlsplit(path).query)["rid"][0] for path, _ in server.requests]


def test_pings_of_a_run_have_its_uuid_and_others_have_another() -> None:
    with web_server() as server:
        pinged(server.port, started(), ended(6), path="/key/slug?create=1")
        pinged(server.port, started(), ended(0))
        pinged(server.port, started(run_id="another"))
    *of_run, other = ids(server)
    assert len(set(of_run)) == 1
    assert other not in of_run
    assert str(uuid.UUID(other)) == other
    assert server.requests[0][0].startswith("/key/slug/start?create=1&rid=")


@pytest.mark.parametrize("path", ["/team%2Fsite/key", "/50%25", "/what%3F", "/a%20b", "/%E4"])
def test_a_path_is_pinged_as_it_is_written(path: str) -> None:
    with web_server() as server:
        assert pinged(server.port, started(), ended(0), path=f"{path}/?x=1%2B1") == []
    assert server.paths == [f"{path}/start", path]


@pytest.mark.parametrize(
    ("statuses", "text", "requests", "problem"),
    [
        ([503], "OK", 2, None),
        ([429, 429], "", 2, "HTTP 429"),
        ([404], "", 1, "HTTP 404"),
        ([301], "", 1, "HTTP 301"),
        ([], "OK (not found)", 1, "the server did not count the ping: check the URL"),
    ],
)
def test_a_ping_is_repeated_once_if_that_may_help(
    statuses: list[int], text: str, requests: int, problem: str | None
) -> None:
    with web_server(*statuses, text=text) as server:
        problems = pinged(server.port, ended(0))
    assert len(server.requests) == requests
    told = f"the heartbeat did not get the success of the run: {problem}"
    assert problems == ([told] if problem else [])


def test_f_an_unreachable_heartbeat_is_reported_without_its_url() -> None:
    problems = pinged(free_port(), started(), ended(6))
    assert problems == [
        f"the heartbeat did not get the {ping} of the run: ConnectError" for ping in ("start", "failure")
    ]


def test_a_heartbeat_that_hangs_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading  # noqa: PLC0415 - for this test only

    monkeypatch.setattr(heartbeat, "START_WITHIN_S", 0.2)
    released = threading.Event()
    with web_server(until=released) as server:
        (problem,) = pinged(server.port, started())
        released.set()
    assert problem.startswith("the heartbeat did not get the start of the run: ")


def test_f_a_body_shows_neither_a_secret_nor_control_characters() -> None:
    with web_server() as server:
        pinged(server.port, ended(5, "hunter2 is \x1b[31mwrong"))
    assert "[redacted] is \\x1b[31mwrong" in server.requests[0][1]


def test_a_heartbeat_on_this_machine_is_pinged_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with web_server() as server:
        assert pinged(server.port, started(), path="/hunter2/") == []
    assert server.paths == ["/hunter2/start"]
