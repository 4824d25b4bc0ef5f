"""Time slots of processes that share a limit: in its slot, each process uses all of the limit alone.

Side by side, each process finds a share by being refused: the more processes, the more refusals. In its slot,
a process measures the whole limit, and the next one goes on with what was found. Time stands still for a
limiter in the slots of others, so that its measurements are those of one process.

Only a rate is shared so: one that is not too low or high for it, with a burst, where a refusal costs little.
All processes decide by the same rules, from the same rows (`Member`), and by the clock of the store.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from batchlic.pool.limiter.findings import Finding, NoLimit, Rate, Shut

SLOT_S = 2.0
"""Seconds of a time slot."""
EXCHANGE_S = 2.0
"""Seconds between two exchanges of a process, at most."""
LEASE_S = 3 * EXCHANGE_S
"""Seconds after which a process that was not heard of has no time slot any more."""
AGAIN_S = 120.0
"""Seconds without time slots after the limit turned out to be of another kind."""
_LEAST, _MOST = 10.0, 300.0
"""Requests/s at which slots begin: a slot must have something to measure, and one process must do."""
_MARGIN = 1.5
"""Times by which the rate may go beyond these before time slots end."""
_BURST = 5
"""Requests that the carrier let in at once when a process began, at least: at the beginning of a slot
there may be one too early."""
_MEMBERS = 16
"""Processes with time slots, at most: then each one has to wait for half a minute."""
_EDGE_S = 0.001
"""Seconds before the end of a time slot in which nothing starts, so that rounding can't begin it twice."""
_RISEN = 1.05
"""How many times the rate another process must have found before one goes on with that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a process tells the others. Moments are in seconds of the store's clock."""

    name: str
    per_s: float | None = None
    """The rate that it has found, in requests/s."""
    is_other: bool = False
    """Whether it has found something else than a rate, or has bounds of its own."""
    is_new: bool = False
    """Whether it was never refused."""
    is_idle: bool = False
    """Whether it has nothing to send now."""
    burst: int = 0
    """Requests beyond the rate that were let in when it began."""
    most: float = 1e9
    """Requests/s that it can send."""
    has_slots: bool = False
    slot_ended_at: float = 0.0
    """When its latest time slot ended; 0 if it had none."""
    not_before: float = 0.0
    """When time slots may begin again."""


@dataclass(frozen=True, slots=True)
class _Schedule:
    """The time slots of one process: `length` seconds from `begins` on, again in each `cycle`."""

    cycle: float
    begins: float
    length: float

    def had(self, moment: float) -> float:
        """Seconds of all time slots before a moment."""
        cycles, at = divmod(moment, self.cycle)
        return cycles * self.length + min(max(at - self.begins, 0.0), self.length)

    def wait(self, moment: float) -> float:
        """Seconds until a time slot begins; 0 in a time slot, infinite if there is none."""
        if not self.length:
            return math.inf
        at = moment % self.cycle - self.begins
        if at >= self.length - _EDGE_S:
            return self.cycle - at
        return max(0.0, -at)

    def left(self, moment: float) -> float:
        """Seconds until the time slot ends that has begun."""
        return self.begins + self.length - moment % self.cycle

    def ended_at(self, moment: float) -> float:
        """When the latest time slot that is over ended."""
        end = moment - moment % self.cycle + self.begins + self.length
        return end if end <= moment else end - self.cycle


class TimeSlots:
    """The time slots of one process under one limit, and its time, which stands still between them.

    `name` tells it from all others. `clock` gives seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self._clock = clock
        self._looked_at = clock()
        self._stood_s = 0.0
        self._schedule: _Schedule | None = None
        self._ahead_s = 0.0
        """Seconds by which the store's clock is ahead."""
        self._agreed_at = -math.inf
        self._began_at = math.inf
        """When time slots began, by the store's clock."""
        self._not_before = 0.0
        self._was_refused = False

    @property
    def are_on(self) -> bool:
        """Whether the processes have time slots now."""
        return self._schedule is not None

    def time(self) -> float:
        """Seconds on the clock, less those of the others' time slots."""
        now = self._clock()
        if self._schedule is not None:
            before, after = self._looked_at + self._ahead_s, now + self._ahead_s
            self._stood_s += (now - self._looked_at) - (
                self._schedule.had(after) - self._schedule.had(before)
            )
            if now - self._agreed_at > LEASE_S:  # the store is gone: as without one
                self._schedule = None
        self._looked_at = now
        return now - self._stood_s

    def wait(self) -> float:
        """Seconds until requests may start; infinite if no time slot is planned."""
        self.time()
        schedule = self._schedule
        return 0.0 if schedule is None else schedule.wait(self._clock() + self._ahead_s)

    def left(self) -> float:
        """Seconds until the time slot ends; infinite without time slots."""
        schedule = self._schedule
        return math.inf if schedule is None else schedule.left(self._clock() + self._ahead_s)

    def next_exchange_s(self) -> float:
        """Seconds until the next exchange: soon after a time slot begins, and when it ends."""
        wait = self.wait()
        soon = wait + 0.05 if wait else self.left()
        return min(max(soon, 0.05), EXCHANGE_S)

    def tell(
        self, found: Finding, *, burst: int, most: float, is_bounded: bool, is_costly: bool, is_idle: bool
    ) -> Member:
        """What the others are to know. `is_costly`: each refusal stops everyone."""
        self._was_refused |= not isinstance(found, NoLimit)
        return Member(
            name=self.name,
            per_s=found.per_s if isinstance(found, Rate) else None,
            is_other=is_bounded or is_costly or (self._was_refused and not isinstance(found, Rate | Shut)),
            is_new=not self._was_refused,
            is_idle=is_idle,
            burst=burst,
            most=most,
            has_slots=self.are_on,
            slot_ended_at=self._slot_ended_at(),
            not_before=self._not_before,
        )

    def agree(self, members: Sequence[Member], *, store_now: float) -> Rate | None:
        """Decide about time slots by what all processes tell, this one included.

        `store_now` is a moment of the store's clock. Returns a rate from which this process is to go on.
        """
        self.time()
        slot_ended_at = self._slot_ended_at()
        now = self._clock()
        self._ahead_s, self._agreed_at = store_now - now, now
        was_on, per_s = self.are_on, shared_rate(members)
        self._not_before = max(member.not_before for member in members)
        working = sorted(member.name for member in members if not member.is_idle)
        if per_s is None or store_now < self._not_before or len(members) < 2:
            if was_on and len(members) > 1 and store_now >= self._not_before:
                self._not_before = store_now + AGAIN_S
            self._schedule, self._began_at = None, math.inf
            return None
        if not was_on:
            self._began_at = store_now
        self._schedule = _schedule(self.name, working, per_s)
        return self._to_go_on_from(members, per_s, slot_ended_at)

    def _slot_ended_at(self) -> float:
        if self._schedule is None or not self._schedule.length:
            return 0.0
        ended_at = self._schedule.ended_at(self._clock() + self._ahead_s)
        return ended_at if ended_at > self._began_at else 0.0

    def _to_go_on_from(self, members: Iterable[Member], per_s: float, slot_ended_at: float) -> Rate | None:
        if slot_ended_at:
            mine = next(member.per_s for member in members if member.name == self.name)
            if mine is not None and per_s <= _RISEN * mine:
                return None
            if not any(
                member.slot_ended_at > slot_ended_at for member in members if member.name != self.name
            ):
                return None
        return Rate(per_s, is_no_window=True)


def shared_rate(members: Sequence[Member]) -> float | None:
    """The rate that processes share by time slots; None if they have none."""
    has_slots = any(member.has_slots for member in members)
    known = [member for member in members if member.per_s is not None]
    if not known or len(members) > _MEMBERS or any(member.is_other for member in members):
        return None
    margin = _MARGIN if has_slots else 1.0
    if has_slots:
        per_s = max(known, key=lambda member: (member.slot_ended_at, member.has_slots)).per_s or 0.0
    else:
        if any(member.is_new and not member.is_idle for member in members):
            return None
        if max(member.burst for member in members) < _BURST:
            return None
        per_s = sum(member.per_s or 0.0 for member in known)
    most = min(_MOST * margin, *(member.most for member in members))
    return per_s if _LEAST / margin <= per_s <= most else None


def _schedule(name: str, working: Sequence[str], per_s: float) -> _Schedule:
    """The time slots of a process, a request's time apart from those of the one before."""
    if name not in working:
        return _Schedule(SLOT_S, 0.0, 0.0)
    lead = min(1 / per_s, SLOT_S / 4) if len(working) > 1 else 0.0
    return _Schedule(len(working) * SLOT_S, working.index(name) * SLOT_S + lead, SLOT_S - lead)
