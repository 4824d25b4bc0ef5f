"""A migration as a run sets it up: its courses, and whether there are licenses enough to begin with them."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from structlog.typing import FilteringBoundLogger

from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.catalogue import LicenseType
from batchlic.carrier.client import AccountError, CarrierClient
from batchlic.chunker import Batch, batch_sizes
from batchlic.errors import RefusedToStart
from batchlic.job import Job
from batchlic.journal import Journal
from batchlic.journal.steps import Step
from batchlic.pool.migration import Migration
from batchlic.runs.folder import RunFolder
from batchlic.writer.results import read_outcomes


def migration_of(
    job: Job,
    journal: Journal,
    folder: RunFolder,
    *,
    on_accepted: Callable[[Batch], None],
    on_end: Callable[[int, int], None],
) -> Migration:
    """The migration of a job, before it is known what licenses there are to spare."""
    identity = journal.identity
    return Migration(
        journal=journal,
        to_sku=identity.to_sku or "",
        batches=identity.batches,
        spare={},
        is_revocable=job.skus[identity.to_sku or ""] is LicenseType.FLEXIBLE,
        resendable=job.resendable_skus,
        restorable=identity.restorable,
        denied=_denied(folder, identity.batches),
        on_accepted=on_accepted,
        on_end=on_end,
    )


def _denied(folder: RunFolder, batches: int) -> dict[int, list[int]]:
    """By the number of a step, the places in the batch of the devices that callbacks say it failed for."""
    denied = defaultdict[int, list[int]](list)
    failed = read_outcomes(folder.outcomes).filter(pl.col("status") == "failed")
    if failed.select(pl.len()).collect().item():
        places = pl.scan_parquet(folder.plan).select(
            "batch_id",
            pl.int_range(pl.len()).over("batch_id").alias("offset"),
            pl.int_range(pl.len(), dtype=pl.UInt32).alias("plan_row"),
        )
        of_steps = failed.join(places, on="plan_row").select("batch_id", "offset", "step").collect()
        for batch_id, offset, step in of_steps.iter_rows():
            denied[Step[step.upper()].number(batch_id, batches)].append(offset)
    return denied


async def reserve_licenses(
    client: CarrierClient, job: Job, plan: Path, migration: Migration, logger: FilteringBoundLogger
) -> None:
    """Find out how many licenses of the new SKU each account has to spare for batches that get it first.

    None where the job says that the old one goes first, or where it did in the batch of the account that was
    begun last: `resume` keeps to what was chosen then. Where the carrier does not say how many there are,
    there are enough: if the new one is refused then, the device still has the old one.

    Raises RefusedToStart where there are too few, so that devices would give the old one for none, unless
    the job has such devices restored.
    """
    for account, need in _needs(plan, migration).items():
        if not need.fresh:
            continue
        if job.license.order == "unassign-first" or need.unassigns_first:
            migration.spare[account] = 0
            continue
        available = await _available(client, account, migration.to_sku)
        logger.info("licenses", account=account, sku=migration.to_sku, available=available, needed=need.fresh)
        if available is None:
            continue
        migration.spare[account] = available - need.begun
        if need.fresh > migration.spare[account] and not job.license.restore:
            raise RefusedToStart(
                f"too few licenses: account {account} has {available:,} of {migration.to_sku} left, for "
                f"{need.fresh + need.begun:,} devices. Buy more, or say what is to be done: with --restore a "
                "device that gets no new license has its old one back (it needs another --run-dir); "
                "--order unassign-first does not count"
            )


@dataclass
class _Need:
    """What the batches of an account are about to ask for."""

    fresh: int = 0
    """Devices of batches to begin."""
    begun: int = 0
    """Devices of batches that have begun with giving up the old license."""
    last: int = 0
    """When the batch begun last began, as a place in the journal."""
    unassigns_first: bool = False
    """Whether that one began with giving up the old license."""


def _needs(plan: Path, migration: Migration) -> Mapping[str, _Need]:
    """What is still to be asked for, by account."""
    asked, unassigned = (_begun(migration, step) for step in (Step.ASSIGN, Step.UNASSIGN))
    needs = defaultdict[str, _Need](_Need)
    for batch_id, account, devices in batch_sizes(plan):
        need, places = needs[account], (asked.get(batch_id), unassigned.get(batch_id))
        match places:
            case None, None:
                need.fresh += devices
            case None, _:
                need.begun += devices
        began = min((place for place in places if place is not None), default=0)
        if began > need.last:
            need.last, need.unassigns_first = began, began == unassigned.get(batch_id)
    return needs


def _begun(migration: Migration, step: Step) -> dict[int, int]:
    """The place in the journal of the first request of a step, by batch."""
    numbers = step.numbers(range(1, migration.batches + 1), migration.batches)
    first: dict[int, int] = {}
    for attempt in migration.journal.attempts(batches=numbers):
        first.setdefault(attempt.batch_id - step.number(0, migration.batches), attempt.seq)
    return first


async def _available(client: CarrierClient, account: str, sku: str) -> int | None:
    """Licenses left of a SKU; None where the carrier does not say."""
    try:
        counts = await client.subscriptions(account, sku)
    except (AccountError, CarrierUnreachable):
        return None
    return next((found.license_available for found in counts if found.sku_number == sku), None)
