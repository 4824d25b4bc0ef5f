"""The state of a store: its server, the version of its schema, its runs, and who holds a lease."""

from __future__ import annotations

from datetime import UTC

import msgspec
import sqlalchemy as sa

from batchlic.database import leases, postgresql
from batchlic.database.postgresql import Store
from batchlic.errors import RefusedToStart
from batchlic.journal import shared_tables
from batchlic.journal.store_record import LEASE_OF_RUN

TABLES = (
    leases.leases.name,
    *(table.name for table in (shared_tables.journals, *shared_tables.BY_NAME.values())),
    *("catalog", "runs", "records", "announced", "learned_limits", "limit_sharers", "messages"),
)
"""All tables of a store: also those of the ledger, the callbacks and the learned limits."""
_NEW_TABLES = tuple(name for name in TABLES if name != "messages")
"""Those that a store of callbacks does not have already."""
_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")


class HeldLease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that a session holds. `of` names the run or the job; `expires_at` is ISO 8601 in UTC."""

    of: str
    holder: str
    expires_at: str
    expires_in_s: float


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """What a store is and holds. `problems` says what keeps runs from using it, and what to do."""

    store: str
    """The URL without its password."""
    server: str
    """The version of PostgreSQL."""
    schema_version: str | None
    """None: an empty database, in which the first run makes the tables."""
    needed_schema_version: str
    runs: int
    leases: list[HeldLease]
    problems: list[str]


def state_of(name: str) -> StoreState:
    """The state of the store with this name. Nothing changes there.

    Raises StoppedEarly if the server does not answer now, and UsageError for a wrong login or database.
    """
    store = Store(name)
    try:
        with store.explained():
            found = postgresql.revision_of(store)
            with store.engine.connect() as connection:
                problems = [*_read_only(connection), *_schema(connection, found)]
                is_readable = found == postgresql.head() and not problems
                number = sa.select(sa.func.count()).select_from(shared_tables.journals)
                return StoreState(
                    store=name,
                    server=str(connection.exec_driver_sql("SHOW server_version").scalar_one()),
                    schema_version=found,
                    needed_schema_version=postgresql.head(),
                    runs=connection.execute(number).scalar_one() if is_readable else 0,
                    leases=_leases(connection) if is_readable else [],
                    problems=problems,
                )
    finally:
        store.engine.dispose()


def upgrade(name: str) -> tuple[str | None, str]:
    """Give a store the schema of this version of batchlic; returns the versions before and after.

    Raises RefusedToStart while sessions are at work there, OtherVersion if the schema is newer, UsageError
    without Alembic, and as `state_of` does.
    """
    from batchlic.database import migrate  # noqa: PLC0415 - Alembic

    store = Store(name)
    try:
        with store.explained():
            before = postgresql.revision_of(store)
            if before != postgresql.head():
                postgresql.refuse_newer(name, before)
                migrate.upgrade(store, refuse=_refuse_held if before is not None else None)
        return before, postgresql.head()
    finally:
        store.engine.dispose()


def _refuse_held(connection: sa.Connection) -> None:
    """Raise RefusedToStart if a lease is held. No session takes one until the transaction ends."""
    connection.exec_driver_sql("LOCK TABLE leases IN EXCLUSIVE MODE")
    if held := _leases(connection):
        named = "; ".join(f"{lease.of} ({lease.holder}, until {lease.expires_at})" for lease in held)
        raise RefusedToStart(
            f"sessions are at work, so the schema is not upgraded: {named}. Wait for them, or stop them"
        )


def _read_only(connection: sa.Connection) -> list[str]:
    if connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() != "on":
        return []
    is_standby = connection.execute(sa.select(sa.func.pg_is_in_recovery())).scalar_one()
    cause = "it is a standby" if is_standby else "default_transaction_read_only is on"
    return [f"the store is read-only ({cause}): name the primary server, or fix the cause"]


def _schema(connection: sa.Connection, found: str | None) -> list[str]:
    if found is None:
        if foreign := sorted({*_NEW_TABLES} & {*sa.inspect(connection).get_table_names()}):
            named = ", ".join(foreign)
            return [f"there are other tables of these names: {named}: give batchlic a database of its own"]
        may_create = sa.func.has_schema_privilege(sa.func.current_schema(), "CREATE")
        if connection.execute(sa.select(may_create)).scalar():
            return []
        return [
            "there are no tables, and this user can't create any: run `batchlic store upgrade` as its owner"
        ]
    if found != postgresql.head():
        return [postgresql.other_schema(found)]
    user = connection.exec_driver_sql("SELECT current_user").scalar_one()
    problems = []
    if lacking := [name for name in TABLES if not _may_use(connection, name)]:
        granted = ", ".join(_PRIVILEGES)
        problems.append(f"{user} may not read and write {', '.join(lacking)}: GRANT {granted} on the tables")
    if not connection.execute(_MAY_NUMBER_MESSAGES).scalar():
        problems.append(f"{user} may not number callbacks: GRANT USAGE on the sequence of messages.id")
    return problems


_MAY_NUMBER_MESSAGES = sa.text(
    "SELECT coalesce(has_sequence_privilege(pg_get_serial_sequence('messages', 'id'), 'USAGE'), true)"
)


def _may_use(connection: sa.Connection, table: str) -> bool:
    allowed = [sa.func.has_table_privilege(table, privilege) for privilege in _PRIVILEGES]
    return bool(connection.execute(sa.select(sa.and_(*allowed))).scalar())


def _leases(connection: sa.Connection) -> list[HeldLease]:
    """The leases that are held now. Those of runs are named by their folders."""
    table, journals = leases.leases, shared_tables.journals
    left = sa.extract("epoch", table.c.expires_at - sa.func.clock_timestamp())
    rows = table.outerjoin(journals, table.c.key == sa.literal(LEASE_OF_RUN) + journals.c.key)
    query = sa.select(table.c.key, journals.c.folder, table.c.holder, table.c.expires_at, left)
    query = query.select_from(rows).where(left > 0, table.c.holder != "").order_by(table.c.key)
    return [
        HeldLease(
            of=folder or key,
            holder=holder,
            expires_at=f"{expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            expires_in_s=round(float(left_s), 1),
        )
        for key, folder, holder, expires_at, left_s in connection.execute(query)
    ]
