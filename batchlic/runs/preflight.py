"""Checks with the carrier before a run, and after it: license counts and listeners."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import anyio
import polars as pl

from batchlic.callbacks.registration import registration_url
from batchlic.carrier.auth import CarrierUnreachable
from batchlic.carrier.base_url import find_root
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import (
    CALLBACK_SERVICE,
    AccountError,
    Carrier,
    open_client,
)
from batchlic.carrier.credentials import Secret
from batchlic.carrier.license_counts import total_of
from batchlic.carrier.messages import Subscription
from batchlic.carrier.refused_questions import RefusalReason
from batchlic.chunker import DeviceStatus, PlanGroup
from batchlic.errors import BatchlicError, CredentialsRejected, RefusedToStart, StoppedEarly, UsageError
from batchlic.figures import counted
from batchlic.job import Job
from batchlic.journal import Journal, LicenseCount
from batchlic.logs import printable
from batchlic.reader.scans import scan_parquet
from batchlic.runs.asking import Ask
from batchlic.runs.folder import RunFolder
from batchlic.runs.outage import Outage
from batchlic.runs.patience import OnWait, is_long_wait, patiently, say_nothing
from batchlic.runs.screen import tell
from batchlic.runs.signals import Interrupted, run_in_loop, unless_asked
from batchlic.runs.target import Target
from batchlic.writer.device_states import request_totals
from batchlic.writer.resent import resent_devices

_MAX_SKUS = 5
"""SKUs that a refusal names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunListener:
    """The listener that a run started itself, and the credentials of its callbacks."""

    url: str
    username: Secret
    password: Secret


@dataclass(frozen=True, slots=True)
class Findings:
    """What the carrier answered before anything was sent.

    `counts` lacks accounts whose counts the carrier does not give. `stopped` is why nothing can be sent: a
    rejected login is not repeated (promise G). `unreachable` is why there was no answer, if there was none.
    `unknown_accounts` has an explanation for each account that the carrier does not know. `ready_at`: the
    carrier asked for no request before this time of `time.monotonic`.
    """

    counts: list[LicenseCount]
    notes: list[str]
    stopped: BatchlicError | None = None
    unreachable: CarrierUnreachable | None = None
    unknown_accounts: tuple[str, ...] = ()
    ready_at: float = -math.inf

    def unanswered(self, groups: Iterable[PlanGroup]) -> list[PlanGroup]:
        """The groups whose license counts the carrier did not answer, but may answer later."""
        if self.unreachable is None and self.stopped is None:
            return []
        counted = {(found.account_name, found.sku_number) for found in self.counts}
        return [group for group in groups if (group.account_name, group.sku_number) not in counted]


NOT_ASKED = Findings([], [])
"""Nothing had to be asked."""


async def preflight(
    client: Carrier,
    groups: Sequence[PlanGroup],
    *,
    listeners: bool,
    on_wait: OnWait = say_nothing,
    on_unreachable: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Ask for the license counts of a plan's groups and, with `listeners`, who receives their callbacks.

    If the carrier asks to wait before it answers a question, this waits, and asks again; `on_wait` gets the
    seconds and the reason. A login is not repeated (promise G). A carrier that is down, or does not answer
    such questions, does not stop the run here: `on_unreachable` gets the reason.
    """
    questions = _Questions(client, on_wait, listeners=listeners)
    by_account = attrgetter("account_name")
    grouped = groupby(sorted(groups, key=by_account), key=by_account)
    waiting = {account: list(some) for account, some in grouped}
    try:
        await client.login()
        for account in list(waiting):
            is_known = await questions.ask_for_counts(account, waiting[account])
            del waiting[account]
            if is_known:
                await questions.ask_for_listeners(account)
    except CarrierUnreachable as error:
        on_unreachable(str(error))
        found = questions.findings()
        notes = [*found.notes, _unasked(list(waiting), error)] if waiting or not groups else found.notes
        ready_at = time.monotonic() + (error.retry_after_s or 0.0)
        return replace(found, notes=notes, unreachable=error, ready_at=ready_at)
    except (CredentialsRejected, StoppedEarly) as error:
        return Findings([], [], stopped=error)
    return questions.findings()


class _Questions:
    """Asks about one account after the other, and keeps what the carrier answered."""

    def __init__(self, client: Carrier, on_wait: OnWait, *, listeners: bool) -> None:
        self._client = client
        self._on_wait = on_wait
        self._asks_for_listeners = listeners
        self._counts: list[LicenseCount] = []
        self._notes: list[str] = []
        self._unknown: list[str] = []
        self._unheard: list[str] = []

    def findings(self) -> Findings:
        """What the carrier answered until now."""
        notes = [*self._notes, *_unheard(self._unheard)]
        return Findings(self._counts, notes, unknown_accounts=tuple(self._unknown))

    async def ask_for_counts(self, account: str, groups: Sequence[PlanGroup]) -> bool:
        """Ask for the license counts of an account. Returns whether the carrier knows the account.

        Raises CredentialsRejected if the login has no permission, and what `Carrier.subscriptions` raises but
        AccountError.
        """
        try:
            found = await count(self._client, groups, self._on_wait)
        except AccountError as error:
            if error.reason is RefusalReason.PERMISSION:
                raise CredentialsRejected(
                    f"this login may not manage the licenses of account {account}: {error}. Ask the "
                    "carrier for the permission, or use another login"
                ) from error
            if error.reason is RefusalReason.ACCOUNT:
                self._unknown.append(f"account {account}: {error}")
                return False
            self._notes.append(f"account {account}: license counts are unknown: {error}")
            return True
        self._counts += found
        self._notes += _uncounted(account, groups, found)
        if (name := self._client.counted_as(account)) != account:
            self._notes.append(
                f"account {account}: the carrier gives its license counts under the name {name}"
            )
        return True

    async def ask_for_listeners(self, account: str) -> None:
        """Note if nothing receives the callbacks of an account, or if that is unknown.

        After a failure, no more listeners are asked for: the license counts of other accounts matter more. A
        wait that the carrier asks for counts for them, too. Raises CarrierUnreachable if it is too long.
        """
        if not self._asks_for_listeners:
            return
        try:
            found = await patiently(partial(self._client.listeners, account), self._on_wait)
        except AccountError as error:
            self._notes.append(f"account {account}: its listeners are unknown: {error}")
        except CarrierUnreachable as error:
            self._asks_for_listeners = False
            self._notes.append(
                f"account {account}: its listeners and those of later accounts are unknown: {error}"
            )
            if is_long_wait(error):
                raise
            if error.retry_after_s:
                self._on_wait(error.retry_after_s, str(error))
                await anyio.sleep(error.retry_after_s)
        else:
            if all(one.service_name != CALLBACK_SERVICE for one in found):
                self._unheard.append(account)


def _unasked(accounts: Sequence[str], error: CarrierUnreachable) -> str:
    """A note about the accounts whose license counts and listeners the carrier did not answer."""
    if not accounts:
        return f"license counts and listeners are unknown: {error}"
    return f"{_accounts(accounts)}: license counts and listeners are unknown: {error}"


def _accounts(accounts: Sequence[str]) -> str:
    more = f" and {counted(len(accounts) - 1, 'other')}" if len(accounts) > 1 else ""
    return f"account {accounts[0]}{more}"


def _uncounted(account: str, groups: Sequence[PlanGroup], counts: Sequence[LicenseCount]) -> list[str]:
    """A note for each SKU of an account of which the carrier's answer has no number, or only one."""
    known = {one.sku_number: one for one in counts}
    skus = dict.fromkeys(group.sku_number for group in groups)
    if not known:
        return [f"account {account}: license counts are unknown: they are missing from the carrier's answer"]
    return [
        f"account {account}: the number of {what} licenses of {sku} is unknown: the carrier's answer lacks it"
        for sku in skus
        for what in ("assigned", "available")
        if sku not in known or getattr(known[sku], what) is None
    ]


def _unheard(accounts: Sequence[str]) -> list[str]:
    """A note about accounts without a listener, if there are any."""
    if not accounts:
        return []
    what = f"no listener for {CALLBACK_SERVICE} is registered, so the carrier reports no outcomes"
    return [f"{_accounts(accounts)}: {what}"]


def ask_carrier(
    target: Target, groups: Sequence[PlanGroup], *, listeners: bool, listener: RunListener | None = None
) -> Findings:
    """Log in, register the run's own `listener` if it has one, and ask as `preflight`.

    A signal ends the questions: then nothing can be sent either. An outage is reported on stderr. Raises
    what no retry can heal: UsageError if the base URL is not that of the carrier's API but another one on the
    same host is, and RefusedToStart if the carrier does not know an account.
    """

    async def ask() -> Findings:
        async with open_client(target.base_url, target.credentials) as client:
            if listener is not None:
                await register(client, (group.account_name for group in groups), listener)
            found = await preflight(
                client,
                groups,
                listeners=listeners,
                on_wait=outage.waits,
                on_unreachable=outage.unanswered,
            )
            await client.logout()
        if found.unreachable is not None and found.unreachable.may_be_wrong_url:
            other_roots.append(await find_root(target.base_url))
        return found

    if not groups:
        return NOT_ASKED
    outage = Outage(target.host, _tell)
    other_roots: list[str | None] = []
    try:
        found = run_in_loop(partial(unless_asked, ask, meanwhile=outage.watch))
    except Interrupted as interrupted:
        return Findings([], [], stopped=interrupted)
    refuse_wrong_url(target, found, other_roots)
    if found.unknown_accounts:
        raise RefusedToStart(
            f"the carrier does not know these accounts, so nothing was sent: "
            f"{'; '.join(found.unknown_accounts)}. Correct the account in the inventory, the job or --account"
        )
    return found


def refuse_wrong_url(target: Target, found: Findings, other_roots: Sequence[str | None]) -> None:
    """Raise UsageError if the API answers under another path of the host than that of the base URL."""
    for root in filter(None, other_roots):
        raise UsageError(
            f"BATCHLIC_BASE_URL: {target.base_url} is not the carrier's API ({found.unreachable}). "
            f"The API answers at {root}"
        )


def _tell(text: str) -> None:
    tell(printable(text))


async def register(client: Carrier, accounts: Iterable[str], listener: RunListener) -> None:
    """Register a run's own listener for these accounts."""
    await client.login()
    for account in dict.fromkeys(accounts):
        await client.register_listener(
            account, registration_url(listener.url, account), listener.username.reveal(), listener.password
        )


async def count(
    client: Carrier, groups: Sequence[PlanGroup], on_wait: OnWait = say_nothing
) -> list[LicenseCount]:
    """The license counts of each group's account and SKU; 0 for a SKU that the account does not have.

    A SKU that is not listed is unknown if an entry of the list can't be read: it may be in that entry.
    `on_wait` gets the seconds and the reason of each wait before a question is asked again.
    An account without any counts is left out, and also a SKU whose counts are both unknown.
    """
    counts = []
    for account in dict.fromkeys(group.account_name for group in groups):
        listed = await patiently(partial(client.subscriptions, account), on_wait)
        skus = (group.sku_number for group in groups if listed and group.account_name == account)
        counts += [_count(account, sku, listed) for sku in skus]
    return [one for one in counts if one.assigned is not None or one.available is not None]


def _count(account: str, sku: str, listed: Sequence[Subscription]) -> LicenseCount:
    found = total_of(listed, sku)
    if found is not None:
        return LicenseCount(account, sku, found.license_assigned, found.license_available)
    skus = tuple(sorted({one.sku_number for one in listed}))
    if "" in skus:
        return LicenseCount(account, sku, assigned=None, available=None)
    return LicenseCount(account, sku, assigned=0, available=0, listed_instead=skus)


def fit_to_licenses(
    job: Job,
    groups: Sequence[PlanGroup],
    counts: Sequence[LicenseCount],
    *,
    unrecorded: Sequence[PlanGroup] = (),
    ask: Ask | None = None,
) -> list[int]:
    """How many devices of each group to plan: all, or as many as there are licenses, where the job allows it.

    Raises RefusedToStart with the numbers where it does not, and as `confirm_new_ledger` does.
    """
    try:
        confirm_new_ledger(unrecorded, counts, job.ledger.path, ask)
    except RefusedToStart as refusal:
        try:
            _fit(job, groups, counts)
        except RefusedToStart as another:
            raise RefusedToStart(f"{refusal}. In addition, {another}") from None
        raise
    return _fit(job, groups, counts)


def _fit(job: Job, groups: Sequence[PlanGroup], counts: Sequence[LicenseCount]) -> list[int]:
    if job.request_action is not Action.ASSIGN:
        return [group.devices for group in groups]
    to_license = [group for group in groups if group.action is not Action.UNASSIGN]
    freed = _devices_by_target(group for group in groups if group.action is Action.UNASSIGN)
    if not job.limits.allow_partial:
        refuse_too_few(to_license, counts, freed)
    fitting = iter(devices_that_fit(to_license, counts, freed))
    return [group.devices if group.action is Action.UNASSIGN else next(fitting) for group in groups]


def _devices_by_target(groups: Iterable[PlanGroup]) -> dict[tuple[str, str], int]:
    return {(group.account_name, group.sku_number): group.devices for group in groups}


def confirm_new_ledger(
    unrecorded: Sequence[PlanGroup],
    counts: Sequence[LicenseCount],
    ledger: str | None,
    ask: Ask | None = None,
) -> None:
    """Make sure that it is no mistake if the carrier counts licenses of which the ledger has no record.

    `unrecorded` are the groups of which it has none. `ask` gets the question. Without it, or after a no,
    raises RefusedToStart: the devices that have a license already would get a second one.
    """
    groups = {(group.account_name, group.sku_number) for group in unrecorded}
    assigned = [
        f"{counted(found.assigned, 'license')} of {found.sku_number} assigned on account {found.account_name}"
        for found in counts
        if found.assigned is not None
        and found.assigned > 0
        and (found.account_name, found.sku_number) in groups
    ]
    if not assigned:
        return
    facts = (
        f"the ledger {ledger} has no record of these licenses, but the carrier counts "
        f"{' and '.join(assigned)}. Devices that have a license already would get a second one"
    )
    if ask is not None:
        ask(f"Warning: {facts}. Start with this ledger?")
        return
    raise RefusedToStart(
        f"{facts}. If another ledger has the records, name it with --ledger, or its folder with "
        "BATCHLIC_STATE_DIR. If there is none, import earlier runs or a list of licensed devices "
        f"(batchlic ledger import FILE --ledger {ledger}), or start without their records: --new-ledger"
    )


async def refuse_new_ledger(
    client: Carrier, unrecorded: Sequence[PlanGroup], ledger: str | None, on_wait: OnWait = say_nothing
) -> list[str]:
    """The check of `confirm_new_ledger`, where the carrier did not answer before. Returns notes."""
    try:
        counts = await count(client, unrecorded, on_wait)
    except (CarrierUnreachable, AccountError) as error:
        return [f"the ledger is new, and whether licenses are assigned already is unknown: {error}"]
    confirm_new_ledger(unrecorded, counts, ledger)
    return []


def refuse_too_few(
    groups: Sequence[PlanGroup],
    counts: Sequence[LicenseCount],
    freed: Mapping[tuple[str, str], int] | None = None,
) -> None:
    """Raise RefusedToStart with the numbers if a group has more devices than licenses are left.

    `freed`: the licenses by account and SKU that the run takes back before.
    """
    listed_instead = {(one.account_name, one.sku_number): one.listed_instead for one in counts}
    short = []
    for group, fit in zip(groups, devices_that_fit(groups, counts, freed), strict=True):
        if fit < group.devices:
            key = group.account_name, group.sku_number
            back = (freed or {}).get(key, 0)
            removed = f" (with {back:,} of gone devices)" if back else ""
            short.append(
                f"account {group.account_name} has {counted(fit, 'license')} of {group.sku_number} left"
                f"{removed} for {counted(group.devices, 'device')}{_instead(listed_instead.get(key, ()))}"
            )
    if short:
        raise RefusedToStart(
            f"too few licenses: {'; '.join(short)}. Buy more, or license as many as possible: --allow-partial"
        )


def _instead(skus: Sequence[str]) -> str:
    """The SKUs that the carrier lists instead of the one that is asked for."""
    more = f" and {counted(len(skus) - _MAX_SKUS, 'other')}" if len(skus) > _MAX_SKUS else ""
    return f" (the carrier lists {', '.join(skus[:_MAX_SKUS])}{more})" if skus else ""


def still_to_license(job: Job, plan: Path, journal: Journal) -> list[PlanGroup]:
    """The devices of a plan that still need a license: no request for them was accepted, refused or lost."""
    if job.request_action is not Action.ASSIGN:
        return []
    return _still_to_send(plan, journal, Action.ASSIGN if job.sync else None)


def still_to_free(job: Job, plan: Path, journal: Journal) -> dict[tuple[str, str], int]:
    """The devices by account and SKU whose licenses a sync has still to take back."""
    return _devices_by_target(_still_to_send(plan, journal, Action.UNASSIGN)) if job.sync else {}


def _still_to_send(plan: Path, journal: Journal, action: Action | None) -> list[PlanGroup]:
    """The devices of the groups of one action that have no answer, and whose answer was not lost."""
    sent = request_totals(plan, journal, action)
    groups = []
    for group in planned_groups(plan):
        if group.action is not action:
            continue
        left = group.devices - sum(sent.get((group.account_name, group.sku_number), {}).values())
        if left > 0:
            groups.append(replace(group, devices=left))
    return groups


async def compare_counts(
    client: Carrier, folder: RunFolder, journal: Journal, on_wait: OnWait = say_nothing
) -> list[str]:
    """Notes about license counts that did not change as the run's answers say, and what may be the reason."""
    before = journal.identity.licenses
    groups = [
        PlanGroup(account_name=one.account_name, sku_number=one.sku_number, devices=0, batches=0)
        for one in before
    ]
    try:
        after = await count(client, groups, on_wait)
    except (StoppedEarly, AccountError, CredentialsRejected) as error:
        return [f"license counts after the run are unknown: {error}"]
    action = journal.identity.action
    if journal.identity.is_sync:
        sent = request_totals(folder.plan, journal, Action.ASSIGN)
        removed = request_totals(folder.plan, journal, Action.UNASSIGN)
    else:
        sent, removed = request_totals(folder.plan, journal), {}
    if not (notes := count_mismatches(sent, before, after, action, removed=removed)):
        return []
    if resent := resent_devices(journal).height:
        devices = f"{counted(resent, 'device')} {'was' if resent == 1 else 'were'}"
        licenses = " and may hold two licenses" if action is Action.ASSIGN else ""
        notes.append(
            f"{devices} sent again after lost answers{licenses}: "
            f"`batchlic export {folder.argument} --what resent` lists them"
        )
    return notes


def count_mismatches(
    sent: Mapping[tuple[str, str], Mapping[DeviceStatus, int]],
    before: Sequence[LicenseCount],
    after: Sequence[LicenseCount],
    action: Action,
    *,
    removed: Mapping[tuple[str, str], Mapping[DeviceStatus, int]] | None = None,
) -> list[str]:
    """Notes about counts whose `licenseAssigned` did not change by the number of accepted devices.

    `sent` has the devices by account, SKU and status, by the carrier's answers alone. In a sync, these are
    the devices that it assigned, and `removed` has those that it unassigned.
    """
    sign, verb = (1, "rose") if action is Action.ASSIGN else (-1, "fell")
    then = {(one.account_name, one.sku_number): one.assigned for one in before}
    notes = []
    for found in after:
        key = found.account_name, found.sku_number
        statuses = sent.get(key, {})
        was = then.get(key, found.assigned)
        if found.assigned is None or was is None:
            continue
        change = sign * (found.assigned - was)
        counted_statuses = (DeviceStatus.ACCEPTED, DeviceStatus.IN_DOUBT)
        accepted, lost = (statuses.get(status, 0) for status in counted_statuses)
        back, lost_back = ((removed or {}).get(key, {}).get(status, 0) for status in counted_statuses)
        if not accepted - back - lost_back <= change <= accepted + lost - back:
            devices = f"{counted(accepted, 'device')} {'was' if accepted == 1 else 'were'}"
            if back:
                devices = f"{accepted:,} assigned and {back:,} unassigned devices were"
            notes.append(
                f"licenses of {found.sku_number} in use on account {found.account_name} {verb} by "
                f"{change:,}, while {devices} accepted: the reason may be outcomes that are "
                "still to come, failures, or somebody else"
            )
    return notes


def devices_that_fit(
    groups: Sequence[PlanGroup],
    counts: Sequence[LicenseCount],
    freed: Mapping[tuple[str, str], int] | None = None,
) -> list[int]:
    """How many devices of each group there are licenses for; all of them if the counts are unknown.

    `freed` licenses are left, too.
    """
    available = {
        key: found.available + (freed or {}).get(key, 0)
        for found in counts
        for key in [(found.account_name, found.sku_number)]
        if found.available is not None
    }
    return [
        min(group.devices, max(0, available.get((group.account_name, group.sku_number), group.devices)))
        for group in groups
    ]


def one_for_each_target(groups: Iterable[PlanGroup]) -> list[PlanGroup]:
    """The first group of each account and SKU."""
    first: dict[tuple[str, str], PlanGroup] = {}
    for group in groups:
        first.setdefault((group.account_name, group.sku_number), group)
    return list(first.values())


def planned_groups(plan: Path) -> list[PlanGroup]:
    """The groups of a plan's batches; those of a sync by their action, too."""
    rows = scan_parquet(plan).filter(pl.col("batch_id").is_not_null())
    keys = ["account_name", "sku_number", *(["action"] if "action" in rows.collect_schema() else [])]
    counts = [pl.len().alias("devices"), pl.col("batch_id").n_unique().alias("batches")]
    groups = rows.group_by(keys).agg(counts).sort(keys).collect().to_dicts()
    return [
        PlanGroup(**{**group, "action": Action(group["action"]) if "action" in group else None})
        for group in groups
    ]
