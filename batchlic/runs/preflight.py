"""License counts and listeners, asked before a run and after it: is there enough, did it change right."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import polars as pl

from batchlic.callbacks.registration import address
from batchlic.carrier.auth import CarrierUnreachable, Secret
from batchlic.carrier.catalogue import Action
from batchlic.carrier.client import CALLBACK_SERVICE, AccountError, CarrierClient
from batchlic.chunker import DeviceStatus, PlanGroup
from batchlic.errors import BatchlicError, CredentialsRejected, RefusedToStart, StoppedEarly
from batchlic.job import Job
from batchlic.journal import Journal, LicenseCount
from batchlic.writer.device_states import request_totals


@dataclass(frozen=True, slots=True, kw_only=True)
class RunListener:
    """The listener that a run has brought up itself, and what callbacks to it carry."""

    url: str
    username: Secret
    password: Secret


@dataclass(frozen=True, slots=True)
class Findings:
    """What the carrier said before anything was sent; without counts where it would not say.

    `stopped` is why nothing can be sent: a login that was rejected is not tried again (promise G).
    """

    counts: list[LicenseCount]
    notes: list[str]
    stopped: BatchlicError | None = None


NOT_ASKED = Findings([], [])
"""Where there is nothing to be asked."""


async def preflight(client: CarrierClient, groups: Sequence[PlanGroup], *, listeners: bool) -> Findings:
    """Ask for the license counts of a plan's groups and, if so told, whether outcomes will be called back.

    A carrier that is down or does not answer such questions stops nothing here.
    """
    counts: list[LicenseCount] = []
    notes: list[str] = []
    try:
        await client.login()
        for account, some in groupby(groups, key=attrgetter("account_name")):
            try:
                counts += await count(client, list(some))
            except AccountError as error:
                notes.append(f"account {account}: license counts are unknown: {error}")
            if listeners:
                notes += await _listening(client, account)
    except CarrierUnreachable as error:
        return Findings(counts, [*notes, f"license counts are unknown, or who listens: {error}"])
    except (CredentialsRejected, StoppedEarly) as error:
        return Findings([], [], stopped=error)
    return Findings(counts, notes)


async def _listening(client: CarrierClient, account: str) -> list[str]:
    """What is to be said of an account's listeners, if anything."""
    try:
        listens = any(found.service_name == CALLBACK_SERVICE for found in await client.listeners(account))
    except AccountError as error:
        return [f"account {account}: its listeners are unknown: {error}"]
    return [] if listens else [f"account {account}: {_NO_LISTENER}"]


async def register(client: CarrierClient, accounts: Iterable[str], listener: RunListener) -> None:
    """Have the outcomes of these accounts called back to a run's own listener."""
    await client.login()
    for account in dict.fromkeys(accounts):
        await client.register_listener(
            account, address(listener.url, account), listener.username.reveal(), listener.password
        )


async def count(client: CarrierClient, groups: Sequence[PlanGroup]) -> list[LicenseCount]:
    """The license counts of each group's account and SKU: 0 where the account has others, but not this one.

    An account of which the carrier lists nothing is left out: that says nothing.
    """
    counts = []
    for account in dict.fromkeys(group.account_name for group in groups):
        known = {found.sku_number: found for found in await client.subscriptions(account)}
        for sku in (group.sku_number for group in groups if known and group.account_name == account):
            found = known.get(sku)
            counts.append(
                LicenseCount(
                    account,
                    sku,
                    assigned=found.license_assigned if found else 0,
                    available=found.license_available if found else 0,
                )
            )
    return counts


def fit_to_licenses(job: Job, groups: Sequence[PlanGroup], counts: Sequence[LicenseCount]) -> list[int]:
    """How many devices of each group to plan: all, or as many as there are licenses, where the job allows it.

    Raises RefusedToStart with the numbers where it does not.
    """
    if job.request_action is not Action.ASSIGN:
        return [group.devices for group in groups]
    if not job.limits.allow_partial:
        refuse_too_few(groups, counts)
    return devices_that_fit(groups, counts)


def refuse_too_few(groups: Sequence[PlanGroup], counts: Sequence[LicenseCount]) -> None:
    """Raise RefusedToStart with the numbers where a group has more devices than licenses are left."""
    short = [
        f"account {group.account_name} has {fit:,} licenses of {group.sku_number} left, "
        f"for {group.devices:,} devices"
        for group, fit in zip(groups, devices_that_fit(groups, counts), strict=True)
        if fit < group.devices
    ]
    if short:
        raise RefusedToStart(
            f"too few licenses: {'; '.join(short)}. Buy more, or license as many as fit: --allow-partial"
        )


def still_to_license(job: Job, plan: Path, journal: Journal) -> list[PlanGroup]:
    """What of a plan's groups surely needs a license yet: nothing was accepted, refused or lost for it."""
    if job.request_action is not Action.ASSIGN:
        return []
    sent = request_totals(plan, journal)
    groups = []
    for account, sku, devices in _planned(plan).iter_rows():
        left = devices - sum(sent.get((account, sku), {}).values())
        if left > 0:
            groups.append(PlanGroup(account_name=account, sku_number=sku, devices=left, batches=0))
    return groups


async def compare_counts(client: CarrierClient, plan: Path, journal: Journal) -> list[str]:
    """In words, where the license counts did not change over the whole run as its answers say."""
    before = journal.identity.licenses
    groups = [
        PlanGroup(account_name=one.account_name, sku_number=one.sku_number, devices=0, batches=0)
        for one in before
    ]
    try:
        after = await count(client, groups)
    except (StoppedEarly, AccountError, CredentialsRejected) as error:
        return [f"license counts after the run are unknown: {error}"]
    return count_mismatches(request_totals(plan, journal), before, after, journal.identity.action)


def count_mismatches(
    sent: Mapping[tuple[str, str], Mapping[DeviceStatus, int]],
    before: Sequence[LicenseCount],
    after: Sequence[LicenseCount],
    action: Action,
) -> list[str]:
    """In words, where `licenseAssigned` did not change by as many as the devices that were accepted.

    `sent` has the devices by account, SKU and status, by the carrier's answers alone.
    """
    sign, verb = (1, "rose") if action is Action.ASSIGN else (-1, "fell")
    then = {(one.account_name, one.sku_number): one.assigned for one in before}
    notes = []
    for found in after:
        key = found.account_name, found.sku_number
        statuses = sent.get(key, {})
        change = sign * (found.assigned - then.get(key, found.assigned))
        accepted, lost = (statuses.get(s, 0) for s in (DeviceStatus.ACCEPTED, DeviceStatus.IN_DOUBT))
        if not accepted <= change <= accepted + lost:
            notes.append(
                f"licenses of {found.sku_number} in use on account {found.account_name} {verb} by "
                f"{change:,}, while {accepted:,} devices were accepted: outcomes to come, failures or "
                "somebody else may be why"
            )
    return notes


def devices_that_fit(groups: Sequence[PlanGroup], counts: Sequence[LicenseCount]) -> list[int]:
    """How many devices of each group there are licenses for: all, where none were counted."""
    available = {(found.account_name, found.sku_number): found.available for found in counts}
    return [
        min(group.devices, max(0, available.get((group.account_name, group.sku_number), group.devices)))
        for group in groups
    ]


def _planned(plan: Path) -> pl.DataFrame:
    """`account_name`, `sku_number`, `devices` of what a plan sends."""
    rows = pl.scan_parquet(plan).filter(pl.col("batch_id").is_not_null())
    groups = rows.group_by("account_name", "sku_number").agg(pl.len().alias("devices"))
    return groups.sort("account_name", "sku_number").collect()


_NO_LISTENER = f"no listener for {CALLBACK_SERVICE} is registered, so no outcome will be called back"
