"""Plans and journals of small runs, for tests of the writer."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from batchlic.chunker import format_ranges
from batchlic.journal import Journal, tables
from batchlic.journal.databases import SqliteDatabase
from batchlic.journal.journal import create_tables
from tests.journal.builders import CREATED_AT, identity

SECOND = 1_000_000


@dataclass(frozen=True)
class JournaledAttempt:
    """One attempt: the offsets that it carried (None: the whole batch), and its answer (None: none)."""

    batch_id: int
    offsets: Sequence[int] | None = None
    outcome: str | None = "accepted"
    final: bool = False
    http_status: int | None = None
    request_id: str | None = None
    error_code: str | None = None
    step: str | None = None


def plan_of(path: Path, sizes: Sequence[int]) -> Path:
    """A plan with batches of these sizes, numbered from 1."""
    batches = [number for number, size in enumerate(sizes, start=1) for _ in range(size)]
    frame = pl.DataFrame(
        {
            "batch_id": pl.Series(batches, dtype=pl.UInt32),
            "source": pl.Series(["fleet.csv"] * len(batches), dtype=pl.String),
            "row": pl.Series(range(1, len(batches) + 1), dtype=pl.UInt32),
            "imei": pl.Series([f"{n:015}" for n in range(len(batches))], dtype=pl.String),
            "iccid": pl.Series([None] * len(batches), dtype=pl.String),
            "account_name": pl.Series(["0000123456-00001"] * len(batches), dtype=pl.String),
            "sku_number": pl.Series(["SIMSec-IoT"] * len(batches), dtype=pl.String),
            "held": pl.Series([None] * len(batches), dtype=pl.String),
        }
    )
    frame.write_parquet(path)
    return path


class _InMemory(sqlite3.Connection):
    """A database that nobody has to close: otherwise, Python 3.13 warns of each one that is left open."""

    def __del__(self) -> None:
        self.close()


def journal_of(
    attempts: Iterable[JournaledAttempt],
    sizes: Sequence[int] = (10,),
    **changes: Any,  # noqa: ANN401 - any field of an identity
) -> Journal:
    """A journal in memory with these attempts, one per second, each answered after 250 ms."""
    options = {"check_same_thread": False, "factory": _InMemory}
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args=options)
    run = identity(planned=sum(sizes), batches=len(sizes), **changes)
    create_tables(engine, run, created_at=CREATED_AT)
    with engine.begin() as connection:
        for seq, attempt in enumerate(attempts, start=1):
            size = sizes[attempt.batch_id - 1]
            intent = {
                "seq": seq,
                "batch_id": attempt.batch_id,
                "step": attempt.step,
                "part": "" if attempt.offsets is None else format_ranges(sorted(attempt.offsets)),
                "x_request_id": f"1-{seq:03}",
                "attempt": 1,
                "action": "assign",
                "device_count": size if attempt.offsets is None else len(attempt.offsets),
                "request_sha256": "ab" * 32,
                "pace_rps": 12.5,
                "started_at": CREATED_AT + seq * SECOND,
            }
            connection.execute(tables.intents.insert(), [intent])
            if attempt.outcome is not None:
                answer = {
                    "seq": seq,
                    "duration_ms": 250.0,
                    "outcome": attempt.outcome,
                    "final": attempt.final,
                    "http_status": attempt.http_status,
                    "request_id": attempt.request_id,
                    "error_code": attempt.error_code,
                    "error_message": None,
                    "retry_after_s": None,
                }
                connection.execute(tables.answers.insert(), [answer])
    return Journal(SqliteDatabase(engine))
