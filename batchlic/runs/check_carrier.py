"""Checks with the carrier before a night: name, certificate, clock, login, accounts, licenses, listeners.

No license request is sent. There is at most one login: after a rejected one, nothing else is asked
(promise G).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import attrgetter
from urllib.parse import urlsplit

from batchlic.callbacks.registration import url_warnings
from batchlic.carrier.base_url import find_root
from batchlic.carrier.catalog import Action
from batchlic.carrier.client import CALLBACK_SERVICE, AccountError, Carrier, open_client
from batchlic.carrier.credentials import Secret
from batchlic.carrier.messages import CallbackListener
from batchlic.carrier.probe import ProbeFailed, addresses, probe_carrier, probe_listener
from batchlic.chunker import PlanGroup
from batchlic.errors import BatchlicError, CredentialsRejected, RefusedToStart, StoppedEarly
from batchlic.figures import counted
from batchlic.job import Job
from batchlic.journal import SANDBOX, LicenseCount
from batchlic.runs.check import Finding, Level, attempted, error, ok, warning
from batchlic.runs.ledger_sync import ledger_sync
from batchlic.runs.preflight import (
    Findings,
    confirm_new_ledger,
    preflight,
    refuse_too_few,
    refuse_wrong_url,
)
from batchlic.runs.signals import Interrupted, run_in_loop, unless_asked
from batchlic.runs.target import Target

EXPIRES_SOON = timedelta(days=14)
"""Time before the end of a certificate from which there is a warning."""

CLOCK_TOLERANCE_S = 30.0
CLOCK_LIMIT_S = 300.0
"""Seconds by which the clocks may differ: without a warning, and without an error."""


@dataclass(frozen=True, slots=True)
class _Account:
    """What the carrier answered about one account; `listeners` is None if they were not asked for."""

    name: str
    groups: list[PlanGroup]
    found: Findings
    listeners: list[CallbackListener] | AccountError | None


# -- the server -----------------------------------------------------------------------------------------


def check_server(base_url: str) -> Iterator[Finding]:
    """Name, certificate and clock of the carrier's server; nothing that needs a login."""
    try:
        host, found = addresses(base_url)
    except ProbeFailed as failure:
        yield error("dns", f"{failure}: check BATCHLIC_BASE_URL, the network and the name server")
        return
    yield ok("dns", f"{host}: {', '.join(found[:3])}{', …' if len(found) > 3 else ''}")
    try:
        probe = probe_carrier(base_url)
    except ProbeFailed as failure:
        advice = "check this machine's clock, its authorities (SSL_CERT_FILE) and proxies in between"
        is_tls = "certificate" in str(failure)
        yield error("tls" if is_tls else "connection", f"{host}: {failure}: {advice if is_tls else _CONNECT}")
        return
    yield _certificate("tls", host, probe.certificate_ends, "the carrier has to renew it")
    yield _clock(probe.clock_ahead_s)


_CONNECT = "check the network, firewall and proxy (HTTPS_PROXY), or try again later"


def _certificate(check: str, host: str, ends: datetime | None, advice: str) -> Finding:
    if ends is None:
        return ok(check, f"{host}: not used on this machine's own address")
    text = f"{host}: the certificate is valid until {ends:%Y-%m-%d}"
    if ends - datetime.now(UTC) < EXPIRES_SOON:
        return warning(check, f"{text}, soon: {advice}")
    return ok(check, text)


def _clock(ahead_s: float | None) -> Finding:
    if ahead_s is None:
        return ok("clock", "not compared: the answer has no usable Date")
    off = abs(ahead_s)
    if off <= CLOCK_TOLERANCE_S:
        return ok("clock", f"as the carrier's, within {CLOCK_TOLERANCE_S:.0f} s")
    text = (
        f"{counted(round(off), 'second')} {'ahead of' if ahead_s > 0 else 'behind'} the carrier's: the times "
        "in journal, audit and ledger would be wrong. Set the clock of this machine (NTP)"
    )
    return (warning if off <= CLOCK_LIMIT_S else error)("clock", text)


# -- the login and what needs it ------------------------------------------------------------------------


def check_login(
    target: Target, job: Job | None, groups: Sequence[PlanGroup], *, listener_user: Secret | None
) -> Iterator[Finding]:
    """Log in once, and check the accounts of a plan's groups; a group of 0 devices has unknown ones."""
    login, accounts, other_root = run_in_loop(partial(unless_asked, partial(_ask, target, job, groups)))
    if isinstance(login.stopped, Interrupted):
        raise login.stopped
    if failure := login.stopped or login.unreachable:
        yield from attempted("login", lambda: _login_failure(target, login, failure, other_root))
        return
    yield ok(
        "login", f"accepted by {target.name}" if groups else f"accepted by {target.name}; no account is known"
    )
    for account in accounts:
        yield from _check_account(target, job, account, listener_user)


async def _ask(
    target: Target, job: Job | None, groups: Sequence[PlanGroup]
) -> tuple[Findings, list[_Account], str | None]:
    async with open_client(target.base_url, target.credentials) as client:
        login = await preflight(client, [], listeners=False)
        if login.unreachable is not None and login.unreachable.may_be_wrong_url:
            return login, [], await find_root(target.base_url)
        accounts = []
        if login.stopped is None and login.unreachable is None:
            by_account = attrgetter("account_name")
            for name, some in groupby(sorted(groups, key=by_account), key=by_account):
                accounts.append(await _ask_about(client, target, job, name, list(some)))
            await client.logout()
        return login, accounts, None


async def _ask_about(
    client: Carrier, target: Target, job: Job | None, name: str, groups: list[PlanGroup]
) -> _Account:
    to_sku = job.license.to_sku if job is not None else None
    asked = [*groups, *(replace(group, sku_number=to_sku) for group in groups if to_sku)]
    found = await preflight(client, asked, listeners=False)
    is_unknown = found.stopped or found.unreachable or found.unknown_accounts
    listeners: list[CallbackListener] | AccountError | None = None
    if not is_unknown and target.name != SANDBOX:
        try:
            listeners = await client.listeners(name)
        except AccountError as refusal:
            listeners = refusal
        except (StoppedEarly, CredentialsRejected) as failure:
            listeners = AccountError(str(failure))
    return _Account(name, groups, found, listeners)


def _login_failure(
    target: Target, login: Findings, failure: BatchlicError, other_root: str | None
) -> Iterator[Finding]:
    refuse_wrong_url(target, login, [other_root])
    is_rejected = isinstance(failure, CredentialsRejected)
    advice = (
        "Correct the settings before any other login: five rejected ones in a row lock it"
        if is_rejected
        else "Try again later, or check the network and BATCHLIC_BASE_URL"
    )
    yield Finding(
        check="login",
        level=Level.ERROR,
        message=f"{failure}. {advice}",
        credentials_rejected=is_rejected,
    )


def _check_account(
    target: Target, job: Job | None, account: _Account, listener_user: Secret | None
) -> Iterator[Finding]:
    found = account.found
    if found.unknown_accounts:
        advice = "correct it in the inventory, the job or --account"
        yield error("account", f"{'; '.join(found.unknown_accounts)}: {advice}")
        return
    if failure := found.stopped or found.unreachable:
        is_rejected = isinstance(failure, CredentialsRejected)
        advice = "" if is_rejected else ": try again later"
        yield Finding(
            check="account",
            level=Level.ERROR,
            message=f"{account.name}: {failure}{advice}",
            credentials_rejected=is_rejected,
        )
        return
    for note in found.notes:
        if found.counts:
            yield ok("account", note)
        else:
            yield warning("account", f"{note}. The run starts without knowing whether licenses are left")
    if not found.notes:
        yield ok("account", f"{account.name}: known to the carrier")
    if job is not None:
        freed = {
            (group.account_name, group.sku_number): group.devices
            for group in account.groups
            if group.action is Action.UNASSIGN
        }
        for group in account.groups:
            yield from _check_licenses(job, group, found.counts, freed)
        yield from attempted("ledger", partial(_check_new_ledger, target, job, account))
    if account.listeners is not None:
        yield from _check_listener(job, account.name, account.listeners, listener_user)


def _check_licenses(
    job: Job, group: PlanGroup, counts: Sequence[LicenseCount], freed: Mapping[tuple[str, str], int]
) -> Iterator[Finding]:
    """Whether the account has the licenses that a group of the plan needs; a sync has `freed` ones, too."""
    by_sku = {count.sku_number: count for count in counts if count.account_name == group.account_name}
    sku = job.license.to_sku or group.sku_number
    is_taken = group.action is Action.UNASSIGN if job.sync is not None else job.action != "assign"
    is_given = group.action is not Action.UNASSIGN and job.action != "unassign"
    count = by_sku.get(group.sku_number)
    if is_taken and count is not None and count.assigned is not None:
        text = f"{group.account_name}: {counted(count.assigned, 'license')} of {group.sku_number} assigned"
        if count.assigned < max(group.devices, 1):
            needed = counted(group.devices, "device") if group.devices else "the inventory"
            yield warning("licenses", f"{text}, for {needed}: check account and SKU of the inventory")
        else:
            yield ok("licenses", text)
    available = by_sku[sku].available if sku in by_sku else None
    if not is_given or job.license.order == "unassign-first" or available is None:
        return
    left = f"{group.account_name}: {counted(available, 'license')} of {sku} left"
    if not group.devices and not available:
        yield warning("licenses", f"{left}: buy more, or check the SKU")
        return
    try:
        refuse_too_few([replace(group, sku_number=sku)], counts, freed)
    except RefusedToStart as refusal:
        may_go_on = job.limits.allow_partial or job.license.restore
        yield (warning if may_go_on else error)("licenses", str(refusal))
    else:
        back = freed.get((group.account_name, sku), 0)
        needed = counted(group.devices, "device") if group.devices else "an unknown number of devices"
        yield ok("licenses", f"{left}{f', and {back:,} of gone devices,' if back else ''} for {needed}")


def _check_new_ledger(target: Target, job: Job, account: _Account) -> Iterator[Finding]:
    """Raise RefusedToStart if the ledger is new although licenses are assigned: the run would be refused."""
    with ledger_sync(job, target.name, locked=(), is_new=True) as ledger:
        unrecorded = ledger.unrecorded(account.groups)
    confirm_new_ledger(unrecorded, account.found.counts, job.ledger.path)
    yield from ()


def _check_listener(
    job: Job | None,
    account: str,
    listeners: Sequence[CallbackListener] | AccountError,
    user: Secret | None,
) -> Iterator[Finding]:
    """Whether the carrier would report the outcomes of an account, and to whom."""
    if isinstance(listeners, AccountError):
        yield warning("listener", f"{account}: its listeners are unknown: {listeners}")
        return
    listener = next((found for found in listeners if found.service_name == CALLBACK_SERVICE), None)
    if listener is None:
        is_needed = job is not None and job.limits.require_confirmation
        yield (error if is_needed else warning)(
            "listener",
            f"{account}: none is registered, so nobody gets the outcome of each device: "
            f"batchlic callbacks register --account {account} --url …",
        )
        return
    parts = urlsplit(listener.url)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # the path may hold a secret
    for text in url_warnings(place):
        yield warning("listener", f"{account}: {text}: register another address")
    if user is not None and listener.username != user.reveal():
        yield warning(
            "listener",
            f"{account}: {place} is registered with another user than BATCHLIC_LISTENER_USERNAME, so the "
            "listener of this machine rejects the callbacks: register it again (batchlic callbacks register)",
        )
    try:
        probe = probe_listener(place)
    except (ProbeFailed, ValueError) as failure:
        yield warning(
            "listener",
            f"{account}: {place} is registered, but can't be reached from here: {failure}. Start it, and "
            "check its address; the carrier may still reach it if only this machine can't",
        )
    else:
        yield (
            _certificate(
                "listener",
                f"{account}: {place} is registered, and takes connections",
                probe.certificate_ends,
                "renew it, because the carrier does not call a listener without a valid one",
            )
            if parts.scheme == "https"
            else ok("listener", f"{account}: {place} is registered, and takes connections")
        )
