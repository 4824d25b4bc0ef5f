"""`make bench-runs`: list many runs, with finished and killed ones among them, and search a device in them.

All runs are copies of one run of `batchlic`, so their journals have as many requests as its devices need.
"""

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import polars as pl

from batchlic.figures import counted
from batchlic.runs.history import device_history
from batchlic.runs.listing import RunState, last_runs, list_runs

ROUNDS = 3
TABLES = ("plan.parquet", "rejects.parquet", "results.parquet")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("runs", type=int, nargs="*", default=[100, 1000])
    arguments.add_argument("--devices", type=int, default=25_000, help="devices of each run (default: 25000)")
    chosen = arguments.parse_args()
    with TemporaryDirectory(prefix="batchlic-bench-") as temporary:
        run = finished_run(Path(temporary), chosen.devices)
        print(f"{os.cpu_count()} cores, runs of {counted(chosen.devices, 'device')}")
        print(f"{'':24} {'list':>8} {'':8} {'':15} {'search a device, CPU s':>22}")
        print(
            f"{'runs':>6} {'at rest':>8} {'killed':>8} {'wall s':>8} {'CPU s':>8} {'command, CPU s':>15} "
            f"{'in no run':>11} {'in each':>10}"
        )
        for count in chosen.runs:
            for killed in (0, max(1, count // 100)):
                measure(run, Path(temporary) / f"{count}-{killed}", count, killed)


def finished_run(folder: Path, devices: int) -> Path:
    """The folder of a run against a sandbox without limits."""
    generate = ["sample_data/generate.py", "--rows", str(devices), "--out", str(folder / "fleet.csv")]
    subprocess.run([sys.executable, *generate], check=True)
    command = ["assign", "fleet.csv", "--account", "0000123456-00001", "--sku", "SIMSec-IoT", "--sandbox"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    subprocess.run(
        [sys.executable, "-m", "batchlic", *command, "--run-dir", "run"],
        cwd=folder,
        env=environment,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return folder / "run"


def measure(run: Path, folder: Path, count: int, killed: int) -> None:
    """Print the time to list copies of a run, of which some lost the end of their sessions."""
    for number in range(count):
        copy = folder / f"run-{number:05}"
        copy.mkdir(parents=True)
        for name in ("journal.db", "summary.json", ".lock", *TABLES):
            (os.link if name in TABLES else shutil.copy)(run / name, copy / name)
        if number < killed:
            with closing(sqlite3.connect(copy / "journal.db")) as journal, journal:
                journal.execute("DELETE FROM session_ends")
    seconds, cpu = [], []
    for _ in range(ROUNDS):
        began, used = perf_counter(), process_time()
        runs = list_runs(folder)
        last_runs(runs, runs[0])
        seconds.append(perf_counter() - began)
        cpu.append(process_time() - used)
    states = [listed.state for listed in list_runs(folder)]
    assert states.count(RunState.INTERRUPTED) == killed
    assert states.count(RunState.FINISHED) == count - killed
    command = [sys.executable, "-m", "batchlic", "runs", str(folder)]
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = getrusage(RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = f"{min(seconds):>8.2f} {min(cpu):>8.2f} {whole:>15.2f}"
    planned = pl.read_parquet(run / "plan.parquet")["imei"].drop_nulls()[0]
    searches = f"{seconds_to_search('0' * 15, folder):>11.2f} {seconds_to_search(planned, folder):>10.2f}"
    print(f"{count:>6,} {count - killed:>8,} {killed:>8,} {figures} {searches}", flush=True)


def seconds_to_search(device: str, folder: Path) -> float:
    """CPU seconds to find the history of a device."""
    used = process_time()
    device_history(device, folder)
    return process_time() - used


if __name__ == "__main__":
    main()
