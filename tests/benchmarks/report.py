"""`make bench-report`: measure `batchlic report` for large runs, killed and finished: time, memory, size."""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.job import make_job
from batchlic.journal import Intent, LicenseCount, RunIdentity
from batchlic.journal.writes import Insertion, answer_row, intent_row
from batchlic.runs.finalize import finalize
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import sha256_of

ACCOUNT, SKU = "0000123456-00001", "SIMSec-IoT"
DEVICES_PER_BATCH = 100
REQUESTS_PER_S = 100
START = 1_790_000_000_000_000
JOB = make_job(
    {
        "action": "assign",
        "inventory": {"files": ["fleet.csv"]},
        "license": {"account": ACCOUNT, "sku": SKU},
        "ledger": {"use": False},
        "report": {"write": False},
    },
    {},
    where="benchmark",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devices", type=int, nargs="*", default=[1_000_000, 10_000_000])
    print(f"{'devices':>12} {'run':>10} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'report KB':>10}")
    for devices in parser.parse_args().devices:
        with TemporaryDirectory(prefix="batchlic-bench-") as scratch:
            folder = RunFolder(Path(scratch) / "run")
            folder.make()
            identity = write_plan(folder, devices // DEVICES_PER_BATCH)
            with closing(folder.journal.create(identity, created_at=START)) as journal:
                rows = history(identity.batches)
                while chunk := list(islice(rows, 20_000)):
                    journal._commit(chunk)
            measure(folder, devices, "killed")
            with closing(folder.journal.open()) as journal:
                finalize(JOB, folder, journal, began=time.monotonic())
            measure(folder, devices, "finished")


def measure(folder: RunFolder, devices: int, kind: str) -> None:
    """Print the cost of a report in a process of its own."""
    target = folder.path.parent / "report.html"
    command = [sys.executable, "-m", "batchlic", "report", str(folder.path), "--to", str(target)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    seconds, peak_mb = time.perf_counter() - began, usage.ru_maxrss / 1024
    cpu = usage.ru_utime + usage.ru_stime
    size_kb = target.stat().st_size / 1000
    print(f"{devices:12,} {kind:>10} {seconds:8.1f} {cpu:8.1f} {peak_mb:8.0f} {size_kb:10.0f}", flush=True)


def history(batches: int) -> Iterator[Insertion]:
    """Intents and answers: one in 20 requests is throttled once, one in 50 fails, one in 100 is in doubt."""
    rng = random.Random(0)
    seq = 0
    for batch in range(1, batches + 1):
        chance = rng.random()
        answers = [Answer(outcome=Outcome.THROTTLED, http_status=429)] if chance < 0.05 else []
        answers.append(_final_answer(batch, chance))
        for attempt, answer in enumerate(answers, start=1):
            seq += 1
            intent = Intent(
                batch_id=batch,
                part="",
                x_request_id=f"1-{batch:030}",
                attempt=attempt,
                action=Action.ASSIGN,
                device_count=DEVICES_PER_BATCH,
                request_sha256="f" * 64,
                pace_rps=REQUESTS_PER_S,
                started_at=START + seq * 1_000_000 // REQUESTS_PER_S,
            )
            yield intent_row(seq, intent)
            is_final = answer.outcome is Outcome.REFUSED
            yield answer_row(seq, answer, duration_ms=rng.lognormvariate(4, 0.5), final=is_final)


def _final_answer(batch: int, chance: float) -> Answer:
    if chance > 0.99:
        return Answer(outcome=Outcome.AMBIGUOUS, error_message="connection reset")
    if chance > 0.97:
        code = f"REQUEST_FAILED.Code{batch % 40}"
        return Answer(outcome=Outcome.REFUSED, http_status=404, error_code=code, error_message="not found")
    return Answer(outcome=Outcome.ACCEPTED, http_status=200, request_id=f"{batch:036}")


def write_plan(folder: RunFolder, batches: int) -> RunIdentity:
    """Write a plan and rejects; return the identity of their run."""
    number = (
        pl.int_range(batches * DEVICES_PER_BATCH, dtype=pl.Int64, eager=True).alias("n").to_frame().lazy()
    )
    n = pl.col("n")
    number.select(
        batch_id=(n // DEVICES_PER_BATCH + 1).cast(pl.UInt32),
        source=pl.lit("fleet.csv"),
        row=(n + 1).cast(pl.UInt64),
        imei=(n + 864_508_030_000_000).cast(pl.String),
        iccid=pl.lit(None, pl.String),
        account_name=pl.lit(ACCOUNT),
        sku_number=pl.lit(SKU),
        held=pl.lit(None, pl.String),
    ).sink_parquet(folder.plan, compression_level=1, row_group_size=50_000)
    rejected = batches
    number.head(rejected).select(
        source=pl.lit("fleet.csv"),
        row=n.cast(pl.UInt64),
        reason=pl.when(n % 2 == 0).then(pl.lit("duplicate")).otherwise(pl.lit("bad_length")),
        message=pl.lit("IMEI 12 has 2 digits instead of 15"),
        imei=pl.lit("12"),
        iccid=pl.lit(None, pl.String),
        account_name=pl.lit(ACCOUNT),
        sku_number=pl.lit(SKU),
    ).sink_parquet(folder.rejects)
    planned = batches * DEVICES_PER_BATCH
    return RunIdentity(
        run_id="bench",
        action=Action.ASSIGN,
        carrier="bench",
        job=JOB.model_dump(mode="json"),
        plan_sha256=sha256_of(folder.plan),
        sources=[("fleet.csv", planned + rejected)],
        rows_read=planned + rejected,
        rejected={"duplicate": -(-rejected // 2), "bad_length": rejected // 2},
        planned=planned,
        batches=batches,
        licenses=[LicenseCount(ACCOUNT, SKU, 0, 2 * planned)],
    )


if __name__ == "__main__":
    main()
