"""`verify` locates every changed byte, and the history of a device is complete."""

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from batchlic.chunker import DeviceStatus
from batchlic.errors import RefusedToStart, RunFolderError, UsageError
from batchlic.journal import Journal, Part
from batchlic.runs.folder import RunFolder
from batchlic.runs.history import device_history
from batchlic.runs.settle import settle
from batchlic.runs.verify import Finding, verify
from tests.recovery.builders import FLEXIBLE, LOSES_ANSWERS, carrier, fleet, imei, in_doubt, job, run

FILES = ["plan.parquet", "rejects.parquet", "results.parquet", "audit.parquet", "summary.json"]


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with accepted batches, and one that an operator settled."""
    home = tmp_path_factory.mktemp("settled")
    with carrier(faults=LOSES_ANSWERS) as at:
        in_doubt(home, at)
    settle(RunFolder(home / "run"), DeviceStatus.FAILED, reason="the portal says no")
    return home / "run"


@pytest.fixture
def copy(tmp_path: Path, settled: Path) -> Path:
    return shutil.copytree(settled, tmp_path / "run")


def findings(folder: Path) -> list[Finding]:
    return verify(RunFolder(folder)).findings


def change(folder: Path, sql: str) -> None:
    with closing(sqlite3.connect(folder / "journal.db")) as journal, journal:
        assert journal.execute(sql).rowcount > 0


def test_an_unchanged_run_has_no_findings(copy: Path) -> None:
    verification = verify(RunFolder(copy))
    assert verification.findings == []
    assert verification.head == pl.read_parquet(copy / "audit.parquet")["hash"][-1]


@pytest.mark.parametrize("name", FILES)
def test_any_changed_byte_is_found_in_its_file(copy: Path, name: str) -> None:
    whole, dice = (copy / name).read_bytes(), random.Random(name)
    for at in dice.sample(range(len(whole)), 12):
        changed = bytearray(whole)
        changed[at] ^= dice.randrange(1, 256)
        (copy / name).write_bytes(changed)
        found = findings(copy)
        assert name in {finding.file for finding in found}, at
        if name in {"results.parquet", "audit.parquet"}:
            assert f"byte {at:,} is not the one that the journal recorded" in {
                finding.what for finding in found
            }


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert name in {finding.file for finding in findings(copy)}


@pytest.mark.parametrize(
    ("sql", "file", "what"),
    [
        ("UPDATE answers SET request_id = 'other' WHERE seq = 1", "audit.parquet", "(seq 1): request_id"),
        ("UPDATE answers SET duration_ms = duration_ms + 1 WHERE seq = 2", "audit.parquet", "(seq 2)"),
        ("UPDATE intents SET request_sha256 = 'f' WHERE seq = 3", "audit.parquet", "(seq 3)"),
        ("UPDATE settlements SET reason = 'a better one'", "audit.parquet", "reason"),
        ("UPDATE settlements SET status = 'accepted'", "results.parquet", "status is 'failed'"),
        ("DELETE FROM answers WHERE outcome = 'ambiguous'", "audit.parquet", "duration_ms is"),
        ("UPDATE run SET identity = replace(identity, 'fleet', 'other')", "journal.db", "identity"),
        ("UPDATE run SET created_at = 0", "summary.json", "started_at"),
        ("UPDATE session_ends SET exit_code = 0", "summary.json", "exit_code"),
    ],
)
def test_a_changed_journal_is_found_by_the_file_it_contradicts(
    copy: Path, sql: str, file: str, what: str
) -> None:
    change(copy, sql)
    assert any(finding.file == file and what in finding.what for finding in findings(copy))


def test_a_forged_row_is_located_by_the_chain(copy: Path) -> None:
    forged = pl.when(pl.col("seq") == 4).then(pl.lit("nobody")).otherwise("request_id").alias("request_id")
    pl.read_parquet(copy / "audit.parquet").with_columns(forged).write_parquet(copy / "audit.parquet")
    assert Finding("audit.parquet", "row 4 (seq 4): its hash does not match its values") in findings(copy)


def test_a_removed_row_is_located_by_the_chain(copy: Path) -> None:
    pl.read_parquet(copy / "audit.parquet").filter(pl.col("seq") != 4).write_parquet(copy / "audit.parquet")
    broken = Finding("audit.parquet", "row 4 (seq 5): its prev_hash is not the hash of the row before")
    assert broken in findings(copy)


def test_a_damaged_journal_is_a_finding(copy: Path) -> None:
    (copy / "journal.db").write_bytes(b"\0" * 5000)
    assert [finding.file for finding in findings(copy)] == ["journal.db"]


def test_only_the_written_files_of_a_stopped_run_are_checked(copy: Path) -> None:
    with closing(Journal.open(copy / "journal.db")) as journal:
        journal.settle(
            [Part(1, None, "", 10)], DeviceStatus.PENDING, settled_by="alice", reason="x", settled_at=1
        )
    assert findings(copy) == []
    (copy / "audit.parquet").write_bytes(b"PAR1")
    assert {finding.file for finding in findings(copy)} == {"audit.parquet"}


def test_an_active_run_and_a_missing_run_are_not_checked(copy: Path, tmp_path: Path) -> None:
    with RunFolder(copy).locked(), pytest.raises(RefusedToStart):
        findings(copy)
    with pytest.raises(RunFolderError, match="no journal"):
        findings(tmp_path)


@pytest.fixture
def twice(tmp_path: Path) -> Iterator[Path]:
    """Two runs over one fleet: assigned, then taken back."""
    inventory = fleet(tmp_path / "fleet.csv")
    with carrier() as at:
        run(tmp_path / "runs" / "1", at, job(inventory))
        run(tmp_path / "runs" / "2", at, job(inventory, action="unassign"))
        yield tmp_path / "runs"


def test_a_device_history_spans_runs_in_order_of_time(twice: Path) -> None:
    events = device_history(imei(42), twice)
    assert [(event.event, event.action) for event in events] == [
        ("planned", "assign"),
        ("sent", "assign"),
        ("answered", "assign"),
        ("planned", "unassign"),
        ("sent", "unassign"),
        ("taken_back", "unassign"),
    ]
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert {(event.row, event.sku_number) for event in events if event.row} == {(43, FLEXIBLE)}


def test_a_device_history_has_the_settlement_of_an_operator(settled: Path) -> None:
    doubtful = pl.read_parquet(settled / "results.parquet").filter(pl.col("settled_by").is_not_null())
    last = device_history(doubtful["imei"][0], settled.parent)[-1]
    assert (last.event, last.outcome, last.reason) == ("settled", "failed", "the portal says no")


def test_an_unknown_device_has_no_history_and_no_runs_is_an_error(twice: Path, tmp_path: Path) -> None:
    assert device_history("864508039999999", twice) == []
    with pytest.raises(UsageError, match="no run"):
        device_history(imei(1), tmp_path / "nowhere")


def test_a_history_with_gaps_is_refused(twice: Path) -> None:
    (twice / "2" / "plan.parquet").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"plan\.parquet"):
        device_history(imei(1), twice)
