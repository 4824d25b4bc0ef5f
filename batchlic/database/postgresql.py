"""The database that machines share: a PostgreSQL server, its address without a password, and its schema."""

from __future__ import annotations

import os
import re
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from batchlic.database.explained import first_line
from batchlic.errors import OtherVersion, RunFolderError, StoppedEarly, UsageError

EXTRA = "pip install 'batchlic[postgresql]'"
CONNECT_TIMEOUT_S = 10
"""Seconds to wait for a server that does not answer."""
UNANSWERED_S = 25
"""Seconds after which a connection ends whose packets nobody acknowledges, as with the keepalives."""
LEASE_S = 30.0
"""Seconds after which another session may take over a run whose session is not heard of any more."""
OLDEST_SERVER = 16
"""The oldest major version that is tested and supported."""

_SECRET_KEYS = {"password", "sslpassword"}
_OPTIONS = "-c synchronous_commit=on -c timezone=UTC -c idle_in_transaction_session_timeout=600s"
"""Commits must be durable even if that is not the server's default: what they record is acted upon."""

_given: dict[str, str] = {}
"""The URLs that settings gave to this process, by name: they may have passwords."""
_leases_s: dict[str, float] = {}


def parse(text: str, *, what: str) -> sa.URL:
    """The URL of a PostgreSQL database. `what` names the setting or option.

    Raises UsageError that does not quote the text, which may have a password.
    """
    form = "postgresql://USER@HOST/DATABASE"
    try:
        url = sa.make_url(_SEVERAL_HOSTS.sub(_in_query, text.strip()))  # a secret may end with a line feed
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(f"{what}: not a URL; give {form}") from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise UsageError(f"{what}: {url.drivername} is not supported; give {form}")
    if text.count("@") > 1:
        raise UsageError(f"{what}: in a password, write @ as %40, / as %2F and : as %3A")
    if url.query.keys() & _SECRET_KEYS:
        raise UsageError(f"{what}: put the password before the host, or into ~/.pgpass")
    return url.set(drivername="postgresql")


_SEVERAL_HOSTS = re.compile(
    r"(://(?:[^@]*@)?)([^@/?]*,[^@/?]*:[^@/?]*|[^@/?]*:[^@/?]*,[^@/?]*)(/[^?]*)?(?:\?|$)"
)
"""Several hosts with ports, as libpq takes them: `://USER@HOST:PORT,HOST:PORT/DATABASE`."""

_HOST_AND_PORT = re.compile(r"(\[[^]]*\]|[^:,]+):?([^,]*)")


def _in_query(found: re.Match[str]) -> str:
    """The same hosts as SQLAlchemy takes them."""
    begin, given, database = found.groups(default="")
    hosts, ports = zip(*_HOST_AND_PORT.findall(given), strict=True)
    names = ",".join(host.strip("[]") for host in hosts)
    return f"{begin}{database or '/'}?host={names}&port={','.join(ports)}&"


def name_of(url: sa.URL) -> str:
    """The URL without its password: it may be recorded, and says where to look for the password."""
    return sa.URL.create(
        url.drivername, url.username, None, url.host, url.port, url.database, url.query
    ).render_as_string()


def remember(text: str, *, what: str = "BATCHLIC_STORE", lease_s: float | None = None) -> str:
    """Keep the password of a URL for this process, and return the URL's name.

    `lease_s` is for how long a session holds a run without being heard of, in seconds; None changes nothing.
    Raises UsageError as `parse` does.
    """
    url = parse(text, what=what)
    name = name_of(url)
    if url.password is not None or name not in _given:
        _given[name] = text
    if lease_s is not None:
        _leases_s[name] = lease_s
    return name


def secrets_of(text: str) -> list[str]:
    """What no log may show of a URL: nothing, if it has no password. Raises UsageError as `parse` does."""
    url = parse(text, what="BATCHLIC_STORE")
    if not url.password:
        return []
    return [text, str(url.password), text.partition("://")[2].partition(":")[2].partition("@")[0]]


def lease_of(name: str) -> float:
    """The seconds for which a session of this process holds what it has taken in a store."""
    return _leases_s.get(name, LEASE_S)


def engine(
    name: str,
    *,
    what: str = "BATCHLIC_STORE",
    isolation: str | None = None,
    **options: Any,  # noqa: ANN401
) -> sa.Engine:
    """An engine for the database with this name; libpq finds a password that was not given (`PGPASSFILE`).

    `isolation` and `options` are those of `sa.create_engine`. Raises UsageError without the driver.
    """
    url = parse(_given.get(name, name), what=what)
    if isolation is not None:
        options["isolation_level"] = isolation
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={
                "options": f"{url.query.get('options', '')} {_OPTIONS}".strip(),
                "connect_timeout": _connect_timeout_s(name),
                "application_name": f"batchlic pid {os.getpid()}",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 1000 * UNANSWERED_S,
            }
            | _without(dict(url.query), "connect_timeout", "application_name", "tcp_user_timeout"),
            **options,
        )
    except ModuleNotFoundError:
        raise UsageError(f"{what}: PostgreSQL needs its driver: {EXTRA}") from None
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(f"{what}: hosts or ports in the URL are wrong; give HOST:PORT,HOST:PORT") from None


def _connect_timeout_s(name: str) -> int:
    """A heartbeat must be able to connect again before the lease lapses. The least that libpq takes is 2."""
    return max(2, min(CONNECT_TIMEOUT_S, round(lease_of(name) / 3)))


def _without(query: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the parameters in a URL that take the place of the defaults here."""
    return {name: query[name] for name in names if name in query}


class Store:
    """What machines share: one database with the journals of many runs, a ledger, leases and callbacks.

    `name` is its URL without a password. Each method raises StoppedEarly if the server does not answer now,
    and UsageError for what no retry can heal: a wrong password, no such database, no permission.
    """

    def __init__(self, name: str) -> None:
        """Raise UsageError without the driver. Nothing is connected yet."""
        self.name = name
        self.engine = engine(name, pool_size=10, max_overflow=30, pool_pre_ping=True)
        self._open_connections = OpenConnections(self.engine)

    def cut(self) -> None:
        """End all connections at once, as `OpenConnections.cut` does."""
        self._open_connections.cut()

    @contextmanager
    def explained(self, what: str = "the store") -> Iterator[None]:
        """Raise the errors of the database as errors that say what to do."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise explained(error, f"{what} in {self.name}") from error
        except sa.exc.TimeoutError as error:
            raise StoppedEarly(
                f"{what} in {self.name} can't be used now (too many queries at once): try again"
            ) from error


class OpenConnections:
    """The driver's connections that an engine has open."""

    def __init__(self, engine: sa.Engine) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        sa.event.listen(engine, "connect", self._opened)

    def cut(self) -> None:
        """End them from any thread: a call that waits for a server which can't be reached fails at once."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(Exception):  # it is closed already
                descriptor = os.dup(connection.fileno())
                with socket.socket(fileno=descriptor) as copy:
                    copy.shutdown(socket.SHUT_RDWR)

    def _opened(self, connection: Any, _: object) -> None:  # noqa: ANN401 - of the driver
        with self._lock:
            self._connections.add(connection)


def explained(error: sa.exc.DBAPIError, what: str) -> UsageError | StoppedEarly:
    """The error that says what to do about an error of the server, by its SQLSTATE.

    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    state, reason = getattr(error.orig, "sqlstate", None) or "", first_line(error)
    for advice in _ADVICE:
        if state.startswith(advice.states) if state else any(text in reason for text in advice.texts):
            return advice.kind(f"{what} {advice.problem} ({reason}): {advice.remedy}")
    return StoppedEarly(f"{what} can't be used now ({reason}): fix the cause, then run the command again")


class _Advice(NamedTuple):
    """What to do about errors with some SQLSTATEs, or with these texts where the driver has no SQLSTATE."""

    states: tuple[str, ...]
    texts: tuple[str, ...]
    kind: type[UsageError | StoppedEarly]
    problem: str
    remedy: str


_ADVICE = (
    _Advice(
        ("42P07", "42710"),
        (),
        UsageError,
        "has tables of another program with the names of batchlic's",
        "give batchlic a database of its own",
    ),
    _Advice(
        ("28",),
        ("password authentication failed", "no password supplied", "no pg_hba.conf entry", 'FATAL:  role "'),
        UsageError,
        "rejects the login",
        "check user and password in BATCHLIC_STORE, in the file that PGPASSFILE names, or in ~/.pgpass",
    ),
    _Advice(
        ("3D000",),
        ('" does not exist',),
        UsageError,
        "does not exist",
        "create the database, or name another one",
    ),
    _Advice(
        ("42501",),
        ("permission denied for database",),
        UsageError,
        "lacks a permission",
        "grant it, or create the tables as another user: batchlic store upgrade",
    ),
    _Advice(
        (),
        ("invalid connection option", "invalid sslmode value", "invalid integer value"),
        UsageError,
        "has a wrong parameter",
        "correct the URL",
    ),
    _Advice(
        ("25006",),
        (),
        StoppedEarly,
        "is read-only",
        "name the primary server, or fix the cause, then run the command again",
    ),
    _Advice(
        ("53",),
        (),
        StoppedEarly,
        "has no space or no connection left",
        "make room, then run the command again",
    ),
    _Advice(
        ("42P01", "42703", "3F000"),
        (),
        RunFolderError,
        "lacks a table or a column",
        "check its schema: batchlic store check",
    ),
)


_stores: dict[tuple[int, str], Store] = {}
_opening = threading.Lock()


def open_store(name: str) -> Store:
    """The store with this name: one for each process, checked once.

    An empty database gets its tables. Raises OtherVersion if its schema is older or newer than this version
    of batchlic needs, and as the methods of Store do.
    """
    with _opening:
        known = _stores.get((os.getpid(), name))
        if known is None:
            known = Store(name)
            try:
                with known.explained():
                    prepare(known)
            except BaseException:
                known.engine.dispose()
                raise
            _stores[os.getpid(), name] = known
        return known


def prepare(store: Store) -> None:
    """Give an empty database its tables, and refuse one whose schema is of another version."""
    found = revision_of(store)
    if found is None:
        from batchlic.database import migrate  # noqa: PLC0415 - Alembic

        migrate.upgrade(store)
    elif found != head():
        raise OtherVersion(f"{store.name}: {other_schema(found)}. Nothing was sent")


def other_schema(found: str) -> str:
    """What to do about a schema of another version."""
    if found in revisions():
        return (
            f"its schema is older ({found}; this version of batchlic needs {head()}): end the runs that are "
            "at work, then upgrade it with `batchlic store upgrade`"
        )
    return (
        f"its schema ({found}) is newer than this version of batchlic ({head()}): use the version of "
        "batchlic that upgraded it"
    )


def refuse_newer(name: str, found: str | None) -> None:
    """Raise OtherVersion if a schema is newer than this version of batchlic."""
    if found is not None and found not in revisions():
        raise OtherVersion(f"{name}: {other_schema(found)}")


def revision_of(store: Store) -> str | None:
    """The version of the database's schema; None if it has no tables of batchlic."""
    with store.engine.connect() as connection:
        _refuse_old_server(store.name, connection)
        if not sa.inspect(connection).has_table(_VERSIONS.name):
            return None
        return connection.execute(sa.select(_VERSIONS.c.version_num)).scalar()


def _refuse_old_server(name: str, connection: sa.Connection) -> None:
    found = int((connection.dialect.server_version_info or (0,))[0])
    if found < OLDEST_SERVER:
        raise UsageError(f"{name}: PostgreSQL {found} is too old: batchlic needs {OLDEST_SERVER} or newer")


_VERSIONS = sa.Table("batchlic_schema", sa.MetaData(), sa.Column("version_num", sa.String))

VERSION_TABLE = _VERSIONS.name
"""Where Alembic keeps the version of the schema."""


@cache
def revisions() -> tuple[str, ...]:
    """The versions of the schema, the oldest first: the names of the files of migrations."""
    from importlib.resources import files  # noqa: PLC0415

    folder = files("batchlic.database") / "migrations" / "versions"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".py"))
    return tuple(name.partition("_")[0] for name in names if name[0].isdigit())


def head() -> str:
    """The version of the schema that this version of batchlic needs."""
    return revisions()[-1]
