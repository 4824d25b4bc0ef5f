"""Inventories in databases: which names are databases, their addresses, and which queries are read."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from batchlic.errors import InventoryError, UsageError


class Kind(StrEnum):
    """The kinds of databases, each by the scheme of its addresses."""

    POSTGRESQL = "postgresql"
    MYSQL = "mysql"
    SQLITE = "sqlite"
    DUCKDB = "duckdb"
    SNOWFLAKE = "snowflake"

    @property
    def is_file(self) -> bool:
        """Whether a database of this kind is a file."""
        return self in {Kind.SQLITE, Kind.DUCKDB}


@dataclass(frozen=True, slots=True)
class Database:
    """A database, named as the operator names it. `path` is its file, if it is one.

    The name holds no password: `database_of` refuses one (promise F).
    """

    kind: Kind
    name: str
    path: Path | None = None

    def __str__(self) -> str:
        return self.name


LOGIN = {
    Kind.POSTGRESQL: "PGUSER and PGPASSWORD, or ~/.pgpass (PGPASSFILE)",
    Kind.MYSQL: "MYSQL_USER and MYSQL_PWD",
    Kind.SNOWFLAKE: "SNOWFLAKE_USER and SNOWFLAKE_PASSWORD",
}
"""The environment variables that hold the login of a server."""
_FORM = {
    Kind.POSTGRESQL: "postgresql://USER@HOST:PORT/DATABASE",
    Kind.MYSQL: "mysql://USER@HOST:PORT/DATABASE",
    Kind.SQLITE: "sqlite:///PATH",
    Kind.DUCKDB: "duckdb:///PATH",
    Kind.SNOWFLAKE: "snowflake://USER@ACCOUNT/DATABASE/SCHEMA?warehouse=WAREHOUSE",
}
_PARAMETERS = {
    Kind.POSTGRESQL: frozenset(
        {
            "application_name",
            "channel_binding",
            "connect_timeout",
            "gssencmode",
            "host",
            "hostaddr",
            "keepalives",
            "keepalives_count",
            "keepalives_idle",
            "keepalives_interval",
            "options",
            "passfile",
            "port",
            "service",
            "sslcert",
            "sslcrl",
            "sslkey",
            "sslmode",
            "sslrootcert",
            "target_session_attrs",
            "user",
        }
    ),
    Kind.MYSQL: frozenset({"charset", "ssl_ca", "ssl_cert", "ssl_key", "unix_socket"}),
    Kind.SNOWFLAKE: frozenset({"authenticator", "role", "warehouse"}),
}
"""The parameters of addresses. None of them is a secret: an address is shown in files and messages."""

_SCHEMES = {"postgres": Kind.POSTGRESQL, "mariadb": Kind.MYSQL} | {kind.value: kind for kind in Kind}
_ADDRESS = re.compile(r"([A-Za-z0-9]+)(?:\+[A-Za-z0-9_]+)?:(//)?")
_MAGIC = {Kind.SQLITE: (0, b"SQLite format 3\0"), Kind.DUCKDB: (8, b"DUCK")}
"""Where the files of a database have which bytes."""


def database_of(name: str) -> Database | None:
    """The database that a name is, or None if it is something else.

    A database is an address, a path that ends in `.duckdb`, or the path of a file of SQLite or DuckDB. Raises
    InventoryError as `database_at` does.
    """
    if database := database_at(name):
        return database
    kind = _kind_of_file(name)
    return Database(kind, name, Path(name)) if kind else None


def database_at(address: str) -> Database | None:
    """The database at an address; None for any other name.

    Raises InventoryError for a wrong address, and for one with a password.
    """
    found = _ADDRESS.match(address)
    kind = _SCHEMES.get(found[1].lower()) if found else None
    if kind is None:
        return None
    try:
        parts = urlsplit(address)
        is_valid = "," in parts.netloc or parts.port != 0  # `port` raises ValueError
        parameters = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        parts, is_valid, parameters = urlsplit(""), False, []
    # A password with an unescaped slash looks like a port and a path: `user:12/34@host`.
    is_valid = is_valid and "@" not in parts.path + parts.query and parts.netloc.count("@") < 2
    is_valid = is_valid and found is not None and found[2] is not None
    if parts.password is not None or any(
        "pass" in key.lower() and key != "passfile" for key, _ in parameters
    ):
        raise InventoryError(
            f"{kind}://…: the address holds a password, which others could read in the list of processes or "
            f"in the job file: remove it, and {_where(kind)}"
        )
    if not is_valid or parts.fragment or _has_wrong_parts(kind, parts.netloc, parts.path):
        raise InventoryError(
            f"{kind}://…: not a valid address: give {_FORM[kind]}, and write special characters as in "
            f"%40 for @. An address holds no password: {_where(kind)}"
        )
    for key, _ in parameters:
        if key not in _PARAMETERS.get(kind, ()):
            known = ", ".join(sorted(_PARAMETERS.get(kind, ()))) or "none"
            raise InventoryError(
                f"{kind}://…: there is no parameter {key[:40]!r} in such an address; known: {known}"
            )
    return Database(kind, address, Path(unquote(parts.path[1:])) if kind.is_file else None)


def _where(kind: Kind) -> str:
    return f"set {LOGIN[kind]} in the environment" if kind in LOGIN else "a file needs no login"


def _has_wrong_parts(kind: Kind, host: str, path: str) -> bool:
    if kind.is_file:
        return bool(host) or len(path) < 2
    return kind is Kind.SNOWFLAKE and not host


def _kind_of_file(name: str) -> Kind | None:
    path = Path(name)
    is_named_so = path.suffix == ".duckdb"
    try:
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(16)
            default = Kind.DUCKDB if is_named_so else None
            return next((kind for kind, (at, magic) in _MAGIC.items() if head.startswith(magic, at)), default)
    except (OSError, ValueError):  # the error of the file that is no database is the clearer one
        return None
    return Kind.DUCKDB if is_named_so and not path.exists() else None


def in_folder(name: str, folder: Path) -> str:
    """The address of a database whose file is relative to a folder; any other name as it is."""
    for kind in (Kind.SQLITE, Kind.DUCKDB):
        start = f"{kind}:///"
        if name.startswith(start) and not name.startswith(f"{start}/"):
            path = folder.absolute() / name.removeprefix(start)
            return f"{start}{path}"
    return name


_COMMENTS_AND_BRACKETS = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_READING = {"select", "with", "values", "table", "from"}
"""First words of statements that return rows; DuckDB knows `FROM fleet`."""


def checked_query(query: str) -> str:
    """The query without blanks around it. Raises ValueError if it is empty, or if it is not a SELECT.

    The databases themselves refuse what a SELECT might change: they are opened to read only.
    """
    start = _COMMENTS_AND_BRACKETS.match(query)
    rest = query[start.end() if start else 0 :]
    word = re.match(r"\w*", rest)
    first = word[0] if word else ""
    if not rest.strip("; \n"):
        raise ValueError("the query is empty: give a SELECT")
    if first.lower() not in _READING:
        raise ValueError(
            f"the query begins with {first[:20] or rest[:1]!r}: give a SELECT, because batchlic only reads"
        )
    return query.strip()


def refuse_without_query(databases: list[Database], query: str | None) -> None:
    """Raise UsageError if a database has no query, or if a query has no database."""
    if databases and query is None:
        raise UsageError(
            f"{databases[0]}: is a database: say which rows to read with --query 'SELECT …', or with query "
            "in the job's [inventory]"
        )
    if query is not None and not databases:
        raise UsageError(
            "--query (query in the job's [inventory]) is for databases, and no inventory is one: remove it, "
            f"or name a database, such as {_FORM[Kind.POSTGRESQL]}"
        )
