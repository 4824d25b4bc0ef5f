"""What runs have learned about the limits of carriers, in the database that machines share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

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
