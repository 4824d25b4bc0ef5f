"""Journals in a store: fences, one moment for readers, runs that do not see each other, one statement."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import psycopg
import pytest
import sqlalchemy as sa

from batchlic.carrier.answers import Answer
from batchlic.chunker import DeviceStatus
from batchlic.database import leases
from batchlic.database.leases import LeaseLost
from batchlic.database.postgresql import open_store, remember
from batchlic.errors import RunFolderError, StoppedEarly, UsageError
from batchlic.journal import Journal, Part, SessionEnd, StorePlace
from batchlic.journal.shared import SharedDatabase
from tests.journal.backends import figures, holding, new_place, session
from tests.journal.builders import ACCEPTED, AMBIGUOUS, CREATED_AT, identity, intent
from tests.postgresql import PASSWORD, WITH_PASSWORD, PostgreSQL
from tests.stores import take_away


def replace_holder(place: StorePlace) -> None:
    """Let another session take over, of which the holder has not heard yet."""
    take_away(place.store, place.lease_key)


def contents(place: StorePlace) -> tuple[int, int, int]:
    """The numbers of attempts, answers and ends of a run, as others see them."""
    with place.inspect() as journal:
        attempts = list(journal.attempts())
        ends = len(journal.session_ends())
    return len(attempts), sum(attempt.outcome is not None for attempt in attempts), ends


def intend(journal: Journal, batch_id: int) -> int:
    return anyio.run(journal.intend, intent(batch_id))


def answer(journal: Journal, seq: int, given: Answer = ACCEPTED) -> None:
    anyio.run(partial(journal.answer, seq, given, duration_ms=1.0, final=False))


def writing(journal: Journal) -> Any:  # noqa: ANN401 - of the driver
    """The driver's connection on which a journal commits."""
    database = journal._database
    assert isinstance(database, SharedDatabase)
    return database._connection.connection.driver_connection


def engine_of(journal: Journal) -> sa.Engine:
    """Where a journal gets its connections."""
    return journal._database.engine


END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def settle(journal: Journal) -> None:
    part = Part(1, None, "", 10)
    journal.settle([part], DeviceStatus.PENDING, settled_by="alice", reason="x", settled_at=CREATED_AT)


WRITES: dict[str, Callable[[Journal], Any]] = {
    "intent": lambda journal: intend(journal, 2),
    "answer": lambda journal: answer(journal, 1),
    "settlement": settle,
    "end": lambda journal: journal.end(SessionEnd(1, 2, 0)),
}


@pytest.mark.parametrize("what", WRITES)
def test_k_a_replaced_session_records_nothing_more(store: str, what: str) -> None:
    place = new_place(store)
    with session(place) as (journal, lease):
        intend(journal, 1)
        before = contents(place)
        replace_holder(place)
        with pytest.raises(LeaseLost, match="another session has taken over"):
            WRITES[what](journal)
        assert contents(place) == before
        assert lease.is_lost


@pytest.mark.parametrize("what", WRITES)
def test_k_a_session_whose_lease_may_have_lapsed_asks_nothing_of_the_store(
    store: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new_place(store)
    with session(place) as (journal, lease):
        intend(journal, 1)
        with monkeypatch.context() as patched:
            patched.setattr(leases, "_clock", lambda: lease._sure_until)
            with pytest.raises(LeaseLost, match="has not reached the store"):
                WRITES[what](journal)
        assert contents(place) == (1, 0, 0)


def test_k_a_group_of_which_one_lease_is_old_is_refused_as_a_whole(store: str) -> None:
    place = new_place(store)
    shard = replace(place, key=f"{place.key}/shard")
    with (
        session(place) as (_, lease),
        holding(shard) as of_shard,
        closing(place.open_held([lease, of_shard])) as journal,
    ):
        intend(journal, 1)
        replace_holder(shard)
        with pytest.raises(LeaseLost):
            intend(journal, 2)
    assert contents(place) == (1, 0, 0)


def test_k_a_replaced_session_does_not_create_the_journal(store: str) -> None:
    place = new_place(store)
    with holding(place):
        replace_holder(place)
        with pytest.raises(LeaseLost):
            place.create(identity(), created_at=CREATED_AT)
    assert not place.exists()


def test_two_runs_of_one_store_do_not_see_each_other(store: str) -> None:
    one, other = new_place(store), new_place(store)
    with session(one, run_id="one") as (first, _), session(other, run_id="other") as (second, _):
        for journal, count in ((first, 3), (second, 5)):
            seqs = [intend(journal, batch) for batch in range(count)]
            answer(journal, seqs[-1], AMBIGUOUS)
            settle(journal)
            journal.end(SessionEnd(1, 2, count))
    for place, run_id, count in ((one, "one", 3), (other, "other", 5)):
        with place.inspect() as read:
            assert read.identity.run_id == run_id
            assert [event.seq for event in read.history()] == list(range(1, count + 2))
            assert read.final_session_end == SessionEnd(1, 2, count)
            assert len(read.lost_answers()) == count


def test_readers_see_one_moment_while_a_session_records(store: str) -> None:
    place = new_place(store)
    with session(place) as (journal, _):
        intend(journal, 1)
        with place.inspect() as before:
            events = before.history()
            intend(journal, 2)
            settle(journal)
            assert (len(list(events)), *figures(before)) == (1, 1, 1, 1)
            assert before.settled_since_end == set()
        with place.inspect() as after:
            assert figures(after) == (3, 2, 2)


def test_readers_leave_no_connection_and_no_transaction_behind(store: str) -> None:
    place, engine = new_place(store), open_store(store).engine
    with session(place) as (journal, _):
        for _ in range(30):
            intend(journal, 1)
        with place.inspect() as reader, place.inspect() as other:
            next(iter(reader.history())), next(iter(other.history()))
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    is_idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%%'"
    )
    with engine.connect() as connection:
        assert connection.exec_driver_sql(is_idle).scalar() == 0


def test_a_session_closes_its_connections(store: str) -> None:
    place = new_place(store)
    with session(place) as (journal, _):
        intend(journal, 1)
        engine = journal._database.engine
        assert engine.pool.checkedout() == 1  # type: ignore[attr-defined]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@contextmanager
def statements(journal: Journal) -> Iterator[list[str]]:
    """The statements that a journal sends during the block."""
    sent: list[str] = []

    def record(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement)

    engine = journal._database.engine
    sa.event.listen(engine, "before_cursor_execute", record)
    yield sent
    sa.event.remove(engine, "before_cursor_execute", record)


@pytest.mark.anyio
async def test_a_group_is_one_statement_however_many_wait(store: str) -> None:
    with session(new_place(store)) as (journal, _), statements(journal) as sent:
        async with anyio.create_task_group() as tasks:
            for batch in range(200):
                tasks.start_soon(journal.intend, intent(batch))
        assert len(list(journal.attempts())) == 200
        inserts = [statement for statement in sent if "INSERT" in statement]
    assert 1 <= len(inserts) <= 20
    assert len(sent) == len(inserts) + 1


def test_a_commit_is_one_round_trip(store: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    trace = tmp_path_factory.mktemp("trace") / "messages"
    with session(new_place(store)) as (journal, _):
        intend(journal, 1)  # connects
        driver = writing(journal)
        with trace.open("wb") as file:
            driver.pgconn.trace(file.fileno())
            intend(journal, 2)
            driver.pgconn.untrace()
    assert trace.read_text().count("ReadyForQuery") == 1


def test_a_session_numbers_its_entries_in_its_own_range(store: str) -> None:
    place = new_place(store)
    with session(place) as (journal, lease):
        intend(journal, 1)
        for _ in range(2):
            with closing(place.open_held([lease], seqs=range(1000, 2000))) as shard:
                intend(shard, 2)
        with closing(place.open_held([lease], seqs=range(2000, 3000))) as other:
            intend(other, 3)
    with place.inspect() as read:
        assert [attempt.seq for attempt in read.attempts()] == [1, 1000, 1001, 2000]


def test_request_ids_of_other_runs_are_those_sent_since(store: str) -> None:
    one, other = new_place(store), new_place(store)
    for place, request_id in ((one, "own"), (other, "of another")):
        with session(place) as (journal, _):
            seq = intend(journal, 1)
            answer(journal, seq, replace(ACCEPTED, request_id=request_id))
    assert "of another" in one.request_ids_of_others(since=CREATED_AT)
    assert "own" not in one.request_ids_of_others(since=CREATED_AT)
    assert "of another" not in one.request_ids_of_others(since=CREATED_AT + 1)


def test_a_deleted_journal_leaves_no_entry_and_no_other_run_changes(store: str) -> None:
    place, other = new_place(store), new_place(store)
    with session(other) as (journal, _):
        settle(journal)
    with session(place) as (journal, _):
        seq = intend(journal, 1)
        answer(journal, seq)
        settle(journal)
        journal.end(SessionEnd(1, 2, 0))
        number = place._number()
        place.delete()
    assert not place.exists()
    for table in ("intents", "answers", "settlements", "session_ends"):
        with open_store(store).engine.connect() as connection:
            query = f"SELECT count(*) FROM {table} WHERE run = {number}"  # noqa: S608 - ours
            assert connection.exec_driver_sql(query).scalar() == 0
    with other.inspect() as kept:
        assert len(list(kept.history())) == 1


def test_a_deleted_journal_leaves_no_lease_of_a_shard(store: str) -> None:
    place, shared = new_place(store), open_store(store)
    with session(place) as (_, lease):
        below = f"{place.lease_key}/shard:0"
        leases.take_below(shared, below, lease.fence, what="shard", holder="worker", lease_s=30)
        place.delete()
    with shared.engine.connect() as connection:
        query = sa.select(leases.leases.c.key).where(leases.leases.c.key == below)
        assert connection.execute(query).all() == []


def test_k_a_replaced_session_does_not_delete_the_journal(store: str) -> None:
    place = new_place(store)
    with session(place):
        replace_holder(place)
        with pytest.raises(LeaseLost):
            place.delete()
    assert place.exists()


def test_a_store_without_the_journal_is_named(store: str) -> None:
    place = new_place(store)
    for read in (
        place.identity,
        place.outline,
        place.tail().read,
        lambda: place.request_ids_of_others(since=0),
    ):
        with pytest.raises(RunFolderError, match=r"runs/one.*: there is no journal"):
            read()


def test_places_and_lost_leases_travel_between_processes(store: str) -> None:
    place = new_place(store)
    copy, lost = pickle.loads(pickle.dumps((place, LeaseLost("run: its lease is lost"))))  # noqa: S301 - ours
    assert (copy, str(lost)) == (place, "run: its lease is lost")


# -- watching --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_the_tail_misses_nothing_when_transactions_end_in_any_order(store: str, first_to_end: int) -> None:
    place = new_place(store)
    with session(place) as (journal, _):
        tail, found = place.tail(), []
        for batch in range(1, 3):
            intend(journal, batch)
        engine, number = open_store(store).engine, place._number()
        insert = (
            "INSERT INTO answers (run, seq, duration_ms, outcome, final) "  # noqa: S608 - ours
            f"VALUES ({number}, %(seq)s, 1, 'accepted', false)"
        )
        connections = [engine.connect(), engine.connect()]
        for seq, connection in enumerate(connections, start=1):
            connection.exec_driver_sql(insert, {"seq": seq})
        for index in (first_to_end, 1 - first_to_end):
            connections[index].commit()
            connections[index].close()
            found += [answered.batch_id for answered in tail.read()[0]]
    assert sorted(found) == [1, 2]
    assert tail.read() == ([], [])


def test_the_tail_tells_answers_and_settlements_once(store: str) -> None:
    place = new_place(store)
    with session(place) as (journal, _):
        tail = place.tail()
        assert tail.read() == ([], [])
        assert tail.identity == identity()
        seq = intend(journal, 3)
        answer(journal, seq)
        settle(journal)
        answered, settled = tail.read()
        assert [(found.batch_id, found.outcome, found.http_status) for found in answered] == [
            (3, "accepted", 200)
        ]
        assert [(found.batch_id, found.status) for found in settled] == [(1, "pending")]
        assert tail.read() == ([], [])


# -- errors ----------------------------------------------------------------------------------------------


def test_a_session_goes_on_after_its_connection_was_ended(store: str) -> None:
    place = new_place(store)
    with session(place) as (journal, _):
        intend(journal, 1)
        list(journal.attempts())  # by a connection that is in the pool then
        with open_store(store).engine.begin() as connection:
            connection.exec_driver_sql(END_OTHERS)
        intend(journal, 2)
        journal.end(SessionEnd(1, 2, 0))
        assert contents(place) == (2, 0, 1)


def test_an_entry_whose_commit_was_not_confirmed_is_recorded_once(store: str) -> None:
    place = new_place(store)

    def lose_confirmation(connection: sa.Connection, *_: object) -> None:
        connection.connection.dbapi_connection.close()  # type: ignore[union-attr]
        raise psycopg.OperationalError

    with session(place) as (journal, _):
        intend(journal, 1)
        sa.event.listen(engine_of(journal), "after_cursor_execute", lose_confirmation, once=True)
        intend(journal, 2)
        answer(journal, 2)
        assert contents(place) == (2, 1, 0)


def test_a_session_stops_if_its_connections_end_again(store: str) -> None:
    place = new_place(store)

    def end_it(connection: sa.Connection, *_: object) -> None:
        connection.connection.dbapi_connection.close()  # type: ignore[union-attr]

    with session(place) as (journal, _):
        intend(journal, 1)
        sa.event.listen(engine_of(journal), "before_cursor_execute", end_it)
        with pytest.raises(StoppedEarly, match=r"the journal in postgresql://.*fix the cause"):
            intend(journal, 2)


def test_a_dropped_database_is_an_error_that_says_so(postgresql: PostgreSQL) -> None:
    name = remember(postgresql.new_database("dropped"))
    place = new_place(name)
    with session(place) as (journal, _):
        intend(journal, 1)
        postgresql.execute("DROP DATABASE dropped WITH (FORCE)")
        with pytest.raises(StoppedEarly, match="terminat"):
            intend(journal, 2)
        with pytest.raises(UsageError, match=r"does not exist.*create the database"):
            intend(journal, 2)


def test_a_read_only_store_stops_a_session_and_can_be_read(postgresql: PostgreSQL) -> None:
    name = remember(postgresql.new_database("standby"))
    place = new_place(name)
    with session(place) as (journal, lease):
        intend(journal, 1)
        postgresql.execute("ALTER DATABASE standby SET default_transaction_read_only = on")
        with closing(place.open_held([lease])) as again:
            with pytest.raises(StoppedEarly, match=r"is read-only.*primary"):
                intend(again, 2)
            with pytest.raises(StoppedEarly, match=r"is read-only.*primary"):
                settle(again)
    assert contents(place) == (1, 0, 0)


def test_a_user_without_permission_is_told_so(postgresql: PostgreSQL) -> None:
    address = postgresql.new_database("granted")
    place = new_place(remember(address))
    with session(place) as (journal, _):
        intend(journal, 1)
    guarded = remember(address.replace("postgres@", f"{WITH_PASSWORD}:{PASSWORD}@"))
    with pytest.raises(UsageError, match=r"lacks a permission.*grant it") as refused:
        replace(place, store=guarded).identity()
    assert PASSWORD not in str(refused.value)
