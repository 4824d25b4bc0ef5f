"""Metrics: what a run measures, the file for node_exporter, and the server for a scraper."""

import stat
import sys
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from batchlic.carrier.answers import Outcome
from batchlic.events import Phase, PhaseStarted, RunEvent
from batchlic.monitoring.instruments import REQUEST_DURATION
from batchlic.monitoring.prometheus import WRITE_INTERVAL_S, MetricsFile, MetricsServer, PrometheusMeter
from batchlic.monitoring.run_metrics import RunMetrics
from tests.monitoring.builders import at, attempt, counted, ended, plan, rate, small_run, started

Values = dict[tuple[str, str | None], float]
"""Values by name and by the one label that is not of the job."""

SUCCESS = ("batchlic_last_success_timestamp_seconds", None)


def values(text: str, job: str = "night") -> Values:
    found: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            if labels.pop("job_name") == job:
                labels.pop("action")
                found[sample.name, next(iter(labels.values()), None)] = sample.value
    return found


def measured(events: Iterable[RunEvent]) -> Values:
    meter = PrometheusMeter()
    measure = RunMetrics(meter)
    for event in events:
        measure(event)
    return values(meter.exposition().decode())


class Written:
    """A metrics file, and what is measured for it."""

    def __init__(self, path: Path, labels: tuple[str, ...] = ()) -> None:
        meter = PrometheusMeter()
        self._measure = RunMetrics(meter, labels)
        self._file = MetricsFile(path, meter, labels)

    @property
    def problems(self) -> list[str]:
        return self._file.problems

    def __call__(self, event: RunEvent) -> None:
        self._measure(event)
        if self._file.is_due(event):
            self._file(event)


def file_after(path: Path, *events: RunEvent) -> Written:
    write = Written(path)
    for event in events:
        write(event)
    return write


def test_attempts_are_counted_by_outcome_and_timed() -> None:
    attempts = [attempt(3), attempt(4, 1, Outcome.THROTTLED, duration_ms=40), attempt(5, 1, duration_ms=2000)]
    found = measured([started(), *attempts])
    assert found["batchlic_requests_total", "accepted"] == 2
    assert found["batchlic_requests_total", "throttled"] == 1
    assert found["batchlic_requests_total", "ambiguous"] == 0
    assert found["batchlic_request_duration_seconds_bucket", "0.05"] == 1
    assert found["batchlic_request_duration_seconds_sum", None] == pytest.approx(2.54)


def test_a_duration_is_in_each_bucket_whose_bound_it_does_not_exceed() -> None:
    found = measured([started(), *(attempt(3, n, duration_ms=ms) for n, ms in enumerate((50, 51, 500_000)))])
    name = "batchlic_request_duration_seconds"
    counts = [found[f"{name}_bucket", bound] for bound in ("0.025", "0.05", "0.1", "120.0", "+Inf")]
    assert (counts, found[f"{name}_count", None]) == ([0, 1, 2, 2, 3], 3)


def test_no_metric_says_when_a_counter_began() -> None:
    assert not [name for name, _ in measured([started(), attempt(3)]) if name.endswith("_created")]


def test_a_run_at_work_shows_rate_phase_and_devices_that_add_up() -> None:
    phase = PhaseStarted(at=at(2), phase=Phase.SENDING)
    events: list[RunEvent] = [
        started(),
        plan(300, skipped=40, bad_length=2),
        phase,
        counted(3, accepted=100, failed=1),
        rate(3),
    ]
    found = measured(events)
    assert found["batchlic_rows_rejected", "bad_length"] == 2
    devices = {label: n for (name, label), n in found.items() if name == "batchlic_devices"}
    assert devices == {
        "pending": 159, "accepted": 100, "confirmed": 0, "failed": 1, "in_doubt": 0, "skipped": 40
    }  # fmt: skip
    names = ("limiter_rate", "limiter_concurrency", "limiter_paused", "requests_in_flight", "run_active")
    assert [found[f"batchlic_{name}", None] for name in names] == [25, 8, 1, 3, 1]
    assert {label: n for (name, label), n in found.items() if name == "batchlic_run_phase" and n} == {
        "sending": 1
    }


def test_a_run_that_ended_shows_how_and_no_rate() -> None:
    found = measured([started(), plan(), rate(3), ended(90, 3, accepted=200, failed=100)])
    assert found["batchlic_last_run_exit_code", None] == 3
    assert found["batchlic_last_run_duration_seconds", None] == 90
    assert found["batchlic_devices", "failed"] == 100
    assert SUCCESS not in found
    assert (found["batchlic_limiter_rate", None], found["batchlic_run_active", None]) == (0, 0)


@pytest.mark.parametrize("exit_code", [1, 2, 3, 4, 5, 6])
def test_the_last_success_survives_a_night_that_failed(tmp_path: Path, exit_code: int) -> None:
    path = tmp_path / "night.prom"
    file_after(path, started(), ended(60))
    file_after(path, started(), ended(86_400, exit_code))
    found = values(path.read_text())
    assert found[SUCCESS] == pytest.approx(at(60) / 1e6)
    assert found["batchlic_last_run_exit_code", None] == exit_code


def test_the_end_of_last_night_is_shown_until_this_night_ends(tmp_path: Path) -> None:
    path = tmp_path / "night.prom"
    file_after(path, started(), ended(60, 3))
    file_after(path, started(), plan())
    found = values(path.read_text())
    assert (found["batchlic_last_run_exit_code", None], found["batchlic_run_active", None]) == (3, 1)


def test_a_file_keeps_the_last_success_of_another_job(tmp_path: Path) -> None:
    path = tmp_path / "jobs.prom"
    file_after(path, started(job="weekly"), ended(60))
    file_after(path, started(), ended(120))
    assert values(path.read_text(), job="weekly")[SUCCESS] == pytest.approx(at(60) / 1e6)


def test_a_run_that_is_refused_before_it_begins_is_a_failure_of_its_job(tmp_path: Path) -> None:
    path = tmp_path / "night.prom"
    file_after(path, started(), ended(60))
    Written(path, ("night", "assign"))(ended(86_400, 2, reason="no credentials"))
    found = values(path.read_text())
    assert (found["batchlic_last_run_exit_code", None], found[SUCCESS]) == (2, at(60) / 1e6)


def test_a_run_that_is_refused_because_another_is_active_leaves_its_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "night.prom"
    file_after(path, started(), plan())
    before = path.read_bytes()
    Written(path, ("night", "assign"))(ended(1, 4, reason="another run of the job is active"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("exit_code", [1, 2, 5, 6])
def test_a_killed_run_does_not_hide_that_the_next_one_could_not_begin(tmp_path: Path, exit_code: int) -> None:
    path = tmp_path / "night.prom"
    file_after(path, started(), plan())
    Written(path, ("night", "assign"))(ended(86_400, exit_code))
    found = values(path.read_text())
    assert found["batchlic_last_run_exit_code", None] == exit_code
    assert ("batchlic_run_active", None) not in found


def test_the_file_is_written_every_few_seconds_while_requests_are_sent(tmp_path: Path) -> None:
    path = tmp_path / "night.prom"
    write = file_after(path, started(), plan(), attempt(3))
    counts = []
    for second in range(4, 60):
        write(attempt(second))
        counts.append(values(path.read_text())["batchlic_requests_total", "accepted"])
    assert len(set(counts)) == 1 + 56 // WRITE_INTERVAL_S
    write(ended(60))
    assert values(path.read_text())["batchlic_requests_total", "accepted"] == 57


def test_the_file_is_kept_up_to_date_after_the_clock_is_set_back(tmp_path: Path) -> None:
    path = tmp_path / "night.prom"
    file_after(path, started(), plan(), attempt(3), attempt(-3600))
    assert values(path.read_text())["batchlic_requests_total", "accepted"] == 2


def test_others_can_read_the_file_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file_after(tmp_path / "night.prom", *small_run(attempt(3)))
    assert [path.name for path in tmp_path.iterdir()] == ["night.prom"]
    assert stat.S_IMODE((tmp_path / "night.prom").stat().st_mode) == 0o644


def test_a_folder_that_does_not_exist_is_a_problem_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "night.prom"
    assert file_after(path, *small_run()).problems == [
        f"--metrics-file {path}: can't be written: No such file or directory"
    ]


def test_a_disk_that_works_again_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "later" / "night.prom"
    write = file_after(path, started())
    path.parent.mkdir()
    write(ended(60))
    assert (write.problems, path.exists()) == ([], True)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"batchlic_last_run_exit_code{job_name=", b"a b c d\n"])
def test_a_damaged_file_is_replaced_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "night.prom"
    path.write_bytes(content)
    write = file_after(path, *small_run())
    assert values(path.read_text())[SUCCESS] == pytest.approx(at(60) / 1e6)
    assert write.problems == [f"{path}: could not be read, so the time of the last success is lost"]


def test_the_server_answers_on_this_machine_while_the_run_goes_on() -> None:
    meter = PrometheusMeter()
    measure = RunMetrics(meter)
    with closing(MetricsServer(meter, 0)) as server:
        for event in (started(), plan(), attempt(3)):
            measure(event)
        with build_opener(ProxyHandler({})).open(server.url) as answer:
            served = answer.read().decode()
        request = Request(server.url, headers={"Accept": "application/openmetrics-text;version=1.0.0"})  # noqa: S310
        with build_opener(ProxyHandler({})).open(request) as answer:
            text = answer.read().decode()
            families = list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    assert server.url.startswith("http://127.0.0.1:")
    assert values(served)["batchlic_requests_total", "accepted"] == 1
    assert "batchlic_requests" in {family.name for family in families}


def test_a_port_in_use_is_an_oserror() -> None:
    with closing(MetricsServer(PrometheusMeter(), 0)) as server, pytest.raises(OSError, match="in use"):
        MetricsServer(PrometheusMeter(), int(server.url.split(":")[2].split("/")[0]))


def test_the_port_is_free_again_once_the_server_is_closed() -> None:
    with closing(MetricsServer(PrometheusMeter(), 0)) as server:
        port = int(server.url.split(":")[2].split("/")[0])
    with closing(MetricsServer(PrometheusMeter(), port)) as server:
        assert server.url.endswith(f":{port}/metrics")


def test_a_duration_is_counted_once_whenever_it_is_taken() -> None:
    meter, labels = PrometheusMeter(), ("night", "assign")
    taken = []
    is_done = threading.Event()

    def take() -> None:
        while not is_done.is_set():
            taken.extend(meter.take_histograms(REQUEST_DURATION))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    taker = threading.Thread(target=take)
    taker.start()
    try:
        for _ in range(20_000):
            meter.observe(REQUEST_DURATION, labels, 0.02)
    finally:
        is_done.set()
        taker.join()
        sys.setswitchinterval(interval)
    taken += meter.take_histograms(REQUEST_DURATION)
    assert sum(sum(histogram.counts) for _, histogram in taken) == 20_000
