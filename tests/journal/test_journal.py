"""The journal on a real disk: records are durable on return, survive a kill, and damage is reported."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import sqlalchemy as sa

from batchlic.carrier.answers import Answer, Blame, Outcome
from batchlic.carrier.rate_limits import MAX_WAIT_S
from batchlic.chunker import DeviceStatus
from batchlic.errors import RunFolderError, StoppedEarly
from batchlic.journal import Journal, LostAnswers, Part, SessionEnd, Settlement
from batchlic.journal.databases import ROWS_PER_STATEMENT, SqliteDatabase
from batchlic.journal.journal import read_identity
from tests.journal.backends import Backend
from tests.journal.builders import (
    ACCEPTED,
    AMBIGUOUS,
    CREATED_AT,
    REFUSED,
    THROTTLED,
    identity,
    intent,
    new_journal,
)

WRITER = """
import os, sys, anyio
from pathlib import Path
from batchlic.journal import Journal
from tests.journal.backends import Backend
from tests.journal.builders import ACCEPTED, intent

async def write(journal, worker):
    while True:
        seq = await journal.intend(intent(worker))
        os.write(1, f"intent {seq}\\n".encode())
        await journal.answer(seq, ACCEPTED, duration_ms=1.0, final=False)
        os.write(1, f"answer {seq}\\n".encode())

async def main():
    journal = Journal.open(Path(sys.argv[1]))
    async with anyio.create_task_group() as tasks:
        for worker in range(8):
            tasks.start_soon(write, journal, worker)

anyio.run(main)
"""


def writing(journal: Journal) -> sa.Connection:
    """The connection on which a journal commits."""
    database = journal._database
    assert isinstance(database, SqliteDatabase)
    return database.connection


def rows(path: Path, table: str) -> list[int]:
    """The rows that a second connection reads."""
    with closing(sqlite3.connect(path)) as other:
        return [seq for (seq,) in other.execute(f"SELECT seq FROM {table} ORDER BY seq")]  # noqa: S608 - ours


@pytest.mark.anyio
async def test_b_an_intent_is_durable_when_intend_returns(backend: Backend) -> None:
    with backend.new_journal() as journal:
        seq = await journal.intend(intent())
        assert backend.seen() == [(seq, None)]


@pytest.mark.anyio
async def test_c_an_answer_is_durable_when_answer_returns(backend: Backend) -> None:
    with backend.new_journal() as journal:
        seq = await journal.intend(intent())
        await journal.answer(seq, ACCEPTED, duration_ms=1.0, final=False)
        assert backend.seen() == [(seq, "accepted")]


@pytest.mark.anyio
async def test_j_the_longest_wait_that_is_left_is_known(backend: Backend) -> None:
    with backend.new_journal() as journal:
        assert journal.remaining_wait_s(CREATED_AT) == 0
        for started_at in (CREATED_AT + 2_000_000, CREATED_AT):
            seq = await journal.intend(intent(started_at=started_at))
            await journal.answer(seq, THROTTLED, duration_ms=500.0, final=False)
        assert journal.remaining_wait_s(CREATED_AT + 2_500_000) == 1.5
        assert journal.remaining_wait_s(CREATED_AT + 3_000_000) == 1.0
        assert journal.remaining_wait_s(CREATED_AT + 5_000_000) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("clock_was_ahead_s", [1, 1200, 86_400])
async def test_no_wait_grows_when_the_clock_is_put_right(backend: Backend, clock_was_ahead_s: int) -> None:
    with backend.new_journal() as journal:
        seq = await journal.intend(intent(started_at=CREATED_AT + clock_was_ahead_s * 1_000_000))
        await journal.answer(seq, THROTTLED, duration_ms=500.0, final=False)
        assert journal.remaining_wait_s(CREATED_AT + 600_000) == 1.5


@pytest.mark.anyio
async def test_a_wait_that_is_not_plausible_does_not_outlive_its_session(backend: Backend) -> None:
    with backend.new_journal() as journal:
        seq = await journal.intend(intent())
        answer = replace(THROTTLED, retry_after_s=MAX_WAIT_S)
        await journal.answer(seq, answer, duration_ms=500.0, final=False)
        assert journal.remaining_wait_s(CREATED_AT + 1_000_000) == 0
        assert journal.has_implausible_wait


@pytest.mark.anyio
async def test_a_wait_dated_in_the_future_is_over_in_time_for_later_sessions(backend: Backend) -> None:
    day, second = 86_400_000_000, 1_000_000
    with backend.new_journal() as journal:
        seq = await journal.intend(intent(started_at=CREATED_AT + day))
        await journal.answer(seq, replace(THROTTLED, retry_after_s=600.0), duration_ms=0.0, final=False)
        journal.end(SessionEnd(CREATED_AT, CREATED_AT + day, 6))
        assert journal.remaining_wait_s(CREATED_AT) == 600
        journal.end(SessionEnd(CREATED_AT, CREATED_AT, 6))  # resumed too early, by a clock that is right
        assert journal.remaining_wait_s(CREATED_AT + 500 * second) == pytest.approx(100)
        assert journal.remaining_wait_s(CREATED_AT + 600 * second) == 0


@pytest.mark.anyio
async def test_a_clock_put_right_within_a_session_dates_its_waits(backend: Backend) -> None:
    with backend.new_journal() as journal:
        seq = await journal.intend(intent(started_at=CREATED_AT + 86_400_000_000))
        await journal.answer(seq, replace(THROTTLED, retry_after_s=60.0), duration_ms=0.0, final=False)
        journal.end(SessionEnd(CREATED_AT, CREATED_AT + 10_000_000, 6))
        assert journal.remaining_wait_s(CREATED_AT + 30_000_000) == pytest.approx(40)


@pytest.mark.anyio
async def test_an_intent_that_was_not_sent_does_not_count_as_a_request(backend: Backend) -> None:
    with backend.new_journal() as journal:
        for answer in (THROTTLED, Answer(outcome=Outcome.THROTTLED), AMBIGUOUS):
            await journal.answer(await journal.intend(intent()), answer, duration_ms=1.0, final=False)
        assert journal.outcomes() == {Outcome.THROTTLED: 1, Outcome.AMBIGUOUS: 1}


@pytest.mark.anyio
async def test_commits_are_synced_to_the_disk(tmp_path: Path) -> None:
    with closing(new_journal(tmp_path)) as journal:
        pragmas = {
            name: writing(journal).exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


@pytest.mark.anyio
async def test_many_intents_at_once_cost_few_transactions(tmp_path: Path) -> None:
    commits = 0

    def count(_: object) -> None:
        nonlocal commits
        commits += 1

    with closing(new_journal(tmp_path)) as journal:
        sa.event.listen(journal._database.engine, "commit", count)
        async with anyio.create_task_group() as tasks:
            for batch in range(200):
                tasks.start_soon(journal.intend, intent(batch))
        assert len(rows(tmp_path / "journal.db", "intents")) == 200
    assert 1 <= commits <= 20


@pytest.mark.anyio
async def test_more_intents_at_once_than_a_statement_takes_are_all_written(backend: Backend) -> None:
    count = 2 * ROWS_PER_STATEMENT + 1
    with backend.new_journal() as journal:
        async with anyio.create_task_group() as tasks:
            for number in range(1, count + 1):
                tasks.start_soon(journal.intend, intent(batch_id=number, part=str(number)))
        written = [(attempt.batch_id, attempt.part) for attempt in journal.history()]
    assert sorted(written) == [(number, str(number)) for number in range(1, count + 1)]


@pytest.mark.anyio
async def test_a_query_during_a_commit_reads_the_state_before_it(tmp_path: Path) -> None:
    has_begun, may_continue = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        has_begun.set()
        may_continue.wait(300)

    with closing(new_journal(tmp_path)) as journal:
        await journal.intend(intent())
        sa.event.listen(writing(journal), "before_cursor_execute", wait)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.intend, intent(2))
            await anyio.to_thread.run_sync(has_begun.wait, 300)
            seen = [attempt.batch_id for attempt in journal.attempts(batches=range(1, 10))]
            outcomes = journal.outcomes()
            may_continue.set()
        assert (seen, outcomes) == ([1], {None: 1})
        assert [attempt.batch_id for attempt in journal.attempts()] == [1, 2]


def test_only_the_owner_can_read_the_journal_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(new_journal(tmp_path)) as journal:
            journal.end(SessionEnd(1, 2, 0))
            files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert files == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 0o600)


@pytest.mark.anyio
async def test_a_reopened_journal_has_the_same_content(backend: Backend) -> None:
    with backend.new_journal(rejected={"duplicate": 3}) as journal:
        assert journal.is_fresh
        first = await journal.intend(intent(2))
        await journal.intend(intent(1, part="0-4"))
        await journal.answer(first, AMBIGUOUS, duration_ms=2.5, final=False)
        journal.end(SessionEnd(1, 2, 6))
        journal.end(SessionEnd(3, 4, 0))
        before = list(journal.attempts())
    with backend.reopened() as again:
        assert again.identity == identity(rejected={"duplicate": 3})
        assert again.created_at == CREATED_AT
        assert not again.is_fresh
        assert list(again.attempts()) == before
        assert [attempt.batch_id for attempt in again.attempts(batches=range(1, 3))] == [1, 2]
        assert [attempt.batch_id for attempt in again.attempts(batches=range(2, 3))] == [2]
        assert again.session_ends() == [SessionEnd(1, 2, 6), SessionEnd(3, 4, 0)]
        assert again.outcomes() == {Outcome.AMBIGUOUS: 1, None: 1}
        assert await again.intend(intent()) == before[-1].seq + 1


@pytest.mark.anyio
async def test_the_refusals_of_a_part_are_counted_up_to_its_lost_answer(backend: Backend) -> None:
    parked = replace(REFUSED, outcome=Outcome.UNAVAILABLE, blame=Blame.ACCOUNT)
    gateway = Answer(outcome=Outcome.UNAVAILABLE, http_status=404)
    counts = []
    with backend.new_journal() as journal:
        for answer in (gateway, parked, THROTTLED, parked, AMBIGUOUS, parked):
            await journal.answer(await journal.intend(intent(part="1")), answer, duration_ms=1, final=False)
            await journal.answer(await journal.intend(intent(part="2")), parked, duration_ms=1, final=False)
            counts.append(journal.refusals(1, None, "1"))
        assert counts == [0, 1, 1, 2, 2, 2]
        assert (journal.refusals(1, "assign", "1"), journal.refusals(2, None, "1")) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_everything_acknowledged_survives_a_kill(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "journal.db"
    new_journal(tmp_path).close()
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(random.Random(seed).uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
    acknowledged = [line.split() for line in lines if line.endswith(b"\n")]
    with closing(Journal.open(path)) as journal:
        attempts = {attempt.seq: attempt for attempt in journal.attempts()}
    assert {int(seq) for kind, seq in acknowledged if kind == b"intent"} <= attempts.keys()
    answered = {seq for seq, attempt in attempts.items() if attempt.outcome == Outcome.ACCEPTED}
    assert {int(seq) for kind, seq in acknowledged if kind == b"answer"} <= answered


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def overwrite(data: bytes) -> bytes:
    return data[:4096] + os.urandom(len(data) - 4096)


def overwrite_end(data: bytes) -> bytes:
    return data[:-8192] + os.urandom(8192)


def overwrite_header(data: bytes) -> bytes:
    return os.urandom(100) + data[100:]


def rename_run_id(data: bytes) -> bytes:
    return data.replace(b'"run_id":"run-1"', b'"run_ix":"run-1"')


DAMAGES = [cut, overwrite, overwrite_end, overwrite_header, rename_run_id, lambda _: b""]


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_journal_is_refused_and_not_changed(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "journal.db"
    with closing(new_journal(tmp_path)) as journal:
        for batch in range(200):
            await journal.intend(intent(batch))
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(RunFolderError, match=r"journal\.db: the journal is damaged"):
        Journal.open(path)
    assert path.read_bytes() == damaged


def test_a_database_of_another_kind_is_not_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE other (x)")
    with pytest.raises(RunFolderError, match="is not a batchlic journal: restore"):
        Journal.open(path)


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    new_journal(tmp_path).close()
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RunFolderError, match=r"another version of batchlic \(schema 99; this one reads 2\)"):
        Journal.open(path)


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"journal\.db: there is no journal"):
        Journal.open(tmp_path / "journal.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    with closing(new_journal(tmp_path)) as journal:
        pages = writing(journal).exec_driver_sql("PRAGMA page_count").scalar()
        writing(journal).exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        writing(journal).rollback()
        written = 0

        async def write_until_full() -> None:
            nonlocal written
            while True:
                await journal.intend(intent())
                written += 1

        with pytest.raises(StoppedEarly, match=r"journal\.db can't be written.*full.*run the command again$"):
            await write_until_full()
        assert len(list(journal.attempts())) == written > 0
        writing(journal).exec_driver_sql("PRAGMA max_page_count = 1000000")
        writing(journal).rollback()
        await journal.intend(intent())
        assert len(list(journal.attempts())) == written + 1


@pytest.mark.anyio
async def test_a_read_only_disk_stops_the_run(tmp_path: Path) -> None:
    with closing(new_journal(tmp_path)) as journal:
        writing(journal).exec_driver_sql("PRAGMA query_only = 1")
        writing(journal).rollback()
        with pytest.raises(StoppedEarly, match="readonly"):
            await journal.intend(intent())


@pytest.mark.anyio
async def test_d_a_settlement_follows_the_attempts_it_decides_in_the_history(backend: Backend) -> None:
    with backend.new_journal() as journal:
        for batch in (1, 2):
            await journal.intend(intent(batch))
        settle(journal, Part(1, None, "0-3", 4), Part(2, None, "", 10))
        await journal.intend(intent(1))
    with backend.reopened() as again:
        settlement = Settlement(3, 1, None, "0-3", 4, "pending", "alice", "the portal says no", CREATED_AT)
        assert [event.seq for event in again.history()] == [1, 2, 3, 4, 5]
        assert list(again.history())[2] == settlement
        assert [event.seq for event in again.history(batches=range(1, 2))] == [1, 3, 5]


@pytest.mark.anyio
async def test_a_session_end_is_final_until_the_history_continues(backend: Backend) -> None:
    with backend.new_journal() as journal:
        await journal.intend(intent())
        assert journal.final_session_end is None
        journal.end(SessionEnd(1, 2, 3), file_hashes={"results.parquet": "ab"})
        assert journal.final_session_end == SessionEnd(1, 2, 3)
        assert journal.file_hashes() == {"results.parquet": "ab"}
        settle(journal, Part(1, None, "", 10))
        assert journal.final_session_end is None


@pytest.mark.anyio
async def test_only_what_was_settled_since_the_last_end_is_new(backend: Backend) -> None:
    with backend.new_journal() as journal:
        await journal.intend(intent())
        settle(journal, Part(1, None, "", 10))
        assert journal.settled_since_end == {DeviceStatus.PENDING}
        journal.end(SessionEnd(1, 2, 3))
        assert journal.settled_since_end == set()


@pytest.mark.anyio
async def test_only_what_was_sent_since_the_last_end_is_new(backend: Backend) -> None:
    with backend.new_journal() as journal:
        await journal.intend(intent())
        assert journal.sent_since_end
        journal.end(SessionEnd(1, 2, 6))
        settle(journal, Part(1, None, "", 10))
        assert not journal.sent_since_end


@pytest.mark.anyio
async def test_d_requests_whose_answers_are_not_known_are_counted_by_part(backend: Backend) -> None:
    sent = [(1, "", None), (1, "", AMBIGUOUS), (1, "", ACCEPTED), (2, "0-4", AMBIGUOUS), (3, "", REFUSED)]
    with backend.new_journal() as journal:
        for batch_id, part, answer in sent:
            seq = await journal.intend(intent(batch_id, part=part))
            if answer is not None:
                await journal.answer(seq, answer, duration_ms=1.0, final=False)
        assert sorted(journal.lost_answers()) == [LostAnswers(1, "", 2), LostAnswers(2, "0-4", 1)]


def settle(journal: Journal, *parts: Part) -> None:
    journal.settle(
        parts, DeviceStatus.PENDING, settled_by="alice", reason="the portal says no", settled_at=CREATED_AT
    )


def test_asking_for_the_identity_of_a_missing_journal_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"journal\.db: there is no journal$"):
        read_identity(tmp_path / "journal.db")
    assert list(tmp_path.iterdir()) == []
