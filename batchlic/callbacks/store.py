"""The store of callbacks: one table in SQLite, or in the PostgreSQL database that machines share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from batchlic.atomic import explain_read_errors, refuse_undecodable
from batchlic.callbacks.messages import StoredMessage
from batchlic.callbacks.verdicts import SUCCESS
from batchlic.database import (
    FileFormat,
    create_or_check,
    explain_database_errors,
    first_line,
    postgresql,
    sqlite,
)
from batchlic.errors import RunFolderError, StoppedEarly, UsageError

ROWS_PER_READ = 100_000

FILE_FORMAT = FileFormat("callback store", application_id=int.from_bytes(b"BLcb"), version=2)

metadata = sa.MetaData()

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("request_id", sa.Text, nullable=False, comment="as it came"),
    sa.Column("imei", sa.String(32), nullable=False, comment="the first one; empty without one"),
    sa.Column("iccid", sa.String(32), nullable=False),
    sa.Column("further_ids", sa.Text, nullable=False, comment="as KIND:id, separated by spaces"),
    sa.Column("account_name", sa.Text, nullable=False, comment="from the URL path"),
    sa.Column("status", sa.Text, nullable=False, comment="as it came; empty without one"),
    sa.Column("error_code", sa.Text, nullable=False, comment="of the fault; empty without one"),
    sa.Column("error_message", sa.Text, nullable=False),
    sa.Column("raw", sa.Text, nullable=False, comment="the body, unless the other columns say everything"),
    sa.Column("received_at", sa.BigInteger, nullable=False, comment="microseconds since 1970, UTC"),
    sa.Column(
        "content_sha256", sa.LargeBinary(32), nullable=False, comment="of the columns before received_at"
    ),
    sa.UniqueConstraint("content_sha256"),
    sa.Index("messages_by_time", "received_at"),
)
"""The content of a message is unique, so a repeated message adds no row."""

_IS_PLAIN_SUCCESS = sa.and_(
    sa.func.lower(messages.c.status) == SUCCESS, messages.c.error_code == "", messages.c.error_message == ""
)


class StoreError(StoppedEarly):
    """The store can't be read or written now. All acknowledged messages are in it."""


class Store:
    """The acknowledged messages. Each method raises StoreError if the database fails."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._insert = _insert_for(engine.dialect.name)
        self._name = engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, location: str) -> Self:
        """Open the store at a path or a postgresql:// URL; create it if it does not exist.

        A new file has mode 0600. A database gets all tables of a store that machines share. Raises UsageError
        if the location is wrong. Raises RunFolderError for a file or a table that is not of this version of
        batchlic, and leaves it as it is.
        """
        name = postgresql.remember(location, what="--store") if "://" in location else None
        store = cls(_sqlite(Path(location)) if name is None else _postgresql(name))
        with ExitStack() as on_error, store._explained() if name is None else _explained_opening(name):
            on_error.callback(store.close)
            if name is None:
                metadata.create_all(store._engine)
            store._refuse_other_columns()
            if name is not None:
                postgresql.open_store(name)
            on_error.pop_all()
        return store

    @classmethod
    def open_existing(cls, location: str) -> Self:
        """Open the store as `open` does. Raises UsageError if there is no such file, and makes none."""
        if "://" not in location:
            path = Path(location)
            with explain_read_errors(path):
                is_there = path.exists()
            if not is_there or not path.stat().st_size:
                reason = "is empty, so it is no store" if is_there else "there is no such store"
                raise UsageError(f"--store {path}: {reason}: name the store of the listener")
        return cls.open(location)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def write(self, received: list[StoredMessage]) -> None:
        """Store the messages durably; messages that are already stored stay unchanged."""
        rows = [message._asdict() | {"content_sha256": _sha256(message)} for message in received]
        with self._explained(), self._engine.begin() as connection:
            connection.execute(self._insert, rows)

    def check(self) -> None:
        """Raise StoreError if the database does not answer."""
        with self._explained(), self._engine.connect() as connection:
            connection.execute(sa.select(messages.c.received_at).limit(1)).all()

    def extent(self) -> tuple[int, int]:
        """Return the number of messages, and when the latest was received (microseconds since 1970)."""
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(messages.c.received_at), 0))
        with self._explained(), self._engine.connect() as connection:
            count, last = connection.execute(query.select_from(messages)).one()
        return count, last

    def raw_messages(self) -> Iterator[StoredMessage]:
        """Yield the messages that the store keeps as they came, ordered by id."""
        query = sa.select(*(messages.c[name] for name in StoredMessage._fields))
        with self._explained(), self._engine.connect() as connection:
            rows = connection.execute(query.where(messages.c.raw != "").order_by(messages.c.id))
            yield from map(StoredMessage._make, rows)

    def read(self, columns: Sequence[str], *, plain_success: bool, since: int) -> Iterator[Sequence[Any]]:
        """Yield `id` and the named columns of messages, in blocks of rows, ordered by id.

        With `plain_success`, yields messages with the status Success and no fault; otherwise all others. They
        came at `since` or later, in microseconds since 1970. If several listeners write, a few earlier
        messages can be included. Rows are the driver's tuples: SQLAlchemy's take twice as long.
        """
        earliest = sa.select(sa.func.min(messages.c.id)).where(messages.c.received_at >= since)
        query = sa.select(messages.c.id, *(messages.c[name] for name in columns))
        is_wanted = _IS_PLAIN_SUCCESS if plain_success else sa.not_(_IS_PLAIN_SUCCESS)
        query = query.where(is_wanted).order_by(messages.c.id).limit(ROWS_PER_READ)
        with self._explained(), self._engine.connect() as connection:
            first = connection.execute(earliest).scalar()
            while first is not None:
                rows = connection.execute(query.where(messages.c.id >= first)).cursor.fetchall()
                if rows:
                    yield rows
                first = rows[-1][0] + 1 if rows else None

    def _refuse_other_columns(self) -> None:
        """Raise RunFolderError for a table of another version: early ones declared none in a database."""
        tables = sa.inspect(self._engine)
        if not tables.has_table(messages.name):
            return
        found = {column["name"] for column in tables.get_columns(messages.name)}
        if found != set(messages.c.keys()):
            raise RunFolderError(
                f"{self._name}: its table {messages.name} was written by another version of batchlic: use "
                "that version, or name another database"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DatabaseError as error:
            raise StoreError(f"the callback store {self._name} can't be used: {first_line(error)}") from None


def _sha256(message: StoredMessage) -> bytes:
    """What identifies the content of a message: all fields but the time, which differs in a repeated one."""
    content = [str(value) for name, value in message._asdict().items() if name != "received_at"]
    return hashlib.sha256("\0".join(content).encode()).digest()


def _sqlite(path: Path) -> sa.Engine:
    refuse_undecodable(path.absolute())
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise UsageError(f"--store {path}: {error.strerror}") from None
    with explain_database_errors(f"the callback store {path}"):
        create_or_check(path, FILE_FORMAT)
    return sqlite(path)


def _postgresql(name: str) -> sa.Engine:
    return postgresql.engine(name, what="--store", pool_pre_ping=True)


@contextmanager
def _explained_opening(name: str) -> Iterator[None]:
    """Raise StoreError if a database can't be used now, and UsageError if no retry helps."""
    try:
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise postgresql.explained(error, f"the callback store {name}") from None
    except StoppedEarly as error:
        raise StoreError(str(error)) from None


def _insert_for(dialect: str) -> sa.Insert:
    """The statement that adds new messages. Only one dialect is imported: PostgreSQL's takes long."""
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite as of_sqlite  # noqa: PLC0415

        return of_sqlite.insert(messages).on_conflict_do_nothing()
    from sqlalchemy.dialects import postgresql as of_postgresql  # noqa: PLC0415

    return of_postgresql.insert(messages).on_conflict_do_nothing()
