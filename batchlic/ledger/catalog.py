"""The catalog of a ledger: all rows of its tables without the records themselves, compared with a checksum.

A damaged SQLite file can give wrong rows, or fewer, without an error, and anybody can change the rows of a
database. So the ledger does not rely on queries:
each transaction reads all rows of `runs` and `records`, without the contents, and compares them with the
checksum that the last writer stored. A content is compared with its own checksum when it is read. The catalog
of a run of ten million devices has a hundred blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from batchlic.database import Damage
from batchlic.ledger.packing import PackedRecords, Place
from batchlic.ledger.tables import catalog, metadata, records, runs


class Run(NamedTuple):
    """A row of `runs`."""

    number: int
    run_id: str
    carrier: str
    folder: str | None
    begun_at: int
    is_open: bool
    planned_after: int


class Block(NamedTuple):
    """A row of `records`, without its content."""

    number: int
    run: int
    part: int
    account_name: str
    sku_number: str
    devices: int
    unpaired: int
    completed_by: int | None
    checksum: bytes

    @property
    def place(self) -> Place:
        """The place of these records among all those of their run."""
        return Place(self.part, self.account_name, self.sku_number)


class Catalog:
    """The runs and blocks of a ledger, by number, within a transaction of the caller.

    Raises Damage if the rows are not those that were written. After changes, the caller calls `save`
    in the same transaction.
    """

    def __init__(self, connection: sa.Connection) -> None:
        """Read the catalog, and compare it with its checksum."""
        self.connection = connection
        self._schema = _schema(connection)
        all_runs = [Run(*row) for row in connection.execute(sa.select(runs).order_by(runs.c.id))]
        columns = [column for column in records.c if column is not records.c.content]
        blocks = [Block(*row) for row in connection.execute(sa.select(*columns).order_by(records.c.id))]
        saved = connection.execute(sa.select(catalog.c.last_number, catalog.c.checksum)).all()
        self.last_number: int = saved[0].last_number if saved else 0
        checksum = _checksum(self._schema, all_runs, blocks, self.last_number)
        if [row.checksum for row in saved] != [checksum]:
            raise Damage("its rows do not match their checksum")
        self.runs = {run.number: run for run in all_runs}
        self.blocks = {block.number: block for block in blocks}
        self._numbers = {run.run_id: run.number for run in all_runs}

    # -- what is read -----------------------------------------------------------------------------------

    def find_run(self, run_id: str) -> Run | None:
        """The run with this id; None if there is none."""
        number = self._numbers.get(run_id)
        return None if number is None else self.runs[number]

    def content(self, block: Block) -> bytes:
        """The packed records of a block."""
        query = sa.select(records.c.content).where(records.c.id == block.number)
        content = self.connection.execute(query).scalar()
        if not isinstance(content, bytes) or _digest(content) != block.checksum:
            raise Damage(
                f"the records of run {self.runs[block.run].run_id} for account {block.account_name} and SKU "
                f"{block.sku_number} do not match their checksum"
            )
        return content

    def packed(self, block: Block) -> PackedRecords:
        """The packed records of a block, with their place."""
        return PackedRecords(*block.place, block.devices, block.unpaired, self.content(block))

    # -- what is written --------------------------------------------------------------------------------

    def put_run(self, run: Run) -> None:
        """Add a run, or replace the one with its number."""
        row = dict(zip(runs.c.keys(), run, strict=True))
        if run.number in self.runs:
            self.connection.execute(runs.update().where(runs.c.id == run.number).values(row))
        else:
            self.connection.execute(runs.insert(), row)
        self.runs[run.number] = run
        self._numbers[run.run_id] = run.number

    def add_block(
        self, packed: PackedRecords, *, run: int, number: int | None = None, completed_by: int | None = None
    ) -> None:
        """Add records of a run. Without a `number`, they get the next one."""
        if number is None:
            number = self.last_number + 1
        self.last_number = max(self.last_number, number)
        checksum = _digest(packed.content)
        block = Block(number, run, *packed.place, packed.devices, packed.unpaired, completed_by, checksum)
        row = dict(zip(records.c.keys(), (*block, packed.content), strict=True))
        self.connection.execute(records.insert(), row)
        self.blocks[number] = block

    def delete_block(self, block: Block) -> None:
        """Delete the records of a block."""
        self.connection.execute(records.delete().where(records.c.id == block.number))
        del self.blocks[block.number]

    def save(self) -> None:
        """Store the checksum of the rows as they are now."""
        all_runs = [self.runs[number] for number in sorted(self.runs)]
        blocks = [self.blocks[number] for number in sorted(self.blocks)]
        checksum = _checksum(self._schema, all_runs, blocks, self.last_number)
        self.connection.execute(catalog.update().values(last_number=self.last_number, checksum=checksum))


def create_catalog(connection: sa.Connection) -> None:
    """Make the tables of a new ledger in a file, and the catalog of no rows."""
    metadata.create_all(connection)
    connection.execute(catalog.insert(), empty_row(connection))


def empty_row(connection: sa.Connection) -> dict[str, object]:
    """The row of `catalog` in a ledger without records."""
    return {"id": 1, "last_number": 0, "checksum": _checksum(_schema(connection), [], [], 0)}


def _schema(connection: sa.Connection) -> list[tuple[Any, ...]]:
    """The tables as a file has them: with another name or type, columns would be read differently.

    Empty for a server: it refuses names that it does not have, and the version of its schema is checked.
    """
    if connection.dialect.name != "sqlite":
        return []
    query = sa.text("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")
    return [tuple(row) for row in connection.execute(query)]


def _checksum(
    schema: Iterable[tuple[Any, ...]], all_runs: Iterable[Run], blocks: Iterable[Block], last_number: int
) -> bytes:
    return _digest(msgspec.msgpack.encode((schema, all_runs, blocks, last_number)))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
