"""Rows of those who share a limit, in a real database."""

import json
import time

import sqlalchemy as sa

from batchlic.database.limits import exchange_sharers, leave_sharers, limit_sharers
from batchlic.database.postgresql import open_store

CARRIER = "https://thingspace.verizon.com/api"


def exchange(store: str, name: str, *scopes: str, lease_s: float = 60.0) -> dict[str, list[str]]:
    mine = {scope: (name, json.dumps(name)) for scope in scopes or ("login:a",)}
    heard = exchange_sharers(open_store(store), CARRIER, mine, lease_s=lease_s)
    return {scope: sorted(json.loads(content) for content in told) for scope, told in heard.contents.items()}


def rows(store: str) -> list[str]:
    with open_store(store).engine.connect() as connection:
        return list(connection.execute(sa.select(limit_sharers.c.name).order_by("name")).scalars())


def test_each_process_hears_all_of_its_scope(empty_store: str) -> None:
    exchange(empty_store, "1", "login:a", "account:X")
    exchange(empty_store, "2", "login:b")
    assert exchange(empty_store, "3", "login:a", "account:X") == {
        "login:a": ["1", "3"],
        "account:X": ["1", "3"],
    }


def test_a_process_has_one_row_however_often_it_tells(empty_store: str) -> None:
    for _ in range(3):
        exchange(empty_store, "1")
    assert rows(empty_store) == ["1"]


def test_the_row_of_a_process_that_is_gone_expires(empty_store: str) -> None:
    exchange(empty_store, "gone", lease_s=-1.0)
    assert exchange(empty_store, "2") == {"login:a": ["2"]}


def test_a_process_that_leaves_takes_expired_rows_with_it(empty_store: str) -> None:
    exchange(empty_store, "gone", lease_s=-1.0)
    for name in "12":
        exchange(empty_store, name)
    leave_sharers(open_store(empty_store), CARRIER, ["1"])
    assert rows(empty_store) == ["2"]


def test_the_clock_of_the_store_is_told(empty_store: str) -> None:
    heard = exchange_sharers(open_store(empty_store), CARRIER, {"login:a": ("1", "{}")}, lease_s=60.0)
    here = time.time() - time.monotonic()  # the server of the tests has the clock of this machine
    assert abs(heard.store_ahead_s - here) <= heard.unsure_s + 0.1
