"""The lines of run.log: one for each event that an operator may look for later."""

import io
import json
from pathlib import Path

from batchlic.carrier.answers import Outcome
from batchlic.chunker import DeviceStatus
from batchlic.errors import ExitCode
from batchlic.events import (
    AttemptEnded,
    BoundsChanged,
    RunEvent,
    SessionEnded,
    SessionStarted,
    Stopped,
    Warned,
)
from batchlic.logs import RunLog
from batchlic.monitoring.run_log import LogWriter

AT = 1_795_000_000_123_456

ATTEMPT = AttemptEnded(
    at=AT,
    batch_id=7,
    step=None,
    part="",
    x_request_id="1-2",
    attempt=1,
    action="assign",
    devices=100,
    started_at=AT - 52_500,
    duration_ms=52.5,
    outcome=Outcome.REFUSED,
    is_final=True,
    http_status=400,
    error_code="INVALID_DEVICE",
    error_message="hunter2 is no device",
    request_id=None,
    retry_after_s=None,
)


def logged(folder: Path, *events: RunEvent) -> tuple[list[dict[str, object]], str]:
    """The lines in the file, and what people read."""
    path, people = folder / "run.log", io.StringIO()
    with RunLog(path, secrets=["hunter2"], people=people) as log:
        write = LogWriter(log.logger(run_id="r1"))
        for event in events:
            write(event)
    return [json.loads(line) for line in path.read_text().splitlines()], people.getvalue()


def test_an_attempt_is_a_line_with_the_time_of_its_event_and_no_secret(tmp_path: Path) -> None:
    [line], people = logged(tmp_path, ATTEMPT)
    assert line == {
        "run_id": "r1",
        "event": "refused",
        "level": "info",
        "timestamp": "2026-11-18T11:06:40.123456Z",
        "batch_id": 7,
        "x_request_id": "1-2",
        "attempt": 1,
        "devices": 100,
        "duration_ms": 52.5,
        "http_status": 400,
        "error_code": "INVALID_DEVICE",
        "error_message": "[redacted] is no device",
    }
    assert people == ""


def test_the_log_has_the_beginning_the_end_and_why_it_stopped(tmp_path: Path) -> None:
    lines, people = logged(
        tmp_path,
        SessionStarted(carrier="sandbox", planned=3, notes=()),
        Stopped(reason="no progress for 1800 s"),
        SessionEnded(
            exit_code=ExitCode.STOPPED, statuses={DeviceStatus.PENDING: 3}, stopped_because="no progress"
        ),
    )
    assert [line["event"] for line in lines] == ["begun", "stopped", "ended"]
    assert (lines[-1]["exit_code"], lines[-1]["statuses"]) == (6, {"pending": 3})
    assert "no progress for 1800 s" in people


def test_people_read_warnings_with_their_details(tmp_path: Path) -> None:
    warned = Warned(
        message="the carrier asks batchlic to wait before the next login", details={"wait_s": 12.5}
    )
    [line], people = logged(tmp_path, warned)
    assert (line["level"], line["wait_s"]) == ("warning", 12.5)
    assert "the carrier asks batchlic to wait before the next login" in people
    assert "12.5" in people


def test_a_change_of_limits_is_a_line_with_the_user(tmp_path: Path) -> None:
    change = BoundsChanged(at=AT, by="alice", max_rate=5.0, max_concurrency=8, headroom="20%", is_paused=True)
    [line], people = logged(tmp_path, change)
    assert (line["event"], line["by"], line["max_rate"], line["is_paused"]) == ("limits", "alice", 5.0, True)
    assert people == ""
