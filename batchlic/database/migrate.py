"""Upgrades the schema of the database that machines share, by Alembic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from batchlic.database.postgresql import EXTRA, VERSION_TABLE, Store
from batchlic.errors import UsageError

_ONE_AT_A_TIME = int.from_bytes(b"batchlic")
"""The key of the advisory lock that a process holds while it changes the schema."""


def upgrade(store: Store, *, refuse: Callable[[sa.Connection], None] | None = None) -> None:
    """Bring the schema to the version of this batchlic, in one transaction. An empty one gets all tables.

    `refuse` is called first, in that transaction, and may raise. Raises UsageError without
    Alembic, and the errors of the database.
    """
    try:
        from alembic import command  # noqa: PLC0415 - an extra
        from alembic.config import Config  # noqa: PLC0415
    except ModuleNotFoundError:
        raise UsageError(f"the schema of a store needs Alembic: {EXTRA}") from None
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("version_table", VERSION_TABLE)
    with store.engine.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ONE_AT_A_TIME)))
        if refuse is not None:
            refuse(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
