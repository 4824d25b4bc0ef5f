"""What a session sends, in lanes for the pool: one for each account with a limiter of its own, or only one.

Accounts take turns in either case, in the order of the plan.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from batchlic.chunker import AccountBatches, Batch, phase_ranges, read_accounts
from batchlic.job import Job
from batchlic.journal import Journal
from batchlic.pool.delivery import MOST_LANES, LanePlan
from batchlic.pool.migration import Migration
from batchlic.pool.remaining import Delivery, remaining
from batchlic.pool.round_robin import round_robin
from batchlic.runs.folder import RunFolder
from batchlic.runs.signals import stopping_instead

SequencesOf: TypeAlias = Callable[[AccountBatches], Iterable[Iterable[Delivery]]]
"""What is left to deliver of the batches of an account."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """Makes the lanes of a session from what is left of its plan."""

    job: Job
    folder: RunFolder
    journal: Journal

    def phases(self) -> list[range]:
        """The batches of each phase of the plan: a phase begins when the one before it is done."""
        return phase_ranges(self.folder.plan)

    def of_phase(self, batches: range, *, on_accepted: Callable[[Batch], None]) -> Iterator[LanePlan]:
        """The lanes of a phase; `on_accepted` as in `remaining`."""

        def left(account: AccountBatches) -> Iterator[Delivery]:
            return remaining(
                account,
                self.journal,
                self.job.resendable_skus,
                on_accepted=on_accepted,
                batches_per_read=account.batches_per_read,
            )

        return self._lanes(self._accounts(batches), [left])

    def of_migration(self, migration: Migration, batches: range | None = None) -> Iterator[LanePlan]:
        """The lanes of a migration, or of those of its batches."""

        def between_steps(account: AccountBatches) -> Iterator[Iterable[Delivery]]:
            return migration.between_steps(account.__iter__, batches_per_read=account.batches_per_read)

        def others(account: AccountBatches) -> Iterator[Iterable[Delivery]]:
            return migration.others(account.__iter__, batches_per_read=account.batches_per_read)

        every_batch = range(1, self.journal.identity.batches + 1)
        return self._lanes(self._accounts(batches or every_batch), [between_steps, others])

    def earlier_waits(self, most_s: float, at: int) -> dict[str, float]:
        """Seconds, up to `most_s`, for which earlier sessions were asked to wait for each account.

        `at` is the present time, in microseconds since 1970. An account without a wait is left out.
        """
        if most_s <= 0:
            return {}
        left = dict[int, float]()
        for attempt in self.journal.attempts():
            if attempt.retry_after_s:
                answered_at = attempt.started_at / 1e6 + (attempt.duration_ms or 0.0) / 1e3
                left_s = min(attempt.retry_after_s, answered_at + attempt.retry_after_s - at / 1e6)
                if left_s > 0:
                    left[attempt.batch_id] = max(left_s, left.get(attempt.batch_id, 0.0))
        waits = dict[str, float]()
        for account in self._accounts(range(1, self.journal.identity.batches + 1)):
            if of_account := [left_s for batch_id, left_s in left.items() if account.has(batch_id)]:
                waits[account.account] = min(most_s, max(of_account))
        return waits

    def _accounts(self, batches: range) -> list[AccountBatches]:
        return read_accounts(self.folder.plan, self.job.inventory.id_kind, batches, most_at_once=MOST_LANES)

    def _lanes(self, accounts: list[AccountBatches], passes: list[SequencesOf]) -> Iterator[LanePlan]:
        """The lanes for what the passes over the batches give, one pass after the other in each lane."""
        if self.job.limits.scope == "account":
            for account in accounts:
                yield LanePlan(stopping_instead(_in_order(passes, [account])), account.account)
        else:
            yield LanePlan(stopping_instead(_in_order(passes, accounts)))


def _in_order(passes: list[SequencesOf], accounts: list[AccountBatches]) -> Iterator[Iterable[Delivery]]:
    """One pass after the other; in each, the accounts take turns."""
    for sequences_of in passes:
        yield from round_robin(map(sequences_of, accounts), most=MOST_LANES)
