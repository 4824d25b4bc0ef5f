"""The store: names without passwords, errors that say what to do, and schemas of other versions."""

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from batchlic.database import postgresql as stores
from batchlic.database.postgresql import Store, name_of, open_store, parse, prepare, remember
from batchlic.errors import BatchlicError, ExitCode, OtherVersion, RunFolderError, StoppedEarly, UsageError
from batchlic.job import make_job
from batchlic.runs.store_record import name_store
from batchlic.settings import Settings
from tests.postgresql import PASSWORD, WITH_PASSWORD, PostgreSQL

SECRET = "s3cr/t?#%40"


def refusal(call: Callable[[], object]) -> BatchlicError:
    with pytest.raises(BatchlicError) as refused:
        call()
    return refused.value


# -- URLs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("postgresql://ann@db.example/fleet", "postgresql://ann@db.example/fleet"),
        ("postgres://ann@db.example/fleet", "postgresql://ann@db.example/fleet"),
        ("postgresql+psycopg://ann:secret@db.example:5433/fleet", "postgresql://ann@db.example:5433/fleet"),
        ("postgresql://ann:s3cr%2Ft@db.example/fleet", "postgresql://ann@db.example/fleet"),
        ("postgresql://ann:s3cr/t?x@db.example/fleet", "postgresql://ann@db.example/fleet"),
        ("postgresql:///fleet?host=/run/pg", "postgresql:///fleet?host=%2Frun%2Fpg"),
        ("postgresql://ann@db/f?sslmode=require", "postgresql://ann@db/f?sslmode=require"),
        (" postgresql://ann:s3cret@db/f\n", "postgresql://ann@db/f"),
        ("postgresql://ann:s3cret@a,b/f", "postgresql://ann@a,b/f"),
        ("postgresql://ann:s,3:c@a:5433,b/f?x=y", "postgresql://ann@/f?host=a%2Cb&port=5433%2C&x=y"),
        ("postgresql://[::1]:1,[::2]:3", "postgresql:///?host=%3A%3A1%2C%3A%3A2&port=1%2C3"),
    ],
)
def test_f_the_name_of_a_store_is_its_url_without_the_password(given: str, name: str) -> None:
    assert name_of(parse(given, what="BATCHLIC_STORE")) == name


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (SECRET, "not a URL"),
        (f"postgresql://ann:{SECRET}@h:port/fleet", "not a URL"),
        (f"mysql://ann:{SECRET}@h/fleet", "mysql is not supported"),
        (f"postgresql://ann:p@{SECRET}@h/fleet", "write @ as %40"),
        (f"postgresql://ann@h/fleet?password={SECRET}", "put the password before the host"),
        (f"postgresql://ann@h/fleet?sslpassword={SECRET}", "put the password before the host"),
    ],
)
def test_f_no_refusal_of_a_url_shows_it(given: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice) as refused:
        parse(given, what="BATCHLIC_STORE")
    shown = "".join(traceback.format_exception(refused.value))
    assert str(refused.value).startswith("BATCHLIC_STORE: ")
    assert "s3cr" not in str(refused.value)
    assert "s3cr" not in shown


@pytest.mark.parametrize("password", ["secret", "s3cr/t", "s3cr?t", "s3cr%2Ft", "s3cr#t"])
def test_f_a_job_file_with_a_password_is_refused_without_showing_it(password: str) -> None:
    job = {
        "action": "assign",
        "inventory": {"files": ["fleet.csv"]},
        "store": {"url": f"postgresql://ann:{password}@db/fleet"},
    }
    with pytest.raises(UsageError, match=r"store\.url: a password here would show") as refused:
        make_job(job, {}, where="job.toml")
    assert password not in str(refused.value)


def test_f_settings_keep_the_password_and_name_the_store_without_it() -> None:
    settings = Settings(store=f"postgresql://ann:{PASSWORD}@db.invalid/fleet")
    assert settings.store_name == "postgresql://ann@db.invalid/fleet"
    assert PASSWORD not in f"{settings!r} {settings} {settings.store_name}"
    engine = stores.engine("postgresql://ann@db.invalid/fleet")
    assert engine.url.password == PASSWORD
    assert PASSWORD not in f"{engine!r} {engine.url!r} {engine.url}"


def test_f_a_run_folder_names_its_store_without_the_password(tmp_path: Path) -> None:
    name_store(tmp_path / "store.json", f"postgres://ann:{PASSWORD}@db.invalid/fleet")
    record = json.loads((tmp_path / "store.json").read_text())
    assert record.keys() == {"store", "key"}
    assert record["store"] == "postgresql://ann@db.invalid/fleet"


def test_a_store_spelled_in_another_way_is_the_same_store(tmp_path: Path) -> None:
    record = tmp_path / "store.json"
    name_store(record, "postgresql://ann@db.invalid/fleet")
    before = record.read_text()
    name_store(record, "postgres://ann@db.invalid/fleet")
    assert record.read_text() == before
    with pytest.raises(UsageError, match=r"is in postgresql://ann@db\.invalid/fleet, and .* names .*/other"):
        name_store(record, "postgresql://ann@db.invalid/other")


def test_options_in_the_url_are_kept_and_commits_stay_durable(postgresql: PostgreSQL) -> None:
    address = postgresql.new_database("options")
    name = remember(f"{address}&options=-csearch_path%3Dother -csynchronous_commit%3Doff")
    with stores.engine(name).connect() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {key}").scalar()
            for key in ("search_path", "synchronous_commit")
        ]
        connection.invalidate()
    assert shown == ["other", "on"]


# -- errors ----------------------------------------------------------------------------------------------


def test_f_a_wrong_password_is_refused_and_not_shown(postgresql: PostgreSQL) -> None:
    address = postgresql.url().replace("postgres@", f"{WITH_PASSWORD}:wr0ng-pass@")
    found = refusal(lambda: open_store(remember(address)))
    assert found.exit_code == ExitCode.USAGE
    assert "rejects the login" in str(found)
    assert "check user and password in BATCHLIC_STORE" in str(found)
    assert "wr0ng-pass" not in "".join(traceback.format_exception(found))


def test_the_right_password_comes_from_the_url_or_from_pgpass(
    postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgresql.new_database("owned")
    postgresql.execute(f"ALTER DATABASE owned OWNER TO {WITH_PASSWORD}")
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:owned:{WITH_PASSWORD}:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    store = open_store(postgresql.url("owned", WITH_PASSWORD))
    assert stores.revision_of(store) == stores.head()


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (("/postgres?", "/nowhere?"), UsageError, r"\"nowhere\" does not exist\): create the database"),
        (("postgres@", "nobody_here@"), UsageError, r"rejects the login .*\"nobody_here\" does not exist"),
        (("?host=", "?sslmode=sometimes&host="), UsageError, "has a wrong parameter .*correct the URL"),
        (("?host=", "?colour=red&host="), UsageError, "has a wrong parameter .*colour.*correct the URL"),
        (("?host=", "?host=/nowhere"), StoppedEarly, r"can't be used now .*fix the cause"),
    ],
)
def test_a_store_that_cannot_be_reached_says_why_and_what_to_do(
    postgresql: PostgreSQL, change: tuple[str, str], kind: type[BatchlicError], says: str
) -> None:
    with pytest.raises(kind, match=f"the store in postgresql://.*{says}"):
        open_store(remember(postgresql.url().replace(*change)))


def test_a_server_that_refuses_connections_stops_the_command_at_once() -> None:
    with pytest.raises(StoppedEarly, match=r"postgresql://ann@127\.0\.0\.1:1/fleet can't be used now"):
        open_store(remember(f"postgresql://ann:{PASSWORD}@127.0.0.1:1/fleet"))


def test_a_store_without_connections_left_says_so(postgresql: PostgreSQL) -> None:
    postgresql.new_database("crowded")
    postgresql.execute("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    found = refusal(lambda: open_store(remember(postgresql.url("crowded", "crowd"))))
    assert isinstance(found, StoppedEarly)
    assert 'too many connections for role "crowd"' in str(found)


def test_too_many_queries_at_once_are_no_bug(store: str) -> None:
    small = Store(store)
    small.engine.dispose()
    small.engine = stores.engine(store, pool_size=1, max_overflow=0, pool_timeout=0.01)
    with (
        small.engine.connect(),
        pytest.raises(StoppedEarly, match="too many queries at once"),
        small.explained(),
    ):
        small.engine.connect()
    small.engine.dispose()


@pytest.mark.parametrize(
    ("statement", "kind", "says"),
    [
        ("SELECT * FROM nowhere", RunFolderError, r"lacks a table .*batchlic store check"),
        ("SELECT nothing FROM leases", RunFolderError, r"lacks a table or a column .*batchlic store check"),
        ("SELECT 1/0", StoppedEarly, "division by zero"),
    ],
)
def test_errors_of_statements_are_explained(
    store: str, statement: str, kind: type[BatchlicError], says: str
) -> None:
    shared = open_store(store)
    with (
        pytest.raises(kind, match=says),
        shared.explained("the journal"),
        shared.engine.connect() as connection,
    ):
        connection.exec_driver_sql(statement)


def test_several_hosts_with_ports_are_tried_in_turn(postgresql: PostgreSQL) -> None:
    folder = quote(str(postgresql.folder), safe="")
    name = remember(f"postgresql://postgres@127.0.0.1:1,{folder}:5432/postgres")
    store = Store(name)
    with store.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT current_user")).scalar() == "postgres"
    store.engine.dispose()


def test_wrong_ports_of_several_hosts_are_refused() -> None:
    with pytest.raises(UsageError, match="hosts or ports in the URL are wrong"):
        Store(remember("postgresql://ann@a:1,b:two/fleet"))


# -- versions --------------------------------------------------------------------------------------------


def test_an_empty_database_gets_its_tables(postgresql: PostgreSQL) -> None:
    store = open_store(remember(postgresql.new_database("empty")))
    assert stores.revision_of(store) == stores.head()


def test_tables_of_another_program_are_not_touched(postgresql: PostgreSQL) -> None:
    name = remember(postgresql.new_database("shared_with_others"))
    postgresql.execute("CREATE TABLE runs (id integer)", "shared_with_others")
    with pytest.raises(UsageError, match=r'relation "runs" already exists.*a database of its own'):
        open_store(name)
    tables = postgresql.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'", "shared_with_others"
    )
    assert tables == [("runs",)]


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("0099", r"\(0099\) is newer than this version .*use the version of batchlic that upgraded it"),
        ("0000", r"is older \(0000; .*end the runs .*`batchlic store upgrade`"),
    ],
)
def test_another_schema_is_refused_and_not_changed(
    postgresql: PostgreSQL, version: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "revisions", lambda: ("0000", "0001"))
    name = remember(postgresql.new_database("versioned"))
    store = Store(name)
    prepare(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE batchlic_schema SET version_num = %(to)s", {"to": version})
    with pytest.raises(OtherVersion, match=says) as refused:
        prepare(store)
    assert str(refused.value).endswith("Nothing was sent")
    assert stores.revision_of(store) == version
    store.engine.dispose()


def test_an_old_server_is_refused(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    name = remember(postgresql.new_database("old"))
    monkeypatch.setattr(stores, "OLDEST_SERVER", 999)
    with pytest.raises(UsageError, match=r"PostgreSQL \d+ is too old: batchlic needs 999 or newer"):
        open_store(name)
    store = Store(name)
    with store.engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    store.engine.dispose()
