"""A store that can't be used: a clear error with its exit code, nothing sent, and no password anywhere."""

import secrets
from collections.abc import Iterator

import pytest

from tests.endtoend.program import Ended
from tests.postgresql import PASSWORD, WITH_PASSWORD, PostgreSQL
from tests.store.site import Site, site

BATCHES = 3


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, postgresql: PostgreSQL) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site"), postgresql, latency=0.0, devices=30) as found:
        yield found


@pytest.fixture
def folder() -> str:
    return f"run-{secrets.token_hex(4)}"


def begin(at: Site, folder: str, address: str) -> Ended:
    before = at.sent()
    ended = at.finish(folder, BATCHLIC_STORE=address)
    assert at.sent() == before
    assert not (at.path / folder).exists()
    assert "Traceback" not in ended.err
    return ended


def test_a_wrong_password_is_exit_2_and_shown_nowhere(at: Site, folder: str) -> None:
    wrong = "wr0ng-passw0rd-99"
    address = at.server.url(at.database, f"{WITH_PASSWORD}:{wrong}")
    ended = begin(at, folder, address)
    assert ended.code == 2
    assert "rejects the login" in ended.err
    assert "PGPASSFILE" in ended.err
    assert wrong not in ended.err + ended.out


def test_no_password_is_exit_2(at: Site, folder: str) -> None:
    ended = begin(at, folder, at.server.url(at.database, WITH_PASSWORD))
    assert ended.code == 2
    assert "PGPASSFILE" in ended.err


def test_an_unknown_database_is_exit_2(at: Site, folder: str) -> None:
    ended = begin(at, folder, at.server.url("nowhere"))
    assert ended.code == 2
    assert "does not exist" in ended.err


def test_a_server_that_does_not_answer_is_exit_6(at: Site, folder: str) -> None:
    ended = begin(at, folder, "postgresql://postgres@127.0.0.1:1/batchlic")
    assert ended.code == 6
    assert "postgresql://postgres@127.0.0.1:1/batchlic" in ended.err


def test_an_unknown_host_is_exit_6(at: Site, folder: str) -> None:
    ended = begin(at, folder, "postgresql://postgres@nowhere.invalid/batchlic")
    assert ended.code == 6
    assert "nowhere.invalid" in ended.err


def test_a_read_only_store_is_exit_6(at: Site, folder: str) -> None:
    database = f"read_only_{secrets.token_hex(4)}"
    address = at.server.new_database(database)
    at.server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    ended = begin(at, folder, address)
    assert ended.code == 6
    assert "read-only" in ended.err


def test_a_store_that_became_read_only_is_exit_6(at: Site, folder: str) -> None:
    database = f"read_only_{secrets.token_hex(4)}"
    address = at.server.new_database(database)
    assert at.batchlic("store", "upgrade", BATCHLIC_STORE=address).code == 0
    at.server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    ended = begin(at, folder, address)
    assert ended.code == 6
    assert "read-only" in ended.err


def test_a_role_that_may_only_read_is_exit_2(at: Site, folder: str) -> None:
    at.batchlic("store", "upgrade")
    reader = f"reader_{secrets.token_hex(4)}"
    at.ask(f"CREATE ROLE {reader} LOGIN")
    at.ask(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
    ended = begin(at, folder, at.server.url(at.database, reader))

    assert ended.code == 2
    assert "lacks a permission" in ended.err


def test_a_newer_schema_is_exit_2(at: Site, folder: str) -> None:
    database = f"newer_{secrets.token_hex(4)}"
    address = at.server.new_database(database)
    at.batchlic("store", "upgrade", BATCHLIC_STORE=address)
    at.server.execute("UPDATE batchlic_schema SET version_num = '9999'", database)
    ended = begin(at, folder, address)

    assert ended.code == 2
    assert "newer than this version" in ended.err


@pytest.mark.slow
def test_a_password_is_in_no_file_of_a_run(at: Site, folder: str) -> None:
    at.batchlic("store", "upgrade")
    at.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {WITH_PASSWORD}")
    before = at.sent()
    address = at.server.url(at.database, f"{WITH_PASSWORD}:{PASSWORD}")
    ended = at.finish(folder, BATCHLIC_STORE=address)
    assert ended.code == 0, ended.err
    assert at.sent() == before + BATCHES
    assert PASSWORD not in ended.err + ended.out
    files = [path for path in at.path.rglob("*") if path.is_file()]
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
    recorded = at.ask("SELECT identity, folder FROM journals")
    assert len(recorded) == 1
    assert PASSWORD not in str(recorded)
