"""What runs learn about the carrier's limit, for later runs: a file beside the ledger, or rows in a store.

It is a hint. It holds addresses and accounts, but no secret (promise F).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec.structs import replace

from batchlic.atomic import replacing
from batchlic.database import limits
from batchlic.database.postgresql import open_store
from batchlic.errors import BatchlicError
from batchlic.events import EventStream, LimitChanged, Warned
from batchlic.job import Job
from batchlic.journal import SANDBOX
from batchlic.pool.limiter.evidence import Learned
from batchlic.pool.limiter.findings import Calls, Limit, Rate, Window
from batchlic.pool.limiter.limiters import Scope
from batchlic.reader.scans import scan_parquet

MAX_AGE = timedelta(days=30)
"""Older limits are removed: the contract may have changed by then. A monthly run still gains from them."""
RISES_DAILY = 1.1
"""Factor by which the refused rate grows with each day of age, so that an older limit is tested sooner."""

_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class LearnedLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit of an account, in one of three kinds: a rate, a quota for a period, or requests in flight.

    `seen_at` is ISO 8601 in UTC. `refused_per_s` is the rate at which some requests were refused.
    """

    seen_at: Annotated[datetime, msgspec.Meta(tz=True)]
    per_s: _Positive | None = None
    refused_per_s: _Positive | None = None
    burst: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Requests beyond that rate that were let in when a run began."""
    is_spaced: bool = False
    """Whether each request must keep a distance from the one before: there is no burst."""
    quota: Annotated[int, msgspec.Meta(ge=1)] | None = None
    period_s: _Positive | None = None
    calls: Annotated[int, msgspec.Meta(ge=1)] | None = None
    refusal_s: _Seconds = 0.0
    """Seconds that all workers wait after a refusal."""
    silent_s: _Seconds = 0.0
    """The same where the carrier does not say so."""
    is_noise: bool = False
    """Whether most of what the run saw was noise: then it is not used."""

    @property
    def requests_per_s(self) -> float | None:
        """The most requests per second that the limit lets in; None if it bounds those in flight."""
        if self.quota is not None and self.period_s is not None:
            return self.quota / self.period_s
        return self.per_s

    @classmethod
    def of(cls, learned: Learned, seen_at: datetime) -> "LearnedLimit":
        """What a run has learned."""
        entry = cls(seen_at=seen_at, refusal_s=learned.refusal_s, is_noise=learned.is_noise)
        match learned.limit:
            case Calls(calls):
                return replace(entry, calls=calls)
            case Window(quota, period):
                return replace(entry, quota=quota, period_s=period)
            case Rate(per_s, pause_s=silent_s, refused_per_s=refused, burst=burst, is_spaced=is_spaced):
                entry = replace(entry, per_s=per_s, burst=burst, is_spaced=is_spaced, silent_s=silent_s)
                return replace(entry, refused_per_s=refused if math.isfinite(refused) else None)

    def learned(self, at: datetime) -> Learned | None:
        """What a run starts from; None if it is too old, or noise."""
        age = at - self.seen_at
        if self.is_noise or not timedelta() <= age <= MAX_AGE or (limit := self._limit(age)) is None:
            return None
        return Learned(limit=limit, refusal_s=self.refusal_s)

    def _limit(self, age: timedelta) -> Limit | None:
        if self.calls is not None:
            return Calls(self.calls)
        if self.quota is not None and self.period_s is not None:
            return Window(self.quota, self.period_s)
        if self.per_s is None:
            return None
        refused = (self.refused_per_s or math.inf) * RISES_DAILY ** (age / timedelta(days=1))
        return Rate(
            self.per_s,
            pause_s=self.silent_s,
            refused_per_s=refused,
            burst=self.burst,
            is_spaced=self.is_spaced,
        )


class LearnedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The file: limits by base URL and account."""

    carriers: dict[str, dict[str, LearnedLimit]] = {}


class Memory:
    """What the runs of a ledger have learned. Nothing that goes wrong here stops a run.

    A run against a sandbox, or without a ledger, learns nothing.
    """

    def __init__(self, job: Job, carrier: str, plan: Path, events: EventStream) -> None:
        self._kept = _kept_limits(job, carrier)
        self._carrier = carrier
        self._accounts = _accounts(plan) if self._kept else []
        self._is_by_account = job.limits.scope == "account"
        self._max_concurrency = job.limits.max_concurrency
        self._events = events

    def recall(self) -> dict[Scope, Learned]:
        """What to start from, by scope: for the login, the limit seen last for any account of the run."""
        if self._kept is None:
            return {}
        try:
            known = self._kept.read(self._carrier)
        except BatchlicError as error:
            self._warn(f"{error}: this run searches for the limit again")
            return {}
        scopes: dict[Scope, Sequence[str]] = {None: self._accounts}
        if self._is_by_account:
            scopes = {account: [account] for account in self._accounts}
        found = {scope: self._start(_latest(known, of)) for scope, of in scopes.items()}
        started = {scope: start for scope, start in found.items() if start is not None}
        for scope, (latest, learned) in started.items():
            words = f"{learned.limit} (known since {latest.seen_at:%Y-%m-%d} from an earlier run)"
            self._events.emit(
                LimitChanged(
                    found=words, requests_per_s=None, concurrency=self._max_concurrency, account=scope
                )
            )
        return {scope: learned for scope, (_, learned) in started.items()}

    @staticmethod
    def _start(latest: LearnedLimit | None) -> tuple[LearnedLimit, Learned] | None:
        learned = None if latest is None else latest.learned(datetime.now(UTC))
        return None if latest is None or learned is None else (latest, learned)

    def keep(self, learned: Mapping[Scope, Learned]) -> None:
        """Keep what this run has learned: of its login, for each of its accounts.

        What was known of other accounts stays.
        """
        if self._kept is None or not learned:
            return
        at = datetime.now(UTC)
        entries = {scope: LearnedLimit.of(one, at) for scope, one in learned.items()}
        found = {
            account: entry
            for account in self._accounts
            if (entry := entries.get(account if self._is_by_account else None)) is not None
        }
        try:
            self._kept.keep(self._carrier, found, at)
        except (BatchlicError, OSError) as error:
            self._warn(f"the next run does not know what this one has learned about the limit: {error}")

    def _warn(self, message: str) -> None:
        self._events.emit(Warned(message=message))


class KeptLimits(Protocol):
    """Where the limits of earlier runs are kept."""

    def read(self, carrier: str) -> dict[str, LearnedLimit]:
        """The limits at a carrier, by account. Raises BatchlicError if they can't be read."""

    def keep(self, carrier: str, found: Mapping[str, LearnedLimit], at: datetime) -> None:
        """Keep limits by account that were found `at`, and forget old ones.

        Raises BatchlicError or OSError.
        """


@dataclass(frozen=True, slots=True)
class LimitsFile:
    """A file beside the ledger."""

    path: Path

    def read(self, carrier: str) -> dict[str, LearnedLimit]:
        """The limits at a carrier, by account; empty without a file."""
        return self._read().carriers.get(carrier, {})

    def keep(self, carrier: str, found: Mapping[str, LearnedLimit], at: datetime) -> None:
        """Write the file again. A damaged one is replaced."""
        try:
            known = self._read().carriers
        except NoLimits:
            known = {}
        carriers = {
            name: {account: one for account, one in limits.items() if at - one.seen_at <= MAX_AGE}
            for name, limits in known.items()
        }
        carriers.setdefault(carrier, {}).update(found)
        kept = {name: limits for name, limits in carriers.items() if limits}
        with replacing(self.path) as temporary:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(LearnedLimits(carriers=kept))))

    def _read(self) -> LearnedLimits:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=LearnedLimits)
        except FileNotFoundError:
            return LearnedLimits()
        except OSError as error:
            raise NoLimits(f"{self.path}: can't be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise NoLimits(f"{self.path}: this file is damaged, and will be replaced") from error


@dataclass(frozen=True, slots=True)
class LimitsInStore:
    """A table in the store with a name."""

    store: str

    def read(self, carrier: str) -> dict[str, LearnedLimit]:
        """The limits at a carrier, by account."""
        found = limits.read_limits(open_store(self.store), carrier)
        decoded = {scope: _decoded(text) for scope, text in found.items()}
        return {scope: limit for scope, limit in decoded.items() if limit is not None}

    def keep(self, carrier: str, found: Mapping[str, LearnedLimit], at: datetime) -> None:
        """Keep limits by account. Newer limits of other runs stay."""
        limits.keep_limits(
            open_store(self.store),
            carrier,
            {account: msgspec.json.encode(entry).decode() for account, entry in found.items()},
            seen_at=at,
            forget_before=at - MAX_AGE,
        )


def _decoded(text: str) -> LearnedLimit | None:
    """A limit; None if the text is of another version of batchlic."""
    try:
        return msgspec.json.decode(text, type=LearnedLimit)
    except (ValueError, RecursionError):
        return None


class NoLimits(BatchlicError):
    """Limits that are kept, but can't be read."""


def known_limit(job: Job, carrier: str, accounts: Collection[str]) -> LearnedLimit | None:
    """The limit that a run of any of these accounts found last; None if none is known, or can't be read."""
    kept = _kept_limits(job, carrier)
    if kept is None:
        return None
    try:
        found = _latest(kept.read(carrier), accounts)
    except BatchlicError:
        return None
    return found if found is not None and found.learned(datetime.now(UTC)) is not None else None


def _latest(known: Mapping[str, LearnedLimit], accounts: Collection[str]) -> LearnedLimit | None:
    found = [known[account] for account in accounts if account in known]
    return max(found, key=lambda one: one.seen_at, default=None)


def _kept_limits(job: Job, carrier: str) -> KeptLimits | None:
    location = job.store.url or job.ledger.path
    if not job.ledger.use or location is None or carrier == SANDBOX:
        return None
    return LimitsInStore(location) if "://" in location else LimitsFile(learned_path(Path(location)))


def learned_path(ledger: Path) -> Path:
    """The file beside a ledger: `ledger.limits.json` for `ledger.db`."""
    return ledger.with_name(f"{ledger.stem}.limits.json")


def _accounts(plan: Path) -> Sequence[str]:
    names = scan_parquet(plan).select("account_name").unique().collect()
    return names["account_name"].drop_nulls().sort().to_list()
