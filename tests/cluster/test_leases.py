"""Leases below another one: a shard sends and records only as long as its run is held by the same session."""

from collections.abc import Iterator
from contextlib import closing

import anyio
import pytest
import sqlalchemy as sa

from batchlic.cluster.messages import ShardTask
from batchlic.cluster.worker import _only_login
from batchlic.database import leases
from batchlic.database.leases import Lease, LeaseLost
from batchlic.database.postgresql import Store, open_store
from batchlic.errors import CredentialsRejected, RefusedToStart, StoppedEarly
from batchlic.journal import Journal, StorePlace
from tests.journal.builders import identity, intent
from tests.postgresql import PostgreSQL
from tests.stores import new_store

LEASE_S = 30.0
RUN = "run:4711"
SHARD = f"{RUN}/shard:1"


@pytest.fixture(scope="module")
def only_store(postgresql: PostgreSQL) -> Store:
    return open_store(new_store(postgresql, "shards"))


@pytest.fixture
def store(only_store: Store) -> Iterator[Store]:
    yield only_store
    with only_store.engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE leases, journals, intents"))


def taken(store: Store) -> Lease:
    return leases.take(store, RUN, what="run", holder="one", lease_s=LEASE_S)


def taken_below(store: Store, run: Lease) -> Lease:
    return leases.take_below(store, SHARD, run.fence, what="shard", holder="worker", lease_s=LEASE_S)


def lapse(store: Store, key: str) -> None:
    """Let a lease end as if its holder had not been heard of for long."""
    with store.engine.begin() as connection:
        statement = leases.leases.update().where(leases.leases.c.key == key)
        connection.execute(statement.values(expires_at=leases._NOW))


def test_a_shard_is_taken_only_below_the_session_at_work(store: Store) -> None:
    old = taken(store)
    lapse(store, RUN)
    with pytest.raises(LeaseLost, match="is gone"):
        taken_below(store, old)
    taken(store)
    with pytest.raises(LeaseLost, match="is gone"):
        taken_below(store, old)


def test_a_run_is_not_taken_while_a_shard_is_held(store: Store) -> None:
    taken_below(store, taken(store))
    lapse(store, RUN)
    with pytest.raises(RefusedToStart, match="worker"):
        taken(store)
    lapse(store, SHARD)
    assert taken(store).epoch == 2


def test_a_shard_lapses_no_later_than_its_run(store: Store) -> None:
    run = leases.take(store, RUN, what="run", holder="one", lease_s=2.0)
    taken_below(store, run)
    found = leases.holder_of(store, SHARD)
    assert found is not None
    assert found.expires_in_s <= 2.0


def test_a_shard_is_not_renewed_once_its_run_is_released(store: Store) -> None:
    shard = taken_below(store, taken(store))
    lapse(store, RUN)
    with store.engine.begin() as connection:
        shard._renew(connection)
    with pytest.raises(LeaseLost, match="is gone"):
        shard.check()


def test_a_shard_hears_a_request_to_stop(store: Store) -> None:
    run = taken(store)
    shard = taken_below(store, run)
    leases.request_stop_below(store, RUN)
    with store.engine.begin() as connection:
        shard._renew(connection)
    assert shard.stop_requested
    assert not run.stop_requested


def test_who_takes_over_a_shard_that_shall_stop_knows_it(store: Store) -> None:
    run = taken(store)
    taken_below(store, run)
    leases.request_stop_below(store, RUN)
    lapse(store, SHARD)
    assert taken_below(store, run).stop_requested


def test_the_shards_of_the_next_session_need_not_stop(store: Store) -> None:
    taken_below(store, taken(store))
    leases.request_stop_below(store, RUN)
    lapse(store, SHARD)
    lapse(store, RUN)
    assert not taken_below(store, taken(store)).stop_requested


def opened(store: Store, shard: Lease) -> Journal:
    return StorePlace(store.name, "4711", "run").open_held([shard], seqs=range(2**32, 2**33))


def create_run(store: Store) -> None:
    with leases.held(store, RUN, what="run", holder="one"):
        StorePlace(store.name, "4711", "run").create(identity(), created_at=1).close()


@pytest.mark.parametrize("how", ["the run is taken", "the session ends"])
def test_a_replaced_shard_records_nothing(store: Store, how: str) -> None:
    create_run(store)
    shard = taken_below(store, taken(store))
    with closing(opened(store, shard)) as journal:
        if how == "the run is taken":
            lapse(store, RUN)
            lapse(store, SHARD)
            taken(store)
        else:
            leases.replace_below(store, RUN)
        with pytest.raises(LeaseLost):
            anyio.run(journal.intend, intent())
    with StorePlace(store.name, "4711", "run").inspect() as journal:
        assert journal.is_fresh


def test_a_shard_numbers_its_entries_in_its_own_range(store: Store) -> None:
    create_run(store)
    shard = taken_below(store, taken(store))
    with closing(opened(store, shard)) as journal:
        assert anyio.run(journal.intend, intent()) == 2**32
    lapse(store, SHARD)
    with closing(opened(store, shard)) as journal:
        assert journal.next_seq == 2**32 + 1


def test_the_coordinator_counts_on_after_all_shards(store: Store) -> None:
    create_run(store)
    run = taken(store)
    place = StorePlace(store.name, "4711", "run")
    with closing(place.open_held([run])) as journal, closing(opened(store, taken_below(store, run))) as other:
        assert (journal.is_fresh, journal.next_seq) == (True, 1)
        anyio.run(other.intend, intent())
        journal.catch_up()
        assert (journal.is_fresh, journal.next_seq) == (False, 2**32 + 1)


def test_g_after_a_rejected_login_no_other_shard_logs_in(store: Store) -> None:
    async def log_in(number: int) -> None:
        async with _only_login(task(run, store, number), store):
            tried.append(number)
            raise CredentialsRejected("wrong password")

    tried: list[int] = []
    with leases.held(store, RUN, what="run", holder="one", lease_s=LEASE_S) as run:
        with pytest.raises(CredentialsRejected):
            anyio.run(log_in, 1)
        with pytest.raises(StoppedEarly, match="does not log in"):
            anyio.run(log_in, 2)
    assert tried == [1]


def task(run: Lease, store: Store, number: int) -> ShardTask:
    """A shard of a run that is held."""
    return ShardTask(
        store=store.name,
        key=RUN.removeprefix("run:"),
        folder="runs/one",
        epoch=run.epoch,
        lease_s=LEASE_S,
        number=number,
        first_batch=1,
        end_batch=2,
        sharers=1,
        rate_sharers=1,
        first_seq=1,
        end_seq=2,
        carrier="sandbox",
        sandbox=None,
        profile=None,
        job={},
        bounds=None,
    )
