"""Every command on a run in a store, from another folder and without BATCHLIC_STORE."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from batchlic.callbacks.store import Store
from batchlic.database import leases
from batchlic.database.postgresql import open_store, remember
from batchlic.job import make_job
from batchlic.runs.folder import RunFolder
from batchlic.runs.guards import Guards
from batchlic.runs.run import dry_run
from tests.endtoend.program import ACCOUNT, FLEXIBLE, Ended, batchlic, end, imei, keys, summary
from tests.postgresql import PASSWORD, WITH_PASSWORD, PostgreSQL
from tests.store.site import Site, assert_books_equal_results, site

pytestmark = pytest.mark.slow

LONG = "3600"
"""A lease that no busy machine lets lapse."""


@pytest.fixture
def at(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[Site]:
    with site(tmp_path / "site", postgresql, latency=0.3, devices=300) as found:
        yield found


def elsewhere(at: Site, *arguments: str, **settings: str) -> Ended:
    """Run a command in another folder, by default without BATCHLIC_STORE."""
    other = at.path.parent / "elsewhere"
    other.mkdir(exist_ok=True)
    return batchlic(*arguments, settings=keys(at.url, **settings), cwd=other)


def test_a_session_can_be_watched_and_paused_but_not_changed_from_elsewhere(at: Site) -> None:
    run, process = str(at.folder), at.assign(BATCHLIC_LEASE_S=LONG)
    at.until_sent(4, process)
    assert elsewhere(at, "limit", run, "--pause").code == 0
    status = json.loads(elsewhere(at, "status", run, "--json").out)
    [listed] = json.loads(elsewhere(at, "runs", str(at.path), "--json").out)
    report = elsewhere(at, "report", run)
    assert 0 < status["statuses"]["accepted"] < at.devices
    assert status["limits"]["bounds"]["is_paused"]
    assert listed["state"] == "at_work"
    assert "At work" in report.out
    for command in (
        ("audit", run, "--verify"),
        ("settle", run, "--as", "failed", "--reason", "x", "--yes"),
        ("retry", run, "--yes"),
        ("rollback", run, "--yes"),
        ("resume", run),
    ):
        refused = elsewhere(at, *command)
        assert refused.code == 4, (command, refused)
        assert f"pid {process.pid} on " in refused.err, (command, refused)
    assert elsewhere(at, "limit", run, "--resume").code == 0
    assert end(process).code == 0


def test_a_killed_run_is_settled_audited_and_exported_from_elsewhere(at: Site) -> None:
    run, process = str(at.folder), at.assign(BATCHLIC_LEASE_S=LONG)
    at.until_sent(4, process)
    at.kill_in_flight(process)
    at.ask("UPDATE leases SET expires_at = clock_timestamp()")
    assert elsewhere(at, "resume", run).code == 3
    assert_books_equal_results(at)
    assert elsewhere(at, "audit", run, "--verify").code == 0
    settled = elsewhere(at, "settle", run, "--as", "accepted", "--reason", "seen", "--yes")
    assert settled.code == 0, settled
    assert summary(at.folder)["statuses"] == {"accepted": at.devices}
    with closing(Store.open(str(at.path / "callbacks.db"))):
        pass
    reconciled = elsewhere(at, "reconcile", run, "--store", str(at.path / "callbacks.db"))
    assert reconciled.code == 0, reconciled
    assert elsewhere(at, "export", run, "--to", "out.csv").code == 0
    assert elsewhere(at, "audit", run, "--verify").code == 0


def test_a_rollback_has_its_journal_in_the_store_of_the_run(at: Site) -> None:
    assert at.finish(sku="SIMSec-IoT").code == 0
    back = elsewhere(at, "rollback", str(at.folder), "--yes")
    assert back.code == 0, back
    assert at.ask("SELECT count(*) FROM journals") == [(2,)]
    assert not list(at.path.rglob("journal.db"))


def test_a_retry_has_its_journal_in_the_store_of_the_run(at: Site) -> None:
    process = at.assign()
    at.until_sent(4, process)
    at.kill_in_flight(process)
    at.until_lapsed()
    assert at.finish().code == 3
    settled = elsewhere(at, "settle", str(at.folder), "--as", "failed", "--reason", "x", "--yes")
    assert settled.code == 3, settled
    again = elsewhere(at, "retry", str(at.folder), "--yes", "--consent-lifetime")
    assert again.code in {0, 3}, again
    assert at.ask("SELECT count(*) FROM journals") == [(2,)]
    assert not list(at.path.rglob("journal.db"))


def test_the_password_file_of_libpq_opens_the_store_of_a_run(at: Site) -> None:
    at.batchlic("store", "upgrade")
    at.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {WITH_PASSWORD}")
    address = at.server.url(at.database, f"{WITH_PASSWORD}:{PASSWORD}")
    assert at.finish(BATCHLIC_STORE=address).code == 0
    passwords = at.path / "pgpass"
    passwords.write_text(f"*:*:*:{WITH_PASSWORD}:{PASSWORD}\n")
    passwords.chmod(0o600)
    without = elsewhere(at, "status", str(at.folder), HOME=str(at.path))
    assert without.code == 2, without
    assert "PGPASSFILE" in without.err
    assert elsewhere(at, "status", str(at.folder), PGPASSFILE=str(passwords)).code == 0
    assert elsewhere(at, "status", str(at.folder), BATCHLIC_STORE=address).code == 0


def test_another_store_in_the_environment_does_not_hide_a_run(at: Site) -> None:
    assert at.finish().code == 0
    other = at.server.new_database(f"{at.database}_other")
    assert elsewhere(at, "status", str(at.folder), BATCHLIC_STORE=other).code == 0


def test_a_dry_run_leaves_nothing_in_the_store(tmp_path: Path, postgresql: PostgreSQL) -> None:
    store = remember(postgresql.new_database("dry"))
    (tmp_path / "fleet.csv").write_text(f"imei\n{imei(1)}\n")
    content = {
        "action": "assign",
        "inventory": {"files": [str(tmp_path / "fleet.csv")]},
        "license": {"sku": FLEXIBLE, "account": ACCOUNT},
        "store": {"url": store},
    }
    planned = dry_run(make_job(content, {}, where="test"), RunFolder(tmp_path / "run"), Guards())
    assert planned.planned == 1
    with open_store(store).engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(leases.leases)).scalar() == 0


def test_lists_find_the_password_of_the_store_in_the_settings(at: Site) -> None:
    at.ask(f"ALTER DATABASE {at.database} OWNER TO {WITH_PASSWORD}")
    guarded = at.server.url(at.database, f"{WITH_PASSWORD}:{PASSWORD}")
    assert at.finish("runs/one", BATCHLIC_STORE=guarded).code == 0
    listed = at.batchlic("runs", "runs", "--json", BATCHLIC_STORE=guarded)
    assert [run["state"] for run in json.loads(listed.out)] == ["finished"]
    history = at.batchlic("audit", "runs", "--device", imei(0), "--json", BATCHLIC_STORE=guarded)
    assert [event["event"] for event in json.loads(history.out)] == ["planned", "sent", "answered"]
    assert PASSWORD not in listed.out + history.out
