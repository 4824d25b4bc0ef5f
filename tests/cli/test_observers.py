"""The observers of a command: imported only if they are asked for, and never a reason to fail."""

import os
import re
import subprocess
import sys
from pathlib import Path
from time import monotonic
from urllib.request import ProxyHandler, build_opener

import pytest

import batchlic.events
from batchlic.cli.observers import observers
from batchlic.events import Warned
from batchlic.job import MetricsUse
from tests.monitoring.builders import attempt, started

CHECK = """
import sys
from batchlic.cli.observers import observers
from batchlic.job import MetricsUse
with observers(MetricsUse()):
    print([name for name in sys.modules if name.startswith(("opentelemetry", "prometheus_client"))])
"""


@pytest.mark.slow
def test_nothing_is_imported_that_nobody_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True, env={})
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_missing_extra_is_named_and_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "batchlic.monitoring.otel.endpoint", None)
    with observers(MetricsUse()) as events:
        events.emit(Warned(message="x"))
    [problem] = events.problems
    assert problem.endswith("but batchlic has no OpenTelemetry: pip install 'batchlic[otel]'")
    assert "warning: an OTEL_ variable names an endpoint" in capsys.readouterr().err


def test_a_metrics_file_that_hangs_holds_back_no_figures_of_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batchlic.events, "GOODBYE_S", 0.1)
    path = tmp_path / "night.prom"
    os.mkfifo(path)  # to open it takes until somebody writes
    shown = b""
    with observers(MetricsUse(file=str(path), port=0)) as events:
        for event in (started(), attempt(3)):
            events.emit(event)
        [url] = re.findall(r"http://\S+", capsys.readouterr().err)
        deadline = monotonic() + 20
        while b'outcome="accepted"} 1.0' not in shown and monotonic() < deadline:
            with build_opener(ProxyHandler({})).open(url) as answer:
                shown = answer.read()
    path.write_bytes(b"")  # lets the thread go on and end
    assert b'outcome="accepted"} 1.0' in shown
    assert [one for one in events.problems if one.startswith(f"--metrics-file {path}: it is too slow")]


@pytest.mark.parametrize("variable", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_METRIC_EXPORT_INTERVAL"])
def test_a_variable_with_an_impossible_value_is_no_error(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, "-1")
    with observers(MetricsUse()) as events:
        events.emit(Warned(message="x"))
    assert "OpenTelemetry can't start with these OTEL_ variables (ValueError)" in events.problems
