"""What a plan will need: requests, time at the limit that was found, and licenses."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec

from batchlic.carrier.answers import Outcome
from batchlic.carrier.catalog import Action, LicenseType
from batchlic.chunker import DeviceStatus, PlanGroup
from batchlic.errors import BatchlicError
from batchlic.figures import counted, duration, time_on_terminal
from batchlic.job import Job, as_share
from batchlic.journal import LicenseCount, RunIdentity
from batchlic.runs.folder import RunFolder
from batchlic.runs.learned import known_limit
from batchlic.runs.listing import listed_run

MOST_RUNS = 30
"""Earlier runs that are looked at, the newest first."""

FEW_REQUESTS = 50
"""A run with fewer requests hardly met the carrier's limit: a longer one tells more."""

_ANSWERED = (DeviceStatus.ACCEPTED, DeviceStatus.CONFIRMED, DeviceStatus.FAILED)


class LicenseNeed(msgspec.Struct, frozen=True, kw_only=True):
    """Licenses of one SKU that a plan needs. `left` is None if the carrier was not asked, or did not say."""

    account_name: str
    sku_number: str
    needed: int
    left: int | None
    is_irrevocable: bool


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan will need, without repetitions. `seconds` is None if no rate is known.

    `basis` says where the rate comes from.
    """

    devices: int
    requests: int
    requests_per_second: float | None
    seconds: float | None
    basis: str | None
    licenses: list[LicenseNeed]


class _Rate(msgspec.Struct, frozen=True):
    """Requests per second that an earlier run achieved."""

    requests_per_second: float
    requests: int
    basis: str
    is_same_account: bool


def estimate(
    job: Job,
    folder: RunFolder,
    carrier: str,
    groups: Sequence[PlanGroup],
    counts: Sequence[LicenseCount] = (),
) -> Estimate:
    """What the devices to send of a plan will need. `counts` are the carrier's, if it was asked.

    The rate is the limit that the last run of these accounts found. If none found one, it is the rate of the
    last run beside `folder` against the same carrier, if possible with the same account and with enough
    requests. The limits of the job bound it.
    """
    requests = sum(group.batches for group in groups) * (2 if job.license.to_sku else 1)
    per_second, basis = _rate(job, folder, carrier, groups)
    seconds = None if per_second is None else round(requests / per_second, 1)
    return Estimate(
        devices=sum(group.devices for group in groups),
        requests=requests,
        requests_per_second=None if per_second is None else round(per_second, 3),
        seconds=seconds,
        basis=basis,
        licenses=_licenses(job, groups, counts),
    )


def describe_time(found: Estimate) -> str:
    """Requests and time in words: `250 requests, about 0:12 at 20.8 requests per second (as in run X)`."""
    requests = counted(found.requests, "request")
    if found.seconds is None or found.requests_per_second is None:
        return f"{requests}; how long that takes is not known: there is no earlier run to compare with"
    return (
        f"{requests}, about {duration(max(1.0, found.seconds))} at {found.requests_per_second:,.4g} requests "
        f"per second ({found.basis})"
    )


def describe_licenses(found: Estimate) -> list[str]:
    """Each SKU with the licenses needed and left, in words, and what can't be taken back."""
    lines = []
    for need in found.licenses:
        left = "the carrier was not asked how many are left" if need.left is None else f"{need.left:,} left"
        irrevocable = ", irrevocable: they can never be taken back" if need.is_irrevocable else ""
        lines.append(
            f"{counted(need.needed, 'license')} of {need.sku_number} needed on account {need.account_name}, "
            f"{left}{irrevocable}"
        )
    return lines


def _licenses(job: Job, groups: Sequence[PlanGroup], counts: Sequence[LicenseCount]) -> list[LicenseNeed]:
    if job.action == "unassign":
        return []
    available = {(one.account_name, one.sku_number): one.available for one in counts}
    needed: dict[tuple[str, str], int] = {}
    for group in groups:
        if group.action is Action.UNASSIGN:
            continue
        key = group.account_name, job.license.to_sku or group.sku_number
        needed[key] = needed.get(key, 0) + group.devices
    return [
        LicenseNeed(
            account_name=account,
            sku_number=sku,
            needed=devices,
            left=available.get((account, sku)),
            is_irrevocable=job.skus.get(sku) is LicenseType.LIFETIME,
        )
        for (account, sku), devices in needed.items()
    ]


def _rate(
    job: Job, folder: RunFolder, carrier: str, groups: Sequence[PlanGroup]
) -> tuple[float | None, str | None]:
    """Requests per second to expect, and where the number comes from."""
    limits = job.limits
    if limits.fixed_rate is not None:
        return limits.fixed_rate, "the fixed_rate of the job"
    accounts = {group.account_name for group in groups}
    per_second, basis = _found_limit(job, carrier, accounts) or _earlier_rate(folder, carrier, accounts)
    if per_second is not None and limits.max_rate is not None and limits.max_rate < per_second:
        return limits.max_rate, "the max_rate of the job"
    return per_second, basis


def _found_limit(job: Job, carrier: str, accounts: set[str]) -> tuple[float, str] | None:
    """The carrier's limit that an earlier run has found, without the share that the job leaves to others."""
    limit = known_limit(job, carrier, accounts)
    if limit is None or limit.requests_per_s is None:
        return None
    used = limit.requests_per_s * (1 - as_share(job.limits.headroom))
    return used, f"the carrier's limit, found on {limit.seen_at:%Y-%m-%d}"


def _earlier_rate(
    folder: RunFolder, carrier: str, accounts: set[str]
) -> tuple[float, str] | tuple[None, None]:
    """The rate of the best earlier run to compare with, the newest of those that are alike."""
    rates = list(_earlier_rates(folder, carrier, accounts))
    best = max(rates, key=lambda one: (one.is_same_account, one.requests >= FEW_REQUESTS), default=None)
    return (None, None) if best is None else (best.requests_per_second, best.basis)


def _earlier_rates(folder: RunFolder, carrier: str, accounts: set[str]) -> Iterator[_Rate]:
    """The rates of the runs beside a folder against a carrier, the newest run first."""
    for beside in sorted(folder.beside(), key=_changed_at, reverse=True)[:MOST_RUNS]:
        with suppress(BatchlicError, OSError):
            identity, _ = beside.journal.identity()
            if identity.carrier == carrier and (rate := _rate_of(beside, identity, accounts)) is not None:
                yield rate


def _rate_of(folder: RunFolder, identity: RunIdentity, accounts: set[str]) -> _Rate | None:
    run = listed_run(folder)
    devices = sum(run.statuses.get(status, 0) for status in _ANSWERED)
    requests = sum(run.requests.get(outcome, 0) for outcome in (Outcome.ACCEPTED, Outcome.REFUSED))
    if not run.devices_per_second or not devices or not requests:
        return None
    known = {one.account_name for one in identity.licenses} or {identity.job["license"].get("account")}
    return _Rate(
        requests_per_second=requests * run.devices_per_second / devices,
        requests=requests,
        basis=f"as in run {identity.run_id} of {time_on_terminal(run.began_at or '')}",
        is_same_account=not accounts.isdisjoint(known),
    )


def _changed_at(folder: RunFolder) -> float:
    """When the run was at work last; of one in a store, when it ended or began."""
    with suppress(OSError):
        return folder.journal_file.stat().st_mtime
    with suppress(OSError):
        return folder.summary.stat().st_mtime
    with suppress(OSError):
        return folder.store_record.stat().st_mtime
    return 0.0
