"""`make bench-submit`: compare the whole program with bare loops that post the same bodies and store nothing.

One loop uses batchlic's own client, with as many tasks as the program has workers. The other loop uses an
httpx.AsyncClient with default settings, with each number of tasks in HTTPX_TASKS; the fastest one counts.
Each measurement has its own process and a new sandbox without a limit, which answers at once or after 50 ms.
Compare figures of one run of the benchmark only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import anyio
import httpx
import msgspec
import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import Carrier, Submission, open_client
from batchlic.carrier.credentials import Credentials, Secret
from batchlic.chunker import read_batches
from batchlic.reader import IdKind
from batchlic.sandbox.config import LatencyConfig, SandboxConfig
from batchlic.sandbox.embedded import embedded

ACCOUNT, SKU, LOGIN = "0000123456-00001", "SIMSec-IoT", "sandbox"
CONCURRENCY = 64
LATENCIES = (0.0, 0.05)
"""Seconds."""
HTTPX_TASKS = {0.0: (1, 4), 0.05: (64, 96)}
"""Numbers of tasks by latency. Other numbers are not faster: httpx's pool searches all waiting requests."""
LEGEND = """\
program, httpx, own: seconds of the program from start to end, of httpx's loop, and of the own client's loop.
of httpx, of own: devices/s of the program divided by those of httpx's loop and of the own client's loop.
written, sent: devices/s of the program's sending and writing, and of its sending alone (from the first
request to the last answer), divided by those of the own client's loop.
memory, CPU, own: peak memory and CPU seconds of the program, and CPU seconds of the own client's loop.
observers: seconds of the program with a metrics file and port (metrics), and with OpenTelemetry beside them
(all), divided by those of the program without; and CPU seconds of the program with the threads of these
observers, divided by those of its other threads in the same run. Medians of three runs each."""
OBSERVED_RUNS = 3
OBSERVED = Path(__file__).with_name("observed.py")
FLEET = "fleet.csv"


@dataclass(frozen=True)
class Measured:
    """One process: seconds from start to end, seconds of CPU, and its peak memory in MB."""

    seconds: float
    cpu: float
    peak_mb: float
    output: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devices", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--httpx-tasks", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare is not None:
        post_all = _post_all if arguments.httpx_tasks is None else _post_all_by_httpx
        anyio.run(post_all, arguments.bare, arguments.httpx_tasks, backend_options={"use_uvloop": True})
        return
    print(LEGEND)
    columns = "devices", "latency", "program", "httpx", "own", "of httpx", "of own", "written", "sent"
    print(_row(*columns, "memory", "CPU", "own"), flush=True)
    for devices in arguments.devices:
        for latency in LATENCIES:
            with TemporaryDirectory(prefix="batchlic-bench-") as folder:
                _compare(Path(folder), devices, latency)
                print(_cost_of_observers(Path(folder), Path(folder) / FLEET, latency), flush=True)


def _compare(folder: Path, devices: int, latency: float) -> None:
    inventory, run_dir = folder / FLEET, folder / "run"
    plan = str(run_dir / "plan.parquet")
    _write_fleet(inventory, devices)
    with _sandbox(latency):
        whole = _measure(_program(inventory, run_dir))
    with _sandbox(latency):
        own, own_cpu = _loop(plan)
    httpx_s = []
    for tasks in HTTPX_TASKS[latency]:
        with _sandbox(latency):
            httpx_s.append(_loop(plan, "--httpx-tasks", str(tasks))[0])
    session = devices / msgspec.json.decode((run_dir / "summary.json").read_bytes())["devices_per_second"]
    sending = _sending_s(run_dir / "audit.parquet")
    fastest = min(httpx_s)
    ratios = fastest / whole.seconds, own / whole.seconds, own / session, own / sending
    print(
        _row(
            f"{devices:,}",
            f"{latency * 1000:.0f} ms",
            *(f"{seconds:.1f} s" for seconds in (whole.seconds, fastest, own)),
            *(f"{ratio:.2f}" for ratio in ratios),
            f"{whole.peak_mb:,.0f} MB",
            *(f"{seconds:.1f} s" for seconds in (whole.cpu, own_cpu)),
        ),
        flush=True,
    )


def _program(inventory: Path, run_dir: Path) -> list[str]:
    where = ["--run-dir", str(run_dir), "--max-concurrency", str(CONCURRENCY)]
    return ["-m", "batchlic", "assign", str(inventory), "--account", ACCOUNT, "--sku", SKU, *where]


def _cost_of_observers(folder: Path, inventory: Path, latency: float) -> str:
    """What observers cost: the median of some runs; runs with and without them alternate."""
    ratios, shares = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    observed = ["--metrics-file", str(folder / "run.prom"), "--metrics-port", "0"]
    with _otlp_receiver() as endpoint:
        kinds = {"none": ([], ""), "metrics": (observed, ""), "all": (observed, endpoint)}
        for number in range(OBSERVED_RUNS):
            seconds = {}
            for kind, (options, where) in kinds.items():
                os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = where
                run_dir = folder / f"{kind}-{number}"
                command = [str(OBSERVED), *_program(inventory, run_dir)[2:], "--no-ledger", *options]
                with _sandbox(latency):
                    run = _measure(command)
                observers, cpu = map(float, run.output.splitlines()[-1].split())
                seconds[kind] = run.seconds
                ratios[kind].append(run.seconds / seconds["none"])
                shares[kind].append(observers / (cpu - observers))
                shutil.rmtree(run_dir)
    costs = (
        f"{kind} {median(ratios[kind]):.3f} (CPU {1 + median(shares[kind]):.3f})"
        for kind in ("metrics", "all")
    )
    return f"    observers: {', '.join(costs)}"


@contextmanager
def _otlp_receiver() -> Iterator[str]:
    """An endpoint for OpenTelemetry that drops what it receives."""

    class Dropping(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dropping)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _row(*cells: str) -> str:
    return "".join(f"{cell:>10}" for cell in cells)


def _loop(plan: str, *options: str) -> tuple[float, float]:
    """Run a bare loop. Returns its seconds and its CPU seconds."""
    seconds, cpu = map(float, _measure([__file__, "--bare", plan, *options]).output.split())
    return seconds, cpu


def _sending_s(audit: Path) -> float:
    """Return the seconds from the first request to the last answer."""
    started = pl.col("started_at").dt.epoch("us") / 1e6
    ended = started + pl.col("duration_ms") / 1000
    return float(pl.scan_parquet(audit).select(ended.max() - started.min()).collect().item())


def _write_fleet(path: Path, devices: int) -> None:
    """Write an inventory with IMEIs and ICCIDs that have correct check digits."""
    number = pl.int_range(devices).cast(pl.String).str.zfill(8)
    frame = pl.select(imei=pl.lit("864508") + number, iccid=pl.lit("8914800000") + number)
    frame.with_columns(
        pl.col("imei") + _check_digit("imei", 14), pl.col("iccid") + _check_digit("iccid", 18)
    ).write_csv(path)


def _check_digit(column: str, length: int) -> pl.Expr:
    """The check digit by Luhn (ISO/IEC 7812-1, annex B)."""
    total = pl.lit(0)
    for place in range(length):
        digit = pl.col(column).str.slice(length - 1 - place, 1).cast(pl.Int32)
        total = total + (digit if place % 2 else digit * 2 - 9 * (digit > 4).cast(pl.Int32))
    return ((10 - total % 10) % 10).cast(pl.String)


@contextmanager
def _sandbox(latency: float) -> Iterator[None]:
    names = ("CLIENT_ID", "CLIENT_SECRET", "USERNAME", "PASSWORD")
    with embedded(SandboxConfig(latency=LatencyConfig(base_s=latency))) as base_url:
        os.environ |= {f"BATCHLIC_{name}": LOGIN for name in names} | {"BATCHLIC_BASE_URL": base_url}
        yield


def _measure(command: list[str]) -> Measured:
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:3]} exited with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(time.perf_counter() - began, cpu, usage.ru_maxrss / 1024, output)


async def _post_all(plan: Path, _: None) -> None:
    """Post the bodies of a plan with batchlic's client. The bodies are encoded before the time starts."""
    submissions = iter(_submissions(plan))
    name = Secret(LOGIN)
    keys = Credentials(client_id=name, client_secret=name, username=name, password=name)
    async with open_client(os.environ["BATCHLIC_BASE_URL"], keys, max_connections=CONCURRENCY) as client:
        await client.login()
        with _timed():
            async with anyio.create_task_group() as posting:
                for _task in range(CONCURRENCY):
                    posting.start_soon(_post, client, submissions)


async def _post(client: Carrier, submissions: Iterator[Submission]) -> None:
    for submission in submissions:
        answer = await client.submit(submission)
        if answer.outcome is not Outcome.ACCEPTED:
            raise SystemExit(f"the sandbox answered {answer}")


async def _post_all_by_httpx(plan: Path, tasks: int) -> None:
    """Post the bodies of a plan with httpx. The bodies are encoded before the time starts."""
    submissions = iter(_submissions(plan))
    async with httpx.AsyncClient(base_url=os.environ["BATCHLIC_BASE_URL"]) as client:
        answer = await client.post(
            "/ts/v1/oauth2/token", data={"grant_type": "client_credentials"}, auth=(LOGIN, LOGIN)
        )
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        answer = await client.post("/m2m/v1/session/login", json={"username": LOGIN, "password": LOGIN})
        client.headers["VZ-M2M-Token"] = answer.json()["sessionToken"]
        client.headers["Content-Type"] = "application/json"
        with _timed():
            async with anyio.create_task_group() as posting:
                for _ in range(tasks):
                    posting.start_soon(_post_by_httpx, client, submissions)


async def _post_by_httpx(client: httpx.AsyncClient, submissions: Iterator[Submission]) -> None:
    for submission in submissions:
        answer = await client.post(
            "/m2m/v1/devices/license/actions/assign",
            content=submission.body,
            headers={"X-Request-ID": submission.x_request_id},
        )
        answer.raise_for_status()


def _submissions(plan: Path) -> list[Submission]:
    return [
        Submission(Action.ASSIGN, batch.x_request_id("bare"), batch.body())
        for batch in read_batches(plan, IdKind.AUTO)
    ]


@contextmanager
def _timed() -> Iterator[None]:
    """Print the seconds and the CPU seconds that the block takes."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    print(time.perf_counter() - began, time.process_time() - cpu)


if __name__ == "__main__":
    main()
