"""`make bench-journal`: measure the journal's time per batch, the time to resume a large run, and its size.

Compare figures of one run of the benchmark only. The CPU share is that of one core at 1,000 requests/s.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import anyio
import polars as pl

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import read_batches
from batchlic.journal import Intent, Journal, RunIdentity
from batchlic.pool.remaining import remaining
from batchlic.reader import IdKind
from batchlic.runs.identity import sha256_of
from batchlic.writer.audit import write_audit
from batchlic.writer.callback_outcomes import read_outcomes
from batchlic.writer.device_states import device_states
from batchlic.writer.results import write_results

RATE, LATENCY, WORKERS = 1000.0, 0.05, 64
DEVICES_PER_BATCH, LEFT = 100, 1000
ACCEPTED = Answer(
    outcome=Outcome.ACCEPTED, http_status=200, request_id="c3f3d17c-79ff-4b35-82df-94446785b6e0"
)
SHA = "f" * 64

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--paced", type=int, default=20_000, help="batches of the measurement at 1,000/s")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="batchlic-bench-") as folder:
        _cost(Path(folder), arguments.paced)
        _resume(Path(folder), arguments.batches)


def _cost(folder: Path, batches: int) -> None:
    """Print the time that the journal takes per batch, at 1,000 requests/s and 50 ms latency."""
    bare = anyio.run(paced, None, batches, backend_options={"use_uvloop": True})
    with closing(new_journal(folder / "paced.db", batches)) as journal:
        durable = anyio.run(paced, journal, batches, backend_options={"use_uvloop": True})
    cpu = (durable.cpu - bare.cpu) / batches * 1000
    print(f"{batches:,} batches at {batches / durable.seconds:,.0f} requests/s, {WORKERS} workers")
    print(
        f"  waiting for the disk  {durable.waited / batches * 1000:8.2f} ms per batch, for intent and answer"
    )
    print(f"  CPU                   {cpu:8.3f} ms per batch: {cpu * RATE / 10:.0f}% of a core at 1,000/s")
    print(f"  elapsed               {durable.seconds:8.1f} s, without a journal {bare.seconds:.1f} s")
    print(f"  one fsync by itself   {fsync_s(folder / 'probe') * 1000:8.2f} ms")


class Measured:
    def __init__(self) -> None:
        self.waited = self.seconds = self.cpu = 0.0


async def paced(journal: Journal | None, batches: int) -> Measured:
    measured, numbers = Measured(), iter(range(1, batches + 1))
    began, cpu = anyio.current_time(), time.process_time()

    async def work() -> None:
        for number in numbers:
            await anyio.sleep_until(began + number / RATE)
            before = anyio.current_time()
            seq = await journal.intend(intent(number)) if journal else 0
            measured.waited += anyio.current_time() - before
            await anyio.sleep(LATENCY)
            before = anyio.current_time()
            if journal:
                await journal.answer(seq, ACCEPTED, duration_ms=50.0, final=False)
            measured.waited += anyio.current_time() - before

    async with anyio.create_task_group() as tasks:
        for _ in range(WORKERS):
            tasks.start_soon(work)
    measured.seconds, measured.cpu = anyio.current_time() - began, time.process_time() - cpu
    return measured


def _resume(folder: Path, batches: int) -> None:
    """Print the times of the steps of `resume`, for a run with all but the last LEFT batches accepted."""
    plan, path = folder / "plan.parquet", folder / "journal.db"
    _write_plan(plan, batches)
    with closing(new_journal(path, batches)) as journal:
        seconds, _ = _timed(lambda: anyio.run(fill, journal, batches - LEFT))
        print(f"{batches - LEFT:,} batches without a limit: {(batches - LEFT) / seconds:,.0f} per second")
    print(f"resuming a run of {batches:,} batches, {LEFT:,} of them not sent yet")
    opened, journal = _timed(lambda: Journal.open(path))
    with closing(journal):
        hashed, _ = _timed(lambda: sha256_of(plan))
        searched, found = _timed(
            lambda: sum(1 for _ in remaining(read_batches(plan, IdKind.AUTO), journal, frozenset()))
        )
        assert found == LEFT
        print(f"  open the journal      {opened:8.1f} s")
        print(f"  hash the plan         {hashed:8.1f} s")
        print(f"  find batches to send  {searched:8.1f} s")
        no_outcomes = folder / "outcomes"
        results, _ = _timed(
            lambda: write_results(
                folder / "results", device_states(plan, journal, read_outcomes(no_outcomes))
            )
        )
        audit, _ = _timed(lambda: write_audit(folder / "audit", journal))
        print(f"  write results, audit  {results:8.1f} s, {audit:.1f} s")
    for file in (path, plan, folder / "results", folder / "audit"):
        size = file.stat().st_size
        print(f"  {file.stem:8} on disk      {size / 1e6:8.1f} MB, {size / batches:,.0f} bytes per batch")


async def fill(journal: Journal, batches: int) -> None:
    numbers = iter(range(1, batches + 1))

    async def work() -> None:
        for number in numbers:
            seq = await journal.intend(intent(number))
            await journal.answer(seq, ACCEPTED, duration_ms=50.0, final=False)

    async with anyio.create_task_group() as tasks:
        for _ in range(500):
            tasks.start_soon(work)


def _write_plan(path: Path, batches: int) -> None:
    number = pl.int_range(batches * DEVICES_PER_BATCH, dtype=pl.Int64)
    pl.select(
        batch_id=(number // DEVICES_PER_BATCH + 1).cast(pl.UInt32),
        source=pl.lit("fleet.csv"),
        row=(number + 1).cast(pl.UInt64),
        imei=(number + 864_508_030_000_000).cast(pl.String),
        iccid=pl.lit(None, pl.String),
        account_name=pl.lit("0000123456-00001"),
        sku_number=pl.lit("SIMSec-IoT"),
        held=pl.lit(None, pl.String),
    ).write_parquet(path, compression_level=1, row_group_size=50_000)


def new_journal(path: Path, batches: int) -> Journal:
    return Journal.create(path, identity_of(batches), created_at=0)


def identity_of(batches: int) -> RunIdentity:
    """The identity of a run with so many batches."""
    return RunIdentity(
        run_id="bench",
        action=Action.ASSIGN,
        carrier="bench",
        job={"name": "bench"},
        plan_sha256="",
        sources=[],
        rows_read=0,
        rejected={},
        planned=batches * DEVICES_PER_BATCH,
        batches=batches,
    )


def intent(batch: int) -> Intent:
    return Intent(
        batch_id=batch,
        part="",
        x_request_id=f"1-{batch:030}",
        attempt=1,
        action=Action.ASSIGN,
        device_count=DEVICES_PER_BATCH,
        request_sha256=SHA,
        pace_rps=RATE,
        started_at=time.time_ns() // 1000,
    )


def fsync_s(path: Path) -> float:
    with path.open("wb") as file:
        began = time.perf_counter()
        for _ in range(100):
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    return (time.perf_counter() - began) / 100


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
