"""Limits of carriers in the database that machines share: what runs have learned, and who shares one now."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from batchlic.database.postgresql import Store

metadata = sa.MetaData()

learned_limits = sa.Table(
    "learned_limits",
    metadata,
    sa.Column("carrier", sa.Text, primary_key=True, comment="base URL"),
    sa.Column("scope", sa.Text, primary_key=True, comment="account or login to which the limit applies"),
    sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("content", sa.Text, nullable=False, comment="LearnedLimit as JSON"),
)

limit_sharers = sa.Table(
    "limit_sharers",
    metadata,
    sa.Column("carrier", sa.Text, primary_key=True, comment="base URL"),
    sa.Column(
        "scope", sa.Text, primary_key=True, comment="what the limit is for: `account:`, `login:` and whose"
    ),
    sa.Column("name", sa.Text, primary_key=True, comment="of a limiter in a process, at random"),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("content", sa.Text, nullable=False, comment="Member as JSON"),
)


@dataclass(frozen=True, slots=True)
class Sharers:
    """Who shares limits: the contents of their rows by scope."""

    contents: Mapping[str, Sequence[str]]
    store_ahead_s: float
    """Seconds by which the store's clock is ahead of `time.monotonic`."""
    unsure_s: float
    """Seconds by which that may be wrong."""


def read_limits(store: Store, carrier: str) -> dict[str, str]:
    """The limits of a carrier as JSON, by account or login. Raises as the methods of Store do."""
    query = sa.select(learned_limits.c.scope, learned_limits.c.content)
    with store.explained("the learned limits"), store.engine.connect() as connection:
        rows = connection.execute(query.where(learned_limits.c.carrier == carrier))
        return {row.scope: row.content for row in rows}


def keep_limits(
    store: Store, carrier: str, limits: Mapping[str, str], *, seen_at: datetime, forget_before: datetime
) -> None:
    """Keep limits by account or login, unless newer ones are kept; remove those seen `forget_before`."""
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - takes long

    rows = [
        {"carrier": carrier, "scope": scope, "seen_at": seen_at, "content": limits[scope]}
        for scope in sorted(limits)  # always in this order: two processes do not wait for each other
    ]
    insert = postgresql.insert(learned_limits)
    newer = insert.excluded
    insert = insert.on_conflict_do_update(
        index_elements=["carrier", "scope"],
        set_={"seen_at": newer.seen_at, "content": newer.content},
        where=learned_limits.c.seen_at <= newer.seen_at,
    )
    old = learned_limits.delete().where(learned_limits.c.seen_at < forget_before)
    with store.explained("the learned limits"), store.engine.begin() as connection:
        connection.execute(old)
        if rows:
            connection.execute(insert, rows)


def exchange_sharers(
    store: Store, carrier: str, mine: Mapping[str, tuple[str, str]], *, lease_s: float
) -> Sharers:
    """Tell name and content for each scope, and hear those of all. Rows are kept for `lease_s` seconds."""
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - takes long

    table, now = limit_sharers, sa.func.clock_timestamp()
    rows = [
        {"carrier": carrier, "scope": scope, "name": name, "content": content}
        for scope, (name, content) in sorted(mine.items())
    ]
    insert = postgresql.insert(table).values(expires_at=now + timedelta(seconds=lease_s))
    told = {"expires_at": insert.excluded.expires_at, "content": insert.excluded.content}
    upsert = insert.on_conflict_do_update(index_elements=["carrier", "scope", "name"], set_=told)
    query = sa.select(table.c.scope, table.c.content).where(
        table.c.carrier == carrier, table.c.scope.in_(list(mine)), table.c.expires_at > now
    )
    contents: dict[str, list[str]] = {scope: [] for scope in mine}
    with store.explained("the shared limits"):
        with store.engine.begin() as connection:
            connection.execute(upsert, rows)
        with store.engine.connect() as connection:
            for row in connection.execute(query):
                contents[row.scope].append(row.content)
            began = time.monotonic()
            moment = connection.execute(sa.select(sa.extract("epoch", now))).scalar_one()
            half = (time.monotonic() - began) / 2
    return Sharers(contents, float(moment) - (began + half), half)


def leave_sharers(store: Store, carrier: str, names: Sequence[str]) -> None:
    """Share no limit any more by these names; remove rows that have expired, too."""
    table = limit_sharers
    gone = sa.or_(
        sa.and_(table.c.carrier == carrier, table.c.name.in_(names)),
        table.c.expires_at < sa.func.clock_timestamp(),
    )
    key = sa.tuple_(table.c.carrier, table.c.scope, table.c.name)
    free = sa.select(table.c.carrier, table.c.scope, table.c.name).where(gone)
    with store.explained("the shared limits"), store.engine.begin() as connection:
        connection.execute(table.delete().where(key.in_(free.with_for_update(skip_locked=True))))
