"""Take-over: how long a run stands still when the machine of its session dies."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from batchlic.database.leases import leases
from batchlic.database.postgresql import Store, open_store
from batchlic.errors import RunFolderError
from batchlic.runs.folder import RunFolder
from batchlic.sandbox.config import LimitConfig, SandboxConfig
from batchlic.sandbox.embedded import embedded
from tests.endtoend.program import ACCOUNT, FLEXIBLE, environment_of, keys
from tests.postgresql import running_server
from tests.reader.builders import imei

LEASE_S = 5
DEVICES = 3_000
RATE = 3.0
"""Requests a second, so that the run takes longer than the take-over."""
TRIES = 3
LEGEND = f"""\
A session of a run is killed (kill -9) while it sends, and `batchlic resume` is tried again until it takes the
run over. The lease lasts {LEASE_S} s here, and 30 s by default: a session that was heard of just before it
died keeps the run for so long. Target: the lease and 2 s."""


def measure(folder: Path) -> None:
    """Print the seconds from the kill to the take-over."""
    print(f"Take-over\n{LEGEND}")
    config = SandboxConfig(limits=LimitConfig(rate=RATE, burst=1))
    with running_server() as server, embedded(config) as url:
        found = [
            _seconds(folder / str(number), server.new_database(f"n{number}"), url) for number in range(TRIES)
        ]
    shown = ", ".join(f"{seconds:.1f}" for seconds in found)
    print(f"  {shown} s; median {statistics.median(found):.1f} s, target {LEASE_S + 2} s")


def _seconds(folder: Path, database: str, url: str) -> float:
    folder.mkdir()
    inventory = folder / "fleet.csv"
    inventory.write_text("imei\n" + "\n".join(imei(number) for number in range(DEVICES)))
    settings = keys(url, BATCHLIC_STORE=database, BATCHLIC_LEASE_S=str(LEASE_S))
    environment = environment_of(settings, folder)
    run, store = folder / "run", open_store(database)
    options = ["--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", str(run), "--yes", "--new-ledger"]
    with _killed_at_end(["assign", str(inventory), *options], environment) as session:
        _wait_for_answers(run)
        key = f"run:{_key(run)}"
        epoch = _epoch(store, key)
        session.kill()
        killed_at = taken_at = time.monotonic()
    while _epoch(store, key) == epoch:
        with _killed_at_end(["resume", str(run)], environment) as session:
            while session.poll() is None and _epoch(store, key) == epoch:
                time.sleep(0.02)
            taken_at = time.monotonic()
    return taken_at - killed_at


def _wait_for_answers(run: Path) -> None:
    """Return when the session in the folder has answers: it sends."""
    while True:
        time.sleep(0.1)
        with suppress(RunFolderError, FileNotFoundError):
            if (run / "store.json").exists() and RunFolder(run).journal.tail().read()[0]:
                return


def _key(run: Path) -> str:
    named = RunFolder(run).named_store
    assert named is not None
    return named.key


def _epoch(store: Store, key: str) -> int:
    with store.engine.connect() as connection:
        return int(connection.execute(sa.select(leases.c.epoch).where(leases.c.key == key)).scalar_one())


@contextmanager
def _killed_at_end(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A command, until the block ends."""
    session = subprocess.Popen(
        [sys.executable, "-m", "batchlic", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield session
    finally:
        session.kill()
        session.wait()
