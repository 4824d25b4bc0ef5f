"""Databases of another kind, lost journals and missing stores: each is said, and no file is changed."""

import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchlic.callbacks.store import Store
from batchlic.journal.journal import FILE_FORMAT as JOURNAL
from batchlic.ledger import Ledger
from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import ACCOUNT, FLEXIBLE, batchlic, fleet, imei, keys
from tests.forking import serving

ASSIGN = ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run", "--new-ledger")
URL = "http://127.0.0.1:9/api"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, its ledger, a store of callbacks, and a database of another program."""
    home = tmp_path_factory.mktemp("finished")
    fleet(home / "fleet.csv", 5)
    with serving(SandboxConfig()) as url:
        assert batchlic(*ASSIGN, "--ledger", "ledger.db", settings=keys(url), cwd=home).code == 0
    Store.open(str(home / "store.db")).close()
    with closing(sqlite3.connect(home / "other.db")) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE messages (id, body)")
        other.execute("INSERT INTO messages VALUES (1, 'hello')")
        other.commit()
    (home / "text.db").write_text("imei,iccid\n" * 100)
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def everything(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def crossed(commands: Iterable[Any], files: Sequence[str]) -> list[tuple[Any, str]]:
    """Every command with one file, and one command with every file: one function tells the files apart."""
    first, *others = commands
    return [*((first, file) for file in files), *((command, files[0]) for command in others)]


STORE_COMMANDS = {
    "reconcile": ("reconcile", "run"),
    "unjudged": ("callbacks", "unjudged"),
    "listen": ("listen",),
}
LEDGER_COMMANDS = {
    "show": ("ledger", "show"),
    "export": ("ledger", "export", "--to", "out.csv"),
    "import": ("ledger", "import", "run"),
    "forget": ("ledger", "forget", "x"),
    "plan": ("plan", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "next"),
    "assign": ("assign", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "next"),
}
LISTENER = {"BATCHLIC_LISTENER_USERNAME": "listener", "BATCHLIC_LISTENER_PASSWORD": "long enough"}


@pytest.mark.parametrize(
    ("name", "file"), crossed(STORE_COMMANDS, ["other.db", "run/journal.db", "ledger.db", "text.db"])
)
def test_a_file_that_is_no_store_is_refused_unchanged(home: Path, name: str, file: str) -> None:
    before = everything(home)
    ended = batchlic(*STORE_COMMANDS[name], "--store", file, settings=LISTENER, cwd=home)
    assert (ended.code, "is not a batchlic callback store" in ended.err) == (2, True), ended.err
    assert everything(home) == before


@pytest.mark.parametrize(
    ("name", "file"), crossed(LEDGER_COMMANDS, ["other.db", "run/journal.db", "store.db", "text.db"])
)
def test_a_file_that_is_no_ledger_is_refused_unchanged(home: Path, name: str, file: str) -> None:
    before = everything(home)
    ended = batchlic(*LEDGER_COMMANDS[name], "--ledger", file, settings=keys(URL), cwd=home)
    assert (ended.code, "is not a batchlic ledger" in ended.err) == (2, True), ended.err
    assert everything(home) == before


@pytest.mark.parametrize(
    ("command", "file"),
    crossed(
        [("status",), ("export", "--what", "all"), ("resume",), ("audit", "--verify")],
        ["other.db", "ledger.db", "store.db", "text.db"],
    ),
)
def test_a_file_that_is_no_journal_is_refused_unchanged(
    home: Path, command: tuple[str, ...], file: str
) -> None:
    (home / "run" / "journal.db").write_bytes((home / file).read_bytes())
    before = everything(home)
    ended = batchlic(command[0], "run", *command[1:], settings=keys(URL), cwd=home)
    assert ended.code in {2, 3}, ended.err
    said = ended.out + ended.err
    assert "is not a batchlic journal" in said or "is damaged (file is not a database)" in said
    assert {name: content for name, content in everything(home).items() if ".lock" not in name} == {
        name: content for name, content in before.items() if ".lock" not in name
    }


@pytest.mark.parametrize("name", ["reconcile", "unjudged"])
@pytest.mark.parametrize("store", ["nowhere.db", "no/where.db", "empty.db"])
def test_a_store_that_does_not_exist_is_an_error_and_is_not_made(home: Path, name: str, store: str) -> None:
    (home / "empty.db").touch()
    before = everything(home)
    ended = batchlic(*STORE_COMMANDS[name], "--store", store, cwd=home)
    assert (ended.code, f"--store {store}" in ended.err) == (2, True), ended.err
    assert everything(home) == before


@pytest.mark.parametrize(
    ("command", "left"),
    crossed(
        [
            ("status", "run"),
            ("audit", "run", "--verify"),
            ("audit", "run", "--device", imei(1)),
            ("export", "run", "--what", "all"),
            ("resume", "run"),
            ("settle", "run", "--as", "failed", "--reason", "x"),
            ("plan", "fleet.csv", "--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run"),
        ],
        ["results.parquet", "audit.parquet", "summary.json", "run.log", "journal.db-wal"],
    ),
    ids=lambda given: " ".join(given[:3]) if isinstance(given, tuple) else given,
)
def test_a_journal_that_is_lost_is_said_to_be_lost(home: Path, left: str, command: tuple[str, ...]) -> None:
    (home / "run" / "journal.db-wal").touch()
    for path in (home / "run").iterdir():
        if path.name not in {left, "plan.parquet", "rejects.parquet"}:
            path.unlink()
    ended = batchlic(*command, settings=keys(URL), cwd=home)
    assert (ended.code, "the journal is lost" in ended.err) == (2, True), ended.err
    assert "nothing was ever sent" not in ended.err
    assert left.startswith("journal") or f"the last known state is in {left}" in ended.err


@pytest.mark.parametrize("command", [("status",), ("audit", "--verify"), ("resume",)])
def test_a_folder_without_a_run_is_no_lost_journal(home: Path, command: tuple[str, ...]) -> None:
    (home / "planned").mkdir()
    for folder, reason in {"planned": "nothing was ever sent", "nowhere": "no such run folder"}.items():
        ended = batchlic(command[0], folder, *command[1:], settings=keys(URL), cwd=home)
        assert (ended.code, reason in ended.err) == (2, True), ended.err


VERSIONS = {
    "run/journal.db": (("status", "run"), "run the inventory again in another folder"),
    "ledger.db": (("ledger", "show", "--ledger", "ledger.db"), "build a new ledger from its runs"),
    "store.db": (("reconcile", "run", "--store", "store.db"), "name another file"),
}


@pytest.mark.parametrize("version", [0, 99])
@pytest.mark.parametrize("file", VERSIONS)
def test_a_database_of_another_version_is_refused_with_what_to_do(
    home: Path, file: str, version: int
) -> None:
    with closing(sqlite3.connect(home / file)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    before = everything(home)
    command, advice = VERSIONS[file]
    ended = batchlic(*command, cwd=home)
    said = f"written by another version of batchlic (schema {version};"
    assert (ended.code, said in ended.err, advice in ended.err) == (2, True, True), ended.err
    assert {name: content for name, content in everything(home).items() if ".lock" not in name} == {
        name: content for name, content in before.items() if ".lock" not in name
    }


def test_a_journal_that_declares_no_version_is_one_of_an_early_version(home: Path) -> None:
    with closing(sqlite3.connect(home / "run" / "journal.db")) as database:
        database.execute("PRAGMA application_id = 0")
        database.execute("PRAGMA user_version = 0")
    ended = batchlic("status", "run", cwd=home)
    assert (ended.code, "an early version of batchlic" in ended.err) == (2, True), ended.err
    assert JOURNAL.advice in ended.err


def test_a_ledger_that_declares_no_version_is_one_of_an_early_version(home: Path) -> None:
    Ledger(home / "early.db").close()
    with closing(sqlite3.connect(home / "early.db")) as database:
        database.execute("PRAGMA application_id = 0")
    ended = batchlic("ledger", "show", "--ledger", "early.db", cwd=home)
    assert (ended.code, "an early version of batchlic" in ended.err) == (2, True), ended.err
