"""The limiters of a session: one for its login, or one for each account."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from batchlic.pool.limiter.evidence import Learned
from batchlic.pool.limiter.findings import Calls, Finding, NoLimit, Shut, size
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.pauses import Pauses

Scope: TypeAlias = str | None
"""What a limiter is for: an account, or None for the login with all its accounts."""
NewLimiter: TypeAlias = Callable[[Scope, Learned | None, anyio.CapacityLimiter | None], Limiter]
"""Makes the limiter of a scope, from what this session has learned about it before.

It shares the requests in flight of the capacity limiter with others.
"""


@dataclass(frozen=True, slots=True)
class _Bounds:
    max_rate: float | None
    max_concurrency: int
    headroom: float


class Limiters:
    """Gives each account its limiter.

    `is_by_account`: each account has one of its own, from its first request on. At most `max_concurrency`
    requests are in flight for each of them, and for all together; a rate holds for each. Otherwise all
    accounts share one.
    """

    def __init__(self, new: NewLimiter, *, max_concurrency: int, is_by_account: bool) -> None:
        self._new = new
        self.is_by_account = is_by_account
        self._slots = anyio.CapacityLimiter(max_concurrency) if is_by_account else None
        self._at_work: dict[Scope, Limiter] = {}
        self._resting: dict[Scope, Limiter] = {}
        """Limiters of accounts that are done, whose wait is not over: it holds if the account goes on."""
        self._learned: dict[Scope, Learned] = {}
        self._bounds: _Bounds | None = None
        self._holds_until: dict[Scope, float] = {}
        self._pauses = Pauses()
        if not is_by_account:
            self._begin(None)

    def of(self, account: str) -> Limiter:
        """The limiter for the requests of an account."""
        scope = account if self.is_by_account else None
        return self._at_work.get(scope) or self._begin(scope)

    def end(self, account: str) -> None:
        """Note that nothing more is to be sent for an account now, and forget all but what was learned."""
        limiter = self._at_work.pop(account, None) if self.is_by_account else None
        if limiter is not None:
            self._keep_learned(account, limiter)
            if limiter.wait_s > 0:
                self._resting[account] = limiter

    def _begin(self, scope: Scope) -> Limiter:
        limiter = self._resting.pop(scope, None)
        if limiter is None:
            limiter = self._new(scope, self._learned.get(scope), self._slots)
            for asked in {scope, None} & self._holds_until.keys():
                limiter.hold(self._holds_until[asked] - limiter.now())
        if self._bounds is not None:
            _set_bounds(limiter, self._bounds)
        if self._pauses.is_on:
            limiter.stop()
        elif limiter.is_stopped:  # since it rests
            limiter.go_on()
        self._at_work[scope] = limiter
        return limiter

    def _keep_learned(self, scope: Scope, limiter: Limiter) -> None:
        if (learned := limiter.learned) is not None:
            self._learned[scope] = learned

    @property
    def learned(self) -> Mapping[Scope, Learned]:
        """What to leave to the next run, by scope, where this one has shown enough about a limit."""
        for scope, limiter in self._at_work.items():
            self._keep_learned(scope, limiter)
        return self._learned

    # -- all of them together ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Limiter]:
        """The limiters of accounts at work."""
        return iter(self._at_work.values())

    @property
    def by_scope(self) -> Mapping[Scope, Limiter]:
        """The same, by what they are for."""
        return self._at_work

    @property
    def flow(self) -> float | None:
        """Requests/s that the carrier let in of late, of all limiters; None before it let any in."""
        flows = [limiter.flow for limiter in self]
        known = [flow for flow in flows if flow is not None]
        return sum(known) if known else None

    @property
    def in_flight(self) -> int:
        """Requests that have started and not ended."""
        return sum(limiter.in_flight for limiter in self)

    @property
    def concurrency(self) -> int:
        """Requests now allowed in flight."""
        allowed = sum(limiter.concurrency for limiter in self)
        return allowed if self._slots is None else min(allowed, int(self._slots.total_tokens))

    @property
    def is_paused(self) -> bool:
        """Whether all workers wait because the carrier asks for it."""
        return bool(self._at_work) and all(limiter.is_paused for limiter in self)

    @property
    def wait_s(self) -> float:
        """Seconds until the carrier lets a request start again; 0 if it does now, or if nobody knows when."""
        return min((limiter.wait_s for limiter in self), default=0.0)

    @property
    def found(self) -> str:
        """The carrier's limits in words, as far as they are known."""
        findings = [limiter.found for limiter in self]
        if len(findings) <= 1:
            return _in_words(findings[0] if findings else NoLimit())
        rates = [size(finding) for finding in findings if not isinstance(finding, NoLimit | Shut | Calls)]
        known = sum(not isinstance(finding, NoLimit | Shut) for finding in findings)
        together = f": {sum(rates):,.3g} requests a second together" if rates else ""
        return f"limits found for {known:,} of {len(findings):,} accounts{together}"

    def seconds_since(self, moment: float) -> float:
        """Seconds since a moment, without those for which a person has stopped everyone."""
        if not self.is_by_account:
            return self._at_work[None].seconds_since(moment)
        now = anyio.current_time()
        return now - moment - self._pauses.between(moment, now)

    def hold(self, seconds: float, account: str | None = None) -> None:
        """Let nobody start for so long, or no request of one account: the carrier has told us to wait."""
        scope = account if self.is_by_account else None
        for one, limiter in self._at_work.items():
            if scope in {None, one}:
                limiter.hold(seconds)
        until = anyio.current_time() + seconds
        self._holds_until[scope] = max(until, self._holds_until.get(scope, 0.0))

    @property
    def is_stopped(self) -> bool:
        """Whether a person has stopped everyone for now."""
        return self._pauses.is_on if self.is_by_account else self._at_work[None].is_stopped

    def stop(self) -> None:
        """Let nobody start until `go_on`, because a person says so."""
        self._pauses.begin(anyio.current_time())
        for limiter in self:
            limiter.stop()

    def go_on(self) -> None:
        """Let requests start again."""
        self._pauses.end(anyio.current_time())
        for limiter in self:
            limiter.go_on()

    def set_bounds(self, *, max_rate: float | None, max_concurrency: int, headroom: float) -> None:
        """Change the bounds that a person has set, for each limiter; holds for the next request."""
        self._bounds = _Bounds(max_rate, max_concurrency, headroom)
        if self._slots is not None:
            self._slots.total_tokens = max_concurrency
        for limiter in self:
            _set_bounds(limiter, self._bounds)


def only(limiter: Limiter) -> Limiters:
    """One limiter for all accounts."""
    return Limiters(lambda *_: limiter, max_concurrency=1, is_by_account=False)


def _set_bounds(limiter: Limiter, bounds: _Bounds) -> None:
    limiter.set_bounds(
        max_rate=bounds.max_rate, max_concurrency=bounds.max_concurrency, headroom=bounds.headroom
    )


def _in_words(finding: Finding) -> str:
    return str(finding) if isinstance(finding, NoLimit | Shut) else f"found: {finding}"
