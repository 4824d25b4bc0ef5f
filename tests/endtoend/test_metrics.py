"""Metrics of whole runs: a file and a port; what is wrong with either does not change the run."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchlic.sandbox.config import LatencyConfig, LimitConfig, LimitKind, SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, Ended, batchlic, begin, fleet, keys, until
from tests.forking import serving


@pytest.fixture(scope="module")
def carrier() -> Iterator[str]:
    """A carrier that allows 20 requests a second."""
    limits = LimitConfig(rate=20, burst=3, kind=LimitKind.TOKEN_BUCKET)
    with serving(SandboxConfig(limits=limits, latency=LatencyConfig(base_s=0.02))) as url:
        yield url


def metrics(text: str) -> dict[str, float]:
    """Values by name and all labels except those of the job."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [v for k, v in sample.labels.items() if k not in {"job_name", "action"}]
            found[" ".join([sample.name.removeprefix("batchlic_"), *labels])] = sample.value
    return found


def assign(home: Path, carrier: str, devices: int, *options: str) -> Ended:
    inventory = fleet(home / "fleet.csv", devices)
    arguments = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--no-ledger", "--run-dir", "run", *options)
    return batchlic("assign", inventory, *arguments, settings=keys(carrier), cwd=home)


@pytest.mark.slow
def test_a_run_is_scraped_while_it_sends_and_leaves_a_file(tmp_path: Path, carrier: str) -> None:
    inventory = fleet(tmp_path / "fleet.csv", 4000)
    options = (
        "--account",
        ACCOUNT,
        "--sku",
        FLEXIBLE,
        "--no-ledger",
        "--run-dir",
        "run",
        "--batch-size",
        "50",
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = begin(
        "assign", inventory, *options, "--metrics-file", "night.prom", "--metrics-port", str(port),
        settings=keys(carrier), cwd=tmp_path,
    )  # fmt: skip
    scraped: dict[str, float] = {}

    def scrape() -> bool:
        try:
            with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics") as answer:
                scraped.update(metrics(answer.read().decode()))
        except OSError:
            return False
        return scraped.get("requests_total accepted", 0) > 0

    with process:
        until(scrape)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"Metrics of this run: http://127.0.0.1:{port}/metrics" in err
    assert (scraped["run_active"], scraped["run_phase sending"], scraped["devices_planned"]) == (1, 1, 4000)
    written = metrics((tmp_path / "night.prom").read_text())
    assert (written["requests_total accepted"], written["devices accepted"]) == (80, 4000)
    assert (written["last_run_exit_code"], written["run_active"]) == (0, 0)
    assert written["request_duration_seconds_count"] == sum(
        value for name, value in written.items() if name.startswith("requests_total ")
    )


@pytest.mark.slow
def test_a_path_and_a_port_that_do_not_work_change_nothing_about_the_run(
    tmp_path: Path, carrier: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--metrics-file", "missing/night.prom", "--metrics-port", port)
        ended = assign(tmp_path, carrier, 10, *options)
    assert ended.code == 0
    assert f"warning: --metrics-port {port}: can't listen on 127.0.0.1: Address already in use" in ended.err
    path = tmp_path / "missing" / "night.prom"
    assert f"warning: --metrics-file {path}: can't be written: No such file or directory" in ended.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metrics-file", "fleet.csv"), r"--metrics-file fleet\.csv: the name must end with \.prom"),
        (("--metrics-port", "65536"), r"--metrics-port"),
    ],
)
def test_an_option_that_can_never_work_is_exit_2(
    tmp_path: Path, carrier: str, options: tuple[str, ...], message: str
) -> None:
    ended = assign(tmp_path, carrier, 10, *options)
    assert ended.code == 2
    assert re.search(message, ended.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_job_file_names_the_file_and_a_rehearsal_leaves_it_alone(tmp_path: Path, carrier: str) -> None:
    fleet(tmp_path / "fleet.csv", 10)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "night.toml").write_text(
        f'action = "assign"\n[inventory]\nfiles = ["../fleet.csv"]\n[license]\naccount = "{ACCOUNT}"\n'
        f'sku = "{FLEXIBLE}"\n[metrics]\nfile = "../night.prom"\n'
    )
    run = ("run", "jobs/night.toml", "--no-ledger", "--yes", "--run-dir")
    assert batchlic(*run, "rehearsal", "--sandbox", cwd=tmp_path).code == 0
    assert not (tmp_path / "night.prom").exists()
    assert batchlic(*run, "run", settings=keys(carrier), cwd=tmp_path).code == 0
    text = (tmp_path / "night.prom").read_text()
    assert 'batchlic_devices{action="assign",job_name="night",status="accepted"} 10.0' in text
    (tmp_path / "night.prom").unlink()
    assert batchlic("resume", "run", settings=keys(carrier), cwd=tmp_path).code == 0
    assert (tmp_path / "night.prom").exists()
    assert batchlic(*run, "tomorrow", cwd=tmp_path).code == 2  # there are no credentials
    later = metrics((tmp_path / "night.prom").read_text())
    assert later["last_run_exit_code"] == 2
    assert later["last_success_timestamp_seconds"] < later["last_run_timestamp_seconds"]
