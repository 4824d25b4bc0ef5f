"""Small runs in this process, against a sandbox in another process."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import stdnum.luhn

from batchlic.carrier.credentials import Credentials, Secret
from batchlic.chunker import DeviceStatus
from batchlic.job import Job, make_job
from batchlic.journal import Journal
from batchlic.runs.folder import RunFolder
from batchlic.runs.run import new_run_id, start
from batchlic.runs.target import Target
from batchlic.sandbox.config import Fault, SandboxConfig
from batchlic.writer.summary import Summary
from tests.forking import serving
from tests.loopback import NO_CERTIFICATES

ACCOUNT = "0000123456-00001"
FLEXIBLE, LIFETIME = "SIMSec-IoT", "SIMSec-IoT-Lt"
DEVICES, BATCH_SIZE = 100, 10
LOSES_ANSWERS = {Fault.RESET_AFTER: 0.5}

STORE: str | None = None
"""The store that has the journals of runs; None for files (the fixture `backend`)."""


@dataclass(frozen=True)
class Carrier:
    """A sandbox, and its records."""

    target: Target

    def licenses(self) -> dict[str, dict[str, int]]:
        """By IMEI, the licenses of the device by SKU."""
        return {record["imei"]: record["licenses"] for record in self._records()}

    def assigned(self) -> dict[str, int]:
        """By IMEI, how often a license was assigned to the device."""
        return {record["imei"]: record["assigned"] for record in self._records()}

    def requests(self) -> int:
        """The number of license requests that the sandbox received."""
        return sum(json.loads(self._get("totals"))["requests"].values())

    def _records(self) -> Iterator[dict[str, Any]]:
        return (
            {"licenses": {}, "assigned": 0} | json.loads(line) for line in self._get("books").splitlines()
        )

    def _get(self, page: str) -> str:
        url = self.target.base_url.removesuffix("/api")
        return httpx.get(f"{url}/sandbox/{page}", trust_env=False, verify=NO_CERTIFICATES).text


@contextmanager
def carrier(**config: Any) -> Iterator[Carrier]:  # noqa: ANN401 - any setting of a sandbox
    name = Secret("sandbox")
    keys = Credentials(client_id=name, client_secret=name, username=name, password=name)
    with serving(SandboxConfig(**config)) as url:
        yield Carrier(Target(url, url, keys, ("sandbox",)))


def imei(number: int) -> str:
    body = f"86450803{number:06}"
    return body + stdnum.luhn.calc_check_digit(body)


def fleet(path: Path, devices: int = DEVICES) -> Path:
    path.write_text("\n".join(["IMEI", *map(imei, range(devices)), ""]))
    return path


def job(inventory: Path, sku: str = FLEXIBLE, **changes: Any) -> Job:  # noqa: ANN401 - any key of a job
    content: dict[str, Any] = {
        "action": "assign",
        "report": {"write": False},
        "inventory": {"files": [str(inventory)]},
        "license": {"account": ACCOUNT, "sku": sku, "consent_lifetime": sku == LIFETIME},
        "limits": {"batch_size": BATCH_SIZE},
        "store": {"url": STORE},
    }
    return make_job(content | changes, {}, where="test")


def run(folder: Path, at: Carrier, given: Job) -> Summary:
    return start(given, RunFolder(folder), at.target, run_id=new_run_id())


def in_doubt(folder: Path, at: Carrier, sku: str = LIFETIME) -> Summary:
    """A run with some batches in doubt."""
    summary = run(folder / "run", at, job(fleet(folder / "fleet.csv"), sku))
    assert 0 < summary.statuses[DeviceStatus.IN_DOUBT] < DEVICES
    return summary


@contextmanager
def reopened(folder: Path) -> Iterator[Journal]:
    """The journal of a run, as its next session opens it."""
    with RunFolder(folder).locked(), closing(RunFolder(folder).journal.open()) as journal:
        yield journal


def record_as_written(path: Path) -> None:
    """Let the journal of a run have a file, as it is now, as the one that its last session wrote."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with closing(sqlite3.connect(path.parent / "journal.db")) as journal, journal:
        sql = "UPDATE session_ends SET file_hashes = json_set(file_hashes, ?, ?)"
        journal.execute(sql, (f'$."{path.name}"', digest))


def results(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "run" / "results.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    """The content of every file of a folder, except the lock."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != ".lock"}
