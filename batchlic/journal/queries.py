"""The queries of a journal. None of them writes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from heapq import merge
from operator import attrgetter
from typing import Any

import msgspec
import sqlalchemy as sa

from batchlic.carrier.answers import Outcome
from batchlic.carrier.rate_limits import MAX_WAIT_S
from batchlic.chunker.status import DeviceStatus
from batchlic.journal.databases import ALL_SEQS, JournalDatabase
from batchlic.journal.records import (
    Attempt,
    Event,
    LostAnswers,
    RunIdentity,
    Sending,
    SessionEnd,
    Settlement,
)

ROWS_PER_FETCH = 1000


class JournalQueries:
    """Reads the journal of one run.

    Each query raises StoppedEarly if the disk can't be read, and RunFolderError if the database is damaged.
    """

    def __init__(self, database: JournalDatabase) -> None:
        self._database = database
        self._source = database.source

    @cached_property
    def _last_seq(self) -> int:
        """The number of the newest entry, asked for once: readers see the journal of one moment."""
        return self._newest_seq()

    # -- the run ----------------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> RunIdentity:
        """The run that this journal belongs to."""
        return msgspec.json.decode(
            self._scalar(sa.select(self._source.run.c.identity)) or "", type=RunIdentity
        )

    @cached_property
    def created_at(self) -> int:
        """When the journal was created, in microseconds since 1970, UTC."""
        return int(self._scalar(sa.select(self._source.run.c.created_at)))

    @property
    def is_fresh(self) -> bool:
        """Whether the journal has neither intents nor settlements."""
        return self._last_seq == 0

    def request_times(self) -> set[int]:
        """When the requests were about to leave, in microseconds since 1970, UTC."""
        with self._reading() as connection:
            return set(connection.execute(sa.select(self._source.intents.c.started_at)).scalars())

    def integrity_errors(self) -> list[str]:
        """The errors that SQLite finds in the database, indexes included; empty if there are none."""
        return self._database.integrity_errors()

    # -- sessions ---------------------------------------------------------------------------------------

    def session_ends(self) -> list[SessionEnd]:
        """The ends of the sessions, in order. The last exit code is that of the run."""
        query = sa.select(*self._source.session_end_columns).order_by(self._source.session_ends.c.id)
        with self._reading() as connection:
            return [SessionEnd(*row) for row in connection.execute(query)]

    @property
    def final_session_end(self) -> SessionEnd | None:
        """The end of the run; None while a session is at work, or after it was killed."""
        newest_first = self._source.session_ends.c.id.desc()
        last_seq = self._scalar(sa.select(self._source.session_ends.c.last_seq).order_by(newest_first))
        return self.session_ends()[-1] if last_seq == self._last_seq else None

    @property
    def sent_since_end(self) -> bool:
        """Whether an intent was recorded since the last session ended."""
        query = (
            sa.select(self._source.intents.c.seq)
            .where(self._source.intents.c.seq > self._source.last_ended)
            .limit(1)
        )
        return self._scalar(query) is not None

    @property
    def settled_since_end(self) -> set[DeviceStatus]:
        """The statuses that were given to devices in doubt since the last session ended."""
        query = sa.select(self._source.settlements.c.status).where(
            self._source.settlements.c.seq > self._source.last_ended
        )
        with self._reading() as connection:
            return {DeviceStatus(status) for status in connection.execute(query.distinct()).scalars()}

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 by file name, for each file that the last session wrote; empty before its end."""
        newest_first = self._source.session_ends.c.id.desc()
        found = self._scalar(sa.select(self._source.session_ends.c.file_hashes).order_by(newest_first))
        return msgspec.json.decode(found or "{}", type=dict[str, str])

    # -- history ----------------------------------------------------------------------------------------

    def history(self, *, batches: range | None = None) -> Iterator[Event]:
        """All attempts and settlements in order of `seq`, read lazily.

        With `batches`: only those of these batches, in order of batch and `seq`.
        """
        attempts = self.attempts(batches=batches)
        if self._scalar(sa.select(self._source.settlements.c.seq).limit(1)) is None:
            return attempts
        query = sa.select(*self._source.settlement_columns)
        settlements = map(Settlement._make, self._rows(query, self._source.settlements, batches))
        order = attrgetter("seq") if batches is None else attrgetter("batch_id", "seq")
        return merge(attempts, settlements, key=order)

    def attempts(self, *, batches: range | None = None) -> Iterator[Attempt]:
        """All attempts, or those of some batches, in the order of `history`."""
        query = sa.select(*self._source.attempt_columns).select_from(self._source.attempts)
        return map(Attempt._make, self._rows(query, self._source.intents, batches))

    def attempts_numbered(self, seqs: range, others: Collection[int] = ()) -> list[Attempt]:
        """The attempts with these numbers, and those with the other numbers, in order of `seq`."""
        seq = self._source.intents.c.seq
        query = sa.select(*self._source.attempt_columns).select_from(self._source.attempts)
        query = query.where(sa.or_(seq.between(seqs.start, seqs.stop - 1), seq.in_(others))).order_by(seq)
        with self._reading() as connection:
            return [Attempt._make(row) for row in connection.execute(query)]

    def refusals(self, batch_id: int, step: str | None, part: str) -> int:
        """How often the service has refused the request for a part.

        Refusals after a lost answer don't count: such a request is sent again as it was.
        """
        with self._reading() as connection:
            found = connection.execute(
                self._source.refusals, {"batch_id": batch_id, "step": step, "part": part}
            )
            return int(found.scalar_one())

    def lost_answers(self) -> list[LostAnswers]:
        """The parts of batches with requests whose answers are not known."""
        of_part = self._source.intents.c.batch_id, self._source.intents.c.part
        query = (
            sa.select(*of_part, sa.func.count())
            .select_from(self._source.attempts)
            .where(self._source.is_lost)
            .group_by(*of_part)
        )
        with self._reading() as connection:
            return [LostAnswers(*row) for row in connection.execute(query)]

    def request_ids(self, *, of_lost_answers: bool = True) -> list[str]:
        """The requestId of each answer that has one. `of_lost_answers` includes ambiguous answers."""
        answered = self._source.answers.c
        query = sa.select(answered.request_id).where(answered.request_id.is_not(None))
        if not of_lost_answers:
            query = query.where(answered.outcome != Outcome.AMBIGUOUS.value)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    # -- figures ----------------------------------------------------------------------------------------

    def outcomes(self) -> Mapping[Outcome | None, int]:
        """The number of requests by outcome; None counts intents without an answer.

        An intent that is throttled without an HTTP status was never sent (promise J). It does not count as a
        request.
        """
        outcome, http_status = self._source.answers.c.outcome, self._source.answers.c.http_status
        may_have_left = (outcome.is_(None), outcome != Outcome.THROTTLED.value, http_status.is_not(None))
        query = (
            sa.select(outcome, sa.func.count())
            .select_from(self._source.attempts)
            .where(sa.or_(*may_have_left))
            .group_by(outcome)
        )
        with self._reading() as connection:
            return {outcome and Outcome(outcome): count for outcome, count in connection.execute(query)}

    def owners_of_request_ids(self) -> Iterator[tuple[str, str]]:
        """Each requestId, with the X-Request-ID of the request that got it."""
        request_id, x_request_id = self._source.answers.c.request_id, self._source.intents.c.x_request_id
        query = (
            sa.select(request_id, x_request_id)
            .select_from(self._source.answered)
            .where(request_id.is_not(None))
        )
        with self._reading() as connection:
            streamed = query.execution_options(yield_per=ROWS_PER_FETCH)
            with connection.execute(streamed) as found:
                for rows in found.partitions():
                    yield from ((row[0], row[1]) for row in rows)

    def remaining_wait_s(self, now: int) -> float:
        """The seconds of waits that the carrier asked for and that are not over at `now` (as `started_at`).

        The clock may have been wrong when an answer came. So no wait is longer than the carrier asked for,
        and an answer came before the end of any session that ended after it. Waits of `MAX_WAIT_S` are not
        plausible and don't count.
        """
        with self._reading() as connection:
            found = connection.execute(self._source.remaining_wait, {"now": now}).scalar()
        return max(0.0, float(found or 0))

    @property
    def has_implausible_wait(self) -> bool:
        """Whether the carrier asked to wait for `MAX_WAIT_S`, which is not obeyed in later sessions."""
        is_implausible = self._source.answers.c.retry_after_s >= MAX_WAIT_S
        return self._scalar(sa.select(self._source.answers.c.seq).where(is_implausible).limit(1)) is not None

    @property
    def last_answer(self) -> Attempt | None:
        """The newest request with an answer; None before the first answer."""
        query = (
            sa.select(*self._source.attempt_columns)
            .select_from(self._source.answered)
            .order_by(self._source.intents.c.seq.desc())
        )
        with self._reading() as connection:
            row = connection.execute(query.limit(1)).first()
        return None if row is None else Attempt._make(row)

    def sending(self, current: SessionEnd | None = None) -> Sending:
        """What the carrier has settled, and the time in which requests were sent and answered.

        `current` is the end of a session that is not recorded yet. Settlements, callbacks and the time
        between sessions do not count. The time is from the first request of a session to its last answer.
        Where a session was killed, the requests before the start of the next one are a session of their own.
        """
        with self._reading() as connection:
            sessions = [(int(row[0]), int(row[1])) for row in connection.execute(self._source.session_bounds)]
            if not sessions or sessions[-1][1] < self._last_seq:
                sessions.append((current.started_at if current else 0, self._last_seq))
            microseconds, after = 0, 0
            for started_at, last_seq in sessions:
                is_of_session = self._source.intents.c.started_at >= started_at
                for part in (is_of_session, sa.not_(is_of_session)):
                    query = self._source.span.where(
                        self._source.intents.c.seq.between(after + 1, last_seq), part
                    )
                    microseconds += max(0, int(connection.execute(query).scalar() or 0))
                after = last_seq
            devices = sum(int(row[0]) for row in connection.execute(self._settled_devices()))
        return Sending(devices, microseconds / 1e6)

    def _settled_devices(self) -> sa.Select[Any]:
        """Numbers of devices that were accepted, or refused for good, by answers alone."""
        is_migration = self.identity.to_sku is not None
        return self._source.moved_devices if is_migration else self._source.settled_devices

    def _newest_seq(self, among: range = ALL_SEQS) -> int:
        """The number of the newest entry of the history with a number in a range; 0 if there is none."""
        return max(
            self._scalar(sa.select(sa.func.max(rows.c.seq)).where(rows.c.seq.between(among[0], among[-1])))
            or 0
            for rows in (self._source.intents, self._source.settlements)
        )

    # -- helpers ----------------------------------------------------------------------------------------

    def _rows(
        self, query: sa.Select[Any], table: sa.FromClause, batches: range | None
    ) -> Iterator[sa.Row[Any]]:
        if batches is not None:
            query = query.where(table.c.batch_id.between(batches.start, batches.stop - 1))
            query = query.order_by(table.c.batch_id)
        with self._reading() as connection:
            ordered = query.order_by(table.c.seq).execution_options(yield_per=ROWS_PER_FETCH)
            with connection.execute(ordered) as found:  # closes the cursor, also if the reader has enough
                for rows in found.partitions():
                    yield from rows

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._database.explained(), self._database.engine.connect() as connection:
            yield connection

    def _scalar(self, query: sa.Select[Any]) -> Any:  # noqa: ANN401 - the type depends on the column
        with self._reading() as connection:
            return connection.execute(query).scalar()
