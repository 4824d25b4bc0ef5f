"""Reads the rows of a query as text cells, a few at a time."""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from decimal import Decimal
from math import isnan

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader.formats import typed
from batchlic.reader.formats.databases.drivers import Cursor, Driver, driver_of, without_secrets
from batchlic.reader.inputs.addresses import Downloaded
from batchlic.reader.inputs.databases import LOGIN, Database
from batchlic.reader.inventory import Inventory
from batchlic.reader.options import ReadOptions

_EXACT, _SINGLE_EXACT = 2.0**53, 2.0**24
"""Up to this size, a whole float is exact; the second number is that of floats of 32 bits."""
FETCHED_ROWS = 50_000
"""Rows that are fetched at once."""

_WHERE = "--query (query in the job's [inventory])"


class QueryResult:
    """The rows of a query, which can be read once."""

    def __init__(self, database: Database, driver: Driver, cursor: Cursor) -> None:
        self.name = database.name
        self._driver = driver
        self.cursor = cursor
        self._columns = _columns(database, cursor)
        self._rows = self._size = 0
        self._digest = hashlib.sha256("\0".join(self._columns).encode())

    def inventory(self, options: ReadOptions) -> Inventory:
        """The rows as an inventory. Raises InventoryError as readers of files do."""
        return typed.from_frames(self.name, self.frames(), options, is_query=True)

    def finish(self) -> Downloaded:
        """Read the rest. The hash is that of the text of all rows, in their order."""
        for _ in self.frames():
            pass
        return Downloaded(self.name, self._size, self._digest.hexdigest())

    def frames(self) -> Iterator[pl.DataFrame]:
        """All cells as text (String), first of no row. Raises InventoryError if the query fails."""
        yield pl.DataFrame(schema=dict.fromkeys(self._columns, pl.String))
        while rows := self._fetched():
            columns = zip(self._columns, zip(*rows, strict=True), strict=True)
            frame = pl.DataFrame([as_texts(cells).alias(name) for name, cells in columns])
            self._rows += frame.height
            content = frame.write_csv(include_header=False).encode()
            self._size += len(content)
            self._digest.update(content)
            yield frame

    def _fetched(self) -> Sequence[Sequence[object]]:
        failed = (
            f"{self.name}: the query failed after {self._rows:,} rows ({{reason}}). Nothing was planned: "
            "correct the query, or run the command again"
        )
        with _explained(self._driver, failed):
            rows: Sequence[Sequence[object]] = self.cursor.fetchmany(FETCHED_ROWS)
            return rows


@contextmanager
def query_result(database: Database, options: ReadOptions) -> Iterator[QueryResult]:
    """Run the query of the options in a database, for a block. Raises InventoryError if that fails."""
    driver, query = driver_of(database), options.query or ""
    login = f" and the login ({LOGIN[database.kind]})" if database.kind in LOGIN else ""
    refused = f"{database}: the database refuses the query ({{reason}}): correct {_WHERE}"
    failed = (
        f"{database}: the database can't be opened ({{reason}}): check the address{login}, or run the "
        "command again later"
    )
    with ExitStack() as opened:
        with _explained(driver, failed):
            connection = opened.enter_context(driver.connected(database, options.download_timeout))
        with _explained(driver, refused):
            cursor = opened.enter_context(driver.executed(connection, query))
        yield QueryResult(database, driver, cursor)


def fetched(database: Database, options: ReadOptions) -> Downloaded:
    """Size and SHA-256 of the rows of a query. Raises InventoryError as `query_result` does."""
    with query_result(database, options) as result:
        return result.finish()


@contextmanager
def _explained(driver: Driver, message: str) -> Iterator[None]:
    """Raise InventoryError for an error of the driver, with its `{reason}`."""
    known: tuple[type[Exception], ...] = (*driver.ERRORS, UnicodeError)
    try:
        yield
    except known as error:
        text = driver.reason(error) if isinstance(error, driver.ERRORS) else str(error)
        lines = [line.strip() for line in without_secrets(text).splitlines() if line.strip()]
        reason = (lines[0] if lines else type(error).__name__)[:300].rstrip(".:")
        raise InventoryError(message.replace("{reason}", reason)) from None


def _columns(database: Database, cursor: Cursor) -> list[str]:
    """The names of the columns. Raises InventoryError if there are none, or if one occurs twice."""
    names = [
        column[0].decode() if isinstance(column[0], bytes) else str(column[0])
        for column in cursor.description or ()
    ]
    if not names:
        raise InventoryError(f"{database}: the query returns no columns: correct {_WHERE}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InventoryError(
            f"{database}: the query returns two columns {twice!r}: give one of them another name, as in "
            f"SELECT sim.iccid AS iccid, modem.iccid AS modem_iccid"
        )
    return names


def as_texts(cells: Sequence[object]) -> pl.Series:
    """Cells of any types as text (String), as `typed.as_text` has it for columns of one type."""
    kinds = set(map(type, cells)) - {type(None)}
    if kinds <= {str}:
        return pl.Series(cells, dtype=pl.String)
    if kinds <= {bytes}:
        try:
            return pl.Series(cells, dtype=pl.Binary).cast(pl.String)
        except pl.exceptions.PolarsError:  # not UTF-8
            return pl.Series(list(map(_text, cells)), dtype=pl.String)
    if kinds <= {int}:
        with suppress(OverflowError, TypeError, pl.exceptions.PolarsError):  # more than 64 bits
            return pl.Series(cells, dtype=pl.Int64).cast(pl.String)
    return pl.Series(list(map(_text, cells)), dtype=pl.String)


def _text(cell: object) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell).decode(errors="replace")
    if isinstance(cell, float):
        return _of_float(cell)
    if isinstance(cell, Decimal) and cell.is_finite():
        text = f"{cell:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(cell)


def _of_float(cell: float) -> str | None:
    """A float as text: with an exponent, which the rules reject, if it may have lost digits."""
    if isnan(cell):
        return None
    size = abs(cell)
    if size > _EXACT or (size > _SINGLE_EXACT and _is_single(cell)):
        return f"{cell:E}"
    return str(int(cell)) if cell.is_integer() else str(cell)


def _is_single(cell: float) -> bool:
    """Whether a number has only the digits that 32 bits hold, as in the type FLOAT of DuckDB."""
    try:
        return bool(struct.unpack("f", struct.pack("f", cell))[0] == cell)
    except OverflowError:
        return False
