"""Run folders as sessions leave them, without the sessions: made in milliseconds, of any age."""

import hashlib
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from batchlic.chunker import DeviceStatus
from batchlic.figures import time_in_files
from batchlic.runs.folder import RunFolder
from batchlic.writer.summary import Summary
from tests.journal.builders import identity, new_journal

DAY = 86_400_000_000

CARRIER = "https://carrier.example/api"
REQUESTS = {"total": 20, "accepted": 15, "throttled": 5, "ambiguous": 0}


def begun(path: Path, *, days: float = 40, job: str | None = "nightly", **changes: Any) -> Path:  # noqa: ANN401
    """The folder of a run that began some days ago. `content` is of its job, the rest of its identity."""
    path.mkdir(parents=True)
    for name in ("plan.parquet", ".lock"):
        (path / name).touch()
    (path / "journal.db").write_bytes(_journal())
    content = {"name": job, "license": {"account": "A", "sku": "S"}, **changes.pop("content", {})}
    fields = {"run_id": path.name, "carrier": CARRIER, "job": content, **changes}
    encoded = msgspec.json.encode(identity(**fields)).decode()
    _execute(
        path,
        "UPDATE run SET created_at = ?, identity = ?",
        round(time.time_ns() // 1000 - days * DAY),
        encoded,
    )
    return path


def finished(
    path: Path,
    *,
    days: float = 40,
    exit_code: int = 0,
    statuses: Mapping[DeviceStatus, int] | None = None,
    requests: Mapping[str, int] = REQUESTS,
    **changes: Any,  # noqa: ANN401 - as of `begun`
) -> Path:
    """The folder of a run that ended a minute after it began."""
    begun(path, days=days, **changes)
    found = {DeviceStatus.CONFIRMED: 10} if statuses is None else statuses
    end(path, exit_code, statuses=found, requests=requests)
    return path


def end(
    path: Path,
    exit_code: int,
    *,
    statuses: Mapping[DeviceStatus, int],
    requests: Mapping[str, int] = REQUESTS,
) -> None:
    """End a session: write the summary, and record it. The journal is closed."""
    folder = RunFolder(path)
    with closing(sqlite3.connect(folder.journal_file)) as journal:
        [(created_at, encoded)] = journal.execute("SELECT created_at, identity FROM run")
    fields = msgspec.json.decode(encoded)
    names = ("run_id", "action", "carrier", "rows_read", "rejected", "planned", "batches")
    summary = Summary(
        **{name: fields[name] for name in names},
        job=fields["job"]["name"] or fields["action"],
        sources=[],
        statuses=dict(statuses),
        requests=dict(requests),
        started_at=time_in_files(created_at),
        finished_at=time_in_files(created_at + 60_000_000),
        devices_per_second=None,
        exit_code=exit_code,
    )
    folder.summary.write_bytes(msgspec.json.encode(summary))
    written = [file for file in folder.published_files if file.exists()]
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in written}
    _execute(
        path,
        "INSERT INTO session_ends (started_at, ended_at, exit_code, last_seq, file_hashes) VALUES "
        "(?, ?, ?, (SELECT coalesce(max(seq), 0) FROM intents), ?)",
        created_at,
        created_at + 60_000_000,
        exit_code,
        msgspec.json.encode(hashes).decode(),
    )


@cache
def _journal() -> bytes:
    with TemporaryDirectory() as folder:
        new_journal(Path(folder)).close()
        return (Path(folder) / "journal.db").read_bytes()


def _execute(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path / "journal.db")) as journal, journal:
        journal.execute("PRAGMA synchronous = OFF")
        journal.execute(sql, values)
