"""Inventories in databases: rows of queries in real PostgreSQL, SQLite and DuckDB, and what is refused."""

import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from itertools import count
from pathlib import Path

import duckdb
import psycopg
import pytest

from batchlic.errors import InventoryError, UsageError
from batchlic.job import load_job, make_job
from batchlic.reader.formats.databases import reading
from batchlic.reader.formats.databases.reading import as_texts, fetched, query_result
from batchlic.reader.inputs.databases import Database, Kind, checked_query, database_of, in_folder
from tests.postgresql import PASSWORD, WITH_PASSWORD, PostgreSQL
from tests.privileges import without_privileges
from tests.reader.builders import ACCOUNT, JOB, csv_of, iccid, imei, plan_files
from tests.reader.databases import Maker, duckdb_file, postgresql_table, sqlite_file

QUERY = "SELECT imei, iccid, account FROM fleet"
READING = replace(JOB, query=QUERY)
ROWS = [
    (imei(1), iccid(1), ACCOUNT),
    (imei(2), None, None),
    (None, None, None),
    (f" {imei(3)} ", iccid(3), "0000999999-00001"),
    (imei(4)[:14], iccid(4), ""),
    (imei(1), iccid(1), ACCOUNT),
]
_names = (f"fleet{number}" for number in count())


@pytest.fixture(params=["sqlite", "duckdb", "postgresql"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """Makes a table `fleet` in a new database of each kind."""
    if request.param == "sqlite":
        return lambda rows, **more: sqlite_file(tmp_path / "fleet.db", rows, **more)
    if request.param == "duckdb":
        return lambda rows, **more: duckdb_file(tmp_path / "fleet.duckdb", rows, **more)
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return lambda rows, **more: postgresql_table(server.new_database(next(_names)), rows, **more)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are fetched two at a time."""
    monkeypatch.setattr(reading, "FETCHED_ROWS", 2)


def refusal(folder: Path, address: str, query: str | None = QUERY, timeout: float = 60.0) -> str:
    """The message of the refusal; neither plan nor rejects are written."""
    options = replace(JOB, query=query, download_timeout=timeout)
    with pytest.raises(InventoryError) as found:
        plan_files(folder, address, options=options)
    assert not list(folder.glob("*.parquet"))
    assert "\n" not in str(found.value)
    return str(found.value)


def found(address: str) -> Database:
    database = database_of(address)
    assert database is not None
    return database


# -- rows -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_query_is_planned_as_the_same_rows_in_a_file(tmp_path: Path, table: Maker) -> None:
    address = table(ROWS)
    (tmp_path / "csv").mkdir()
    file = tmp_path / "csv" / "fleet.csv"
    file.write_bytes(csv_of([[cell or "" for cell in row] for row in ROWS], "imei,iccid,account"))
    ours, of_file = plan_files(tmp_path, address, options=READING), plan_files(tmp_path / "csv", str(file))
    assert ours.plan.drop("source").equals(of_file.plan.drop("source"))
    assert ours.rejects.drop("source", "message").equals(of_file.rejects.drop("source", "message"))
    assert ours.summary.sources[0].name == address
    assert ours.reasons == {3: "missing_identifier", 5: "bad_length", 6: "duplicate"}


def test_columns_of_any_types_are_read_as_text(postgresql: PostgreSQL) -> None:
    query = """SELECT 490154203237518::numeric a, '{1,2}'::int[] b, interval '1 day' c, 'a'::bytea d,
        row(1, 'x') e, 490154203237518::float8 f, 1.50::numeric g, true h, 8.9148e19::float8 i,
        '1'::char(3) j, null k, '{"a": true}'::jsonb l, interval '-1 month' m"""
    with query_result(found(postgresql.url()), replace(JOB, query=query)) as result:
        *_, cells = result.frames()
    assert cells.row(0) == (
        *("490154203237518", "{1,2}", "1 day", "a", "(1,x)"),
        *("490154203237518", "1.50", "true", "8.9148e+19", "1  ", None, '{"a": true}', "-1 mons"),
    )


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        ([490154203237518, None], ["490154203237518", None]),
        ([2**70, 1], [str(2**70), "1"]),
        ([490154203237518.0, 1.5, float("nan"), float("inf")], ["490154203237518", "1.5", None, "INF"]),
        ([8.9148e19, "x"], ["8.914800E+19", "x"]),
        (
            [Decimal(89148000000000000013), Decimal("1E+2"), Decimal("7.0")],
            ["89148000000000000013", "100", "7.0"],
        ),
        ([b"864", None], ["864", None]),
        ([b"864\xff"], ["864\ufffd"]),
        ([b"864", 864, "864", None], ["864", "864", "864", None]),
        ([None, None], [None, None]),
        ([True, [1, 2]], ["true", "[1, 2]"]),
    ],
)
def test_cells_are_read_as_text(cells: list[object], texts: list[str | None]) -> None:
    assert as_texts(cells).to_list() == texts


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("CAST('infinity' AS DATE)", "infinity"),
        ("CAST('infinity' AS TIMESTAMP)", "infinity"),
        ("CAST('20000-01-01' AS TIMESTAMP)", "20000-01-01 00:00:00"),
        ("CAST('2026-11-29 08:30:00+00' AS TIMESTAMPTZ)", "2026-11-29 08:30:00+00"),
        ("CAST('24:00:00' AS TIME)", "24:00:00"),
        ("true", "true"),
        ("CAST(1.50 AS DECIMAL(9, 2))", "1.50"),
    ],
)
def test_a_cell_that_python_has_no_type_for_stops_no_query(
    tmp_path: Path, postgresql: PostgreSQL, expression: str, text: str
) -> None:
    for address in (
        f"{postgresql.url()}&options=-c%20timezone%3DUTC",
        duckdb_file(tmp_path / "fleet.duckdb", []),
    ):
        zone = "" if address.startswith("postgresql") else " FROM (SELECT 1) AS one"
        query = f"SELECT {expression} AS until, 1 AS imei{zone}"
        with query_result(found(address), replace(JOB, query=query)) as result:
            *_, cells = result.frames()
        assert cells.row(0) == (text, "1")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_query_finds_letters_in_databases_of_any_encoding(postgresql: PostgreSQL, encoding: str) -> None:
    name = encoding.lower()
    postgresql.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LOCALE 'C'")
    address = postgresql_table(f"{postgresql.url(name)}&client_encoding=utf8", [(imei(1), "Süd", "")])
    assert address.endswith("utf8")
    query = "SELECT imei, iccid AS größe FROM fleet WHERE iccid = 'Süd'"
    with query_result(found(postgresql.url(name)), replace(JOB, query=query)) as result:
        *_, cells = result.frames()
    assert cells.rows(named=True) == [{"imei": imei(1), "größe": "Süd"}]


def test_numbers_that_lost_digits_are_rejected(tmp_path: Path, table: Maker) -> None:
    address = table([(490154203237518.0, 8.9148e19)], types="imei DOUBLE PRECISION, iccid DOUBLE PRECISION")
    planned = plan_files(tmp_path, address, options=replace(JOB, query="SELECT imei, iccid FROM fleet"))
    assert planned.reasons == {1: "mangled_number"}


@pytest.mark.parametrize("number", [864508030000013, 864508000000000, 2.0**49])
def test_floats_of_32_bits_have_lost_digits(tmp_path: Path, postgresql: PostgreSQL, number: float) -> None:
    addresses = [
        duckdb_file(tmp_path / "fleet.duckdb", [(number,)], types="imei FLOAT"),
        postgresql_table(postgresql.new_database("singles"), [(number,)], types="imei REAL"),
    ]
    for address in addresses:
        planned = plan_files(tmp_path, address, options=replace(JOB, query="SELECT imei FROM fleet"))
        assert planned.reasons == {1: "mangled_number"}


@pytest.mark.parametrize("query", [f"{QUERY};", f"  {QUERY} -- all of it", f"/* all */ {QUERY}"])
def test_a_query_may_have_comments_and_a_semicolon(tmp_path: Path, table: Maker, query: str) -> None:
    address = table([ROWS[0]])
    assert len(plan_files(tmp_path, address, options=replace(JOB, query=query)).plan) == 1


def test_columns_are_named_as_in_a_file(tmp_path: Path, table: Maker) -> None:
    address = table(ROWS[:2])
    options = replace(JOB, query="SELECT iccid AS a, imei AS b FROM fleet", columns={"imei": "b"})
    assert plan_files(tmp_path, address, options=options).devices == [(imei(1), None), (imei(2), None)]


# -- databases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (sqlite_file, "sqlite:///süd%20fleet.db"),
        (sqlite_file, "süd fleet.db"),
        (duckdb_file, "süd fleet.db"),
        (duckdb_file, "duckdb:///süd fleet.db"),
    ],
)
def test_a_file_has_an_address_or_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., str], name: str
) -> None:
    make(tmp_path / "süd fleet.db", ROWS[:1])
    monkeypatch.chdir(tmp_path)
    planned = plan_files(tmp_path, name, options=READING)
    assert [(source.name, source.rows) for source in planned.summary.sources] == [(name, 1)]


def test_a_file_and_its_address_are_one_database(tmp_path: Path) -> None:
    address = sqlite_file(tmp_path / "fleet.db", ROWS)
    with pytest.raises(UsageError, match="given twice"):
        plan_files(tmp_path, address, str(tmp_path / "fleet.db"), options=READING)


def test_a_database_in_a_folder_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    duckdb_file(tmp_path / "in" / "fleet.duckdb", ROWS)
    (tmp_path / "in" / "fleet.csv").write_bytes(csv_of([(imei(7), "")]))
    assert plan_files(tmp_path, str(tmp_path / "in")).devices == [(imei(7), None)]


def test_a_file_of_a_job_is_relative_to_the_job(tmp_path: Path) -> None:
    job = tmp_path / "night.toml"
    job.write_text(
        f'action = "assign"\n[inventory]\nfiles = ["sqlite:///in/a.db"]\nquery = """\n{QUERY}\n"""\n'
    )
    loaded = load_job(job, {})
    assert loaded.inventory.files == [f"sqlite:///{tmp_path}/in/a.db"]
    assert loaded.read_options().query == QUERY


@pytest.mark.parametrize("folder", ["me@corp", "50%25", "fleet #1", "what?", "süd"])
@pytest.mark.parametrize("start", ["sqlite", "SQLITE", "sqlite+pysqlite"])
def test_the_folder_of_a_job_may_have_any_name(tmp_path: Path, folder: str, start: str) -> None:
    address = in_folder(f"{start}:///in%20a.db", tmp_path / folder)
    assert found(address).path == tmp_path / folder / "in a.db"
    assert in_folder(address, tmp_path) == address


def test_a_query_needs_a_database_and_a_database_a_query(tmp_path: Path) -> None:
    database = sqlite_file(tmp_path / "fleet.db", ROWS)
    (tmp_path / "fleet.csv").write_bytes(csv_of([(imei(1), "")]))
    with pytest.raises(UsageError, match="is a database: say which rows to read with --query"):
        plan_files(tmp_path, database)
    with pytest.raises(UsageError, match=r"--query .* is for databases, and no inventory is one"):
        plan_files(tmp_path, str(tmp_path / "fleet.csv"), options=READING)
    both = plan_files(tmp_path, database, str(tmp_path / "fleet.csv"), options=READING)
    assert [source.rows for source in both.summary.sources] == [6, 1]


# -- passwords ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "variable"),
    [
        ("postgresql://fleet:s3cr3t@db/fleet", "PGPASSWORD"),
        ("postgres://fleet:s3cr3t@db/fleet", "PGPASSWORD"),
        ("postgresql+psycopg://fleet:s3cr3t@db/fleet", "PGPASSWORD"),
        ("postgresql://fleet@db/fleet?password=s3cr3t", "PGPASSWORD"),
        ("postgresql://fleet@db/fleet?sslpassword=s3cr3t", "PGPASSWORD"),
        ("postgresql://fleet:s3c/r3t@db/fleet", "PGPASSWORD"),
        ("postgresql://fleet:s3@cr3t@db/fleet", "PGPASSWORD"),
        ("postgresql://fleet:s3cr3t#x@db/fleet", "PGPASSWORD"),
        ("postgresql://fleet:12?s3cr3t@db/fleet", "PGPASSWORD"),
        ("postgresql:fleet:s3cr3t@db/fleet", "PGPASSWORD"),
        ("mysql://fleet:s3cr3t@db/fleet", "MYSQL_PWD"),
        ("snowflake://fleet:s3cr3t@account/db/schema", "SNOWFLAKE_PASSWORD"),
        ("sqlite://fleet:s3cr3t@/fleet.db", "file"),
        ("postgresql://fleet%3As3cr3t@db/fleet", "PGPASSWORD"),
        ("postgresql://db/fleet?user=fleet:s3cr3t", "PGPASSWORD"),
        ("postgresql://fleet@db/fleet;password=s3cr3t", "PGPASSWORD"),
        ("postgresql://fleet@db/fleet?application_name=x%26Passwd%3Ds3cr3t", "PGPASSWORD"),
        ("mysql://fleet%3As3cr3t@db/fleet", "MYSQL_PWD"),
    ],
)
def test_f_an_address_with_a_password_is_refused_unseen(address: str, variable: str) -> None:
    content = {"action": "assign", "inventory": {"files": [address], "query": QUERY}}
    with pytest.raises(UsageError) as found:
        make_job(content, {}, where="options")
    assert variable in str(found.value)
    assert "s3" not in str(found.value)


@pytest.mark.parametrize("start", [" ", "jdbc:", "'", "in/"])
def test_f_an_address_behind_other_text_is_refused_unseen(tmp_path: Path, start: str) -> None:
    message = refusal(tmp_path, f"{start}postgresql://fleet:s3cr3t@db/fleet", None)
    assert message == "postgresql://…: not a valid address: remove what stands before postgresql://"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://db/fleet?token=s3cr3t", "there is no parameter 'token'"),
        ("duckdb:///fleet.duckdb?key=s3cr3t", "there is no parameter 'key'"),
        ("postgresql://db:port/fleet", "not a valid address"),
        ("sqlite://fleet.db", "not a valid address"),
        ("sqlite://", "not a valid address"),
        ("snowflake:///db", "not a valid address"),
    ],
)
def test_a_wrong_address_of_a_database_is_refused(address: str, expected: str) -> None:
    with pytest.raises(InventoryError, match=expected) as found:
        database_of(address)
    assert "s3cr3t" not in str(found.value)


def test_a_password_comes_from_the_environment(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgresql_table(postgresql.new_database("guarded_fleet"), ROWS)
    address = postgresql.url("guarded_fleet", user=WITH_PASSWORD)
    assert "the login (PGUSER and PGPASSWORD, or ~/.pgpass (PGPASSFILE))" in refusal(tmp_path, address)
    monkeypatch.setenv("PGPASSWORD", "wr0ng")
    message = refusal(tmp_path, address)
    assert "password authentication failed" in message
    assert "wr0ng" not in message
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert "permission denied for table fleet" in refusal(tmp_path, address)
    postgresql.execute(f"GRANT SELECT ON fleet TO {WITH_PASSWORD}", "guarded_fleet")
    assert plan_files(tmp_path, address, options=READING).summary.rows_read == len(ROWS)


def test_f_a_password_in_an_error_of_a_driver_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchlic.reader.formats.databases.drivers import without_secrets  # noqa: PLC0415

    monkeypatch.setenv("MYSQL_PWD", "s3cr3t")
    assert without_secrets("can't log in as fleet:s3cr3t") == "can't log in as fleet:***"


# -- queries that are refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM fleet",
        "-- SELECT\nUPDATE fleet SET imei = ''",
        "/* SELECT */ drop table fleet",
        "COPY fleet TO '/tmp/x'",
        "PRAGMA journal_mode = WAL",
        "CALL give_licenses()",
        "EXPLAIN SELECT 1",
        "BEGIN; SELECT 1",
        "selec imei from fleet",
        "; ",
        "-- nothing",
        "",
        "{imei}",
    ],
)
def test_a_query_that_is_no_select_is_refused(query: str) -> None:
    content = {"action": "assign", "inventory": {"files": ["sqlite:///x.db"], "query": query}}
    with pytest.raises(UsageError, match=r"options: inventory.query: the query .*: give a SELECT"):
        make_job(content, {}, where="options")


@pytest.mark.parametrize("query", ["SELECT imei FROM fleet\0 WHERE account = 'x'", "SELECT '\udcff' AS imei"])
def test_a_query_that_drivers_would_cut_off_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match="a null character, or bytes that are not UTF-8"):
        checked_query(query)


@pytest.mark.parametrize("query", ["from fleet", "(SELECT 1)", "-- a\n/* b */ WITH x AS (SELECT 1) SELECT 1"])
def test_a_query_that_reads_is_accepted(query: str) -> None:
    assert checked_query(query) == query


@pytest.mark.parametrize(
    "query",
    [
        "SELECT imei FROM fleet; DELETE FROM fleet",
        "SELECT imei FROM fleet; COMMIT; DELETE FROM fleet",
        "WITH gone AS (DELETE FROM fleet RETURNING *) SELECT imei FROM gone",
        "WITH x AS (SELECT 1) DELETE FROM fleet",
    ],
)
def test_a_query_changes_nothing(tmp_path: Path, table: Maker, query: str) -> None:
    address = table(ROWS)
    assert "the database refuses the query (" in refusal(tmp_path, address, query)
    assert plan_files(tmp_path, address, options=READING).summary.rows_read == len(ROWS)


def test_a_function_that_writes_is_refused(tmp_path: Path, postgresql: PostgreSQL) -> None:
    address = postgresql_table(postgresql.new_database("functions"), ROWS)
    postgresql.execute(
        "CREATE FUNCTION lose() RETURNS text AS 'DELETE FROM fleet; SELECT ''''' LANGUAGE sql", "functions"
    )
    message = refusal(tmp_path, address, "SELECT lose() AS imei")
    assert "cannot execute DELETE in a read-only transaction" in message


def test_a_query_of_duckdb_writes_no_file(tmp_path: Path) -> None:
    address = duckdb_file(tmp_path / "fleet.duckdb", ROWS)
    refusal(tmp_path, address, f"WITH x AS (SELECT 1) SELECT 1; COPY fleet TO '{tmp_path}/copy.csv'")
    assert not (tmp_path / "copy.csv").exists()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT imei FROM flet", "flet"),
        ("SELECT imeii FROM fleet", "imeii"),
        ("SELECT imei FRM fleet", "fleet"),
        ("SELECT imei, FROM", "FROM|end of input"),
        ("SELECT a.imei, b.imei FROM fleet a, fleet b", "returns two columns 'imei'"),
        ("SELECT account AS x FROM fleet", "no known header for IMEIs or ICCIDs; the columns are 1 'x'"),
        (f"{QUERY} WHERE imei = 'x'", "the query returns no rows. Check the query"),
    ],
)
def test_a_wrong_query_is_explained(tmp_path: Path, table: Maker, query: str, expected: str) -> None:
    address = table(ROWS)
    message = refusal(tmp_path, address, query)
    assert message.startswith(f"{address}: ")
    assert any(text in message for text in expected.split("|"))


def test_no_rows_may_be_allowed(tmp_path: Path, table: Maker) -> None:
    address = table(ROWS)
    options = replace(JOB, query=f"{QUERY} WHERE imei = 'x'", allow_empty=True)
    planned = plan_files(tmp_path, address, options=options)
    assert planned.summary.notes[-1] == f"{address}: the query returns no rows"


# -- databases that can't be read -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sqlite:///{}/none.db", "there is no such file"),
        ("duckdb:///{}/none.duckdb", "there is no such file"),
        ("{}/none.duckdb", "there is no such file"),
        ("sqlite:///{}", "is no file"),
        ("sqlite:///{}/text.db", "file is not a database"),
        ("duckdb:///{}/text.db", "not a valid DuckDB database file"),
        ("{}/text.duckdb", "not a valid DuckDB database file"),
    ],
)
def test_a_file_that_is_no_database_is_explained(tmp_path: Path, name: str, expected: str) -> None:
    for file in ("text.db", "text.duckdb"):
        (tmp_path / file).write_text("imei\n" * 500)
    assert expected in refusal(tmp_path, name.format(tmp_path))


def test_a_file_in_wal_mode_in_a_closed_folder_is_explained(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    address = sqlite_file(folder / "fleet.db", ROWS)
    with closing(sqlite3.connect(folder / "fleet.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    folder.chmod(0o500)
    with without_privileges():
        assert "WAL mode only with write access to its folder" in refusal(tmp_path, address)
    folder.chmod(0o700)
    assert plan_files(tmp_path, address, options=READING).summary.rows_read == len(ROWS)


def test_a_file_whose_writer_was_killed_is_explained(tmp_path: Path) -> None:
    address = sqlite_file(tmp_path / "fleet.db", [(imei(number), "x" * 500, "") for number in range(100)])
    with closing(sqlite3.connect(tmp_path / "fleet.db")) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("UPDATE fleet SET iccid = iccid || 'y'")
        (tmp_path / "copy.db").write_bytes((tmp_path / "fleet.db").read_bytes())
        (tmp_path / "copy.db-journal").write_bytes((tmp_path / "fleet.db-journal").read_bytes())
    message = refusal(tmp_path, address.replace("fleet.db", "copy.db"))
    assert "a program was stopped while it wrote the file" in message


def test_duckdb_downloads_no_extension(tmp_path: Path) -> None:
    address = duckdb_file(tmp_path / "fleet.duckdb", ROWS)
    with query_result(found(address), READING) as result:
        connection = result.cursor
        assert isinstance(connection, duckdb.DuckDBPyConnection)
        setting = connection.execute("SELECT current_setting('autoinstall_known_extensions')").fetchone()
    assert setting == (False,)


def test_a_locked_database_is_explained(tmp_path: Path) -> None:
    address = duckdb_file(tmp_path / "fleet.duckdb", ROWS)
    with closing(duckdb.connect(str(tmp_path / "fleet.duckdb"))):
        assert "can't be opened (" in refusal(tmp_path, address)


def test_a_server_that_is_absent_is_explained(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "Connection refused" in refusal(tmp_path, f"postgresql://fleet@127.0.0.1:{port}/fleet")
    assert 'database "none" does not exist' in refusal(tmp_path, postgresql.url("none"))
    assert 'role "none" does not exist' in refusal(tmp_path, postgresql.url(user="none"))


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://fleet@127.0.0.1:{silent.getsockname()[1]}/fleet"
        message = refusal(tmp_path, address, timeout=0.1)
    assert "timeout" in message
    assert "run the command again later" in message


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [
        (Kind.POSTGRESQL, "psycopg", "postgresql"),
        (Kind.DUCKDB, "duckdb", "duckdb"),
        (Kind.MYSQL, "pymysql", "mysql"),
        (Kind.SNOWFLAKE, "snowflake", "snowflake"),
    ],
)
def test_a_missing_driver_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, module: str, extra: str
) -> None:
    for loaded in [name for name in sys.modules if name.startswith(reading.__package__ or "")]:
        if loaded.rpartition(".")[2] in {"postgresql", "duckdb_files", "mysql", "snowflake"}:
            monkeypatch.delitem(sys.modules, loaded)
            monkeypatch.delattr(sys.modules[reading.__package__ or ""], loaded.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, module, None)
    address = f"{kind}:///fleet.duckdb" if kind.is_file else f"{kind}://fleet@account/fleet"
    message = refusal(tmp_path, address)
    assert f"pip install 'batchlic[{extra}]'" in message
    assert f"({module}" in message


# -- a query that fails, and tables that change ----------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "failing"),
    [
        ("sqlite", "CASE iccid WHEN '4' THEN abs(-9223372036854775808) ELSE imei END"),
        ("duckdb", "CASE iccid WHEN '4' THEN error('lost') ELSE imei END"),
        ("postgresql", "CASE iccid WHEN '4' THEN (1 / (iccid::int - 4))::text ELSE imei END"),
    ],
)
def test_nothing_is_planned_from_a_query_that_fails_midway(
    tmp_path: Path, postgresql: PostgreSQL, kind: str, failing: str
) -> None:
    rows = [(imei(number), str(number), "") for number in range(6)]
    address = {
        "sqlite": lambda: sqlite_file(tmp_path / "fleet.db", rows),
        "duckdb": lambda: duckdb_file(tmp_path / "fleet.duckdb", rows),
        "postgresql": lambda: postgresql_table(postgresql.new_database("failing"), rows),
    }[kind]()
    message = refusal(tmp_path, address, f"SELECT {failing} AS imei FROM fleet ORDER BY iccid")  # noqa: S608
    assert "Nothing was planned" in message or "the database refuses the query (" in message


@pytest.mark.usefixtures("quick")
def test_nothing_is_planned_if_the_connection_breaks(postgresql: PostgreSQL) -> None:
    address = postgresql_table(postgresql.new_database("broken"), ROWS)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'broken'"
    with query_result(found(address), READING) as result:
        frames = result.frames()
        assert [len(next(frames)) for _ in range(2)] == [0, 2]
        postgresql.execute(end)
        with pytest.raises(InventoryError, match=r"failed after 2 rows \(.*\)\. Nothing was planned"):
            next(frames)


def test_rows_that_were_read_to_their_end_count_though_the_server_ends(postgresql: PostgreSQL) -> None:
    address = postgresql_table(postgresql.new_database("ended"), ROWS)
    with query_result(found(address), READING) as result:
        known = result.finish()
        postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ended'")
    assert known == fetched(found(address), READING)


@pytest.mark.usefixtures("quick")
def test_a_table_that_changes_while_it_is_read_is_read_as_it_was(postgresql: PostgreSQL) -> None:
    address = postgresql_table(postgresql.new_database("changing"), ROWS)
    before = fetched(found(address), READING)
    with query_result(found(address), READING) as result:
        frames = result.frames()
        next(frames), next(frames)
        postgresql.execute("DELETE FROM fleet", "changing")
        assert sum(map(len, frames)) == len(ROWS) - 2
        assert result.finish() == before
    assert fetched(found(address), READING) != before


def test_the_hash_tells_rows_and_their_order(table: Maker) -> None:
    database = found(table(ROWS))
    known = fetched(database, READING)
    assert fetched(database, READING) == known
    others = [
        f"{QUERY} ORDER BY iccid DESC",
        f"{QUERY} WHERE imei IS NOT NULL",
        "SELECT imei, iccid FROM fleet",
        "SELECT imei, iccid, coalesce(account, '') AS account FROM fleet",
        "SELECT imei, iccid, account AS konto FROM fleet",
    ]
    hashes = {fetched(database, replace(JOB, query=query)).sha256 for query in others}
    assert len(hashes | {known.sha256}) == len(others) + 1


@pytest.mark.usefixtures("quick")
def test_the_hash_does_not_depend_on_how_many_rows_are_fetched(
    table: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = found(table(ROWS))
    known = fetched(database, READING)
    monkeypatch.setattr(reading, "FETCHED_ROWS", 100)
    assert fetched(database, READING) == known


def endless(postgresql: PostgreSQL, folder: Path) -> Iterator[tuple[str, str]]:
    """Databases, and queries with far more rows than fit into memory."""
    yield postgresql.url(), "SELECT generate_series(1, 10000000000) AS imei"
    yield (
        sqlite_file(folder / "a.db", []),
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n AS imei FROM r",
    )
    yield duckdb_file(folder / "b.duckdb", []), "SELECT n AS imei FROM range(10000000000) AS r(n)"


@pytest.mark.slow
def test_h_rows_are_fetched_as_they_are_needed(tmp_path: Path, postgresql: PostgreSQL) -> None:
    for address, query in endless(postgresql, tmp_path):
        with query_result(found(address), replace(JOB, query=query)) as result:
            frames = result.frames()
            assert [len(next(frames)) for _ in range(3)] == [0, 50_000, 50_000]


def test_h_the_cells_that_are_fetched_at_once_are_bounded(postgresql: PostgreSQL) -> None:
    columns = ", ".join(f"n AS c{number}" for number in range(100))
    query = f"SELECT {columns} FROM generate_series(1, 6000) AS r(n)"  # noqa: S608
    with query_result(found(postgresql.url()), replace(JOB, query=query)) as result:
        assert [len(frame) for frame in result.frames()] == [0, 5_000, 1_000]


def test_a_query_reads_a_table_from_its_start(postgresql: PostgreSQL) -> None:
    """PostgreSQL lets a query join another one that reads the same large table, from its middle."""
    with query_result(
        found(postgresql.url()), replace(JOB, query="SELECT current_setting('x.y', true)")
    ) as result:
        assert isinstance(result.cursor, psycopg.ServerCursor)
        connection = result.cursor.connection
        assert connection.execute("SHOW synchronize_seqscans").fetchone() == ("off",)
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)
