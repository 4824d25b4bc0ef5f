"""What a job allows its syncs: which licenses they may take back, and how many at most."""

from collections.abc import Callable, Sequence
from decimal import ROUND_FLOOR, Decimal

from batchlic.chunker import PlanGroup
from batchlic.chunker.sync import Removals, SyncRules
from batchlic.errors import RefusedToStart
from batchlic.figures import counted
from batchlic.job import Job
from batchlic.journal import LicenseCount
from batchlic.runs.preflight import devices_that_fit


def sync_rules(job: Job, is_short: Callable[[PlanGroup], bool] = lambda _: False) -> SyncRules | None:
    """The rules of a sync; None if the job does something else.

    `is_short`: whether fewer licenses are left than the devices of a group need.
    """
    if job.sync is None:
        return None
    account, sku = job.license.account, job.license.sku
    most = job.sync.max_removals
    return SyncRules(
        targets=[(account, sku)] if account and sku else [],
        lifetime_skus=job.lifetime_skus,
        assigns=job.sync.assign,
        removes=job.sync.remove,
        check=lambda removals: refuse_too_many(removals, most),
        is_short=is_short,
    )


def is_short(group: PlanGroup, counts: Sequence[LicenseCount]) -> bool:
    """Whether fewer licenses are left than the devices of a group need; false if the counts are unknown."""
    return devices_that_fit([group], counts) != [group.devices]


def refuse_too_many(removals: Sequence[Removals], most: str) -> None:
    """Raise RefusedToStart with the numbers if more devices would lose their license than `most` allows.

    A number counts for the whole run. A percentage counts for each account and SKU: a file that lacks most
    devices of one account is as wrong as a file that lacks most devices of all.
    """
    total = sum(removal.gone for removal in removals)
    refused = [removal for removal in removals if removal.gone > _allowed(removal, total, most)]
    if not refused:
        return
    numbers = "; ".join(
        f"{removal.gone:,} of {counted(removal.licensed, 'licensed device')} on account "
        f"{removal.account_name}, SKU {removal.sku_number}"
        for removal in refused
    )
    scope = "of each account and SKU" if most.endswith("%") else "in all"
    raise RefusedToStart(
        f"gone from the inventory: {numbers}. --max-removals (max_removals in the job's [sync]) allows "
        f"{most} {scope}. Nothing was sent. Check that the inventory is whole. If it is right, run the same "
        f"command with --max-removals {total}; to assign licenses only, with --no-remove"
    )


def _allowed(removal: Removals, total: int, most: str) -> int:
    """How many of the gone devices of one account and SKU may lose their license."""
    if not most.endswith("%"):
        return removal.gone if total <= int(most) else 0
    share = Decimal(most.removesuffix("%")) * removal.licensed / 100
    return int(share.to_integral_value(ROUND_FLOOR))
