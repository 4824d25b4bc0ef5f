"""Leases: one holder at a time, who is told when others have taken over, or may have."""

import os
import re
import secrets
import threading

import pytest
import sqlalchemy as sa

from batchlic.database import leases
from batchlic.database.leases import Lease, LeaseLost
from batchlic.database.postgresql import Store, open_store, remember
from batchlic.errors import ExitCode, RefusedToStart, UsageError
from tests.postgresql import PostgreSQL

LEASE_S = 3600.0


@pytest.fixture
def shared(store: str) -> Store:
    return open_store(store)


@pytest.fixture
def key() -> str:
    return f"run:{secrets.token_hex(8)}"


def take(store: Store, key: str, holder: str = "pid 1 on one, since now") -> Lease:
    return leases.take(store, key, what="run one", holder=holder, lease_s=LEASE_S)


def beat(lease: Lease) -> None:
    """The heartbeat of a lease, once."""
    with leases._Heart(lease) as heart:
        heart.beat()


def lapse(store: Store, key: str) -> None:
    """Let the time of a lease pass, in the store."""
    with store.engine.begin() as connection:
        past = sa.func.clock_timestamp() - sa.text("interval '1 second'")
        connection.execute(leases.leases.update().where(leases.leases.c.key == key).values(expires_at=past))


def test_k_a_second_session_is_refused_by_who_holds_it_and_until_when(shared: Store, key: str) -> None:
    take(shared, key)
    with pytest.raises(RefusedToStart) as refused:
        take(shared, key, "pid 2 on two, since now")
    said = re.fullmatch(
        r"run one: another batchlic process is using it \(pid 1 on one, since now\); its lease lasts until "
        r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ \((\d+) s\) unless it is renewed; wait for it or stop it",
        str(refused.value),
    )
    assert said is not None
    assert LEASE_S / 2 < int(said[1]) <= LEASE_S
    assert refused.value.exit_code == ExitCode.REFUSED


def test_k_each_session_that_takes_over_has_a_higher_epoch(shared: Store, key: str) -> None:
    epochs = []
    for _ in range(3):
        epochs.append(take(shared, key).epoch)
        lapse(shared, key)
    assert epochs == [1, 2, 3]


def test_k_a_lapsed_lease_can_be_taken_and_its_holder_is_told(shared: Store, key: str) -> None:
    first = take(shared, key)
    lapse(shared, key)
    take(shared, key, "pid 2 on two, since now")
    beat(first)
    with pytest.raises(LeaseLost, match=r"run one: .*taken over by pid 2 on two.*in doubt") as lost:
        first.check()
    assert lost.value.exit_code == ExitCode.STOPPED


def test_a_holder_nobody_replaced_renews_even_a_lapsed_lease(shared: Store, key: str) -> None:
    lease = take(shared, key)
    lapse(shared, key)
    beat(lease)
    lease.check()
    with pytest.raises(RefusedToStart):
        take(shared, key)


def test_a_released_lease_is_free_at_once(shared: Store, key: str) -> None:
    with leases.held(shared, key, what="run one", holder="one", lease_s=LEASE_S):
        found = leases.holder_of(shared, key)
        assert found is not None
        assert found.holder == "one"
    assert leases.holder_of(shared, key) is None
    assert take(shared, key).epoch == 2


def test_a_session_that_was_replaced_does_not_release_its_successor(shared: Store, key: str) -> None:
    with leases.held(shared, key, what="run one", holder="one", lease_s=LEASE_S):
        lapse(shared, key)
        take(shared, key, "two")
    found = leases.holder_of(shared, key)
    assert found is not None
    assert found.holder == "two"


def test_no_thread_is_left_when_a_session_has_ended(shared: Store, key: str) -> None:
    with leases.held(shared, key, what="run one", holder="one", lease_s=LEASE_S):
        at_work = [thread for thread in threading.enumerate() if key in thread.name]
        assert at_work
    for thread in at_work:
        thread.join(60)
        assert not thread.is_alive()


def test_k_without_a_heartbeat_nothing_is_sent_in_the_last_tenth(
    shared: Store, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, began = take(shared, key), leases._clock()
    monkeypatch.setattr(leases, "_clock", lambda: began + 0.89 * LEASE_S)
    lease.check()
    monkeypatch.setattr(leases, "_clock", lambda: began + 0.9 * LEASE_S)
    with pytest.raises(LeaseLost, match="has not reached the store for"):
        lease.check()


def test_k_a_heartbeat_counts_from_when_it_was_sent(
    shared: Store, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, now = take(shared, key), leases._clock()
    times = iter([now + 100, *[now + 500] * 50])
    monkeypatch.setattr(leases, "_clock", lambda: next(times))
    beat(lease)
    assert lease._sure_until == now + 100 + LEASE_S


def test_k_a_lost_lease_stays_lost(shared: Store, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, now = take(shared, key), leases._clock()
    with monkeypatch.context() as patched:
        patched.setattr(leases, "_clock", lambda: now + LEASE_S)
        with pytest.raises(LeaseLost):
            lease.check()
    beat(lease)
    with pytest.raises(LeaseLost):
        lease.check()


def test_those_who_wait_are_told_once_when_a_lease_is_lost(shared: Store, key: str) -> None:
    lease, told = take(shared, key), []
    lease.on_loss(lambda: told.append("lost"))
    for _ in range(2):
        lease.lose("another session has taken over")
    assert told == ["lost"]


def test_a_holder_hears_with_its_heartbeat_that_it_shall_stop(shared: Store, key: str) -> None:
    above = take(shared, key)
    lease = leases.take_below(
        shared, f"{key}/shard:0", above.fence, what="shard 0", holder="one", lease_s=LEASE_S
    )
    beat(lease)
    assert not lease.stop_requested
    leases.request_stop_below(shared, key)
    beat(lease)
    assert lease.stop_requested
    lease.check()


def test_k_who_takes_over_waits_for_what_was_checked_before(shared: Store, key: str) -> None:
    first = take(shared, key)
    lapse(shared, key)
    order: list[str] = []

    def take_over() -> None:
        take(shared, key, "two")
        order.append("taken")

    with shared.engine.begin() as connection:
        leases.refuse_lost(connection, [first])
        successor = threading.Thread(target=take_over)
        successor.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %(what)s"
        )
        with shared.engine.connect() as other:
            while (
                successor.is_alive()
                and not other.exec_driver_sql(waiting, {"what": "%INSERT INTO leases AS held%"}).scalar()
            ):
                other.rollback()
        order.append("recorded")
    successor.join(60)
    assert order == ["recorded", "taken"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_that_ends_leaves_the_lease_to_the_other(shared: Store, key: str) -> None:
    held = leases.held(shared, key, what="run one", holder="one", lease_s=LEASE_S)
    lease = held.__enter__()
    child = os.fork()
    if child == 0:
        held.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(child, 0)
    beat(lease)
    lease.check()
    assert leases.holder_of(shared, key) is not None
    held.__exit__(None, None, None)
    assert leases.holder_of(shared, key) is None


def test_a_user_who_may_not_write_takes_no_lease(postgresql: PostgreSQL) -> None:
    open_store(remember(postgresql.new_database("watched")))
    postgresql.execute("CREATE ROLE watcher LOGIN")
    postgresql.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO watcher", "watched")
    watching = open_store(remember(postgresql.url("watched", "watcher")))
    assert leases.holder_of(watching, "run:1") is None
    with pytest.raises(UsageError, match=r"lacks a permission.*leases"):
        take(watching, "run:1")
