"""Features whose library is an extra: without it, a message names what to install, and no run is stopped."""

import asyncio
import io
import sys
from pathlib import Path

import polars as pl
import pytest

from batchlic.cli.observers import observers
from batchlic.cli.options import MetricsOptions
from batchlic.errors import UsageError
from batchlic.events import Warned
from batchlic.job import MetricsUse
from batchlic.writer.export import COLUMNS, Format, write_export
from tests.callbacks.test_listener import Kept
from tests.callbacks.test_metrics import scrape
from tests.web.builders import client


@pytest.fixture(autouse=True)
def without_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prometheus_client", "xlsxwriter", "batchlic.callbacks.metrics", "batchlic.runs.exposition"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (MetricsOptions(metrics_file="night.prom"), "--metrics-file"),
        (MetricsOptions(metrics_port=0), "--metrics-port"),
    ],
)
def test_a_metrics_option_that_was_typed_is_a_usage_error(options: MetricsOptions, named: str) -> None:
    with pytest.raises(UsageError, match=rf"^{named}: .*pip install 'batchlic\[metrics\]'"):
        options.table()


def test_metrics_of_a_job_file_are_a_warning_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "night.prom"
    with observers(MetricsUse(file=str(file), port=0)) as events:
        assert "warning: the job's metrics need prometheus-client" in capsys.readouterr().err
        events.emit(Warned(message="x"))
    assert events.problems == []
    assert not file.exists()


def test_a_sheet_is_refused_before_a_row_is_read() -> None:
    rows = pl.LazyFrame({column: ["x"] for column in COLUMNS}).map_batches(
        lambda _: pytest.fail("a row was read")
    )
    with pytest.raises(UsageError, match=r"pip install 'batchlic\[xlsx\]', or export the rows as csv"):
        write_export(rows, Format.XLSX, io.BytesIO())


def test_a_listener_answers_that_it_has_no_metrics() -> None:
    answer = asyncio.run(scrape(Kept()))
    assert (answer.status_code, "pip install 'batchlic[metrics]'" in answer.text) == (501, True)


def test_the_pages_answer_that_they_have_no_metrics(tmp_path: Path) -> None:
    answer = client(tmp_path).get("/metrics")
    assert (answer.status_code, "pip install 'batchlic[metrics]'" in answer.text) == (501, True)
