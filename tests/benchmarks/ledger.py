"""`make bench-ledger`: planning with a ledger that knows every device, compared with planning without one.

Each measurement has its own process. Compare figures of one run of the benchmark only.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import polars as pl

ACCOUNT, SKU = "0000123456-00001", "SIMSec-IoT"
REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
FLAGS = ["--account", ACCOUNT, "--sku", SKU]


def main() -> None:
    compare_sizes(__doc__, compare)


def compare_sizes(description: str | None, compare_one: Callable[[int, Path], None]) -> None:
    """Compare with each number of rows that the command line gives, each time in an empty folder."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    arguments.add_argument("--folder", type=Path, help="folder for all files (default: a temporary one)")
    chosen = arguments.parse_args()
    print(f"{os.cpu_count()} cores, polars {pl.__version__}")
    print(f"{'rows':>12} {'':>34} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'of plain':>9}", flush=True)
    for rows in chosen.rows:
        with TemporaryDirectory(prefix="batchlic-bench-", dir=chosen.folder) as folder:
            compare_one(rows, Path(folder))


def compare(rows: int, folder: Path) -> None:
    """Fill a ledger, and plan the same inventory with and without it."""
    generate = ["sample_data/generate.py", "--rows", str(rows), "--out", str(folder / "fleet.csv")]
    subprocess.run([sys.executable, *generate], cwd=REPOSITORY, check=True)
    plain = measure(rows, "plan", ["plan", "fleet.csv", *FLAGS, "--no-ledger", "--run-dir", "plain"], folder)
    other_process = "from tests.benchmarks.ledger import write_results; write_results()"
    subprocess.run([sys.executable, "-c", other_process], cwd=folder, env=ENVIRONMENT, check=True)
    importing = ["ledger", "import", "results.parquet", "--ledger", "ledger.db"]
    measure(rows, "import the results", importing, folder, plain)
    with_ledger = ["plan", "fleet.csv", *FLAGS, "--ledger", "ledger.db", "--run-dir", "with-ledger"]
    measure(rows, "plan, all devices in the ledger", with_ledger, folder, plain)
    with (folder / "fleet.csv").open() as fleet, (folder / "few.csv").open("w") as few_rows:
        few_rows.writelines(islice(fleet, rows // 100 + 1))
    few = ["plan", "few.csv", *FLAGS, "--run-dir"]
    few_plain = measure(rows // 100, "plan 1% of them", [*few, "few", "--no-ledger"], folder)
    few_in_ledger = [*few, "few-with-ledger", "--ledger", "ledger.db"]
    measure(rows // 100, "plan 1% of them, with the ledger", few_in_ledger, folder, few_plain)
    print(f"{'':>12} {'size of the ledger':>34} {(folder / 'ledger.db').stat().st_size / 1e6:>8.0f} MB")


def write_results() -> None:
    """Write the results of a run in which every planned device was accepted, with the columns that matter."""
    request = pl.col("batch_id").cast(pl.String)
    pl.scan_parquet("plain/plan.parquet").with_columns(
        run_id=pl.lit("run-1"),
        action=pl.lit("assign"),
        status=pl.lit("accepted"),
        x_request_id="1-" + request.hash().cast(pl.String).str.zfill(30),
        request_id=request.hash(seed=1).cast(pl.String).str.zfill(36),
        last_attempt_at=pl.datetime(2026, 1, 1, time_unit="us", time_zone="UTC"),
    ).sink_parquet("results.parquet")


def measure(
    rows: int,
    name: str,
    command: list[str],
    folder: Path,
    plain: float | None = None,
    *,
    settings: Mapping[str, str] = ENVIRONMENT,
) -> float:
    """Run a command with these settings, print its figures, and return its CPU time in seconds.

    `plain` is the CPU time to compare with. Planning may exit with 3: a few rows are invalid.
    """
    start = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "batchlic", *command], cwd=folder, stderr=subprocess.DEVNULL, env=settings
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds, cpu = perf_counter() - start, usage.ru_utime + usage.ru_stime
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, 3}:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    ratio = f"{cpu / plain:>9.2f}" if plain else ""
    print(f"{rows:>12,} {name:>34} {seconds:>8.1f} {cpu:>8.1f} {peak:>8.0f} {ratio}", flush=True)
    return cpu


if __name__ == "__main__":
    main()
