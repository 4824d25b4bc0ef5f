"""Leases: at any moment at most one session holds a name in a store, and one that lost it can't record.

A lease is a row with an epoch, a number that grows each time that another session takes the name. A session
renews its lease by a heartbeat. If it is not heard of for `lease_s` seconds, another session may take over.
Whoever records something checks the epoch in the same transaction (`refuse_lost`), so that a session that was
paused, slow or cut off can't record any more. See Kleppmann, "How to do distributed locking" (2016), and Gray
and Cheriton, "Leases" (1989).

A session may share its work with others, whose keys are below its own: `run:K/shard:3` is below `run:K`. Such
a lease lapses no later than the one above, nobody else can take the key above before it has lapsed, and who
takes that key makes all epochs below it old. So the others need not check two epochs when they record: if all
locked the row of the session above, its heartbeat would wait for them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from batchlic.database.postgresql import OpenConnections, Store, engine, lease_of
from batchlic.errors import BatchlicError, RefusedToStart, StoppedEarly

BEATS = 6
"""Heartbeats in the time of a lease."""
MARGIN = 0.1
"""Share of a lease in which its holder sends nothing any more, though no other session can have it yet."""
LONGEST_BEAT_S = 2.0
"""Seconds between heartbeats at most: a heartbeat also hears that the session shall stop."""

metadata = sa.MetaData()

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("key", sa.Text, primary_key=True, comment="what is held, such as `run:` and the key of a run"),
    sa.Column("epoch", sa.BigInteger, nullable=False, comment="grows with each session that takes the key"),
    sa.Column("holder", sa.Text, nullable=False, comment="process, host and since when; empty if released"),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("stop_requested", sa.Boolean, nullable=False, comment="its holder shall finish and stop"),
)


_held_here: dict[tuple[int, str, str], Lease] = {}
"""The leases that this process holds, by process, store and key."""


class LeaseLost(StoppedEarly):
    """Another session has taken over, or may have: this one neither sends nor records any more."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a key, and until when. `expires_in_s`: seconds; 0 or less if the lease has lapsed."""

    holder: str
    expires_at: datetime
    expires_in_s: float


@dataclass(slots=True)
class Lease:
    """A key that this process holds. `epoch` is checked by all that it records."""

    store: Store
    key: str
    what: str
    """What messages call it, such as `run 20261130T…`."""
    epoch: int
    lease_s: float
    above: tuple[str, int] | None
    """Key and epoch of the lease on which this one depends; None if there is none."""
    _sure_until: float
    """Until when no other session can have taken over, in seconds of `_clock`."""
    _lost: str | None = None
    _stop_requested: bool = False
    _on_loss: list[Callable[[], None]] = field(default_factory=list)

    @property
    def fence(self) -> tuple[str, int]:
        """Key and epoch, as the store has them."""
        return self.key, self.epoch

    @property
    def stop_requested(self) -> bool:
        """Whether somebody has asked this session to stop, as a signal does."""
        return self._stop_requested

    @property
    def is_lost(self) -> bool:
        """Whether another session has taken over, or may have."""
        return self._lost is not None

    @property
    def sure_for_s(self) -> float:
        """Seconds for which this session may still send, if no heartbeat reaches the store any more."""
        return self._sure_until - MARGIN * self.lease_s - _clock()

    def check(self) -> None:
        """Raise LeaseLost unless it is certain that no other session has taken over."""
        if self._lost is None and self.sure_for_s <= 0:
            self.lose(f"it has not reached the store for {(1 - MARGIN) * self.lease_s:.3g} s")
        if self._lost is not None:
            raise LeaseLost(
                f"{self.what}: this session has lost its lease ({self._lost}), so it stops. What it had in "
                "flight is in doubt. Another session may have taken over; otherwise resume the run"
            )

    def on_loss(self, call: Callable[[], None]) -> None:
        """Call a function as soon as the lease is lost, in the thread that notices the loss."""
        self._on_loss.append(call)

    def lose(self, reason: str) -> None:
        """Note that another session has taken over, or may have."""
        if self._lost is None:
            self._lost = reason
            for call in self._on_loss:
                call()

    def _renew(self, connection: sa.Connection) -> None:
        began = _clock()
        parameters = {"key": self.key, "epoch": self.epoch, "lease": self._span} | _above(self.above)
        row = connection.execute(_RENEW if self.above is None else _RENEW_BELOW, parameters).first()
        if row is None:
            self.lose(_taken_by(connection, self))
            return
        self._stop_requested = bool(row.stop_requested)
        self._sure_until = began + float(row.left_s)

    def _release(self, connection: sa.Connection) -> None:
        connection.execute(_RELEASE, {"key": self.key, "epoch": self.epoch})

    @property
    def _span(self) -> timedelta:
        return timedelta(seconds=self.lease_s)


@contextmanager
def held(
    store: Store,
    key: str,
    *,
    what: str,
    holder: str,
    lease_s: float | None = None,
    above: tuple[str, int] | None = None,
) -> Iterator[Lease]:
    """Hold a key until the block ends, renewed by a thread. `holder` tells others who holds it.

    `above` are key and epoch of the lease on which this one depends. Raises RefusedToStart that says who
    holds the key, and until when, and LeaseLost if the lease above is gone.
    """
    lease_s = lease_s or lease_of(store.name)
    if above is None:
        lease = take(store, key, what=what, holder=holder, lease_s=lease_s)
    else:
        lease = take_below(store, key, above, what=what, holder=holder, lease_s=lease_s)
    known = os.getpid(), store.name, key
    _held_here[known] = lease
    ended = threading.Event()
    heart, watch = (
        threading.Thread(target=work, args=(lease, ended), name=f"{name} {key}", daemon=True)
        for work, name in ((_beat, "lease"), (_watch, "watch of"))
    )
    heart.start()
    watch.start()
    try:
        yield lease
    finally:
        _held_here.pop(known, None)
        ended.set()
        heart.join(timeout=max(0.0, lease.sure_for_s))  # it releases the lease, or leaves it to lapse


def take(store: Store, key: str, *, what: str, holder: str, lease_s: float) -> Lease:
    """Take a key that nobody holds, or whose holder was not heard of for so long. Raises RefusedToStart."""
    began = _clock()
    span = timedelta(seconds=lease_s)
    with store.explained(f"the lease of {what}"), store.engine.begin() as connection:
        epoch = connection.execute(_TAKE, {"key": key, "holder": holder, "lease": span}).scalar()
        if epoch is None:
            raise RefusedToStart(_conflict(what, _holder(connection, key)))
        if (below := connection.execute(_HELD_BELOW, {"key": key}).first()) is not None:
            raise RefusedToStart(_conflict(what, Holder(below[0], below[1], float(below[2]))))
        connection.execute(_REPLACE_BELOW, {"key": key})
    return Lease(store, key, what, epoch, lease_s, None, began + lease_s)


def take_below(
    store: Store, key: str, above: tuple[str, int], *, what: str, holder: str, lease_s: float
) -> Lease:
    """Take a key as `take` does, for as long as the lease above lasts. Raises LeaseLost if that is gone."""
    began = _clock()
    parameters = {"key": key, "holder": holder, "lease": timedelta(seconds=lease_s)} | _above(above)
    with store.explained(f"the lease of {what}"), store.engine.begin() as connection:
        row = connection.execute(_TAKE_BELOW, parameters).first()
        if row is None:
            if connection.execute(_IS_HELD, _above(above)).first() is None:
                raise LeaseLost(f"{what}: the session that has started this work is gone; nothing was sent")
            raise RefusedToStart(_conflict(what, _holder(connection, key)))
    lease = Lease(store, key, what, row.epoch, lease_s, above, began + float(row.left_s))
    lease._stop_requested = bool(row.stop_requested)  # noqa: SLF001 - one module
    return lease


def held_below(store: Store, key: str) -> int:
    """How many keys below a key somebody holds now."""
    with store.explained("the leases"), store.engine.connect() as connection:
        return len(connection.execute(_HELD_BELOW, {"key": key}).all())


def request_stop_below(store: Store, key: str) -> None:
    """Ask all who hold a key below this one, or take one after them, to finish what is in flight and stop."""
    with store.explained("the leases"), store.engine.begin() as connection:
        connection.execute(_STOP_BELOW, {"key": key})


def replace_below(store: Store, key: str) -> None:
    """Let nobody record anything any more by the keys below a key. They stay held until they lapse."""
    with store.explained("the leases"), store.engine.begin() as connection:
        connection.execute(_REPLACE_BELOW, {"key": key})


def forget_below(connection: sa.Connection, key: str) -> None:
    """Delete the rows of the keys below a key, which nobody needs any more. The caller holds the key."""
    connection.execute(_FORGET_BELOW, {"key": key})


def refuse_unwritable(store: Store) -> None:
    """Raise StoppedEarly or UsageError if no session could begin a run: read-only, or no permission."""
    with store.explained(), store.engine.begin() as connection:
        connection.execute(_WRITE_NOTHING)


def holder_of(store: Store, key: str) -> Holder | None:
    """Who holds a key now; None if nobody does."""
    with store.explained("the lease"), store.engine.connect() as connection:
        found = _holder(connection, key)
    return found if found is not None and found.holder and found.expires_in_s > 0 else None


def refuse_lost(connection: sa.Connection, held: Sequence[Lease]) -> None:
    """Raise LeaseLost unless all epochs are the newest; keep them so until the transaction ends.

    A session that takes over waits for that: what was checked here is recorded before the other one reads.
    """
    for lease in held:
        lease.check()
    is_newest = sa.tuple_(leases.c.key, leases.c.epoch).in_([lease.fence for lease in held])
    newest = sa.select(leases.c.key).where(is_newest).with_for_update(read=True)
    if len(connection.execute(newest).all()) < len(held):
        lose_all(held)


def lose_all(held: Sequence[Lease]) -> None:
    """Raise LeaseLost: the store has refused what a session wanted to record."""
    for lease in held:
        lease.lose("another session has taken over")
        lease.check()


def held_here(store: str, key: str) -> Lease:
    """The lease on a key that this process holds. Raises KeyError if it does not hold it."""
    return _held_here[os.getpid(), store, key]


def is_held_here(store: str, key: str) -> bool:
    """Whether this process holds a key."""
    return (os.getpid(), store, key) in _held_here


def _beat(lease: Lease, ended: threading.Event) -> None:
    """Renew the lease until the block has ended or the lease is lost, and release it then.

    A heartbeat that fails counts only by the time in which none succeeds.
    """
    interval = min(lease.lease_s / BEATS, LONGEST_BEAT_S)
    with _Heart(lease) as heart:
        while not ended.wait(interval):
            heart.beat()
            if lease.is_lost:
                return
        heart.release()


def _watch(lease: Lease, ended: threading.Event) -> None:
    """Notice in time that heartbeats fail, while they and others wait for a server that can't be reached.

    All that wait fail then: their connections are cut.
    """
    while not ended.wait(min(max(0.0, lease.sure_for_s), LONGEST_BEAT_S)):
        if lease.is_lost:
            return
        try:
            lease.check()
        except LeaseLost:
            lease.store.cut()
            return


class _Heart:
    """The connection of a heartbeat. Each attempt ends in time, even if the server does not answer."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._timeout_s = lease.lease_s / 3
        self._engine = engine(lease.store.name, pool_size=1, max_overflow=0, isolation="AUTOCOMMIT")
        self._open = OpenConnections(self._engine)

    def __enter__(self) -> _Heart:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def beat(self) -> None:
        """Renew the lease, or do nothing if the server does not answer within a third of its time."""
        self._attempt(self._lease._renew)  # noqa: SLF001 - one module

    def release(self) -> None:
        """Let others take the key at once, unless the lease is lost or the server does not answer."""
        if self._lease.sure_for_s > 0:
            self._attempt(self._lease._release)  # noqa: SLF001

    def _attempt(self, work: Callable[[sa.Connection], None]) -> None:
        watchdog = threading.Timer(self._timeout_s, self._open.cut)
        watchdog.daemon = True
        watchdog.start()
        try:
            with self._engine.connect() as connection:
                work(connection)
        except (sa.exc.SQLAlchemyError, OSError, BatchlicError):
            return
        finally:
            watchdog.cancel()


def _holder(connection: sa.Connection, key: str) -> Holder | None:
    left = sa.extract("epoch", leases.c.expires_at - _NOW)
    query = sa.select(leases.c.holder, leases.c.expires_at, left).where(leases.c.key == key)
    row = connection.execute(query).first()
    return None if row is None else Holder(row[0], row[1], float(row[2]))


def _above(above: tuple[str, int] | None) -> dict[str, object]:
    return {} if above is None else {"above": above[0], "above_epoch": above[1]}


def _taken_by(connection: sa.Connection, lease: Lease) -> str:
    if lease.above is not None and connection.execute(_IS_HELD, _above(lease.above)).first() is None:
        return "the session that has started this work is gone"
    found = _holder(connection, lease.key)
    return f"taken over by {found.holder}" if found and found.holder else "taken over by another session"


def _conflict(what: str, found: Holder | None) -> str:
    if found is None or not found.holder:
        return f"{what}: another batchlic process has taken it at this moment; run the command again"
    until = found.expires_at.astimezone(UTC)
    return (
        f"{what}: another batchlic process is using it ({found.holder}); its lease lasts until "
        f"{until:%Y-%m-%dT%H:%M:%SZ} ({max(1, round(found.expires_in_s))} s) unless it is renewed; wait for "
        "it or stop it"
    )


def _clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


_NOW = sa.func.clock_timestamp()

_TAKE = sa.text(
    """
    INSERT INTO leases AS held (key, epoch, holder, expires_at, stop_requested)
    VALUES (:key, 1, :holder, clock_timestamp() + CAST(:lease AS interval), false)
    ON CONFLICT (key) DO UPDATE SET
        epoch = held.epoch + 1, holder = excluded.holder, stop_requested = false,
        expires_at = clock_timestamp() + CAST(:lease AS interval)
    WHERE held.expires_at <= clock_timestamp()
    RETURNING epoch
    """
)

_WRITE_NOTHING = sa.text(
    """
    WITH nothing AS (
        INSERT INTO leases (key, epoch, holder, expires_at, stop_requested)
        SELECT '', 0, '', clock_timestamp(), false WHERE false
    )
    UPDATE leases SET holder = holder WHERE false
    """
)

_RENEW = sa.text(
    """
    UPDATE leases SET expires_at = clock_timestamp() + CAST(:lease AS interval)
    WHERE key = :key AND epoch = :epoch
    RETURNING stop_requested, extract(epoch FROM CAST(:lease AS interval)) AS left_s
    """
)

_TAKE_BELOW = sa.text(
    """
    INSERT INTO leases AS held (key, epoch, holder, expires_at, stop_requested)
    SELECT :key, 1, :holder, least(above.expires_at, clock_timestamp() + CAST(:lease AS interval)), false
    FROM leases AS above
    WHERE above.key = :above AND above.epoch = :above_epoch AND above.expires_at > clock_timestamp() FOR SHARE
    ON CONFLICT (key) DO UPDATE SET
        epoch = held.epoch + 1, holder = excluded.holder, expires_at = excluded.expires_at
    WHERE held.expires_at <= clock_timestamp()
    RETURNING epoch, stop_requested, extract(epoch FROM expires_at - clock_timestamp()) AS left_s
    """
)

_RENEW_BELOW = sa.text(
    """
    UPDATE leases AS held
    SET expires_at = least(above.expires_at, clock_timestamp() + CAST(:lease AS interval))
    FROM leases AS above
    WHERE held.key = :key AND held.epoch = :epoch
        AND above.key = :above AND above.epoch = :above_epoch AND above.expires_at > clock_timestamp()
    RETURNING held.stop_requested, extract(epoch FROM held.expires_at - clock_timestamp()) AS left_s
    """
)

_IS_HELD = sa.text(
    "SELECT 1 FROM leases WHERE key = :above AND epoch = :above_epoch AND expires_at > clock_timestamp()"
)

_BELOW = "starts_with(key, CAST(:key AS text) || '/')"

_HELD_BELOW = sa.text(
    "SELECT holder, expires_at, extract(epoch FROM expires_at - clock_timestamp()) FROM leases "  # noqa: S608
    f"WHERE {_BELOW} AND expires_at > clock_timestamp() ORDER BY expires_at DESC"
)

_REPLACE_BELOW = sa.text(
    f"UPDATE leases SET epoch = epoch + 1, stop_requested = false WHERE {_BELOW}"  # noqa: S608 - our own text
)

_STOP_BELOW = sa.text(f"UPDATE leases SET stop_requested = true WHERE {_BELOW}")  # noqa: S608 - as above

_FORGET_BELOW = sa.text(f"DELETE FROM leases WHERE {_BELOW}")  # noqa: S608 - as above

_RELEASE = sa.text(
    "UPDATE leases SET expires_at = clock_timestamp(), holder = '' WHERE key = :key AND epoch = :epoch"
)
