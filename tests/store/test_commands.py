"""`batchlic store check` and `upgrade`, and `batchlic check` where a store is set."""

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batchlic.callbacks.store import Store as CallbackStore
from batchlic.database import leases
from batchlic.database import postgresql as shared
from batchlic.errors import OtherVersion, RefusedToStart
from batchlic.journal.store_state import TABLES, upgrade
from tests.callbacks.builders import message_about
from tests.endtoend.program import batchlic, keys
from tests.postgresql import PostgreSQL
from tests.store.site import Site, site

SCHEMA = shared.head()


@pytest.fixture
def at(tmp_path: Path, postgresql: PostgreSQL) -> Iterator[Site]:
    with site(tmp_path, postgresql) as found:
        yield found


def test_an_empty_database_is_no_problem(at: Site) -> None:
    ended = at.batchlic("store", "check", "--json")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert (found["schema_version"], found["needed_schema_version"]) == (None, SCHEMA)
    assert (found["runs"], found["leases"], found["problems"]) == (0, [], [])
    assert not at.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def test_tables_of_another_program_are_exit_3_and_named(at: Site) -> None:
    at.ask("CREATE TABLE answers (id integer)")
    at.ask("CREATE TABLE customers (id integer)")
    ended = at.batchlic("store", "check")
    assert ended.code == 3
    assert "there are other tables of these names: answers: give batchlic a database of its own" in ended.out
    assert at.batchlic("store", "upgrade").code == 2


def test_upgrade_says_from_what_to_what_and_is_idempotent(at: Site) -> None:
    first, second = (at.batchlic("store", "upgrade", "--json") for _ in range(2))
    name = shared.name_of(shared.parse(at.store, what="the test"))
    assert json.loads(first.out) == {"store": name, "from": None, "to": SCHEMA}
    assert json.loads(second.out) == {"store": name, "from": SCHEMA, "to": SCHEMA}
    assert (first.code, second.code) == (0, 0)


@pytest.mark.slow
def test_check_shows_who_holds_a_lease_until_when(at: Site) -> None:
    process = at.assign(BATCHLIC_LEASE_S="3600")
    at.until_sent(4, process)
    [lease] = json.loads(at.batchlic("store", "check", "--json").out)["leases"]
    shown = at.batchlic("store", "check").out
    assert f"pid {process.pid} on " in lease["holder"]
    assert lease["of"].endswith("run")
    assert 0 < lease["expires_in_s"] <= 3600
    assert lease["holder"] in shown
    assert lease["expires_at"][:13] in shown
    assert "runs    1" in shown


@pytest.mark.slow
def test_an_upgrade_is_refused_while_a_lease_is_held(at: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name = with_older_schema(at, monkeypatch)
    store = shared.Store(name)
    leases.take(store, "run:x", what="run x", holder="pid 1 on h", lease_s=3600)
    store.engine.dispose()
    with pytest.raises(RefusedToStart, match=r"run:x \(pid 1 on h, until 20"):
        upgrade(name)
    assert at.ask("SELECT version_num FROM batchlic_schema") == [("0000",)]


@pytest.mark.slow
def test_an_older_schema_is_refused_and_says_how_to_upgrade(
    at: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = with_older_schema(at, monkeypatch)
    with pytest.raises(OtherVersion, match=r"is older \(0000; .*batchlic store upgrade.*Nothing was sent"):
        shared.open_store(name)


def with_older_schema(at: Site, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a store whose schema is of a version before the first one."""
    at.batchlic("store", "upgrade")
    at.ask("UPDATE batchlic_schema SET version_num = '0000'")
    monkeypatch.setattr(shared, "revisions", lambda: ("0000", SCHEMA))
    return shared.remember(at.store)


def test_a_problem_is_exit_3(at: Site) -> None:
    at.batchlic("store", "upgrade")
    at.ask("UPDATE batchlic_schema SET version_num = '9999'")
    ended = at.batchlic("store", "check")
    assert ended.code == 3
    assert "newer than this version of batchlic" in ended.out


def test_a_role_that_may_only_read_is_exit_3(at: Site) -> None:
    reader = f"reader_{secrets.token_hex(4)}"
    at.batchlic("store", "upgrade")
    at.ask(f"CREATE ROLE {reader} LOGIN")
    at.ask(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
    ended = at.batchlic("store", "check", BATCHLIC_STORE=at.server.url(at.database, reader))
    assert ended.code == 3
    assert f"{reader} may not read and write leases, journals" in ended.out


@pytest.mark.slow
def test_a_role_with_the_documented_grants_may_use_the_store(at: Site) -> None:
    """The role can also store callbacks, whose numbers come from a sequence."""
    role = f"runs_{secrets.token_hex(4)}"
    at.batchlic("store", "upgrade")
    at.ask(f"CREATE ROLE {role} LOGIN")
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "shared-state.md").read_text()
    grants = re.findall(r"^GRANT .*;$", page, re.MULTILINE)
    for grant in grants:
        at.ask(grant.replace(" TO runs;", f" TO {role}"))
    url = at.server.url(at.database, role)
    assert at.batchlic("store", "check", BATCHLIC_STORE=url).code == 0
    with closing(CallbackStore.open(url)) as callbacks:
        callbacks.write([message_about("r1")])
        assert callbacks.extent()[0] == 1


@pytest.mark.slow
def test_a_role_that_may_not_number_callbacks_is_exit_3(at: Site) -> None:
    role = f"runs_{secrets.token_hex(4)}"
    at.batchlic("store", "upgrade")
    at.ask(f"CREATE ROLE {role} LOGIN")
    at.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    ended = at.batchlic("store", "check", BATCHLIC_STORE=at.server.url(at.database, role))
    assert ended.code == 3
    assert f"{role} may not number callbacks" in ended.out


def test_the_check_knows_all_tables_of_a_store(at: Site) -> None:
    at.batchlic("store", "upgrade")
    tables = at.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {name for (name,) in tables} - {shared.VERSION_TABLE} == {*TABLES}


@pytest.mark.slow
def test_a_read_only_store_is_exit_3(at: Site) -> None:
    at.batchlic("store", "upgrade")
    at.ask(f"ALTER DATABASE {at.database} SET default_transaction_read_only = on")
    ended = at.batchlic("store", "check")
    assert ended.code == 3
    assert "read-only" in ended.out


def test_without_a_store_both_commands_are_exit_2(at: Site) -> None:
    for command in ("check", "upgrade"):
        ended = batchlic("store", command, settings=keys(at.url), cwd=at.path)
        assert ended.code == 2
        assert "set BATCHLIC_STORE" in ended.err


def test_a_server_that_does_not_answer_is_exit_6(at: Site) -> None:
    ended = at.batchlic("store", "check", BATCHLIC_STORE="postgresql://postgres@127.0.0.1:1/x")
    assert ended.code == 6


@pytest.mark.slow
def test_the_preflight_checks_the_store(at: Site) -> None:
    def finding(**changes: str) -> dict[str, str]:
        checks = json.loads(at.batchlic("check", "--no-login", "--json", **changes).out)["checks"]
        [found] = [check for check in checks if check["check"] == "shared store"]
        return dict(found)

    assert finding()["level"] == "ok"
    assert finding(BATCHLIC_STORE="postgresql://postgres@127.0.0.1:1/x")["level"] == "error"
    at.ask(f"ALTER DATABASE {at.database} SET default_transaction_read_only = on")
    assert "read-only" in finding()["message"]
