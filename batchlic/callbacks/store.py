"""Where callbacks are kept: one table, in SQLite or, for several listeners, in PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect

from batchlic.callbacks.messages import DeviceMessage
from batchlic.database import sqlite
from batchlic.errors import StoppedEarly, UsageError

ROWS_PER_READ = 100_000

metadata = sa.MetaData()

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("imei", sa.String(32), nullable=False, comment="the first; empty where there is none"),
    sa.Column("iccid", sa.String(32), nullable=False),
    sa.Column("further_ids", sa.Text, nullable=False, comment="as KIND:digits, with spaces between"),
    sa.Column("account_name", sa.String(32), nullable=False, comment="of the address that it came to"),
    sa.Column("succeeded", sa.Boolean, nullable=False),
    sa.Column("error_code", sa.Text, nullable=False),
    sa.Column("error_message", sa.Text, nullable=False),
    sa.Column("received_at", sa.BigInteger, nullable=False, comment="microseconds since 1970, UTC"),
    sa.UniqueConstraint("request_id", "imei", "iccid", "further_ids", "account_name", "succeeded"),
    sa.Index("messages_by_time", "received_at"),
)
"""A repeat says nothing new, so it is no new row: what a message says is unique."""

_INSERTS: dict[str, sa.Insert] = {
    "sqlite": sqlite_dialect.insert(messages).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(messages).on_conflict_do_nothing(),
}


class StoreError(StoppedEarly):
    """The store can't be read or written now; what was acknowledged is in it."""


class Store:
    """The messages that were acknowledged. Raises StoreError where the database does not do its part."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._insert = _INSERTS[engine.dialect.name]
        self._name = engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, location: str) -> Self:
        """Open the store at a path, or at a postgresql:// URL, and make it where it is new.

        A file is made for its owner only (mode 0600). Raises UsageError where there can be no store.
        """
        store = cls(_postgresql(location) if "://" in location else _sqlite(Path(location)))
        with store._explained():
            metadata.create_all(store._engine)
        return store

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def write(self, received: list[DeviceMessage]) -> None:
        """Make the messages durable; those that are there already stay as they are."""
        with self._explained(), self._engine.begin() as connection:
            connection.execute(self._insert, [message._asdict() for message in received])

    def check(self) -> None:
        """Raise StoreError where the database does not answer."""
        with self._explained(), self._engine.connect() as connection:
            connection.execute(sa.select(messages.c.received_at).limit(1)).all()

    def extent(self) -> tuple[int, int]:
        """How many messages there are, and when the last was received: unchanged if nothing came."""
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(messages.c.received_at), 0))
        with self._explained(), self._engine.connect() as connection:
            count, last = connection.execute(query.select_from(messages)).one()
        return count, last

    def read(self, columns: Sequence[str], *, succeeded: bool, since: int) -> Iterator[Sequence[Any]]:
        """`id` and those columns of successes or failures, in parts, in the order of their ids.

        They were received from `since` on (microseconds since 1970); where several listeners write, maybe a
        little earlier. The rows are tuples as the driver has them: SQLAlchemy's would take twice as long.
        """
        earliest = sa.select(sa.func.min(messages.c.id)).where(messages.c.received_at >= since)
        query = sa.select(messages.c.id, *(messages.c[name] for name in columns))
        query = query.where(messages.c.succeeded == succeeded).order_by(messages.c.id).limit(ROWS_PER_READ)
        with self._explained(), self._engine.connect() as connection:
            first = connection.execute(earliest).scalar()
            while first is not None:
                rows = connection.execute(query.where(messages.c.id >= first)).cursor.fetchall()
                if rows:
                    yield rows
                first = rows[-1][0] + 1 if rows else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DatabaseError as error:
            reason = str(error.orig or error).strip().splitlines()[0]
            raise StoreError(f"the store of callbacks, {self._name}, can't be used: {reason}") from None


def _sqlite(path: Path) -> sa.Engine:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise UsageError(f"--store {path}: {error.strerror}") from None
    return sqlite(path)


_SECRET_KEYS = {"password", "sslpassword"}


def _postgresql(location: str) -> sa.Engine:
    try:
        url = sa.make_url(location)
    except (sa.exc.ArgumentError, ValueError):  # the text may hold a password: it is not quoted
        raise UsageError("--store: not a URL; give a path, or postgresql://user@host/database") from None
    if url.get_backend_name() != "postgresql":
        raise UsageError(f"--store: {url.drivername} is not supported; give a path, or postgresql://…")
    if "@" in (url.host or ""):
        raise UsageError("--store: an @ in the password is written %40, a / %2F, a : %3A")
    if url.query.keys() & _SECRET_KEYS:
        raise UsageError("--store: a password belongs before the host, or into ~/.pgpass")
    try:
        # Durable also where the server's default is not; the answer to the carrier hangs on it.
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"options": "-c synchronous_commit=on"},
            pool_pre_ping=True,
        )
    except ModuleNotFoundError:
        raise UsageError("--store: PostgreSQL needs its driver: pip install 'batchlic[postgresql]'") from None
