"""Processes that share a store and a limit find it together: they tell each other there, and have time slots.

Nothing that goes wrong here stops a run: without the store, they even out by their refusals.
"""

import hashlib
import secrets
import time
from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

import anyio
import anyio.to_thread
import msgspec

from batchlic.carrier.credentials import revealed
from batchlic.database import limits
from batchlic.database.limits import Sharers
from batchlic.database.postgresql import open_store
from batchlic.errors import BatchlicError
from batchlic.events import EventStream, Warned
from batchlic.journal import SANDBOX
from batchlic.pool.limiter.limiter import Limiter
from batchlic.pool.limiter.limiters import Limiters, Scope
from batchlic.pool.limiter.time_slots import EXCHANGE_S, LEASE_S, Member, TimeSlots
from batchlic.runs.target import Target

_SURE_S = 0.1
"""Seconds by which the store's clock may be wrong: a time slot takes longer by far."""
_FEW = 8
"""Limits with an exchange at the end of each time slot; more of them take part every other second only."""
_LEAVING_S = 2.0
"""Seconds that a process takes to say that it shares no more; after that, its rows expire."""

_Sharing: TypeAlias = tuple[Limiter, TimeSlots]


class SharedLimits:
    """The limits of a session that other processes share, for a store and a carrier."""

    def __init__(self, store: str | None, target: Target, events: EventStream) -> None:
        self._store = store if target.name != SANDBOX else None
        self._carrier = target.name
        self._login = _login_of(target)
        self._events = events
        self._has_warned = False

    def time_slots(self, scope: Scope) -> TimeSlots | None:
        """The time slots of a limiter; None if it shares nothing."""
        if self._store is None or (scope is None and self._login is None):
            return None
        return TimeSlots(secrets.token_hex(8), anyio.current_time)

    async def keep(self, limiters: Limiters) -> None:
        """Exchange what is found until cancelled; then leave."""
        names: set[str] = set()
        try:
            while True:
                sharing = {
                    self._key(scope): (limiter, limiter.time_slots)
                    for scope, limiter in limiters.by_scope.items()
                    if limiter.time_slots is not None
                }
                if sharing:
                    names = {time_slots.name for _, time_slots in sharing.values()}
                    await self._exchange(sharing)
                await anyio.sleep(_pause_s(sharing))
        finally:
            with anyio.move_on_after(_LEAVING_S, shield=True):
                await self._leave(names)

    async def _exchange(self, sharing: Mapping[str, _Sharing]) -> None:
        told = {key: limiter.tell(time_slots) for key, (limiter, time_slots) in sharing.items()}
        mine = {key: (one.name, msgspec.json.encode(one).decode()) for key, one in told.items()}
        try:
            heard = await anyio.to_thread.run_sync(self._exchange_here, mine, abandon_on_cancel=True)
        except BatchlicError as error:
            self._warn(error)
            return
        if heard.unsure_s <= _SURE_S:
            store_now = time.monotonic() + heard.store_ahead_s
            for key, (limiter, time_slots) in sharing.items():
                members = [_member(content) for content in heard.contents[key]]
                limiter.agree(time_slots, members, store_now=store_now)

    def _exchange_here(self, mine: Mapping[str, tuple[str, str]]) -> Sharers:
        store = open_store(self._store or "")
        return limits.exchange_sharers(store, self._carrier, mine, lease_s=LEASE_S)

    async def _leave(self, names: set[str]) -> None:
        if not names or self._store is None:
            return
        leave = partial(self._leave_here, sorted(names))
        try:
            await anyio.to_thread.run_sync(leave, abandon_on_cancel=True)
        except BatchlicError as error:
            self._warn(error)

    def _leave_here(self, names: list[str]) -> None:
        limits.leave_sharers(open_store(self._store or ""), self._carrier, names)

    def _key(self, scope: Scope) -> str:
        return f"login:{self._login}" if scope is None else f"account:{scope}"

    def _warn(self, error: BatchlicError) -> None:
        if not self._has_warned:
            self._has_warned = True
            message = f"{error}: without the store, processes with the same limit have no time slots"
            self._events.emit(Warned(message=message))


def _login_of(target: Target) -> str | None:
    """A digest that tells logins apart; None if the credentials are tokens only."""
    names = [revealed(name) for name in (target.credentials.client_id, target.credentials.username)]
    if not all(names):
        return None
    return hashlib.blake2b("\0".join(names).encode(), digest_size=16).hexdigest()


def _member(content: str) -> Member:
    """What a process tells; with one of another version of batchlic there are no time slots."""
    try:
        return msgspec.json.decode(content, type=Member)
    except (ValueError, RecursionError):
        return Member(name="", is_other=True)


def _pause_s(sharing: Mapping[str, _Sharing]) -> float:
    if len(sharing) > _FEW:
        return EXCHANGE_S
    return min((time_slots.next_exchange_s() for _, time_slots in sharing.values()), default=EXCHANGE_S)
