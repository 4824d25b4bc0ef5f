"""What commands do after sending, if they wait for callbacks."""

from pathlib import Path
from typing import Any, cast

import pytest

from batchlic.cli import waiting
from batchlic.cli.options import WaitOptions
from batchlic.events import EventStream
from batchlic.job import make_job
from batchlic.runs import canary, run
from batchlic.runs.folder import RunFolder
from batchlic.runs.submit import Send
from batchlic.runs.target import Target
from batchlic.writer.summary import Summary
from tests.writer.reports import summary

JOB = {"action": "assign", "inventory": {"files": ["fleet.csv"]}, "license": {"sku": "SIMSec-IoT"}}


def test_workers_send_the_devices_after_a_canary_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, workers = summary(stopped_because="the canary is not confirmed"), cast("Send", object())
    sent_by: list[Any] = []

    def resume(*_: object, send: Send | None, **__: object) -> Summary:
        sent_by.append(send)
        return ended

    monkeypatch.setattr(run, "resume", resume)
    monkeypatch.setattr(canary, "awaits_callbacks", lambda *_: True)
    monkeypatch.setattr(waiting, "wait_for_callbacks", lambda *_, **__: ended)
    waiting.after_sending(
        WaitOptions(wait_callbacks="1s"),
        make_job(JOB, {}, where="test"),
        RunFolder(tmp_path),
        cast("Target", None),
        ended,
        events=EventStream(),
        send=workers,
    )
    assert sent_by == [workers]
