"""A nightly job with [notify], as a scheduler starts it: who is told, and what nobody may see."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, Ended, batchlic, contents, fleet, keys
from tests.forking import serving
from tests.monitoring.alerts.receivers import WebServer, free_port, web_server

JOB = f"""
action = "assign"
[inventory]
files = ["fleet.csv"]
[license]
account = "{ACCOUNT}"
sku = "{FLEXIBLE}"
[ledger]
allow_new = true
[notify]
"""
SECRET = "hunter2-4711"


@pytest.fixture(scope="module")
def carrier() -> Iterator[str]:
    with serving(SandboxConfig()) as url:
        yield url


@pytest.fixture
def messages() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def switch() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def urls(messages: int, switch: int) -> dict[str, str]:
    """Settings with a secret in each URL."""
    return {
        "BATCHLIC_NOTIFY_URLS": f"json://127.0.0.1:{messages}/{SECRET}",
        "BATCHLIC_HEARTBEAT_URL": f"http://127.0.0.1:{switch}/{SECRET}",
    }


def night(folder: Path, carrier: str, *options: str, **settings: str) -> Ended:
    """Run the job."""
    job = folder / "nightly.toml"
    if not job.exists():
        job.write_text(JOB)
    return batchlic("run", "nightly.toml", "--yes", *options, settings=keys(carrier, **settings), cwd=folder)


def titles(server: WebServer) -> list[str]:
    return [json.loads(body)["title"] for _, body in server.requests]


@pytest.mark.slow
def test_two_failed_nights_and_a_good_one_are_two_messages(
    carrier: str, messages: WebServer, switch: WebServer, tmp_path: Path
) -> None:
    settings = urls(messages.port, switch.port)
    ends = [night(tmp_path, carrier, **settings) for _ in range(2)]
    fleet(tmp_path / "fleet.csv", 3)
    ends.append(night(tmp_path, carrier, "--run-dir", "runs/night", "--json", **settings))
    assert [end.code for end in ends] == [2, 2, 0]
    assert titles(messages) == ["nightly: could not run (exit 2)", "nightly: recovered"]
    assert switch.paths == [f"/{SECRET}{end}" for end in ("/start", "/fail") * 2 + ("/start", "")]
    assert f"Folder: {tmp_path}/runs/night" in json.loads(messages.requests[1][1])["message"]

    (tmp_path / "nightly.toml").write_text(JOB + 'on = ["failure"]\nheartbeat_ok = [0, 3]\n')
    again = night(tmp_path, carrier, "--run-dir", "runs/night", **settings)
    assert again.code == 0, again.err  # another [notify] makes no other job
    resumed = batchlic("resume", "night", settings=keys(carrier, **settings), cwd=tmp_path)
    assert len(messages.requests) == 2
    assert switch.paths[6:] == [f"/{SECRET}/start", f"/{SECRET}"] * 2

    texts = {**contents(tmp_path / "runs" / "night"), **contents(tmp_path / "runs" / ".notified")}
    streams = [stream.encode() for end in (*ends, again, resumed) for stream in (end.out, end.err)]
    assert not [text for text in (*texts.values(), *streams) if SECRET.encode() in text]


@pytest.mark.slow
def test_a_message_that_fails_is_a_warning_and_changes_no_exit_code(carrier: str, tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 3, "nonsense")
    ended = night(tmp_path, carrier, "--run-dir", "run", "--json", **urls(free_port(), free_port()))
    assert ended.code == 3
    assert json.loads(ended.out)["exit_code"] == 3
    warnings = [
        "the heartbeat did not get the start of the run: ConnectError",
        "the heartbeat did not get the failure of the run: ConnectError",
        "JSON (BATCHLIC_NOTIFY_URLS) was not notified: it can't be reached, or it refuses the message",
    ]
    assert [line for line in ended.err.splitlines() if "not " in line] == [f"warning: {w}" for w in warnings]
    logged = [json.loads(line) for line in (tmp_path / "run" / "run.log").read_text().splitlines()]
    assert [line["event"] for line in logged if line["level"] == "warning"] == warnings
    assert SECRET not in ended.err + (tmp_path / "run" / "run.log").read_text()


@pytest.mark.slow
def test_a_wrong_notification_is_exit_2_and_the_heartbeat_reports_it(
    carrier: str, switch: WebServer, tmp_path: Path
) -> None:
    fleet(tmp_path / "fleet.csv", 3)
    settings = urls(0, switch.port) | {"BATCHLIC_NOTIFY_URLS": f"nosuch://{SECRET}"}
    ended = night(tmp_path, carrier, **settings)
    assert (ended.code, switch.paths) == (2, [f"/{SECRET}/fail"])
    assert ended.err.startswith("batchlic: BATCHLIC_NOTIFY_URLS: apprise can't use this URL")
    assert SECRET not in ended.err


@pytest.mark.slow
def test_a_notify_table_without_any_url_is_exit_2_unless_it_is_off(carrier: str, tmp_path: Path) -> None:
    fleet(tmp_path / "fleet.csv", 3)
    ended = night(tmp_path, carrier)
    assert ended.code == 2
    assert "set BATCHLIC_NOTIFY_URLS or BATCHLIC_HEARTBEAT_URL, or give --no-notify" in ended.err
    assert night(tmp_path, carrier, "--no-notify").code == 0


@pytest.mark.slow
def test_a_rehearsal_sends_no_message_unless_asked_and_never_pings(
    carrier: str, messages: WebServer, switch: WebServer, tmp_path: Path
) -> None:
    fleet(tmp_path / "fleet.csv", 3, "nonsense")
    settings = urls(messages.port, switch.port)
    for options in (["--sandbox"], ["--dry-run"], ["--sandbox", "--notify"]):
        assert night(tmp_path, carrier, *options, **settings).code == 3
    assert titles(messages) == ["Rehearsal: nightly: 1 row rejected (exit 3)"]
    assert switch.paths == []


@pytest.mark.slow
def test_notify_test_says_which_target_took_the_message(messages: WebServer, tmp_path: Path) -> None:
    (tmp_path / "nightly.toml").write_text(JOB + 'to = ["ops", "mail"]\n')
    settings = {
        "BATCHLIC_NOTIFY_URL_OPS": f"json://127.0.0.1:{messages.port}/{SECRET}",
        "BATCHLIC_NOTIFY_URL_MAIL": f"json://127.0.0.1:{free_port()}/{SECRET}",
    }
    ended = batchlic("notify-test", "nightly.toml", settings=settings, cwd=tmp_path)
    first, second = ended.out.splitlines()
    assert ended.code == 3
    assert first.startswith("JSON (BATCHLIC_NOTIFY_URL_OPS): sent in ")
    assert second == (
        "JSON (BATCHLIC_NOTIFY_URL_MAIL): not sent: it can't be reached, or it refuses the message"
    )
    assert titles(messages) == ["nightly: test"]
    assert SECRET not in ended.out + ended.err
