"""The ledger for people: its figures, what it knows of one device, and files out of it and into it."""

import hashlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import polars as pl

from batchlic.atomic import is_moved, read_error, replacing
from batchlic.chunker import write_plan
from batchlic.errors import RefusedToStart, RunFolderError, UsageError
from batchlic.figures import TIME_IN_FILES
from batchlic.journal import SANDBOX, FilePlace, JournalPlace, StorePlace
from batchlic.journal.store_record import STORE_RECORD, read_store_record
from batchlic.ledger.ledger import Ledger, RunEntry
from batchlic.ledger.places import place_of
from batchlic.ledger.records import ledger_records, list_states, read_states, recordable_rows
from batchlic.ledger.schema import RECORD_COLUMNS, STATES
from batchlic.reader import ReadOptions
from batchlic.reader.inputs.unpacking import opened
from batchlic.reader.scans import scan_csv_as_text, scan_parquet
from batchlic.reader.streaming import Schema, lazy_frame
from batchlic.reader.validation.rules import iccid_digits, imei_digits
from batchlic.writer.device_states import RESULTS
from batchlic.writer.migrations import STEP_STATUSES
from batchlic.writer.summary import read_summary
from batchlic.writer.tables import explain_damage, missing_columns, read_table

EXPORT: Schema = {
    **dict.fromkeys(("carrier", "account_name", "sku_number", "imei", "iccid"), pl.String()),
    **{name: RECORD_COLUMNS[name] for name in ("state", "action", "status")},
    "run_id": pl.String(),
    **{name: RECORD_COLUMNS[name] for name in ("x_request_id", "request_id", "at")},
}
"""The columns in which the ledger is shown and exported: one row a device, its newest record."""

_COMMON_COLUMNS = frozenset(
    {"run_id", "imei", "iccid", "account_name", "sku_number", "action", "status", "x_request_id"}
)
"""Columns by which results.parquet and an export of the ledger are recognized."""

_MARKS_OF_RESULTS = frozenset({"run_id", "status"})
"""Columns that no list of devices has, but results of any version."""

_RECORDED_COLUMNS = frozenset({"request_id", "last_attempt_at"})
"""Other columns of results that go into records. Those of migrations are missing in older results: there
were no migrations."""

_HEADERS_OF_RESULTS = ((b"run_id", b"status"), (b"status", b"reason", b"message"))
"""Columns in the first bytes of what `ledger export` and `batchlic export` write in other formats."""


class Count(msgspec.Struct, frozen=True):
    """Devices of one account and SKU by what is known of them."""

    carrier: str
    account_name: str
    sku_number: str
    assigned: int
    unassigned: int
    in_doubt: int


class Imported(msgspec.Struct, frozen=True):
    """What an import added to the ledger, in devices, and what it left out.

    `rejected` are rows by reason. `known_runs` recorded their devices themselves. `rehearsals` ran against an
    embedded sandbox, so they say nothing about a carrier. `unfinished_runs` sent requests that are not
    in their results: the next run records them from their journals.
    """

    devices: int
    rejected: dict[str, int]
    known_runs: list[str]
    rehearsals: list[str]
    unfinished_runs: list[str] = []
    notes: list[str] = []
    """What results of another version of batchlic do not say."""


class Forgotten(msgspec.Struct, frozen=True):
    """A run that was closed without its folder. `recorded` is what the ledger keeps of it."""

    run_id: str
    carrier: str
    folder: str | None
    was_open: bool
    """False if the run had recorded all that it did: closing it changed nothing."""
    recorded: list["RecordedDevices"]


class RecordedDevices(msgspec.Struct, frozen=True):
    """The number of devices of one account and SKU that a run has recorded."""

    account_name: str
    sku_number: str
    devices: int


@contextmanager
def open_existing(location: Path | str) -> Iterator[Ledger]:
    """Open the ledger in a file or a store. Raises UsageError where there is none."""
    place_of(location).require()
    with closing(Ledger(location)) as ledger:
        yield ledger


@contextmanager
def inspect_existing(location: Path | str) -> Iterator[Ledger]:
    """The ledger in a file or a store, to read it without any change there.

    Raises UsageError where there is none, and RunFolderError, LedgerError, NoAccess or StoppedEarly if it
    can't be read.
    """
    found = place_of(location)
    found.require()
    with found.unchanged() as place, closing(Ledger(place.location)) as ledger:
        yield ledger


# -- what it knows --------------------------------------------------------------------------------------


def device_rows(
    ledger: Ledger, *, account: str | None = None, sku: str | None = None
) -> Iterator[pl.DataFrame]:
    """What is known (columns: EXPORT), one frame a carrier, account and SKU."""
    for carrier, account_name, sku_number in ledger.scopes():
        if account in {None, account_name} and sku in {None, sku_number}:
            named = ledger.latest(carrier, account_name, sku_number).with_columns(
                pl.lit(carrier).alias("carrier"),
                pl.lit(account_name).alias("account_name"),
                pl.lit(sku_number).alias("sku_number"),
                imei_digits(pl.col("imei_number")).alias("imei"),
                iccid_digits(pl.col("iccid_number")).alias("iccid"),
            )
            yield named.select(*EXPORT)


def count_devices(ledger: Ledger, *, account: str | None = None, sku: str | None = None) -> list[Count]:
    """How many devices are assigned, unassigned or in doubt, for each carrier, account and SKU."""
    return [
        Count(*frame.row(0)[:3], **{state: frame["state"].eq(state).sum() for state in STATES.categories})
        for frame in device_rows(ledger, account=account, sku=sku)
        if frame.height
    ]


def find_device(
    ledger: Ledger, device: str, *, account: str | None = None, sku: str | None = None
) -> list[dict[str, object]]:
    """What is known of the device with this IMEI or ICCID: rows with the columns EXPORT."""
    is_device = (pl.col("imei") == device) | (pl.col("iccid") == device)
    frames = device_rows(ledger, account=account, sku=sku)
    at = pl.col("at").dt.to_string(TIME_IN_FILES)
    return [row for frame in frames for row in frame.filter(is_device).with_columns(at).to_dicts()]


def export_ledger(ledger: Ledger, to: Path) -> int:
    """Write all that is known to a parquet or CSV file (columns: EXPORT); returns the number of devices."""
    if to.suffix not in {".parquet", ".csv"}:
        raise UsageError(f"{to}: a ledger is exported as .parquet or .csv")
    devices = 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal devices
        devices = 0
        for frame in device_rows(ledger):
            devices += frame.height
            yield frame

    with replacing(to) as path:
        table = lazy_frame(counted, EXPORT)
        if to.suffix == ".parquet":
            table.sink_parquet(path)
        else:
            table.sink_csv(path, datetime_format=TIME_IN_FILES)
    return devices


def forget_run(ledger: Ledger, run_id: str) -> Forgotten:
    """Close a run whose folder is lost: its records stay. Raises UsageError where there is no such run.

    Raises RefusedToStart where another process is at work on it.
    """
    entry = ledger.find_entry(run_id)
    if entry is None:
        raise UsageError(f"{ledger.place}: this ledger has no run {run_id}")
    if (holder := ledger.holder(run_id)) is not None:
        raise RefusedToStart(f"run {run_id} is at work ({holder}): wait for it or stop it")
    was_open = ledger.is_open(run_id)
    ledger.close_run(run_id)
    recorded = [RecordedDevices(*scope, devices) for scope, devices in ledger.count_records(run_id).items()]
    return Forgotten(run_id, entry.carrier, entry.folder, was_open, recorded)


# -- import ---------------------------------------------------------------------------------------------


def import_files(ledger: Ledger, files: Sequence[str], options: ReadOptions, *, carrier: str) -> Imported:
    """Add the licenses in files to the ledger, for `carrier` unless a file names another one.

    results.parquet and ledger exports are imported run by run. Runs that recorded their devices in this
    ledger themselves are left out. A folder stands for all results.parquet below it, and for the journals of
    unfinished runs. Any other file is read as an inventory of devices that have their license now. Raises
    InventoryError and UsageError.
    """
    unfinished = [entry for name in files if Path(name).is_dir() for entry in _unfinished_runs(Path(name))]
    found = [str(file) for name in files for file in _results_below(name)]
    if not found and not unfinished:
        raise UsageError(f"{', '.join(files)}: there is no results.parquet in this folder or below")
    results = {file: table for file in found if (table := _scan_results(file, carrier)) is not None}
    inventories = [file for file in found if file not in results]
    for file in inventories:
        _refuse_results(file)
    notes = [note for file in results for note in _notes_on(Path(file))]
    imported = Imported(0, {}, [], [], notes=notes)
    for file, table in results.items():
        with explain_damage(Path(file)):
            imported = _sum(imported, _import_results(ledger, table))
    if inventories:
        imported = _sum(imported, _import_list(ledger, inventories, options, carrier))
    return _sum(imported, _register_unfinished(ledger, unfinished))


def _import_results(ledger: Ledger, table: pl.LazyFrame) -> Imported:
    """Import each run of a table that `_scan_results` made."""
    devices, known, rehearsals = 0, [], []
    started = recordable_rows(table).group_by("carrier", "run_id").agg(pl.col("last_attempt_at").min())
    microseconds = started.sort("last_attempt_at").with_columns(pl.col("last_attempt_at").dt.epoch("us"))
    for carrier, run_id, begun_at in microseconds.collect().iter_rows():
        if carrier == SANDBOX:
            rehearsals.append(run_id)
        elif ledger.has_run(run_id):
            known.append(run_id)
        else:
            ledger.register(RunEntry(run_id, carrier, None, begun_at or 0))
            devices += _record(ledger, run_id, read_states(table, only=pl.col("run_id") == run_id))
    return Imported(devices, {}, known, rehearsals)


def _import_list(ledger: Ledger, files: Sequence[str], options: ReadOptions, carrier: str) -> Imported:
    """Import inventories of devices that have their license; the same lists again are the same run."""
    with TemporaryDirectory(prefix="batchlic-") as folder:
        planned = write_plan(files, options, batch_size=1, folder=Path(folder))
        plan = Path(folder) / "plan.parquet"
        run_id = f"import-{hashlib.sha256(plan.read_bytes() + carrier.encode()).hexdigest()[:16]}"
        entry = RunEntry(run_id, carrier, None, time.time_ns() // 1000)
        ledger.register(entry, planned_after=ledger.last_number)
        return Imported(_record(ledger, run_id, list_states(plan)), dict(planned.rejected), [], [])


def _unfinished_runs(folder: Path) -> Iterator[RunEntry]:
    """The runs below a folder that have sent requests since they last wrote results.

    Raises RunFolderError if a run has neither results nor a journal that can be read.
    """
    for run_folder, place in _journals_below(folder):
        try:
            with place.inspect() as journal:
                identity = journal.identity
                if journal.final_session_end is None and identity.carrier != SANDBOX:
                    path = str(run_folder.absolute())
                    yield RunEntry(identity.run_id, identity.carrier, path, journal.created_at)
        except RunFolderError:
            if not (run_folder / "results.parquet").exists():
                raise


def _journals_below(folder: Path) -> Iterator[tuple[Path, JournalPlace]]:
    """Each run folder below a folder, and where its journal is: in a file or in a store."""
    for path in _files_below(folder, "journal.db"):
        yield path.parent, FilePlace(path)
    for path in _files_below(folder, STORE_RECORD):
        if (record := read_store_record(path)) is not None:
            place = StorePlace(record.store, record.key, str(path.parent))
            if place.exists():  # or the run was refused before it began
                yield path.parent, place


def _register_unfinished(ledger: Ledger, entries: Iterable[RunEntry]) -> Imported:
    """Register the runs that the ledger does not have. They stay open: the next run reads their journals."""
    new = [entry for entry in entries if not ledger.has_run(entry.run_id)]
    for entry in new:
        ledger.register(entry)
    return Imported(0, {}, [], [], [entry.run_id for entry in new])


def _record(ledger: Ledger, run_id: str, states: Iterator[pl.DataFrame]) -> int:
    """Record device states as those of a registered run, and close it; returns the number of records."""
    devices = ledger.record(run_id, ledger_records(states))
    ledger.close_run(run_id)
    return devices


def _sum(first: Imported, second: Imported) -> Imported:
    return Imported(
        first.devices + second.devices,
        first.rejected | second.rejected,
        first.known_runs + second.known_runs,
        first.rehearsals + second.rehearsals,
        first.unfinished_runs + second.unfinished_runs,
        first.notes + second.notes,
    )


def _results_below(name: str) -> list[Path]:
    path = Path(name)
    return _files_below(path, "results.parquet") if path.is_dir() else [path]


def _files_below(folder: Path, name: str) -> list[Path]:
    """All files of this name in a folder, at any depth. Raises NoAccess if a folder can't be opened."""

    def explain(error: OSError) -> None:
        raise read_error(error.filename, error.errno or 0) from error

    found: list[Path] = []
    for path, folders, names in os.walk(folder, onerror=explain):
        folders[:] = [inner for inner in folders if not is_moved(inner)]
        found += [Path(path) / name] if name in names else []
    return sorted(found)


def _refuse_results(file: str) -> None:
    """Raise UsageError for results in another format: read as a list, it would count all as licensed."""
    with ExitStack() as opened_files:
        heads = [source.head for source in opened(file, opened_files)]
    if any(all(name in head for name in names) for head in heads for names in _HEADERS_OF_RESULTS):
        raise UsageError(
            f"{file}: holds results of runs, not a list of licensed devices. Import the results.parquet of "
            "those runs, or a ledger export as .parquet or .csv"
        )


def _scan_results(file: str, carrier: str) -> pl.LazyFrame | None:
    """Results or a ledger export as device states with `carrier`; None where the file is neither.

    Results have the carrier that the summary beside them names, or else `carrier`.
    """
    path = Path(file)
    if path.suffix == ".parquet":
        table = scan_parquet(path)
    elif path.suffix == ".csv":
        table = scan_csv_as_text(path)
    else:
        return None
    try:
        columns = set(table.collect_schema())
    except (pl.exceptions.PolarsError, OSError):
        return None  # the reader explains what is wrong with the file
    _refuse_partial_results(file, columns)
    if not columns >= _COMMON_COLUMNS:
        return None
    if "at" in columns:
        table = table.rename({"at": "last_attempt_at"})
    else:
        if path.suffix == ".parquet":
            table = read_table(path, RESULTS)
        table = table.with_columns(pl.lit(_carrier_of_run(path.parent) or carrier).alias("carrier"))
    if path.suffix == ".parquet":
        return table
    return table.with_columns(pl.col("last_attempt_at").str.to_datetime("%+"))


def _refuse_partial_results(file: str, columns: Collection[str]) -> None:
    """Raise UsageError for results without the columns that an import needs: they are no list of licenses."""
    needed = _COMMON_COLUMNS | ({*STEP_STATUSES.values()} if "from_sku" in columns else frozenset())
    missing = needed - {*columns}
    if {*columns} >= _MARKS_OF_RESULTS and missing:
        raise UsageError(
            f"{file}: holds results of a run, without the columns {', '.join(sorted(missing))}: import an "
            "export of the ledger that has this run"
        )


def _notes_on(file: Path) -> list[str]:
    """What results of another version of batchlic do not say."""
    if file.suffix != ".parquet" or "at" in scan_parquet(file).collect_schema():
        return []
    missing = [name for name in missing_columns(file, RESULTS) if name in _RECORDED_COLUMNS]
    what = f"{file} was written by another version of batchlic, without {', '.join(missing)}"
    return [what] if missing else []


def _carrier_of_run(folder: Path) -> str | None:
    """The carrier that the summary in a folder names; None where there is none."""
    try:
        return read_summary(folder / "summary.json").carrier
    except (OSError, RunFolderError):
        return None
