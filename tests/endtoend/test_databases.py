"""Runs of a query: its rows and text in the summary, compared later, and no password anywhere."""

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from batchlic.sandbox.config import SandboxConfig
from tests.endtoend.program import (
    ACCOUNT,
    FLEXIBLE,
    Ended,
    batchlic,
    begin,
    books,
    end,
    imei,
    keys,
    summary,
    until,
)
from tests.forking import serving
from tests.postgresql import PASSWORD, WITH_PASSWORD, PostgreSQL
from tests.reader.databases import duckdb_file, postgresql_table, sqlite_file

QUERY = "SELECT imei, site FROM fleet ORDER BY imei"
TYPES = "imei text, site text"
DEVICES = [(imei(number), "north") for number in range(30)]
OPTIONS = ("--account", ACCOUNT, "--sku", FLEXIBLE, "--run-dir", "run", "--sandbox")
CHANGES = {
    "UPDATE fleet SET site = 'south' WHERE rowid = 7": "fleet.db has changed since the run began",
    "DROP TABLE fleet": "an inventory can't be compared with the input of the run",
}


def assign(database: str, cwd: Path, *options: str, query: str = QUERY, **settings: str) -> Ended:
    return batchlic("assign", database, *OPTIONS, "--query", query, *options, settings=settings, cwd=cwd)


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.mark.slow
def test_the_summary_has_the_query_and_its_rows(tmp_path: Path) -> None:
    sqlite_file(tmp_path / "fleet.db", [*DEVICES, (None, "south")], TYPES)
    (tmp_path / "more.csv").write_text(f"IMEI\n{imei(99)}\n")
    ended = assign("sqlite:///fleet.db", tmp_path, "more.csv", "--json")
    assert ended.code == 3, ended.err
    written = summary(tmp_path / "run")
    assert written["sources"] == [
        {"name": "sqlite:///fleet.db", "rows": 31, "query": QUERY},
        {"name": "more.csv", "rows": 1},
    ]
    assert (written["rejected"], written["statuses"]) == ({"missing_identifier": 1}, {"accepted": 31})
    assert QUERY in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_run_goes_on_only_with_the_same_query_and_rows(tmp_path: Path) -> None:
    sqlite_file(tmp_path / "fleet.db", DEVICES, TYPES)
    assert assign("fleet.db", tmp_path).code == 0
    assert assign("fleet.db", tmp_path).code == 0
    other_query = "SELECT imei FROM fleet"
    other = assign("fleet.db", tmp_path, query=other_query)
    assert (other.code, f"inventory.query is {other_query}, was {QUERY}" in other.err) == (2, True)
    for statement, reason in CHANGES.items():
        change(tmp_path / "fleet.db", statement)
        again = assign("fleet.db", tmp_path)
        assert (again.code, reason in again.err) == (2, True), again.err


@pytest.mark.slow
def test_a_plan_is_applied_only_while_the_rows_are_the_same(tmp_path: Path) -> None:
    sqlite_file(tmp_path / "fleet.db", DEVICES, TYPES)
    plan = ("plan", "sqlite:///fleet.db", "--query", QUERY, *OPTIONS)
    assert batchlic(*plan, cwd=tmp_path).code == 0
    (tmp_path / "elsewhere").mkdir()
    change(tmp_path / "fleet.db", "UPDATE fleet SET site = 'south' WHERE rowid = 7")
    stale = batchlic("apply", "../run", "--sandbox", cwd=tmp_path / "elsewhere")
    assert stale.code == 4
    assert "fleet.db has changed (" in stale.err
    assert "or its rows came in another order (add ORDER BY to the query)" in stale.err
    change(tmp_path / "fleet.db", "UPDATE fleet SET site = 'north' WHERE rowid = 7")
    assert batchlic("apply", "../run", "--sandbox", cwd=tmp_path / "elsewhere").code == 0


@pytest.mark.slow
def test_f_no_file_or_stream_shows_the_password_of_a_database(tmp_path: Path, postgresql: PostgreSQL) -> None:
    postgresql_table(postgresql.new_database("secret_fleet"), DEVICES, TYPES)
    postgresql.execute(f"GRANT SELECT ON fleet TO {WITH_PASSWORD}", "secret_fleet")
    address = postgresql.url("secret_fleet", WITH_PASSWORD)
    in_address = address.replace("@", f":{PASSWORD}@")
    (tmp_path / "job.toml").write_text(
        f'action = "assign"\n[inventory]\nfiles = ["{in_address}"]\nquery = "{QUERY}"\n'
    )
    ended = [
        assign(address, tmp_path, PGPASSWORD=PASSWORD),
        assign(address, tmp_path, PGPASSWORD=f"{PASSWORD}-wrong"),
        assign(address, tmp_path, query="SELECT x FROM fleet", PGPASSWORD=PASSWORD),
        assign(in_address, tmp_path),
        batchlic("run", "job.toml", "--run-dir", "run", cwd=tmp_path),
        batchlic("check", "job.toml", "--sandbox", cwd=tmp_path),
        batchlic("audit", "run", "--verify", cwd=tmp_path),
    ]
    assert [one.code for one in ended] == [0, 2, 2, 2, 2, 3, 0]
    assert "PGPASSWORD" in ended[3].err
    (tmp_path / "job.toml").unlink()
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    texts += [(one.out + one.err).encode() for one in ended]
    assert not any(PASSWORD.encode() in text for text in texts)


@pytest.mark.slow
def test_a_sync_with_a_query_that_ends_early_removes_nothing(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """The queries end as the server ends, at a time limit, with an error, and without rows."""
    sqlite_file(tmp_path / "fleet.db", [(device, str(at)) for at, (device, _) in enumerate(DEVICES)], TYPES)
    rows = (
        "SELECT CASE n WHEN 60000 THEN ({})::text ELSE n::text END AS imei "
        "FROM generate_series(1, 99999) AS r(n)"
    )
    failing = "SELECT CASE site WHEN '20' THEN abs(-9223372036854775808) ELSE imei END AS imei FROM fleet"
    limited = f"{postgresql.url()}&options=-c%20statement_timeout%3D100"
    queries = [
        (
            postgresql.url(),
            rows.format("pg_terminate_backend(pg_backend_pid())"),
            "after 50,000 rows (terminating",
        ),
        (
            limited,
            rows.format("pg_sleep(60)"),
            "after 50,000 rows (canceling statement due to statement timeout",
        ),
        ("fleet.db", failing, "integer overflow"),
        ("fleet.db", f"{QUERY} LIMIT 0", "the query returns no rows"),
    ]
    options = (*OPTIONS[:4], "--max-removals", "100%", "--yes", "--run-dir")
    with serving(SandboxConfig()) as url:
        settings = keys(url)
        first = ("assign", "fleet.db", "--query", QUERY, *OPTIONS[:4], "--yes")
        assert batchlic(*first, settings=settings, cwd=tmp_path).code == 0
        known = books(url)
        for database, query, reason in queries:
            sync = ("sync", database, "--query", query, *options, "sync")
            ended = batchlic(*sync, settings=settings, cwd=tmp_path)
            assert (ended.code, reason in ended.err) == (2, True), ended.err
            assert not (tmp_path / "sync").exists()
        assert books(url) == known
    licensed = {device for device, record in known.items() if record["licenses"]}
    assert licensed == {device for device, _ in DEVICES}


@pytest.mark.slow
def test_check_reads_the_query_of_a_job(tmp_path: Path) -> None:
    sqlite_file(tmp_path / "fleet.db", DEVICES, TYPES)
    job = tmp_path / "job.toml"
    license = f'[license]\naccount = "{ACCOUNT}"\nsku = "{FLEXIBLE}"\n'
    files = 'action = "assign"\n[inventory]\nfiles = ["fleet.db"]\n'
    job.write_text(f'{files}query = "{QUERY}"\n{license}')
    good = batchlic("check", "job.toml", "--sandbox", cwd=tmp_path)
    assert "fleet.db: the query can be read" in good.out + good.err
    job.write_text(job.read_text().replace("FROM fleet", "FROM flet"))
    wrong = batchlic("check", "job.toml", "--sandbox", cwd=tmp_path)
    assert wrong.code == 3
    assert "no such table: flet" in wrong.out + wrong.err
    job.write_text(job.read_text().replace("FROM flet", "FROM fleet WHERE imei = ''"))
    empty = batchlic("check", "job.toml", "--sandbox", cwd=tmp_path)
    assert empty.code == 3
    assert "fleet.db: the query returns no rows" in empty.out + empty.err


ENDLESS = {
    "postgresql": "SELECT pg_sleep(600)::text AS imei",
    "sqlite": "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r) SELECT max(n) AS imei FROM r",
    "duckdb": "SELECT max(hash(a.n + b.n)) AS imei FROM range(10000000) AS a(n), range(10000000) AS b(n)",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_signal_ends_a_query_that_runs(tmp_path: Path, postgresql: PostgreSQL, kind: str) -> None:
    def is_reading(pid: int) -> bool:
        if kind == "postgresql":
            return bool(postgresql.execute(active))
        return any(file.path.endswith("fleet.db") for file in psutil.Process(pid).open_files())

    active = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    database = "fleet.db"
    if kind == "postgresql":
        database = postgresql.url()
    elif kind == "sqlite":
        sqlite_file(tmp_path / "fleet.db", DEVICES, TYPES)
    else:
        duckdb_file(tmp_path / "fleet.db", DEVICES, TYPES)
    process = begin("assign", database, *OPTIONS, "--query", ENDLESS[kind], settings={}, cwd=tmp_path)
    until(lambda: is_reading(process.pid))
    process.send_signal(signal.SIGTERM)
    ended = end(process)
    assert (ended.code, ended.err) == (6, "batchlic: stopped by SIGTERM\n")
    assert not (tmp_path / "run").exists()
    if kind == "postgresql":
        until(lambda: not is_reading(process.pid))
