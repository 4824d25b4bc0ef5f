"""The queries of a journal. None of them writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from heapq import merge
from operator import attrgetter
from typing import Any

import msgspec
import sqlalchemy as sa

from batchlic.carrier.answers import Outcome
from batchlic.carrier.rate_limits import MAX_WAIT_S
from batchlic.chunker.status import DeviceStatus
from batchlic.chunker.step import Step
from batchlic.database import explain_database_errors
from batchlic.journal import tables
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

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._last_seq: int = max(
            self._scalar(sa.select(sa.func.max(table.c.seq))) or 0
            for table in (tables.intents, tables.settlements)
        )

    # -- the run ----------------------------------------------------------------------------------------

    @property
    def identity(self) -> RunIdentity:
        """The run that this journal belongs to."""
        return msgspec.json.decode(self._scalar(sa.select(tables.run.c.identity)) or "", type=RunIdentity)

    @property
    def created_at(self) -> int:
        """When the journal was created, in microseconds since 1970, UTC."""
        return int(self._scalar(sa.select(tables.run.c.created_at)))

    @property
    def is_fresh(self) -> bool:
        """Whether the journal has neither intents nor settlements."""
        return self._last_seq == 0

    def integrity_errors(self) -> list[str]:
        """The errors that SQLite finds in the database, indexes included; empty if there are none."""
        with self._reading() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        return [] if found == ["ok"] else [str(line) for line in found]

    # -- sessions ---------------------------------------------------------------------------------------

    def session_ends(self) -> list[SessionEnd]:
        """The ends of the sessions, in order. The last exit code is that of the run."""
        columns = (tables.session_ends.c[name] for name in SessionEnd._fields)
        with self._reading() as connection:
            rows = connection.execute(sa.select(*columns).order_by(tables.session_ends.c.id))
            return [SessionEnd(*row) for row in rows]

    @property
    def final_session_end(self) -> SessionEnd | None:
        """The end of the run; None while a session is at work, or after it was killed."""
        newest_first = tables.session_ends.c.id.desc()
        last_seq = self._scalar(sa.select(tables.session_ends.c.last_seq).order_by(newest_first))
        return self.session_ends()[-1] if last_seq == self._last_seq else None

    @property
    def sent_since_end(self) -> bool:
        """Whether an intent was recorded since the last session ended."""
        query = sa.select(tables.intents.c.seq).where(tables.intents.c.seq > _LAST_ENDED).limit(1)
        return self._scalar(query) is not None

    @property
    def settled_since_end(self) -> set[DeviceStatus]:
        """The statuses that were given to devices in doubt since the last session ended."""
        query = sa.select(tables.settlements.c.status).where(tables.settlements.c.seq > _LAST_ENDED)
        with self._reading() as connection:
            return {DeviceStatus(status) for status in connection.execute(query.distinct()).scalars()}

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 by file name, for each file that the last session wrote; empty before its end."""
        newest_first = tables.session_ends.c.id.desc()
        found = self._scalar(sa.select(tables.session_ends.c.file_hashes).order_by(newest_first))
        return msgspec.json.decode(found or "{}", type=dict[str, str])

    # -- history ----------------------------------------------------------------------------------------

    def history(self, *, batches: range | None = None) -> Iterator[Event]:
        """All attempts and settlements in order of `seq`, read lazily.

        With `batches`: only those of these batches, in order of batch and `seq`.
        """
        attempts = self.attempts(batches=batches)
        if self._scalar(sa.select(tables.settlements.c.seq).limit(1)) is None:
            return attempts
        query = sa.select(*(tables.settlements.c[name] for name in Settlement._fields))
        settlements = map(Settlement._make, self._rows(query, tables.settlements, batches))
        order = attrgetter("seq") if batches is None else attrgetter("batch_id", "seq")
        return merge(attempts, settlements, key=order)

    def attempts(self, *, batches: range | None = None) -> Iterator[Attempt]:
        """All attempts, or those of some batches, in the order of `history`."""
        query = sa.select(*_ATTEMPT_COLUMNS).select_from(tables.intents.outerjoin(tables.answers))
        return map(Attempt._make, self._rows(query, tables.intents, batches))

    def refusals(self, batch_id: int, step: str | None, part: str) -> int:
        """How often the service has refused the request for a part.

        Refusals after a lost answer don't count: such a request is sent again as it was.
        """
        with self._reading() as connection:
            found = connection.execute(_REFUSALS, {"batch_id": batch_id, "step": step, "part": part})
            return int(found.scalar_one())

    def lost_answers(self) -> list[LostAnswers]:
        """The parts of batches with requests whose answers are not known."""
        of_part = tables.intents.c.batch_id, tables.intents.c.part
        query = (
            sa.select(*of_part, sa.func.count())
            .select_from(tables.intents.outerjoin(tables.answers))
            .where(_IS_LOST)
            .group_by(*of_part)
        )
        with self._reading() as connection:
            return [LostAnswers(*row) for row in connection.execute(query)]

    def request_ids(self, *, of_lost_answers: bool = True) -> list[str]:
        """The requestId of each answer that has one. `of_lost_answers` includes ambiguous answers."""
        answered = tables.answers.c
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
        outcome, http_status = tables.answers.c.outcome, tables.answers.c.http_status
        may_have_left = (outcome.is_(None), outcome != Outcome.THROTTLED.value, http_status.is_not(None))
        query = (
            sa.select(outcome, sa.func.count())
            .select_from(tables.intents.outerjoin(tables.answers))
            .where(sa.or_(*may_have_left))
            .group_by(outcome)
        )
        with self._reading() as connection:
            return {outcome and Outcome(outcome): count for outcome, count in connection.execute(query)}

    def owners_of_request_ids(self) -> Iterator[tuple[str, str]]:
        """Each requestId, with the X-Request-ID of the request that got it."""
        request_id, x_request_id = tables.answers.c.request_id, tables.intents.c.x_request_id
        query = sa.select(request_id, x_request_id).select_from(_ANSWERED).where(request_id.is_not(None))
        with self._reading() as connection:
            for rows in connection.execute(query).partitions(ROWS_PER_FETCH):
                yield from ((row[0], row[1]) for row in rows)

    def remaining_wait_s(self, now: int) -> float:
        """The seconds of waits that the carrier asked for and that are not over at `now` (as `started_at`).

        The clock may have been wrong when an answer came. So no wait is longer than the carrier asked for,
        and an answer came before the end of any session that ended after it. Waits of `MAX_WAIT_S` are not
        plausible and don't count.
        """
        asked_s = tables.answers.c.retry_after_s
        left_s = asked_s + (_HEARD_AT - now) / 1e6
        query = sa.select(sa.func.max(sa.case((left_s > asked_s, asked_s), else_=left_s)))
        query = query.select_from(_ANSWERED).where(asked_s < MAX_WAIT_S)
        return max(0.0, float(self._scalar(query) or 0))

    @property
    def has_implausible_wait(self) -> bool:
        """Whether the carrier asked to wait for `MAX_WAIT_S`, which is not obeyed in later sessions."""
        is_implausible = tables.answers.c.retry_after_s >= MAX_WAIT_S
        return self._scalar(sa.select(tables.answers.c.seq).where(is_implausible).limit(1)) is not None

    @property
    def last_answer(self) -> Attempt | None:
        """The newest request with an answer; None before the first answer."""
        query = sa.select(*_ATTEMPT_COLUMNS).select_from(_ANSWERED).order_by(tables.intents.c.seq.desc())
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
            sessions = [(int(row[0]), int(row[1])) for row in connection.execute(_SESSION_BOUNDS)]
            if not sessions or sessions[-1][1] < self._last_seq:
                sessions.append((current.started_at if current else 0, self._last_seq))
            microseconds, after = 0, 0
            for started_at, last_seq in sessions:
                is_of_session = tables.intents.c.started_at >= started_at
                for part in (is_of_session, sa.not_(is_of_session)):
                    query = _SPAN.where(tables.intents.c.seq.between(after + 1, last_seq), part)
                    microseconds += max(0, int(connection.execute(query).scalar() or 0))
                after = last_seq
            devices = sum(int(row[0]) for row in connection.execute(self._settled_devices()))
        return Sending(devices, microseconds / 1e6)

    def _settled_devices(self) -> sa.Select[Any]:
        """Numbers of devices that were accepted, or refused for good, by answers alone.

        In a migration, a device counts once both steps are accepted, or one is refused for good.
        """
        devices = tables.intents.c.device_count
        is_refused = (tables.answers.c.outcome == Outcome.REFUSED.value) & tables.answers.c.final
        is_accepted = tables.answers.c.outcome == Outcome.ACCEPTED.value
        if self.identity.to_sku is None:
            total = sa.func.coalesce(sa.func.sum(devices).filter(is_accepted | is_refused), 0)
            return sa.select(total).select_from(_ANSWERED)
        assigned, unassigned, refused = (
            sa.func.coalesce(sa.func.sum(devices).filter(condition), 0)
            for condition in (
                is_accepted & (tables.intents.c.step == Step.ASSIGN.value),
                is_accepted & (tables.intents.c.step == Step.UNASSIGN.value),
                is_refused & tables.intents.c.step.in_([Step.ASSIGN.value, Step.UNASSIGN.value]),
            )
        )
        moved = sa.func.min(assigned, unassigned) + refused
        return sa.select(moved).select_from(_ANSWERED).group_by(tables.intents.c.batch_id)

    # -- helpers ----------------------------------------------------------------------------------------

    def _rows(self, query: sa.Select[Any], table: sa.Table, batches: range | None) -> Iterator[sa.Row[Any]]:
        if batches is not None:
            query = query.where(table.c.batch_id.between(batches.start, batches.stop - 1))
            query = query.order_by(table.c.batch_id)
        with self._reading() as connection:
            for rows in connection.execute(query.order_by(table.c.seq)).partitions(ROWS_PER_FETCH):
                yield from rows

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with explain_database_errors("the journal"), self._engine.connect() as connection:
            yield connection

    def _scalar(self, query: sa.Select[Any]) -> Any:  # noqa: ANN401 - the type depends on the column
        with self._reading() as connection:
            return connection.execute(query).scalar()


_AFTER_ALL = 2**63 - 1
"""Greater than the number of any attempt."""

_LAST_ENDED = sa.select(sa.func.coalesce(sa.func.max(tables.session_ends.c.last_seq), 0)).scalar_subquery()

_IS_LOST = tables.answers.c.outcome.is_(None) | (tables.answers.c.outcome == Outcome.AMBIGUOUS.value)

_ATTEMPTS = tables.intents.outerjoin(tables.answers)
_OF_PART = sa.and_(
    tables.intents.c.batch_id == sa.bindparam("batch_id"),
    tables.intents.c.step.is_not_distinct_from(sa.bindparam("step")),
    tables.intents.c.part == sa.bindparam("part"),
)
_LAST_LOST = sa.select(sa.func.max(tables.intents.c.seq)).select_from(_ATTEMPTS).where(_OF_PART, _IS_LOST)
_REFUSALS = (
    sa.select(sa.func.count())
    .select_from(_ATTEMPTS)
    .where(
        _OF_PART,
        tables.answers.c.is_refusal,
        tables.intents.c.seq < sa.func.coalesce(_LAST_LOST.scalar_subquery(), _AFTER_ALL),
    )
)
"""Made once, because it is executed before each request that is sent again."""

_ANSWERED = tables.intents.join(tables.answers)

_SESSION_BOUNDS = sa.select(tables.session_ends.c.started_at, tables.session_ends.c.last_seq).order_by(
    tables.session_ends.c.id
)

_ANSWERED_AT = tables.intents.c.started_at + tables.answers.c.duration_ms * 1000

_SPAN = sa.select(sa.func.max(_ANSWERED_AT) - sa.func.min(tables.intents.c.started_at)).select_from(_ANSWERED)
"""Microseconds from the first answered request to the last answer."""

_ENDED_LATER_AT = (
    sa.select(sa.func.min(tables.session_ends.c.ended_at))
    .where(tables.session_ends.c.last_seq >= tables.intents.c.seq)
    .correlate(tables.intents)
    .scalar_subquery()
)

_HEARD_AT = sa.case((_ENDED_LATER_AT < _ANSWERED_AT, _ENDED_LATER_AT), else_=_ANSWERED_AT)
"""When an answer came at the latest, in microseconds since 1970, whatever the clock showed at that time."""

_ATTEMPT_COLUMNS = [
    (tables.intents.c if name in tables.intents.c else tables.answers.c)[name] for name in Attempt._fields
]
