"""The demo of `make demo-cluster`: a run by two workers, of which one is killed.

It starts a PostgreSQL server, a sandbox carrier that limits each account, and a run of three accounts.
"""

import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import polars as pl

from tests.postgresql import PostgreSQL, running_server

HERE = Path(__file__).parent
LIMITS = {"0000123456-00001": 12, "0000123456-00002": 9, "0000123456-00003": 6}
"""Requests per second of each account; the run is not told."""
PATIENCE_S = 180
BATCHLIC = [sys.executable, "-m", "batchlic"]


def main() -> None:
    """Run the demo; ends with an error if something is not as it says."""
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="batchlic-demo-"))
    try:
        with running_server() as server, sandbox(home) as url:
            show("PostgreSQL and a sandbox carrier run on this machine, for this demo only.")
            for account, rate in LIMITS.items():
                show(f"The carrier admits {rate} requests/s for account {account}, and does not say so.")
            devices = write_inventory(home / "fleet.csv")
            shutil.copy(HERE / "demo_cluster.toml", home)
            store = server.new_database("demo")
            others = {name: value for name, value in os.environ.items() if not name.startswith("BATCHLIC_")}
            settings = {**others, **settings_for(url, store, home)}
            send(server, home, settings)
            compare(home, url, settings, devices)
    finally:
        shutil.rmtree(home)
    show(f"Done in {time.monotonic() - began:.0f} s.")


def send(server: PostgreSQL, home: Path, settings: dict[str, str]) -> None:
    """Send the run, and kill a worker in the middle."""
    show("batchlic run demo_cluster.toml --workers 2")
    command = [*BATCHLIC, "run", "demo_cluster.toml", "--run-dir", "run", "--workers", "2", "--yes"]
    with subprocess.Popen(command, cwd=home, env=settings, stdout=subprocess.DEVNULL) as run:
        wait_until(lambda: accepted(server) >= 60 or run.poll() is not None)
        expect(run.poll() is None, "the run has ended too early")
        workers = workers_at_work(server)
        expect(bool(workers), "no worker is at work")
        show(
            f"{accepted(server)} requests are accepted, by workers {' and '.join(map(str, sorted(workers)))}."
        )
        os.kill(min(workers), signal.SIGKILL)
        show(f"Worker {min(workers)} is killed (SIGKILL). Its lease lapses in 3 s; then another one goes on.")
        code = run.wait(PATIENCE_S)
    expect(code == 0, f"the run ended with exit code {code}")
    show("The run has finished with exit code 0.")


def compare(home: Path, url: str, settings: dict[str, str], devices: int) -> None:
    """Compare results, journal and the carrier's books."""
    verified = subprocess.run(
        [*BATCHLIC, "audit", "run", "--verify", "--json"],
        cwd=home,
        env=settings,
        capture_output=True,
        check=False,
    )
    expect(verified.returncode == 0, f"audit --verify found {verified.stdout.decode()}")
    head = json.loads(verified.stdout)["head"]
    show(f"audit --verify agrees: the files are those of the journal, and the last hash is {head[:16]}….")
    results = pl.read_parquet(home / "run" / "results.parquet")
    device = pl.coalesce("imei", "iccid")
    accepted_here = set(results.filter(pl.col("status") == "accepted").select(device).to_series())
    with build_opener(ProxyHandler({})).open(url.removesuffix("/api") + "/sandbox/books") as answer:
        books = [json.loads(line) for line in answer]
    licensed = Counter({one["imei"] or one["iccid"]: one["assigned"] for one in books if one["assigned"]})
    expect(set(licensed) == accepted_here, "books and results differ")
    expect(max(licensed.values()) == 1, "a device was licensed twice")
    expect(len(accepted_here) == results.height, "not every planned device is accepted")
    show(
        f"The carrier's books equal the results: {len(accepted_here):,} of {devices:,} rows are licensed, "
        "each device once. The other rows are broken on purpose."
    )


@contextmanager
def sandbox(home: Path) -> Iterator[str]:
    """The base URL of a carrier that limits each account, and executes each X-Request-ID once."""
    rates = [f"--account-rate={account}={rate}" for account, rate in LIMITS.items()]
    options = ["--port", "0", "--limit-scope", "account", "--deduplicate", "--latency", "0.1", *rates]
    with (
        (home / "sandbox.log").open("w") as log,
        subprocess.Popen([*BATCHLIC, "sandbox", *options], stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            yield json.loads(process.stdout.readline())["base_url"]
        finally:
            process.terminate()


def settings_for(url: str, store: str, home: Path) -> dict[str, str]:
    """The settings of coordinator and workers."""
    login = dict.fromkeys(("CLIENT_ID", "CLIENT_SECRET", "USERNAME", "PASSWORD"), "sandbox")
    names = {"BASE_URL": url, "STORE": store, "LEASE_S": "3", "STATE_DIR": str(home), **login}
    return {f"BATCHLIC_{name}": value for name, value in names.items()}


def write_inventory(target: Path) -> int:
    """Spread the sample fleet over the accounts; returns the number of rows."""
    accounts = list(LIMITS)
    with gzip.open(HERE.parent / "sample_data" / "fleet.csv.gz", "rt") as source, target.open("w") as file:
        rows = csv.reader(source)
        writer = csv.writer(file)
        writer.writerow([*next(rows), "account"])
        count = 0
        for count, row in enumerate(rows, start=1):
            writer.writerow([*row, accounts[count % len(accounts)]])
    return count


def accepted(server: PostgreSQL) -> int:
    """The requests that the journal has as accepted."""
    if server.execute("SELECT to_regclass('answers')", "demo") == [(None,)]:
        return 0
    return int(server.execute("SELECT count(*) FROM answers WHERE outcome = 'accepted'", "demo")[0][0])


def workers_at_work(server: PostgreSQL) -> set[int]:
    """The process ids of the workers that hold a shard."""
    found = server.execute(
        "SELECT holder FROM leases WHERE key LIKE '%/shard:%' AND expires_at > now()", "demo"
    )
    return {int(match[1]) for (holder,) in found if (match := re.match(r"pid (\d+) ", holder))}


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    ends_at = time.monotonic() + PATIENCE_S
    while not condition():
        expect(time.monotonic() < ends_at, f"nothing has happened for {PATIENCE_S} s")
        time.sleep(0.1)


def expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as an assertion
    """End the demo if something does not hold."""
    if not holds:
        raise SystemExit(f"demo-cluster: {otherwise}")


def show(sentence: str) -> None:
    """Tell what happens."""
    print(sentence, flush=True)


if __name__ == "__main__":
    main()
