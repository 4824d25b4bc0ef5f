"""Stores for tests: a database with all tables, emptied between tests."""

from itertools import count

import sqlalchemy as sa

from batchlic.database import postgresql
from batchlic.database.leases import leases
from tests.postgresql import PostgreSQL

_numbers = count(1)


def new_store(server: PostgreSQL, database: str) -> str:
    """The name of a store in a new database.

    Its name is new, too: stores stay open, and the fixtures of a module can be made twice.
    """
    name = postgresql.remember(server.new_database(f"{database}_{next(_numbers)}"))
    postgresql.open_store(name)
    return name


def empty(store: str) -> None:
    """Remove all rows, apart from the version of the schema."""
    engine = postgresql.open_store(store).engine
    tables = [table for table in sa.inspect(engine).get_table_names() if table != postgresql.VERSION_TABLE]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {', '.join(tables)}")


def take_away(store: str, key: str) -> None:
    """Make a lease old and its key free, as after a session that has taken over and ended."""
    gone = leases.update().where(leases.c.key == key)
    with postgresql.open_store(store).engine.begin() as connection:
        connection.execute(
            gone.values(epoch=leases.c.epoch + 1, expires_at=sa.func.clock_timestamp(), holder="")
        )
