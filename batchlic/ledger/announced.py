"""What the runs at work are about to send, for sessions on other machines, which can't read their plans.

Only a ledger in a store needs it. A run announces its devices in the transaction that registers it, and its
lease says whether it is at work still.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from batchlic.database import Damage, leases
from batchlic.database.leases import Lease
from batchlic.database.postgresql import Store

metadata = sa.MetaData()

announced = sa.Table(
    "announced",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False, comment="from 0"),
    sa.Column("parts", sa.Integer, nullable=False, comment="rows of this run"),
    sa.Column("lease_key", sa.Text, nullable=False, comment="what a session at work holds in `leases`"),
    sa.Column("checksum", sa.LargeBinary, nullable=False, comment="BLAKE2b of the content, 16 bytes"),
    sa.Column("content", sa.LargeBinary, nullable=False, comment="parquet: accounts and identifiers"),
)


@dataclass(frozen=True, slots=True)
class Announcement:
    """The devices that a session may send (columns: account_name, IDENTIFIERS), and the lease it holds."""

    lease: Lease
    devices: Iterable[pl.DataFrame] = ()


def announce(connection: sa.Connection, run_id: str, new: Announcement) -> None:
    """Replace what a run announced before. Nothing is announced to a store that does not have the lease."""
    withdraw(connection, run_id)
    part = 0
    for frame in new.devices:
        _insert(connection, run_id, new.lease.key, part, frame)
        part += 1
    if not part:
        _insert(connection, run_id, new.lease.key, 0, pl.DataFrame())
    of_run = announced.c.run_id == run_id
    connection.execute(announced.update().where(of_run).values(parts=max(part, 1)))


def withdraw(connection: sa.Connection, run_id: str) -> None:
    """Remove what a run has announced."""
    connection.execute(announced.delete().where(announced.c.run_id == run_id))


def has_announced(connection: sa.Connection, run_id: str) -> bool:
    """Whether a run has announced what it may send."""
    return lease_key_of(connection, run_id) is not None


def read_announced(connection: sa.Connection, run_id: str) -> Iterator[pl.DataFrame]:
    """The devices that a run has announced, one frame at a time. Raises Damage."""
    numbers = sa.select(announced.c.part, announced.c.parts).where(announced.c.run_id == run_id)
    rows = connection.execute(numbers.order_by(announced.c.part)).all()
    if [tuple(row) for row in rows] != [(part, len(rows)) for part in range(len(rows))]:
        raise Damage(f"what run {run_id} has announced is not whole")
    for row in rows:
        found = connection.execute(
            sa.select(announced.c.content, announced.c.checksum).where(
                announced.c.run_id == run_id, announced.c.part == row.part
            )
        ).one()
        if _digest(found.content) != found.checksum:
            raise Damage(f"what run {run_id} has announced does not match its checksum")
        frame = pl.read_parquet(io.BytesIO(found.content))
        if frame.width:
            yield frame


def lease_key_of(connection: sa.Connection, run_id: str) -> str | None:
    """The key of the lease of a run; None if it has announced nothing."""
    query = sa.select(announced.c.lease_key).where(announced.c.run_id == run_id).limit(1)
    return connection.execute(query).scalar()


def holder_of(store: Store, connection: sa.Connection, run_id: str) -> str | None:
    """The other process that is at work on a run; None if there is none."""
    key = lease_key_of(connection, run_id)
    if key is None or leases.is_held_here(store.name, key):
        return None
    found = leases.holder_of(store, key)
    return None if found is None else found.holder


def _insert(connection: sa.Connection, run_id: str, lease_key: str, part: int, frame: pl.DataFrame) -> None:
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd", compression_level=1)
    row = {
        "run_id": run_id,
        "part": part,
        "parts": 0,
        "lease_key": lease_key,
        "checksum": _digest(content.getvalue()),
        "content": content.getvalue(),
    }
    connection.execute(announced.insert(), row)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
