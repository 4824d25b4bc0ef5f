"""`make bench-submit`: the whole program beside a bare loop of its own client posting the same bodies.

Each measurement has a process and a fresh unlimited sandbox to itself; figures are of this run only.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import msgspec
import polars as pl

from batchlic.carrier.answers import Outcome
from batchlic.carrier.auth import Credentials, Secret
from batchlic.carrier.catalogue import Action
from batchlic.carrier.client import CarrierClient, Submission, open_client
from batchlic.chunker import read_batches
from batchlic.reader import IdKind
from batchlic.sandbox.config import SandboxConfig
from batchlic.sandbox.embedded import embedded

ACCOUNT, SKU = "0000123456-00001", "SIMSec-IoT"
CONCURRENCY = 64


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
    arguments = parser.parse_args()
    if arguments.bare is not None:
        anyio.run(_post_all, arguments.bare, backend_options={"use_uvloop": True})
        return
    print("devices/s beside the bare loop: of the program from start to end, of its sending and writing,")
    print("and of its sending alone, from the first request to the last answer")
    titles = (
        f"{'devices':>10} {'program':>21} {'bare loop':>21} {'whole':>6} {'written':>8} {'sent':>6} "
        f"{'peak memory':>12}"
    )
    print(f"{titles} {'CPU':>11} {'bare':>8}", flush=True)
    for devices in arguments.devices:
        with TemporaryDirectory(prefix="batchlic-bench-") as folder:
            _compare(Path(folder), devices)


def _compare(folder: Path, devices: int) -> None:
    inventory, run_dir = folder / "fleet.csv", folder / "run"
    _write_fleet(inventory, devices)
    program = ["-m", "batchlic", "assign", str(inventory), "--account", ACCOUNT, "--sku", SKU]
    with _sandbox():
        whole = _measure([*program, "--run-dir", str(run_dir), "--max-concurrency", str(CONCURRENCY)])
    with _sandbox():
        bare, bare_cpu = map(
            float, _measure([__file__, "--bare", str(run_dir / "plan.parquet")]).output.split()
        )
    sitting = devices / msgspec.json.decode((run_dir / "summary.json").read_bytes())["devices_per_second"]
    print(
        f"{devices:>10,} {whole.seconds:>8.1f} s {devices / whole.seconds:>8,.0f}/s "
        f"{bare:>8.1f} s {devices / bare:>8,.0f}/s {bare / whole.seconds:>6.2f} {bare / sitting:>8.2f} "
        f"{bare / _sending_s(run_dir / 'audit.parquet'):>6.2f} "
        f"{whole.peak_mb:>9,.0f} MB {whole.cpu:>9.1f} s {bare_cpu:>6.1f} s"
    )


def _sending_s(audit: Path) -> float:
    """Seconds from the first request to the last answer."""
    started = pl.col("started_at").dt.epoch("us") / 1e6
    ended = started + pl.col("duration_ms") / 1000
    return float(pl.scan_parquet(audit).select(ended.max() - started.min()).collect().item())


def _write_fleet(path: Path, devices: int) -> None:
    """A fleet of devices with right check digits, by IMEI and ICCID."""
    number = pl.int_range(devices).cast(pl.String).str.zfill(8)
    frame = pl.select(imei=pl.lit("864508") + number, iccid=pl.lit("8914800000") + number)
    frame.with_columns(
        pl.col("imei") + _check_digit("imei", 14), pl.col("iccid") + _check_digit("iccid", 18)
    ).write_csv(path)


def _check_digit(column: str, length: int) -> pl.Expr:
    """Luhn (ISO/IEC 7812-1, annex B)."""
    total = pl.lit(0)
    for place in range(length):
        digit = pl.col(column).str.slice(length - 1 - place, 1).cast(pl.Int32)
        total = total + (digit if place % 2 else digit * 2 - 9 * (digit > 4).cast(pl.Int32))
    return ((10 - total % 10) % 10).cast(pl.String)


@contextmanager
def _sandbox() -> Iterator[None]:
    names = ("CLIENT_ID", "CLIENT_SECRET", "USERNAME", "PASSWORD")
    with embedded(SandboxConfig()) as base_url:
        os.environ |= {f"BATCHLIC_{name}": "sandbox" for name in names} | {"BATCHLIC_BASE_URL": base_url}
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
        raise SystemExit(f"{command[:3]} ended with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Measured(time.perf_counter() - began, cpu, usage.ru_maxrss / 1024, output)


async def _post_all(plan: Path) -> None:
    """Post the bodies of a plan, encoded beforehand, by as many tasks as the program has workers."""
    submissions = iter(
        [
            Submission(Action.ASSIGN, batch.x_request_id("bare"), batch.body())
            for batch in read_batches(plan, IdKind.AUTO)
        ]
    )
    name = Secret("sandbox")
    keys = Credentials(client_id=name, client_secret=name, username=name, password=name)
    async with open_client(os.environ["BATCHLIC_BASE_URL"], keys, max_connections=CONCURRENCY) as client:
        await client.login()
        began, cpu = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as posting:
            for _ in range(CONCURRENCY):
                posting.start_soon(_post, client, submissions)
        print(time.perf_counter() - began, time.process_time() - cpu)


async def _post(client: CarrierClient, submissions: Iterator[Submission]) -> None:
    for submission in submissions:
        answer = await client.submit(submission)
        if answer.outcome is not Outcome.ACCEPTED:
            raise SystemExit(f"the sandbox answered {answer}")


if __name__ == "__main__":
    main()
