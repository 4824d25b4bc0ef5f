"""Messages reach real servers, and whatever goes wrong there is told without a word of the URL."""

import json
import logging
import sys
import threading

import pytest
from pydantic import SecretStr

from batchlic.errors import UsageError
from batchlic.monitoring.alerts.bounded import all_within
from batchlic.monitoring.alerts.message import Message
from batchlic.monitoring.alerts.services import Service, services_of
from tests.monitoring.alerts.receivers import free_port, mail_server, web_server

MESSAGE = Message("nightly: refused", "too few & too late\nNext: x", "failure")


def service(url: str) -> Service:
    (found,) = services_of({"BATCHLIC_NOTIFY_URL_OPS": SecretStr(url)})
    return found


@pytest.mark.slow
def test_a_webhook_gets_title_text_and_level() -> None:
    with web_server() as server:
        assert service(f"json://127.0.0.1:{server.port}/hunter2").send(MESSAGE) is None
    ((path, body),) = server.requests
    got = json.loads(body)
    assert path == "/hunter2"
    assert (got["title"], got["message"], got["type"]) == MESSAGE


def test_a_mail_has_subject_and_text() -> None:
    with mail_server() as (port, mails):
        url = f"mailto://127.0.0.1:{port}/?from=a@example.com&to=b@example.com&mode=insecure&format=text"
        assert service(url).send(MESSAGE) is None
    (mail,) = mails
    assert "Subject: nightly: refused" in mail
    assert "To: b@example.com" in mail


def test_text_is_escaped_where_a_service_takes_html() -> None:
    with web_server() as server:
        assert service(f"json://127.0.0.1:{server.port}/?format=html").send(MESSAGE) is None
    assert "&amp;" in json.loads(server.requests[0][1])["message"]


def test_f_a_refused_message_is_reported_with_its_status_and_without_url(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with web_server(404) as server:
        target = service(f"json://user:hunter2@127.0.0.1:{server.port}/hunter2")
        assert target.send(MESSAGE) == "HTTP 404"
    assert str(target) == "JSON (BATCHLIC_NOTIFY_URL_OPS)"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "url", ["json://127.0.0.1:{}/hunter2", "mailto://u:hunter2@127.0.0.1:{}/?from=a@b.co&to=a@b.co"]
)
def test_f_an_unreachable_target_is_reported_without_its_url(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    target = service(url.format(free_port()))
    assert target.send(MESSAGE) == "it can't be reached, or it refuses the message"
    assert capfd.readouterr() == ("", "")


def test_a_server_that_hangs_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apprise.apprise.get_shared_executor", None)  # Python waits for threads of pools
    released = threading.Event()
    with web_server(until=released) as slow:
        target = service(f"json://127.0.0.1:{slow.port}/")
        before = set(threading.enumerate())
        problems = all_within(0.2, [lambda: target.send(MESSAGE), lambda: None])
        left = set(threading.enumerate()) - before
        released.set()
    assert problems == ["no answer within 0.2 s", None]
    assert all(thread.daemon for thread in left)  # no other thread keeps the process from ending


@pytest.mark.parametrize(
    "url", ["nonsense-hunter2", "nosuch://hunter2", "slack://hunter2", "https://hunter2.example/x"]
)
def test_f_a_url_that_cannot_be_used_is_refused_by_the_name_of_its_setting(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"^BATCHLIC_NOTIFY_URL_OPS: apprise can't use this URL") as error:
        service(url)
    assert "hunter2" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_without_apprise_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UsageError, match=r"pip install 'batchlic\[notify\]'"):
        service("json://127.0.0.1/")


def test_f_the_log_of_apprise_goes_nowhere() -> None:
    service("json://127.0.0.1/")
    assert not logging.getLogger("apprise").propagate


def test_a_call_that_raises_is_a_problem_without_its_text() -> None:
    def fail() -> None:
        raise ValueError("hunter2")

    assert all_within(1.0, [fail]) == ["ValueError"]
