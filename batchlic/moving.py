"""A migration as a run sets it up: its courses, and whether there are licences enough to begin with them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.catalogue import Licence
from batchlic.carrier.client import AccountError, CarrierClient
from batchlic.chunker import Batch, batch_sizes
from batchlic.errors import RefusedToStart
from batchlic.job import Job
from batchlic.journal import Journal
from batchlic.journal.steps import Step
from batchlic.pool.migration import Migration


def migration_of(
    job: Job,
    journal: Journal,
    *,
    on_accepted: Callable[[Batch], None],
    on_end: Callable[[int, int], None],
) -> Migration:
    """The migration of a job, before it is known what licences there are to spare."""
    identity = journal.identity
    return Migration(
        journal=journal,
        to_sku=identity.to_sku or "",
        batches=identity.batches,
        spare={},
        is_revocable=job.skus[identity.to_sku or ""] is Licence.FLEXIBLE,
        resendable=job.resendable_skus,
        restorable=identity.restorable,
        on_accepted=on_accepted,
        on_end=on_end,
    )


async def look_for_licences(
    client: CarrierClient, job: Job, plan: Path, migration: Migration, logger: FilteringBoundLogger
) -> None:
    """Find out how many licences of the new SKU each account has to spare for batches that get it first.

    None where the job says that the old one goes first. Where the carrier does not say how many there are,
    there are enough: if the new one is refused then, the device still has the old one.

    Raises RefusedToStart where there are too few, so that devices would give the old one for none, unless
    the job has such devices restored.
    """
    fresh, begun = _needs(plan, migration)
    for account, needed in fresh.items():
        if job.licence.order == "unassign-first":
            migration.spare[account] = 0
            continue
        available = await _available(client, account, migration.to_sku)
        logger.info("licences", account=account, sku=migration.to_sku, available=available, needed=needed)
        if available is None:
            continue
        migration.spare[account] = available - begun[account]
        if needed > migration.spare[account] and not job.licence.restore:
            raise RefusedToStart(
                f"too few licences: account {account} has {available:,} of {migration.to_sku} left, for "
                f"{needed + begun[account]:,} devices. Buy more, or say what is to be done: with --restore a "
                "device that gets no new licence has its old one back; --order unassign-first does not count"
            )


def _needs(plan: Path, migration: Migration) -> tuple[Counter[str], Counter[str]]:
    """Devices that will ask for a licence, by account: of batches to begin, and of those begun otherwise."""
    asked, unassigned = (
        {
            attempt.batch_id - step.number(0, migration.batches)
            for attempt in migration.journal.attempts(
                batches=step.numbers(range(1, migration.batches + 1), migration.batches)
            )
        }
        for step in (Step.ASSIGN, Step.UNASSIGN)
    )
    fresh, begun = Counter[str](), Counter[str]()
    for batch_id, account, devices in batch_sizes(plan):
        if batch_id not in asked:
            (begun if batch_id in unassigned else fresh)[account] += devices
    return fresh, begun


async def _available(client: CarrierClient, account: str, sku: str) -> int | None:
    """Licences left of a SKU; None where the carrier does not say."""
    try:
        counts = await client.subscriptions(account, sku)
    except (AccountError, CarrierUnreachable):
        return None
    return next((found.license_available for found in counts if found.sku_number == sku), None)
