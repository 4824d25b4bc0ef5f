"""SQLite files declare their format. Files of another kind or version are refused and not changed."""

import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from batchlic.database import (
    Damage,
    FileFormat,
    check_format,
    create_or_check,
    explain_database_errors,
    files,
    snapshot,
    sqlite,
)
from batchlic.errors import RunFolderError, StoppedEarly, UsageError

LEDGER = FileFormat("ledger", application_id=int.from_bytes(b"BLxx"), version=4)
OLDER = FileFormat("ledger", application_id=LEDGER.application_id, version=3)
JOURNAL = FileFormat("journal", application_id=int.from_bytes(b"BLyy"), version=4)


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")


def foreign_wal_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE customers (name TEXT)")


def text(path: Path) -> None:
    path.write_text("imei,iccid\n" * 100)


def journal(path: Path) -> None:
    create_or_check(path, JOURNAL)


def add_table(path: Path) -> None:
    engine = sqlite(path)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS devices (imei TEXT)"))
    engine.dispose()


@pytest.mark.parametrize("exists", [False, True], ids=["missing", "empty"])
def test_a_missing_or_empty_file_is_created_in_the_format(tmp_path: Path, exists: bool) -> None:  # noqa: FBT001
    path = tmp_path / "ledger.db"
    if exists:
        path.touch()
    create_or_check(path, LEDGER)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (LEDGER.application_id,)
        assert connection.execute("PRAGMA user_version").fetchone() == (4,)


def test_a_file_keeps_its_format_while_tables_are_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    create_or_check(path, LEDGER)
    engine = sqlite(path)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE devices (imei TEXT)"))
    assert (tmp_path / "ledger.db-wal").stat().st_size > 0
    create_or_check(path, LEDGER)
    engine.dispose()
    create_or_check(path, LEDGER)


@pytest.mark.parametrize("make", [foreign_database, foreign_wal_database, text, journal])
def test_a_file_of_another_kind_is_refused_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "ledger.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=r"ledger\.db is not a batchlic ledger: name another file"):
        create_or_check(path, LEDGER)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]


def test_a_file_of_another_version_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    create_or_check(path, OLDER)
    add_table(path)
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=r"another version of batchlic \(schema 3; this one reads 4\)"):
        create_or_check(path, LEDGER)
    assert path.read_bytes() == before


def test_checking_a_missing_file_refuses_it_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        check_format(tmp_path / "ledger.db", LEDGER)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_too_long_for_sqlite_is_refused_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["x" * 200] * 3)
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match=r"^/.*/x{200}: this path is too long for SQLite"):
        create_or_check(folder / "ledger.db", LEDGER)
    assert list(folder.iterdir()) == []


def test_the_longest_path_that_is_not_refused_can_be_opened(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 220)
    folder.mkdir()
    path = folder / ("y" * (504 - 1 - len(str(folder.resolve()))))
    create_or_check(path, LEDGER)
    engine = sqlite(path)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE x (y)")
    engine.dispose()


def test_an_interrupted_creation_is_completed(tmp_path: Path) -> None:
    """The header is written, but SQLite will still roll it back: https://sqlite.org/fileformat2.html#rollbackjournal."""
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = PERSIST")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute(f"PRAGMA application_id = {LEDGER.application_id}")
        connection.execute("PRAGMA user_version = 4")
        journal_bytes = (tmp_path / "ledger.db-journal").read_bytes()
        connection.execute("COMMIT")
    synced = bytes.fromhex("d9d505f920a163d7") + bytes(4) + journal_bytes[12:]
    (tmp_path / "ledger.db-journal").write_bytes(synced)
    create_or_check(path, LEDGER)
    add_table(path)
    check_format(path, LEDGER)


def missing_column(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT iccid FROM devices")


def text_that_is_not_utf_8(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT CAST(x'ff' AS TEXT)").fetchall()


def schema_that_is_not_utf_8(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(imei TEXT)", b"(im\xffi TEXT"))
    missing_column(path)


def lost_pages(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])
    missing_column(path)


def found_by_a_caller(_: Path) -> None:
    raise Damage("it is empty")


@pytest.mark.parametrize(
    "damage",
    [missing_column, text_that_is_not_utf_8, schema_that_is_not_utf_8, lost_pages, found_by_a_caller],
)
def test_damage_is_an_error_that_names_the_file(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "journal.db"
    create_or_check(path, JOURNAL)
    add_table(path)
    with (
        pytest.raises(RunFolderError, match=r"^the journal is damaged \(.+\): restore it$"),
        explain_database_errors("the journal"),
    ):
        damage(path)


def locked(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, closing(sqlite3.connect(path, timeout=0)) as connection:
        other.execute("BEGIN IMMEDIATE")
        connection.execute("BEGIN IMMEDIATE")


def read_only(path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute("INSERT INTO devices VALUES ('1')")


def full(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute("INSERT INTO devices VALUES (hex(zeroblob(10000)))")


def no_folder(path: Path) -> None:
    sqlite3.connect(path / "none" / "journal.db")


@pytest.mark.parametrize("failure", [locked, read_only, full, no_folder])
def test_a_failing_disk_or_a_lock_is_no_damage(tmp_path: Path, failure: Callable[[Path], None]) -> None:
    path = tmp_path / "journal.db"
    create_or_check(path, JOURNAL)
    add_table(path)
    with (
        pytest.raises(
            StoppedEarly, match=r"the journal can't be written or read \(.*, then run the command again$"
        ),
        explain_database_errors("the journal"),
    ):
        failure(path)


def test_an_error_of_sqlalchemy_is_explained_without_its_statement(tmp_path: Path) -> None:
    engine = sqlite(tmp_path / "journal.db")
    with (
        pytest.raises(
            RunFolderError, match=r"^the journal is damaged \(no such table: answers\): restore it$"
        ),
        explain_database_errors("the journal"),
        engine.connect() as connection,
    ):
        connection.execute(sa.text("SELECT seq FROM answers"))
    engine.dispose()


def test_a_snapshot_has_every_commit_whether_checkpointed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (x)")
        for round_ in range(5):
            writer.execute("INSERT INTO t VALUES (zeroblob(50000))")
            writer.commit()
            if round_ % 2:
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with snapshot(path) as copy, closing(sqlite3.connect(copy)) as reader:
                assert reader.execute("SELECT count(*) FROM t").fetchone() == (round_ + 1,)
                assert reader.execute("PRAGMA quick_check").fetchone() == ("ok",)


def test_a_snapshot_does_not_change_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    create_or_check(path, JOURNAL)
    engine = sqlite(path)
    add_table(path)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO devices VALUES ('1')"))
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        with snapshot(path) as copy, closing(sqlite3.connect(copy)) as reader:
            reader.execute("SELECT * FROM devices").fetchall()
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    engine.dispose()


@pytest.mark.parametrize("action", ["checkpoint", "write and checkpoint", "close"])
def test_a_database_that_changes_while_it_is_copied_is_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """The other process works between the copy of the database and that of its log."""
    path = tmp_path / "journal.db"
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE t (x)")
    writer.execute("INSERT INTO t VALUES (zeroblob(50000))")
    writer.commit()
    copy_file, copies = files._copy_file, list[str]()

    def copy_and_change(source: Path, target: Path) -> None:
        copy_file(source, target)
        copies.append(source.name)
        if copies == ["journal.db"]:
            if action == "close":
                writer.close()
                return
            if action == "write and checkpoint":
                writer.execute("UPDATE t SET x = zeroblob(90000)")
                writer.commit()
            writer.execute("PRAGMA wal_checkpoint(RESTART)")
            writer.execute("INSERT INTO t VALUES (zeroblob(50000))")
            writer.commit()

    monkeypatch.setattr(files, "_copy_file", copy_and_change)
    with snapshot(path) as copy, closing(sqlite3.connect(copy)) as reader:
        assert reader.execute("PRAGMA quick_check").fetchone() == ("ok",)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (1 if action == "close" else 2,)
    assert copies.count("journal.db") == 2
    writer.close()


def test_a_source_that_can_not_be_read_is_not_blamed_on_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    path.symlink_to("/proc/self/mem")  # it can be opened; reading it fails with EIO
    monkeypatch.setattr(files, "_version", lambda _: files._Version((0, 0), b""))
    with pytest.raises(StoppedEarly, match=rf"^{path}: can't be read \(Input/output error\)"), snapshot(path):
        pass


def test_a_snapshot_needs_no_usual_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose file system is read-only."""
    path = tmp_path / "journal.db"
    create_or_check(path, JOURNAL)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with snapshot(path) as copy:
        check_format(copy, JOURNAL)


def test_a_file_of_an_early_version_is_told_from_a_foreign_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE intents (seq INTEGER)")
    before = path.read_bytes()
    known = replace(JOURNAL, tables=frozenset({"intents"}), advice="plan again")
    with pytest.raises(RunFolderError, match=r"early version .* use that version of batchlic, or plan again"):
        check_format(path, known)
    with pytest.raises(RunFolderError, match="is not a batchlic journal"):
        check_format(path, replace(known, tables=frozenset({"intents", "answers"})))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["journal.db"]
