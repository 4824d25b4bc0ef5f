"""The ledger for people: its figures, what it knows of one device, and files out of it and into it."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import polars as pl
from polars._typing import PolarsDataType

from batchlic.atomic import replacing
from batchlic.chunker import write_plan
from batchlic.errors import RunFolderError, UsageError
from batchlic.journal import SANDBOX
from batchlic.ledger.ledger import RECORD_COLUMNS, STATES, Entry, Ledger
from batchlic.ledger.records import ledger_records, recordable_rows, records_of_plan
from batchlic.reader import ReadOptions
from batchlic.reader.rules import iccid_digits, imei_digits
from batchlic.reader.streaming import lazy_frame
from batchlic.reader.streams import opened
from batchlic.writer.summary import read_summary

ROWS: dict[str, PolarsDataType] = {
    **dict.fromkeys(("carrier", "account_name", "sku_number", "imei", "iccid"), pl.String),
    **{name: RECORD_COLUMNS[name] for name in ("state", "action", "status")},
    "run_id": pl.String,
    **{name: RECORD_COLUMNS[name] for name in ("x_request_id", "request_id", "at")},
}
"""The columns in which the ledger is shown and exported: one row a device, its newest word."""

_TOLD = frozenset(
    {"run_id", "imei", "iccid", "account_name", "sku_number", "action", "status", "x_request_id"}
)
"""Columns by which results.parquet and an export of the ledger are recognised."""


_OF_RUNS = ((b"run_id", b"status"), (b"status", b"reason", b"message"))
"""Columns in the first bytes of what `ledger export` and `batchlic export` write in other forms."""


class Count(msgspec.Struct, frozen=True):
    """Devices of one account and SKU by what is known of them."""

    carrier: str
    account_name: str
    sku_number: str
    assigned: int
    unassigned: int
    in_doubt: int


class Imported(msgspec.Struct, frozen=True):
    """What an import took in, in devices, and what it left.

    Rows rejected; runs known from themselves; runs against an embedded sandbox, which speak of no carrier.
    """

    devices: int
    rejected: dict[str, int]
    known_runs: list[str]
    rehearsals: list[str]


@contextmanager
def existing(path: Path) -> Iterator[Ledger]:
    """Open a ledger that is there. Raises UsageError where there is none."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no ledger here; name it with --ledger")
    with closing(Ledger(path)) as ledger:
        yield ledger


def rows(ledger: Ledger, *, account: str | None = None, sku: str | None = None) -> Iterator[pl.DataFrame]:
    """What is known (columns ROWS), one frame a carrier, account and SKU."""
    for carrier, account_name, sku_number in ledger.scopes():
        if account in {None, account_name} and sku in {None, sku_number}:
            yield ledger.latest(carrier, account_name, sku_number).select(
                pl.lit(carrier).alias("carrier"),
                pl.lit(account_name).alias("account_name"),
                pl.lit(sku_number).alias("sku_number"),
                imei_digits(pl.col("imei_number")).alias("imei"),
                iccid_digits(pl.col("iccid_number")).alias("iccid"),
                *list(ROWS)[5:],
            )


def counts(ledger: Ledger, *, account: str | None = None, sku: str | None = None) -> list[Count]:
    """How many devices are assigned, unassigned or in doubt, for each carrier, account and SKU."""
    return [
        Count(*frame.row(0)[:3], **{state: frame["state"].eq(state).sum() for state in STATES.categories})
        for frame in rows(ledger, account=account, sku=sku)
        if frame.height
    ]


def of_device(
    ledger: Ledger, device: str, *, account: str | None = None, sku: str | None = None
) -> list[dict[str, object]]:
    """What is known of the device with this IMEI or ICCID, as rows of ROWS."""
    is_it = (pl.col("imei") == device) | (pl.col("iccid") == device)
    return [row for frame in rows(ledger, account=account, sku=sku) for row in frame.filter(is_it).to_dicts()]


def export_ledger(ledger: Ledger, to: Path) -> int:
    """Write all that is known to a parquet or CSV file (columns ROWS); returns the number of devices."""
    if to.suffix not in {".parquet", ".csv"}:
        raise UsageError(f"{to}: a ledger is exported as .parquet or .csv")
    devices = 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal devices
        for frame in rows(ledger):
            devices += frame.height
            yield frame

    with replacing(to) as path:
        table = lazy_frame(counted, ROWS)
        table.sink_parquet(path) if to.suffix == ".parquet" else table.sink_csv(path)
    return devices


def import_files(ledger: Ledger, files: Sequence[str], options: ReadOptions, *, carrier: str) -> Imported:
    """Take in what is known from elsewhere, at `carrier` unless a file says where.

    results.parquet and exports of a ledger are taken for what they say, run by run, but for runs that the
    ledger knows from themselves; of a folder, all the results below it. Any other file is read as an
    inventory of devices that hold the license now. Raises InventoryError and UsageError.
    """
    found = [str(file) for name in files for file in _results_below(name)]
    told = {file: table for file in found if (table := _told(file, carrier)) is not None}
    listed = [file for file in found if file not in told]
    for file in listed:
        _refuse_records(file)
    known: list[str] = []
    rehearsals: list[str] = []
    devices = 0
    for table in told.values():
        of_runs = recordable_rows(table).group_by("carrier", "run_id").agg(pl.col("at").min().dt.epoch("us"))
        for name, run_id, at in of_runs.sort("at").collect().iter_rows():
            if name == SANDBOX:
                rehearsals.append(run_id)
            elif ledger.has_run(run_id):
                known.append(run_id)
            else:
                ledger.register(Entry(run_id, name, None, at or 0))
                devices += _take_in(ledger, run_id, ledger_records(table, only=pl.col("run_id") == run_id))
    if not listed:
        return Imported(devices, {}, known, rehearsals)
    with TemporaryDirectory(prefix="batchlic-") as folder:
        planned = write_plan(listed, options, batch_size=1, folder=Path(folder))
        plan = Path(folder) / "plan.parquet"
        run_id = f"import-{hashlib.sha256(plan.read_bytes() + carrier.encode()).hexdigest()[:16]}"
        entry = Entry(run_id, carrier, None, time.time_ns() // 1000)
        ledger.register(entry, planned_after=ledger.last_number)
        devices += _take_in(ledger, run_id, records_of_plan(plan))
    return Imported(devices, dict(planned.rejected), known, rehearsals)


def _take_in(ledger: Ledger, run_id: str, said: Iterator[pl.DataFrame]) -> int:
    devices = ledger.record(run_id, said)
    ledger.close_run(run_id)
    return devices


def _results_below(name: str) -> list[Path]:
    path = Path(name)
    if not path.is_dir():
        return [path]
    if found := sorted(path.rglob("results.parquet")):
        return found
    raise UsageError(f"{name}: there is no results.parquet in this folder or below")


def _refuse_records(file: str) -> None:
    """Raise UsageError for rows of a run in another form: a list says that all in it is licensed."""
    with ExitStack() as opened_files:
        head = opened(file, opened_files).head
    if any(all(name in head for name in names) for names in _OF_RUNS):
        raise UsageError(
            f"{file}: holds rows of runs, not a list of licensed devices; those are taken from "
            "results.parquet and from exports of a ledger as .parquet or .csv"
        )


def _told(file: str, carrier: str) -> pl.LazyFrame | None:
    """Results or an export as rows with `carrier` and `at`; None where the file is neither.

    What no file says the carrier of was at `carrier`.
    """
    path = Path(file)
    if path.suffix == ".parquet":
        table = pl.scan_parquet(path)
    elif path.suffix == ".csv":
        table = pl.scan_csv(path, infer_schema=False)
    else:
        return None
    try:
        columns = set(table.collect_schema())
    except (pl.exceptions.PolarsError, OSError):
        return None  # the reader says better what is wrong with it
    if not columns >= _TOLD:
        return None
    if "at" not in columns:
        where = _carrier_of_run(path.parent) or carrier
        table = table.with_columns(pl.lit(where).alias("carrier"), at="last_attempt_at")
    return table if path.suffix == ".parquet" else table.with_columns(pl.col("at").str.to_datetime("%+"))


def _carrier_of_run(folder: Path) -> str | None:
    """The carrier that the run in a folder talked to; None where nothing there says so."""
    try:
        return read_summary(folder / "summary.json").carrier
    except (OSError, RunFolderError):
        return None
