"""Submitted runs, messages about them, and a running listener."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from batchlic.callbacks.messages import StoredMessage
from batchlic.carrier.answers import Answer, Outcome
from batchlic.carrier.catalog import Action
from batchlic.chunker import Step, write_plan
from batchlic.job import make_job
from batchlic.journal import Intent, RunIdentity
from batchlic.journal.tables import intents
from batchlic.journal.writes import Insertion, answer_row
from batchlic.runs.folder import RunFolder
from batchlic.runs.ledger_sync import with_ledger
from tests.endtoend.program import end
from tests.forking import Program

ACCOUNT, SKU = "0000123456-00001", "SIMSec-IoT"
BEGAN = 1_700_000_000_000_000
USERNAME, PASSWORD = "listener", "planted-secret"


def fleet(path: Path, devices: int, *, tac: str = "864508") -> Path:
    """An inventory of devices with right check digits, by IMEI (beginning with `tac`) and ICCID."""
    number = pl.int_range(devices).cast(pl.String).str.zfill(8)
    frame = pl.select(imei=pl.lit(tac) + number, iccid=pl.lit("8914800000") + number)
    frame.with_columns(
        pl.col("imei") + _check_digit("imei", 14), pl.col("iccid") + _check_digit("iccid", 18)
    ).write_csv(path)
    return path


def _check_digit(column: str, length: int) -> pl.Expr:
    """Luhn (ISO/IEC 7812-1, annex B)."""
    total = pl.lit(0)
    for place in range(length):
        digit = pl.col(column).str.slice(length - 1 - place, 1).cast(pl.Int32)
        total = total + (digit if place % 2 else digit * 2 - 9 * (digit > 4).cast(pl.Int32))
    return ((10 - total % 10) % 10).cast(pl.String)


def accepted(batch_id: int) -> list[Answer | None]:
    """One attempt, taken by the carrier under a requestId that says which batch it was."""
    return [Answer(outcome=Outcome.ACCEPTED, http_status=200, request_id=f"request-{batch_id}")]


def lost(_: int) -> list[Answer | None]:
    """One attempt without a known answer."""
    return [None]


def submitted_run(
    path: Path,
    devices: int,
    *,
    batch_size: int = 100,
    answered: Callable[[int], list[Answer | None]] = accepted,
    sku: str = SKU,
    carrier: str = "sandbox",
    to_sku: str | None = None,
    inventory: Callable[[Path, int], Path] = fleet,
    store: str | None = None,
) -> RunFolder:
    """The folder of a run that has sent all its batches: plan and journal, no results yet."""
    folder = RunFolder(path)
    with folder.made(store):
        pass
    given = {"account": ACCOUNT, "sku": sku, "consent_lifetime": True}
    files = [str(inventory(path / "fleet.csv", devices))]
    content = {
        "action": "assign",
        "inventory": {"files": files},
        "license": given,
        "report": {"write": False},
    }
    job = with_ledger(make_job(content, {"limits": {"batch_size": batch_size}}, where="test"), folder)
    plan = write_plan(job.inventory.files, job.read_options(), batch_size=batch_size, folder=path)
    identity = RunIdentity(
        run_id="run-1",
        action=Action.ASSIGN,
        carrier=carrier,
        job=job.model_dump(mode="json"),
        plan_sha256=hashlib.sha256(folder.plan.read_bytes()).hexdigest(),
        sources=[(source.name, source.rows) for source in plan.sources],
        rows_read=plan.rows_read,
        rejected=dict(plan.rejected),
        planned=plan.planned,
        batches=plan.batches,
        to_sku=to_sku,
    )
    with folder.locked(), closing(folder.journal.create(identity, created_at=BEGAN)) as journal:
        journal._commit(list(_records(devices, batch_size, answered, Step.UNASSIGN if to_sku else None)))
    return folder


def _records(
    devices: int,
    batch_size: int,
    answered: Callable[[int], list[Answer | None]],
    step: Step | None,
) -> Iterator[Insertion]:
    seq = 0
    for batch_id in range(1, -(-devices // batch_size) + 1):
        size = min(batch_size, devices - (batch_id - 1) * batch_size)
        for attempt, answer in enumerate(answered(batch_id), start=1):
            seq += 1
            intent = Intent(
                batch_id=batch_id,
                step=step,
                part="",
                x_request_id=f"1-{batch_id:03d}",
                attempt=attempt,
                action=Action.ASSIGN,
                device_count=size,
                request_sha256="ab" * 32,
                pace_rps=None,
                started_at=BEGAN,
            )
            yield Insertion(intents, (seq, *msgspec.structs.astuple(intent)))
            if answer is not None:
                yield answer_row(seq, answer, duration_ms=1.0, final=True)


def messages_of(folder: RunFolder, *, batch_size: int = 100, **changes: Any) -> list[StoredMessage]:  # noqa: ANN401
    """A success for each device of a submitted run, in the order of the plan; `changes` replace fields."""
    plan = pl.read_parquet(folder.plan, columns=["imei", "iccid"])
    return [
        message_about(f"request-{place // batch_size + 1}", imei, iccid, **changes)
        for place, (imei, iccid) in enumerate(plan.iter_rows())
    ]


def message_about(request_id: str, imei: str = "", iccid: str = "", **changes: Any) -> StoredMessage:  # noqa: ANN401
    """A message about one device, a success one second after the run began; `changes` replace fields."""
    fields: dict[str, Any] = {
        "further_ids": "",
        "account_name": ACCOUNT,
        "status": "Success",
        "error_code": "",
        "error_message": "",
        "raw": "",
        "received_at": BEGAN + 1_000_000,
    }
    return StoredMessage(request_id=request_id, imei=imei, iccid=iccid, **fields | changes)


def failure(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """The fields in which a failure differs from a success."""
    return {"status": "Failed", "error_code": "REQUEST_FAILED.UnexpectedError", **changes}


def body(request_id: str = "r1", imei: str = "864508030109877", **changes: object) -> dict[str, object]:
    """A callback as the carrier's documents show it."""
    return {
        "username": USERNAME,
        "password": PASSWORD,
        "requestId": request_id,
        "deviceIds": [{"id": imei, "kind": "imei"}],
        "deviceResponse": {},
        "status": "Success",
        "callbackCount": 1,
        "maxCallbackThreshold": 4,
        **changes,
    }


SETTINGS = {
    "BATCHLIC_LISTENER_USERNAME": USERNAME,
    "BATCHLIC_LISTENER_PASSWORD": PASSWORD,
    "BATCHLIC_LISTENER_ALLOWED_SOURCES": "127.0.0.1",
}


class ListenerProcess:
    """A `batchlic listen` of its own, until it is killed or stopped."""

    def __init__(self, store: str, *options: str, **settings: str) -> None:
        environment = {**os.environ, **SETTINGS, **settings}
        command = ["listen", "--store", store, "--port", "0", *options]
        self.process = Program(command, environment, Path.cwd())
        line = self.process.stdout.readline()
        self.url = json.loads(line)["url"] if line else ""

    def end(self, by: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and what it logged."""
        self.process.send_signal(by)
        ended = end(self.process)
        return ended.code, ended.err


@contextmanager
def listener(store: Path | str, *options: str, **settings: str) -> Iterator[ListenerProcess]:
    running = ListenerProcess(str(store), *options, **settings)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()


def statuses(folder: RunFolder) -> dict[str, int]:
    """Status: devices, as results.parquet has them."""
    counts = pl.read_parquet(folder.results)["status"].value_counts()
    return {str(status): int(count) for status, count in counts.iter_rows()}


def shuffled(messages: Iterable[StoredMessage], seed: int) -> list[StoredMessage]:
    """The messages in another order."""
    return sorted(messages, key=lambda message: hashlib.sha256(f"{seed}{message}".encode()).digest())
