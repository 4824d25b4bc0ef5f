"""Files that another version of batchlic wrote are read; what they do not say is said."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import polars as pl
import pytest

from batchlic.errors import UsageError
from batchlic.ledger import Ledger
from batchlic.ledger.files import count_devices, import_files
from batchlic.reader import ReadOptions
from batchlic.runs.export import export
from batchlic.runs.folder import RunFolder
from batchlic.runs.status import status
from batchlic.runs.verify import Verification, verify
from batchlic.writer.audit import first_hash
from batchlic.writer.export import Format, Selection
from tests.recovery.builders import DEVICES, carrier, fleet, job, record_as_written, run

FIRST_AUDIT = ("settled_by", "reason", "step")
FIRST_RESULTS = ("settled_by", "from_sku", "step", "unassign_status", "assign_status", "restore_status")
"""Columns that the files of the first version did not have."""

Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("finished")
    with carrier() as at:
        assert run(home / "run", at, job(fleet(home / "fleet.csv"))).exit_code == 0
    return home / "run"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def without(*columns: str) -> Change:
    def without_columns(table: pl.DataFrame) -> pl.DataFrame:
        return table.drop(columns)

    return without_columns


def name_of(change: Change | None) -> str:
    return getattr(change, "__name__", "unchanged")


def with_times_in_ms(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col(pl.Datetime).cast(pl.Datetime("ms", "UTC")))


def with_wide_numbers(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col(pl.UInt16, pl.UInt32, pl.UInt64).cast(pl.Int64))


def with_categories(table: pl.DataFrame) -> pl.DataFrame:
    name = "outcome" if "outcome" in table.columns else "status"
    return table.with_columns(pl.col(name).cast(pl.Categorical))


def with_another_column(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.lit("x").alias("of_a_later_version"))


def chained(audit: pl.DataFrame, run_id: str) -> pl.DataFrame:
    """The audit with the hashes that a version with these columns wrote."""
    rows, last = [], first_hash(run_id)
    epochs = audit.with_columns(pl.col("started_at").dt.epoch("us"))
    for row in epochs.drop("prev_hash", "hash").iter_rows():
        content = last.encode() + b"\n" + msgspec.json.encode(list(row))
        rows.append((last, last := hashlib.sha256(content).hexdigest()))
    hashes = pl.DataFrame(rows, ["prev_hash", "hash"], orient="row")
    return audit.drop("prev_hash", "hash").hstack(hashes)


def written_by_another_version(folder: Path, name: str, change: Change) -> None:
    """Change a table, and record it in the journal as the file that the run wrote."""
    path = folder / name
    table = change(pl.read_parquet(path))
    if name == "audit.parquet":
        table = chained(table, json.loads((folder / "summary.json").read_text())["run_id"])
    table.write_parquet(path)
    record_as_written(path)


def verified(folder: Path) -> Verification:
    return verify(RunFolder(folder))


COLUMNS = {"audit.parquet": FIRST_AUDIT, "results.parquet": FIRST_RESULTS}
DTYPES = [with_times_in_ms, with_wide_numbers, with_categories]


@pytest.mark.parametrize("dropped", [1, 2, None], ids=["one", "two", "all"])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_file_with_fewer_columns_agrees_and_they_are_named(
    folder: Path, name: str, dropped: int | None
) -> None:
    columns = COLUMNS[name][:dropped]
    written_by_another_version(folder, name, without(*columns))
    verification = verified(folder)
    assert verification.findings == []
    assert [note.file for note in verification.notes] == [name]
    assert all(column in verification.notes[0].what for column in columns)


@pytest.mark.parametrize("change", [with_wide_numbers, with_categories])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_file_with_other_types_agrees(folder: Path, name: str, change: Change) -> None:
    written_by_another_version(folder, name, change)
    verification = verified(folder)
    assert (verification.findings, verification.notes) == ([], [])
    assert verification.head == pl.read_parquet(folder / "audit.parquet")["hash"][-1]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_a_later_version_is_named_and_not_compared(folder: Path, name: str) -> None:
    written_by_another_version(folder, name, with_another_column)
    verification = verified(folder)
    assert verification.findings == []
    assert [(note.file, "of_a_later_version" in note.what) for note in verification.notes] == [(name, True)]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_changed_value_is_found_in_a_file_with_fewer_columns(folder: Path, name: str) -> None:
    def change(table: pl.DataFrame) -> pl.DataFrame:
        return table.drop(COLUMNS[name]).with_columns(request_id=pl.lit("other"))

    written_by_another_version(folder, name, change)
    assert [finding.file for finding in verified(folder).findings] == [name]


def test_a_changed_row_breaks_the_chain_of_an_audit_with_fewer_columns(folder: Path) -> None:
    written_by_another_version(folder, "audit.parquet", without(*FIRST_AUDIT))
    audit = pl.read_parquet(folder / "audit.parquet")
    audit.with_columns(pl.lit("other").alias("request_id")).write_parquet(folder / "audit.parquet")
    record_as_written(folder / "audit.parquet")
    found = [finding.what for finding in verified(folder).findings]
    assert any("its hash does not match its values" in what for what in found)


def test_columns_that_were_taken_away_later_are_a_finding(folder: Path) -> None:
    for name, columns in COLUMNS.items():
        pl.read_parquet(folder / name).drop(columns).write_parquet(folder / name)
    assert {finding.file for finding in verified(folder).findings} >= {*COLUMNS}


@pytest.mark.parametrize("field", ["devices_per_second", "carrier", "sources"])
def test_a_summary_with_fewer_fields_agrees_and_they_are_named(folder: Path, field: str) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != field}))
    record_as_written(path)
    verification = verified(folder)
    assert verification.findings == []
    assert [(note.file, field in note.what) for note in verification.notes] == [("summary.json", True)]


@pytest.mark.parametrize("change", [*DTYPES, with_another_column, None], ids=name_of)
def test_status_and_export_read_a_run_with_files_of_another_version(
    folder: Path, tmp_path: Path, change: Change | None
) -> None:
    for name, columns in COLUMNS.items():
        written_by_another_version(folder, name, change or without(*columns))
    assert status(RunFolder(folder)).statuses == {"accepted": DEVICES}
    for selection in (Selection.ALL, Selection.FAILED, Selection.REJECTS):
        export(RunFolder(folder), selection, Format.CSV, tmp_path / "out.csv")


def test_rejects_with_fewer_columns_are_exported(folder: Path, tmp_path: Path) -> None:
    rejects = pl.read_parquet(folder / "rejects.parquet").drop("message", "sku_number")
    row = {"source": "fleet.csv", "row": 7, "reason": "no_identifier", "imei": "?", "iccid": None}
    pl.concat([rejects, pl.DataFrame([row])], how="diagonal_relaxed").write_parquet(
        folder / "rejects.parquet"
    )
    assert export(RunFolder(folder), Selection.REJECTS, Format.NDJSON, tmp_path / "out") == 1
    assert json.loads((tmp_path / "out").read_text())["message"] is None


@pytest.mark.parametrize("change", [*DTYPES, with_another_column, without(*FIRST_RESULTS)], ids=name_of)
def test_a_ledger_imports_results_of_another_version(folder: Path, change: Change) -> None:
    written_by_another_version(folder, "results.parquet", change)
    with closing(Ledger(folder / "new.db")) as ledger:
        imported = import_files(ledger, [str(folder)], ReadOptions(), carrier="https://carrier")
        assert (imported.devices, imported.notes) == (DEVICES, [])
        assert [count.assigned for count in count_devices(ledger)] == [DEVICES]


@pytest.mark.parametrize(
    "unknown", [("request_id",), ("last_attempt_at",), ("request_id", "last_attempt_at")]
)
def test_an_import_says_what_older_results_do_not_say(folder: Path, unknown: tuple[str, ...]) -> None:
    written_by_another_version(folder, "results.parquet", without(*unknown))
    with closing(Ledger(folder / "new.db")) as ledger:
        imported = import_files(ledger, [str(folder)], ReadOptions(), carrier="https://carrier")
    assert imported.devices == DEVICES
    what = f"was written by another version of batchlic, without {', '.join(unknown)}"
    assert imported.notes == [f"{folder / 'results.parquet'} {what}"]


@pytest.mark.parametrize("needed", ["x_request_id", "action", "account_name"])
def test_results_without_a_needed_column_are_no_list_of_licensed_devices(folder: Path, needed: str) -> None:
    written_by_another_version(folder, "results.parquet", without(needed))
    options = ReadOptions()
    with (
        closing(Ledger(folder / "new.db")) as ledger,
        pytest.raises(UsageError, match=f"without the columns {needed}"),
    ):
        import_files(ledger, [str(folder)], options, carrier="https://carrier")
