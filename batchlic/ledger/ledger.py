"""The ledger: what each run recorded of its devices, in one database that runs share.

A record says that a license is assigned, unassigned or in doubt. A run has at most one record of a device and
a SKU. It replaces all its records each time that it records. The record of the newest run counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from batchlic.database import explain_database_errors
from batchlic.ledger.opening import open_ledger
from batchlic.ledger.packing import pack_frames, read_content
from batchlic.ledger.recording import replace_records
from batchlic.ledger.schema import IDENTIFIERS, RECORD_COLUMNS
from batchlic.ledger.tables import records, runs


class RunEntry(NamedTuple):
    """A run in the ledger.

    `folder` is where its journal is; None in an import. `begun_at` is in microseconds since 1970, UTC.
    """

    run_id: str
    carrier: str
    folder: str | None
    begun_at: int


@dataclass(frozen=True, slots=True)
class RunRecords:
    """Records of one run about devices of one account and SKU (columns: RECORD_COLUMNS, or some of them)."""

    entry: RunEntry
    account_name: str
    sku_number: str
    records: pl.DataFrame


class Ledger:
    """A ledger; several processes may use it at once.

    Each method raises StoppedEarly where the disk can't be read or written, and RunFolderError where the
    database is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Open the ledger at `path`, or make one; raises as `opening.open_ledger` does."""
        self.path = path
        self._engine = open_ledger(path)

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    # -- what runs write --------------------------------------------------------------------------------

    def register(self, entry: RunEntry, *, planned_after: int | None = None) -> None:
        """Register a run that is about to send; until `close_run` it may do more than it has recorded.

        `planned_after` is given for a new run: the `last_number` when it was planned. A new run is the
        newest, even if the clock went back. A run that is registered already keeps its place among the runs.
        """
        begun_at: sa.ColumnElement[int] = sa.literal(entry.begun_at)
        if planned_after is not None:
            latest = sa.select(sa.func.coalesce(sa.func.max(runs.c.begun_at), 0)).scalar_subquery()
            begun_at = sa.func.max(begun_at, latest + 1)
        insertion = insert(runs).values(
            {**entry._asdict(), "begun_at": begun_at, "is_open": True, "planned_after": planned_after or 0}
        )
        updated = {"folder", "is_open"} | ({"begun_at"} if planned_after is not None else set())
        with self._transaction() as connection:
            connection.execute(
                insertion.on_conflict_do_update(
                    index_elements=[runs.c.run_id], set_={name: insertion.excluded[name] for name in updated}
                )
            )

    def close_run(self, run_id: str) -> bool:
        """Note that a run has recorded all that it did; False where there is no such run."""
        with self._transaction() as connection:
            closed = connection.execute(runs.update().where(runs.c.run_id == run_id).values(is_open=False))
            return closed.rowcount > 0

    def record(
        self, run_id: str, frames: Iterable[pl.DataFrame], pairs: Callable[[], Iterable[pl.DataFrame]] = tuple
    ) -> int:
        """Replace what a registered run recorded before, all or nothing; returns the number of records.

        `frames` have the columns SCOPE and RECORD_COLUMNS. A run that records again has each device in the
        same frame as before. `pairs` gives both identifiers of more devices (columns: IDENTIFIERS); it is
        called only if other runs have records with one identifier.
        """
        recorded = list(pack_frames(frames))
        with self._transaction() as connection:
            own = runs.c.run_id == run_id
            connection.execute(runs.update().where(own).values(is_open=True))  # takes the write lock
            run = connection.execute(sa.select(runs.c.id).where(own)).scalar_one()
            replace_records(connection, run, recorded, pairs)
        return sum(packed.devices for packed in recorded)

    # -- what is read -----------------------------------------------------------------------------------

    def open_entries(self, carrier: str) -> list[RunEntry]:
        """The runs against a carrier that may have done more than they recorded, in the order they began."""
        query = sa.select(*_ENTRY).where(
            runs.c.carrier == carrier, runs.c.is_open, runs.c.folder.is_not(None)
        )
        with self._reading() as connection:
            return [RunEntry(*row) for row in connection.execute(query.order_by(runs.c.begun_at))]

    def has_run(self, run_id: str) -> bool:
        """Whether the run itself was registered, rather than an import of its results."""
        query = sa.select(runs.c.id).where(runs.c.run_id == run_id, runs.c.folder.is_not(None))
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def planned_after(self, run_id: str) -> int:
        """The number of the newest records when a run was planned; 0 where that is not known."""
        query = sa.select(runs.c.planned_after).where(runs.c.run_id == run_id)
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def scopes(self) -> list[tuple[str, str, str]]:
        """Carrier, account and SKU of all records, in order."""
        columns = (runs.c.carrier, records.c.account_name, records.c.sku_number)
        query = sa.select(*columns).join_from(records, runs).distinct().order_by(*columns)
        with self._reading() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def run_records(
        self,
        carrier: str,
        targets: Sequence[tuple[str, str]],
        columns: Sequence[str] = tuple(RECORD_COLUMNS),
        *,
        newest_first: bool = False,
        after: int = 0,
        not_completed_by: str | None = None,
    ) -> Iterator[RunRecords]:
        """The records that runs against a carrier made under some accounts and SKUs, the earliest run first.

        `after` leaves out the records up to that number. `not_completed_by` is the id of a run: records that
        it completed are left out.
        """
        order = (runs.c.begun_at, runs.c.id)
        query = (
            sa.select(*_ENTRY, records.c.account_name, records.c.sku_number, records.c.content)
            .join_from(records, runs)
            .where(runs.c.carrier == carrier, records.c.id > after)
            .where(sa.tuple_(records.c.account_name, records.c.sku_number).in_(targets))
            .order_by(*(column.desc() if newest_first else column for column in order), records.c.id)
        )
        if not_completed_by is not None:
            own = sa.select(runs.c.id).where(runs.c.run_id == not_completed_by).scalar_subquery()
            query = query.where(records.c.completed_by.is_distinct_from(own))
        with self._reading() as connection:
            for row in connection.execute(query).yield_per(1):
                *entry, account, sku, content = row
                yield RunRecords(RunEntry(*entry), account, sku, read_content(content, columns))

    @property
    def last_number(self) -> int:
        """The number of the newest records, 0 where there are none; later records have higher ones."""
        with self._reading() as connection:
            return int(connection.execute(sa.select(sa.func.max(records.c.id))).scalar() or 0)

    def latest(self, carrier: str, account: str, sku: str) -> pl.DataFrame:
        """The newest record of each device of an account and SKU (columns: RECORD_COLUMNS and `run_id`).

        Where a SIM has moved to another device, each identifier is shown with its newest record.
        """
        frames = [
            found.records.drop_nulls("state").with_columns(pl.lit(found.entry.run_id).alias("run_id"))
            for found in self.run_records(carrier, [(account, sku)], newest_first=True)
        ]
        newest = [pl.when(pl.col(key).is_first_distinct()).then(key).alias(key) for key in IDENTIFIERS]
        has_identifier = pl.any_horizontal(pl.col(IDENTIFIERS).is_not_null())
        return pl.concat(frames).with_columns(newest).filter(has_identifier)

    # -- connections ------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with explain_database_errors(f"the ledger {self.path}"), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with explain_database_errors(f"the ledger {self.path}"), self._engine.connect() as connection:
            yield connection


_ENTRY = [runs.c[name] for name in RunEntry._fields]
