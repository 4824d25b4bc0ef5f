"""The store of callbacks: what it keeps once, and stores of other versions."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from batchlic.callbacks.store import FILE_FORMAT, Store, StoreError, metadata
from batchlic.database import write_format
from batchlic.database.postgresql import open_store, remember
from batchlic.errors import RunFolderError, UsageError
from tests.callbacks.builders import message_about
from tests.postgresql import WITH_PASSWORD, PostgreSQL


@pytest.fixture(params=["file", "database"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be made."""
    if request.param == "file":
        return str(tmp_path / "store.db")
    return str(request.getfixturevalue("empty_store"))


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"received_at": 1}, 1),
        ({"status": "REQUEST_ONHOLD.X"}, 2),
        ({"error_code": "REQUEST_FAILED.X"}, 2),
        ({"further_ids": "IMEI:490154203237518"}, 2),
        ({"account_name": "0000999999-00001"}, 2),
        ({"raw": "{}"}, 2),
    ],
)
def test_a_message_with_the_same_content_is_kept_once(
    location: str, changes: dict[str, Any], rows: int
) -> None:
    message = message_about("request-1", "864508030109877")
    with closing(Store.open(location)) as store:
        store.write([message, message])
        store.write([message._replace(**changes)])
        assert store.extent()[0] == rows


def test_a_message_of_a_hundred_devices_and_a_long_body_is_kept_whole(location: str) -> None:
    further = " ".join(f"IMEI:{number:015d}" for number in range(100))
    message = message_about("request-1", further_ids=further, raw="x" * 60_000)
    with closing(Store.open(location)) as store:
        store.write([message])
        assert list(store.raw_messages()) == [message]


def test_a_store_of_another_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    write_format(path, replace(FILE_FORMAT, version=1))
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=f"schema 1; this one reads {FILE_FORMAT.version}"):
        Store.open(str(path))
    assert path.read_bytes() == before


def test_an_older_postgresql_table_of_messages_becomes_a_store(postgresql: PostgreSQL) -> None:
    location = postgresql.new_database("older")
    message = message_about("request-1")
    engine = sa.create_engine(sa.make_url(location).set(drivername="postgresql+psycopg"))
    metadata.create_all(engine)  # as batchlic did before it knew stores
    engine.dispose()
    with closing(Store.open(location)) as store:
        store.write([message, message])
        assert store.extent() == (1, message.received_at)
    assert open_store(remember(location)).name == remember(location)


def test_a_wrong_password_of_a_store_is_a_mistake_of_the_settings(postgresql: PostgreSQL) -> None:
    location = postgresql.url(user=f"{WITH_PASSWORD}:wrong")
    with pytest.raises(UsageError, match="rejects the login") as refused:
        Store.open(location)
    assert "wrong" not in str(refused.value)


def test_a_database_that_does_not_answer_stops_a_listener() -> None:
    with pytest.raises(StoreError, match="can't be used now"):
        Store.open("postgresql://nobody@/none?host=/nowhere")


def test_a_postgresql_table_of_another_version_is_refused(postgresql: PostgreSQL) -> None:
    location = postgresql.new_database("other_version")
    postgresql.execute("CREATE TABLE messages (id bigint PRIMARY KEY, succeeded boolean)", "other_version")
    with pytest.raises(RunFolderError, match="written by another version of batchlic"):
        Store.open(location)
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert postgresql.execute(tables, "other_version") == [("messages",)]
