"""Prepares a migration: the migration for the pool, and whether there are enough licenses to begin."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.catalog import LicenseType
from batchlic.carrier.client import AccountError, Carrier
from batchlic.carrier.license_counts import total_of
from batchlic.chunker import Batch, DeviceStatus, Step, batch_sizes
from batchlic.errors import RefusedToStart
from batchlic.events import EventStream, LicensesCounted
from batchlic.figures import counted
from batchlic.job import Job
from batchlic.journal import Journal
from batchlic.pool.migration import Migration
from batchlic.reader.scans import scan_parquet
from batchlic.runs.folder import RunFolder
from batchlic.runs.patience import OnWait, patiently, warn
from batchlic.writer.callback_outcomes import read_outcomes


def migration_of(
    job: Job,
    journal: Journal,
    folder: RunFolder,
    *,
    on_accepted: Callable[[Batch], None],
    on_end: Callable[[int, int], None],
) -> Migration:
    """The migration of a job, without license counts."""
    identity = journal.identity
    return Migration(
        journal=journal,
        to_sku=identity.to_sku or "",
        spare={},
        is_revocable=job.skus[identity.to_sku or ""] is LicenseType.FLEXIBLE,
        resendable=job.resendable_skus,
        restorable=identity.restorable,
        denied=_denied(folder),
        on_accepted=on_accepted,
        on_end=on_end,
    )


def _denied(folder: RunFolder) -> dict[tuple[int, Step], list[int]]:
    """The devices for which callbacks reported a failure, as places in the batch, by batch and step."""
    denied = defaultdict[tuple[int, Step], list[int]](list)
    failed = read_outcomes(folder.outcomes).filter(pl.col("status") == DeviceStatus.FAILED.value)
    if failed.select(pl.len()).collect().item():
        places = scan_parquet(folder.plan).select(
            "batch_id",
            pl.int_range(pl.len()).over("batch_id").alias("offset"),
            pl.int_range(pl.len(), dtype=pl.UInt32).alias("plan_row"),
        )
        of_steps = failed.join(places, on="plan_row").select("batch_id", "step", "offset").collect()
        for batch_id, step, offset in of_steps.iter_rows():
            denied[batch_id, Step(step)].append(offset)
    return denied


async def reserve_licenses(
    client: Carrier,
    job: Job,
    plan: Path,
    migration: Migration,
    events: EventStream,
    *,
    batches: range | None = None,
) -> None:
    """Ask the carrier how many licenses of the new SKU each account has, and keep them in `migration.spare`.

    `batches`: only for the accounts of these batches of the plan, which are all that their accounts have.

    Batches that begin with the new license use these licenses. An account gets 0 if the job unassigns the old
    license first. It also gets 0 if the batch that began last on the account did so: `resume` keeps that
    order. An account is left out if the carrier does not report its count. This counts as enough licenses: if
    the new license is refused, the device still has the old one.

    Raises RefusedToStart if there are too few licenses and the job does not restore the old ones: otherwise,
    devices would lose the old license and get no new one.
    """
    for account, need in _needs(plan, migration, batches).items():
        if not need.fresh:
            continue
        if job.license.order == "unassign-first" or need.unassigns_first:
            migration.spare[account] = 0
            continue
        available = await _available(client, account, migration.to_sku, warn(events))
        sku = migration.to_sku
        events.emit(LicensesCounted(account=account, sku=sku, available=available, needed=need.fresh))
        if available is None:
            continue
        migration.spare[account] = available - need.without_old
        if need.fresh > migration.spare[account] and not job.license.restore:
            devices = counted(need.fresh + need.without_old, "device")
            raise RefusedToStart(
                f"too few licenses: account {account} has {available:,} of {migration.to_sku} left for "
                f"{devices}. Buy more, or choose what happens to the others: "
                "--restore gives a device its old license back if it gets no new one (needs another "
                "--run-dir); --order unassign-first does not count licenses"
            )


@dataclass
class _Need:
    """The licenses of the new SKU that one account needs."""

    fresh: int = 0
    """Devices of batches that have not begun."""
    without_old: int = 0
    """Devices of batches that began with the old license and have not requested the new one."""
    newest_seq: int = 0
    """Place in the journal of the first request of the batch that began last."""
    unassigns_first: bool = False
    """Whether that batch began with the old license."""


def _needs(plan: Path, migration: Migration, batches: range | None) -> Mapping[str, _Need]:
    """The licenses that are still needed, by account; `batches`: those of the plan that count."""
    first_seqs = _first_seqs(migration.journal)
    needs = defaultdict[str, _Need](_Need)
    for batch_id, account, devices in batch_sizes(plan):
        if batches is not None and batch_id not in batches:
            continue
        need = needs[account]
        assign, unassign = (first_seqs.get((batch_id, step)) for step in (Step.ASSIGN, Step.UNASSIGN))
        if assign is None and unassign is None:
            need.fresh += devices
            continue
        if assign is None:
            need.without_old += devices
        began = min(seq for seq in (assign, unassign) if seq is not None)
        if began > need.newest_seq:
            need.newest_seq, need.unassigns_first = began, began == unassign
    return needs


def _first_seqs(journal: Journal) -> dict[tuple[int, str | None], int]:
    """The place in the journal of the first request for each batch and step."""
    first: dict[tuple[int, str | None], int] = {}
    for attempt in journal.attempts():
        first.setdefault((attempt.batch_id, attempt.step), attempt.seq)
    return first


async def _available(client: Carrier, account: str, sku: str, on_wait: OnWait) -> int | None:
    """The licenses left of a SKU; None if the carrier does not report the count."""
    try:
        listed = await patiently(partial(client.subscriptions, account, sku), on_wait)
    except (AccountError, CarrierUnreachable):
        return None
    found = total_of(listed, sku)
    return found.license_available if found is not None else None
