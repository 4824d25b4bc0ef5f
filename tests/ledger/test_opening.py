"""The file of a ledger: made for its owner only; any other database is refused and stays as it is."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from batchlic.errors import ExitCode, LedgerError, RunFolderError
from batchlic.ledger import Ledger, RunEntry
from batchlic.ledger.catalog import create_catalog
from batchlic.ledger.opening import FILE_FORMAT
from tests.journal.builders import new_journal


def refusal(path: Path) -> str:
    """Why the file is not opened as a ledger; it stays as it is, byte for byte."""
    before = path.read_bytes()
    with pytest.raises(RunFolderError) as refused:
        Ledger(path)
    assert path.read_bytes() == before
    assert refused.value.exit_code == ExitCode.USAGE
    return str(refused.value)


def test_a_ledger_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "ledger.db"
    Ledger(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(b"not a database at all" * 100)
    message = refusal(path)
    assert f"{path} is not a batchlic ledger: name another file" in message
    assert "batchlic ledger import RUNS_DIR --ledger NEW_FILE" in message


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    path.write_bytes(path.read_bytes()[:100] + b"x" * 5000)
    with pytest.raises(LedgerError, match="is damaged"):
        Ledger(path)


def test_an_empty_file_is_a_ledger_that_lost_its_content(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    with pytest.raises(LedgerError, match=r"is damaged \(it is empty\)"):
        Ledger(path)
    assert path.read_bytes() == b""


def test_an_interrupted_creation_leaves_no_ledger(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchlic.ledger.opening.create_catalog", _die)
        with pytest.raises(SystemExit):
            Ledger(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []


def _die(_: object) -> None:
    raise SystemExit


def test_a_journal_given_as_a_ledger_is_refused(tmp_path: Path) -> None:
    new_journal(tmp_path).close()
    assert f"{tmp_path / 'journal.db'} is not a batchlic ledger: name another" in refusal(
        tmp_path / "journal.db"
    )


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE records (id INTEGER)")
    assert "is not a batchlic ledger" in refusal(path)


@pytest.mark.parametrize("version", [0, FILE_FORMAT.version + 1])
def test_a_ledger_of_another_schema_version_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    message = refusal(path)
    assert f"schema {version}; this one reads {FILE_FORMAT.version}" in message
    assert "batchlic ledger import RUNS_DIR --ledger NEW_FILE" in message


@pytest.mark.slow
def test_several_processes_may_make_a_ledger_at_once(tmp_path: Path) -> None:
    for n in range(5):
        with ThreadPoolExecutor(8) as threads:
            for opened in [threads.submit(Ledger, tmp_path / f"{n}.db") for _ in range(8)]:
                opened.result().close()
    assert len(list(tmp_path.iterdir())) == 5


def test_a_ledger_that_another_process_makes_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    entry = RunEntry("first", "https://carrier.example/api", "/runs/first", 1)

    def make_two(connection: sa.Connection) -> None:
        patch.undo()
        with closing(Ledger(path)) as ledger:
            ledger.register(entry)
        create_catalog(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchlic.ledger.opening.create_catalog", make_two)
        with closing(Ledger(path)) as ledger:
            assert ledger.open_entries(entry.carrier) == [entry]
