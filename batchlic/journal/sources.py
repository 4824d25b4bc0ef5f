"""Where the rows of one run are: the tables of its own file, or its share of the tables of many runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from batchlic.carrier.answers import Outcome
from batchlic.carrier.rate_limits import MAX_WAIT_S
from batchlic.chunker.step import Step
from batchlic.journal import tables
from batchlic.journal.records import Attempt, SessionEnd, Settlement

_AFTER_ALL = 2**63 - 1
"""Greater than the number of any attempt."""


@dataclass(frozen=True, eq=False)
class Source:
    """The rows of one run, in the columns of the tables, and the statements that read them."""

    run: sa.FromClause
    session_ends: sa.FromClause
    intents: sa.FromClause
    answers: sa.FromClause
    settlements: sa.FromClause

    # -- rows -------------------------------------------------------------------------------------------

    @cached_property
    def attempts(self) -> sa.Join:
        """The intents with their answers, or without."""
        return self.intents.outerjoin(self.answers, self.intents.c.seq == self.answers.c.seq)

    @cached_property
    def answered(self) -> sa.Join:
        """The intents that have answers."""
        return self.intents.join(self.answers, self.intents.c.seq == self.answers.c.seq)

    @cached_property
    def attempt_columns(self) -> list[sa.ColumnElement[Any]]:
        """The columns of an Attempt, in order."""
        return [
            (self.intents.c if name in self.intents.c else self.answers.c)[name] for name in Attempt._fields
        ]

    @cached_property
    def settlement_columns(self) -> list[sa.ColumnElement[Any]]:
        """The columns of a Settlement, in order."""
        return [self.settlements.c[name] for name in Settlement._fields]

    @cached_property
    def session_end_columns(self) -> list[sa.ColumnElement[Any]]:
        """The columns of a SessionEnd, in order."""
        return [self.session_ends.c[name] for name in SessionEnd._fields]

    @cached_property
    def is_lost(self) -> sa.ColumnElement[bool]:
        """Whether the answer to an intent is not known."""
        outcome = self.answers.c.outcome
        return outcome.is_(None) | (outcome == Outcome.AMBIGUOUS.value)

    # -- statements -------------------------------------------------------------------------------------

    @cached_property
    def last_ended(self) -> sa.ScalarSelect[Any]:
        """The newest entry of the history when the last session ended; 0 before the first end."""
        return sa.select(sa.func.coalesce(sa.func.max(self.session_ends.c.last_seq), 0)).scalar_subquery()

    @cached_property
    def refusals(self) -> sa.Select[Any]:
        """Counts refusals of a part (`batch_id`, `step`, `part`) before its last lost answer.

        Made once, because it is executed before each request that is sent again.
        """
        of_part = sa.and_(
            self.intents.c.batch_id == sa.bindparam("batch_id"),
            self.intents.c.step.is_not_distinct_from(sa.bindparam("step", type_=sa.String)),
            self.intents.c.part == sa.bindparam("part"),
        )
        last_lost = sa.select(sa.func.max(self.intents.c.seq)).select_from(self.attempts)
        last_lost = last_lost.where(of_part, self.is_lost)
        before = sa.func.coalesce(last_lost.scalar_subquery(), _AFTER_ALL)
        count = sa.select(sa.func.count()).select_from(self.attempts)
        return count.where(of_part, self.answers.c.is_refusal, self.intents.c.seq < before)

    @cached_property
    def session_bounds(self) -> sa.Select[Any]:
        """When each session began, and the newest entry when it ended."""
        ends = self.session_ends.c
        return sa.select(ends.started_at, ends.last_seq).order_by(ends.id)

    @cached_property
    def span(self) -> sa.Select[Any]:
        """Microseconds from the first answered request to the last answer."""
        began = sa.func.min(self.intents.c.started_at)
        return sa.select(sa.func.max(self._answered_at) - began).select_from(self.answered)

    @cached_property
    def remaining_wait(self) -> sa.Select[Any]:
        """The longest wait, in seconds, that the carrier asked for and that is not over at `now`."""
        asked_s = self.answers.c.retry_after_s
        left_s = asked_s + (self._heard_at - sa.bindparam("now", type_=sa.BigInteger)) / 1e6
        query = sa.select(sa.func.max(sa.case((left_s > asked_s, asked_s), else_=left_s)))
        return query.select_from(self.answered).where(asked_s < MAX_WAIT_S)

    @cached_property
    def settled_devices(self) -> sa.Select[Any]:
        """The number of devices that were accepted, or refused for good, by answers alone."""
        total = sa.func.coalesce(sa.func.sum(self._devices).filter(self._is_accepted | self._is_refused), 0)
        return sa.select(total).select_from(self.answered)

    @cached_property
    def moved_devices(self) -> sa.Select[Any]:
        """The same of a migration, by batch: accepted in both steps, or refused for good in one."""
        step = self.intents.c.step
        assigned, unassigned, refused = (
            sa.func.coalesce(sa.func.sum(self._devices).filter(condition), 0)
            for condition in (
                self._is_accepted & (step == Step.ASSIGN.value),
                self._is_accepted & (step == Step.UNASSIGN.value),
                self._is_refused & step.in_([Step.ASSIGN.value, Step.UNASSIGN.value]),
            )
        )
        moved = sa.case((assigned < unassigned, assigned), else_=unassigned) + refused
        return sa.select(moved).select_from(self.answered).group_by(self.intents.c.batch_id)

    # -- helpers ----------------------------------------------------------------------------------------

    @property
    def _devices(self) -> sa.ColumnElement[int]:
        return self.intents.c.device_count

    @property
    def _is_accepted(self) -> sa.ColumnElement[bool]:
        return self.answers.c.outcome == Outcome.ACCEPTED.value

    @property
    def _is_refused(self) -> sa.ColumnElement[bool]:
        return (self.answers.c.outcome == Outcome.REFUSED.value) & self.answers.c.final

    @property
    def _answered_at(self) -> sa.ColumnElement[Any]:
        return self.intents.c.started_at + self.answers.c.duration_ms * 1000

    @cached_property
    def _heard_at(self) -> sa.ColumnElement[Any]:
        """When an answer came at the latest, in microseconds since 1970, whatever the clock showed then."""
        ended_later_at = (
            sa.select(sa.func.min(self.session_ends.c.ended_at))
            .where(self.session_ends.c.last_seq >= self.intents.c.seq)
            .correlate(self.intents)
            .scalar_subquery()
        )
        return sa.case((ended_later_at < self._answered_at, ended_later_at), else_=self._answered_at)


OF_FILE = Source(tables.run, tables.session_ends, tables.intents, tables.answers, tables.settlements)
"""The rows of a SQLite file, which has one run."""
