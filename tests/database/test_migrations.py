"""Migrations of the store: they make the tables that the code declares, once, whoever begins."""

import threading
from collections.abc import Iterator
from importlib.resources import files

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects.postgresql.base import PGDialect

from batchlic.callbacks import store as callbacks
from batchlic.database import leases, limits, migrate, postgresql
from batchlic.database.postgresql import Store, remember
from batchlic.journal import shared_tables
from batchlic.ledger import announced
from batchlic.ledger import tables as ledger_tables
from tests.postgresql import PostgreSQL


@pytest.fixture
def empty(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setitem(PGDialect.ischema_names, "xid8", shared_tables.TransactionId)
    store = Store(remember(postgresql.new_database("migrated")))
    yield store
    store.engine.dispose()


def declared() -> sa.MetaData:
    """All tables of a store, as the packages that use them declare them."""
    metadata = sa.MetaData()
    parts = (shared_tables, leases, ledger_tables, announced, limits, callbacks)
    for part in parts:
        for table in part.metadata.tables.values():
            table.to_metadata(metadata)
    return metadata


def differences(store: Store) -> list[object]:
    with store.engine.connect() as connection:
        options = {"version_table": postgresql.VERSION_TABLE}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), declared()))


def test_a_migrated_database_has_the_declared_tables(empty: Store) -> None:
    migrate.upgrade(empty)
    assert differences(empty) == []


def test_the_comparison_notices_a_missing_column(empty: Store) -> None:
    migrate.upgrade(empty)
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE answers DROP COLUMN is_refusal")
    assert differences(empty)


def test_an_upgrade_of_the_newest_schema_changes_nothing(empty: Store) -> None:
    migrate.upgrade(empty)
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO leases VALUES ('run:1', 7, 'one', now(), false)")
    migrate.upgrade(empty)
    with empty.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT epoch FROM leases").scalars().all() == [7]


@pytest.mark.slow
def test_processes_that_upgrade_at_once_wait_for_each_other(empty: Store) -> None:
    errors: list[Exception] = []

    def upgrade() -> None:
        store = Store(empty.name)
        try:
            postgresql.prepare(store)
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)
        finally:
            store.engine.dispose()

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert errors == []
    assert differences(empty) == []


def test_a_store_of_callbacks_from_before_is_taken_over(empty: Store) -> None:
    messages = callbacks.metadata.tables["messages"]
    row = dict.fromkeys((column.name for column in messages.columns), "")
    with empty.engine.begin() as connection:
        callbacks.metadata.create_all(connection)
        connection.execute(messages.insert(), row | {"id": 1, "received_at": 1, "content_sha256": b"x"})
    postgresql.prepare(empty)
    with empty.engine.connect() as connection:
        assert connection.execute(sa.select(messages.c.id)).scalars().all() == [1]
    assert differences(empty) == []


def test_an_upgrade_that_fails_leaves_nothing(empty: Store) -> None:
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE leases (x integer)")
    with pytest.raises(sa.exc.DBAPIError):
        migrate.upgrade(empty)
    with empty.engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["leases"]


def test_each_migration_follows_the_one_before() -> None:
    folder = files("batchlic.database") / "migrations" / "versions"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name[0].isdigit())
    assert tuple(name[:4] for name in names) == postgresql.revisions()
    for before, name in zip([None, *postgresql.revisions()], names, strict=False):
        text = (folder / name).read_text()
        assert f'revision = "{name[:4]}"' in text
        assert f"down_revision = {before and chr(34) + before + chr(34)}" in text
