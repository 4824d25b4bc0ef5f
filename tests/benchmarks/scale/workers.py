"""Workers: how the speed grows with their number where the carrier takes the time, not this machine."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from batchlic.sandbox.config import LatencyConfig, LimitConfig, LimitScope, SandboxConfig
from batchlic.sandbox.embedded import embedded
from batchlic.writer.summary import Summary, read_summary
from tests.endtoend.program import FLEXIBLE, environment_of, keys
from tests.postgresql import running_server

ACCOUNTS = 16
RATE = 20.0
"""Requests a second that the carrier admits for each account."""
LATENCY_S = 2.0
IN_FLIGHT = 16
"""Requests in flight that a worker may have."""
DEVICES_PER_ACCOUNT = 3_000
LEGEND = f"""\
{ACCOUNTS} accounts with {DEVICES_PER_ACCOUNT:,} devices each.
The carrier admits {RATE:.0f} requests/s for an account, and takes {LATENCY_S:.0f} s for an answer.
With --max-concurrency {IN_FLIGHT} for each worker, a worker gets {IN_FLIGHT / LATENCY_S:.0f} requests/s.
wall s: seconds of the whole command; sending: from the first request to the last answer.
of none: devices/s divided by those of a run without workers."""


def compare(folder: Path, counts: Sequence[int]) -> None:
    """Print the speed with each number of workers, and without."""
    print(f"Workers\n{LEGEND}")
    columns = ("workers", "wall s", "sending", "requests/s", "devices/s", "of none", "throttled")
    print("".join(f"{column:>12}" for column in columns), flush=True)
    inventory = folder / "fleet.csv"
    write_inventory(inventory, accounts=ACCOUNTS, devices=DEVICES_PER_ACCOUNT)
    limits = LimitConfig(rate=RATE, burst=int(RATE), scope=LimitScope.ACCOUNT)
    config = SandboxConfig(limits=limits, latency=LatencyConfig(base_s=LATENCY_S))
    first = 0.0
    with running_server() as server:
        for number, count in enumerate((0, *counts)):
            options = ["--max-concurrency", str(IN_FLIGHT * max(1, count))]
            options += ["--workers", str(count)] if count else []
            with embedded(config) as url:
                store = server.new_database(f"workers{number}")
                wall_s, summary = run_to_end(inventory, folder / f"run{number}", url, store, *options)
            speed, requests = summary.devices_per_second or 0.0, summary.requests["total"]
            first = first or speed
            sending_s = summary.planned / speed
            throttled = summary.requests.get("throttled", 0) / requests
            figures = f"{wall_s:12.1f}{sending_s:12.1f}{requests / sending_s:12.1f}{speed:12,.0f}"
            print(f"{count or 'none':>12}{figures}{speed / first:12.2f}{throttled:12.1%}", flush=True)


def run_to_end(inventory: Path, run: Path, url: str, store: str, *options: str) -> tuple[float, Summary]:
    """Assign an inventory; returns the seconds of the command, and its summary."""
    wanted = ["--sku", FLEXIBLE, "--limit-scope", "account", "--run-dir", str(run), "--no-report"]
    command = [sys.executable, "-m", "batchlic", "assign", str(inventory), *wanted, "--yes", "--new-ledger"]
    began = time.monotonic()
    ended = subprocess.run(
        [*command, *options],
        env=environment_of(keys(url, BATCHLIC_STORE=store), run.parent),
        capture_output=True,
        text=True,
        check=False,
    )
    wall_s = time.monotonic() - began
    if ended.returncode:
        raise SystemExit(f"exit code {ended.returncode}: {ended.stderr}")
    return wall_s, read_summary(run / "summary.json")


def write_inventory(path: Path, *, accounts: int, devices: int) -> None:
    """Write an inventory with so many devices of each account, one account after another."""
    number = pl.int_range(accounts * devices, dtype=pl.Int64)
    body = (number + 35_000_000_000_000).cast(pl.String).str.zfill(14)
    digits = [body.str.slice(index, 1).cast(pl.Int64) for index in range(14)]
    doubled = [digit * 2 // 10 + digit * 2 % 10 if index % 2 else digit for index, digit in enumerate(digits)]
    check = (10 - pl.sum_horizontal(doubled) % 10) % 10  # Luhn's algorithm, as in an IMEI
    account = pl.format("{}-00001", (number // devices + 1).cast(pl.String).str.zfill(10))
    pl.select(imei=pl.concat_str(body, check.cast(pl.String)), account=account).write_csv(path)
