"""The ledger: what each run recorded of its devices, in one file or database that runs share.

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

from batchlic.database import leases
from batchlic.database.leases import Lease
from batchlic.database.postgresql import Store
from batchlic.ledger.announced import (
    Announcement,
    announce,
    has_announced,
    holder_of,
    lease_key_of,
    read_announced,
    withdraw,
)
from batchlic.ledger.catalog import Block, Catalog, Run
from batchlic.ledger.packing import pack_frames, read_content
from batchlic.ledger.places import place_of
from batchlic.ledger.recording import replace_records
from batchlic.ledger.schema import IDENTIFIERS, RECORD_COLUMNS


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
    """A ledger in a file or a store; several processes may use it at once.

    Each method raises StoppedEarly if the disk can't be read or written or the server does not answer, and
    LedgerError if the ledger is damaged. So what a method returns is what was written.
    """

    def __init__(self, location: Path | str) -> None:
        """Open the ledger at a path or in a store, or make one; raises as `LedgerPlace.open` does."""
        self.place = place_of(location)
        self._database = self.place.open()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # -- what runs write --------------------------------------------------------------------------------

    def register(
        self, entry: RunEntry, *, planned_after: int | None = None, announcement: Announcement | None = None
    ) -> None:
        """Register a run that is about to send; until `close_run` it may do more than it has recorded.

        `planned_after` is given for a new run: the `last_number` when it was planned. A new run is the
        newest, even if the clock went back. A run that is registered already keeps its place among the runs.
        A session that holds a lease gives an `announcement` of what it may send, for other machines.
        """
        with self._writing(announcement.lease if announcement else None) as catalog:
            begun_at = entry.begun_at
            if planned_after is not None:
                begun_at = max(begun_at, 1 + max((run.begun_at for run in catalog.runs.values()), default=0))
            known = catalog.find_run(entry.run_id)
            if known is None:
                number = 1 + max(catalog.runs, default=0)
                run = Run(number, *entry._replace(begun_at=begun_at), True, planned_after or 0)  # noqa: FBT003
            elif planned_after is None:
                run = known._replace(folder=entry.folder, is_open=True)
            else:
                run = known._replace(folder=entry.folder, is_open=True, begun_at=begun_at)
            catalog.put_run(run)
            if announcement is not None and self._store is not None:
                announce(catalog.connection, entry.run_id, announcement)

    def close_run(self, run_id: str, *, lease: Lease | None = None) -> bool:
        """Note that a run has recorded all that it did; False where there is no such run."""
        with self._writing(lease) as catalog:
            run = catalog.find_run(run_id)
            if run is not None:
                catalog.put_run(run._replace(is_open=False))
            if self._store is not None:
                withdraw(catalog.connection, run_id)
            return run is not None

    def record(
        self,
        run_id: str,
        frames: Iterable[pl.DataFrame],
        pairs: Callable[[], Iterable[pl.DataFrame]] = tuple,
        *,
        lease: Lease | None = None,
    ) -> int:
        """Replace what a registered run recorded before, all or nothing; returns the number of records.

        `frames` have the columns SCOPE and RECORD_COLUMNS. A run that records again has each device in the
        same frame as before. `pairs` gives both identifiers of more devices (columns: IDENTIFIERS); it is
        called only if other runs have records with one identifier. `lease` is what the session holds: one
        that was replaced records nothing.
        """
        recorded = list(pack_frames(frames))
        with self._writing(lease) as catalog:
            run = catalog.find_run(run_id)
            if run is None:
                raise ValueError(f"run {run_id} is not registered")
            catalog.put_run(run._replace(is_open=True))
            replace_records(catalog, run.number, recorded, pairs)
        return sum(packed.devices for packed in recorded)

    # -- what is read -----------------------------------------------------------------------------------

    def open_entries(self, carrier: str) -> list[RunEntry]:
        """The runs against a carrier that may have done more than they recorded, in the order they began."""
        with self._reading() as catalog:
            entries = [_entry(run) for run in catalog.runs.values() if run.is_open and run.folder is not None]
        return sorted((entry for entry in entries if entry.carrier == carrier), key=lambda run: run.begun_at)

    def holder(self, run_id: str) -> str | None:
        """The other process that is at work on a run, on any machine; None if there is none, or in a file."""
        if self._store is None:
            return None
        with self._reading() as catalog:
            return holder_of(self._store, catalog.connection, run_id)

    def lease_of(self, run_id: str) -> tuple[str, str] | None:
        """The store and the key of the lease of a run that is open; None if it is not known, or in a file."""
        if self._store is None:
            return None
        with self._reading() as catalog:
            key = lease_key_of(catalog.connection, run_id)
        return None if key is None else (self._store.name, key)

    def has_announced(self, run_id: str) -> bool:
        """Whether a run has announced what it may send; False in a file, whose readers can read the plan."""
        if self._store is None:
            return False
        with self._reading() as catalog:
            return has_announced(catalog.connection, run_id)

    def announced(self, run_id: str) -> Iterator[pl.DataFrame]:
        """The devices that a run has announced (columns: account_name, IDENTIFIERS), frame by frame."""
        with self._reading() as catalog:
            yield from read_announced(catalog.connection, run_id)

    def has_run(self, run_id: str) -> bool:
        """Whether the run itself was registered, rather than an import of its results."""
        with self._reading() as catalog:
            run = catalog.find_run(run_id)
        return run is not None and run.folder is not None

    def find_entry(self, run_id: str) -> RunEntry | None:
        """A run or an import by its id; None where there is none."""
        with self._reading() as catalog:
            run = catalog.find_run(run_id)
        return run and _entry(run)

    def is_open(self, run_id: str) -> bool:
        """Whether a run may have done more than it recorded. Raises KeyError where there is no such run."""
        with self._reading() as catalog:
            run = catalog.find_run(run_id)
        if run is None:
            raise KeyError(run_id)
        return run.is_open

    def open_by_run(self) -> dict[str, bool]:
        """Each run or import by its id: whether it may have done more than it recorded."""
        with self._reading() as catalog:
            return {run.run_id: run.is_open for run in catalog.runs.values()}

    def count_records(self, run_id: str) -> dict[tuple[str, str], int]:
        """The number of records that a run made, by account and SKU, in order."""
        counts: dict[tuple[str, str], int] = {}
        with self._reading() as catalog:
            run = catalog.find_run(run_id)
            for block in catalog.blocks.values():
                if run is not None and block.run == run.number:
                    key = (block.account_name, block.sku_number)
                    counts[key] = counts.get(key, 0) + block.devices
        return dict(sorted(counts.items()))

    def request_times(self, run_id: str) -> set[int]:
        """When the requests left of which a run has records, in microseconds since 1970, UTC."""
        times: set[int] = set()
        with self._reading() as catalog:
            run = catalog.find_run(run_id)
            for block in catalog.blocks.values():
                if run is not None and block.run == run.number:
                    at = read_content(catalog.content(block), ["at"])["at"]
                    times.update(at.drop_nulls().unique().dt.epoch("us"))
        return times

    def planned_after(self, run_id: str) -> int:
        """The number of the newest records when a run was planned; 0 where that is not known."""
        with self._reading() as catalog:
            run = catalog.find_run(run_id)
        return 0 if run is None else run.planned_after

    def scopes(self) -> list[tuple[str, str, str]]:
        """Carrier, account and SKU of all records, in order."""
        with self._reading() as catalog:
            scopes = {
                (catalog.runs[block.run].carrier, block.account_name, block.sku_number)
                for block in catalog.blocks.values()
            }
        return sorted(scopes)

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
        with self._reading() as catalog:

            def age(block: Block) -> tuple[int, int]:
                run = catalog.runs[block.run]
                return (-run.begun_at, -run.number) if newest_first else (run.begun_at, run.number)

            own = catalog.find_run(not_completed_by) if not_completed_by is not None else None
            found = [
                block
                for block in catalog.blocks.values()
                if block.number > after
                and catalog.runs[block.run].carrier == carrier
                and (block.account_name, block.sku_number) in targets
                and (own is None or block.completed_by != own.number)
            ]
            for block in sorted(found, key=lambda block: (age(block), block.number)):
                entry = _entry(catalog.runs[block.run])
                read = read_content(catalog.content(block), columns)
                yield RunRecords(entry, block.account_name, block.sku_number, read)

    @property
    def last_number(self) -> int:
        """The highest number of records so far, 0 if there were none; later records have higher ones."""
        with self._reading() as catalog:
            return catalog.last_number

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

    # -- transactions -----------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Catalog]:
        """A snapshot of the catalog: writes of other processes do not change it during the block."""
        with self.place.explained(), self._database.reading() as connection:
            yield Catalog(connection)

    @contextmanager
    def _writing(self, lease: Lease | None = None) -> Iterator[Catalog]:
        """The catalog, to change it in one transaction while no other process writes.

        Raises LeaseLost, and changes nothing, if the session has lost the lease that is given. That is
        checked last: a heartbeat waits for the rest of the transaction.
        """
        with self.place.explained(), self._database.writing() as connection:
            catalog = Catalog(connection)
            yield catalog
            catalog.save()
            if lease is not None:
                self._refuse_lost(connection, lease)

    def _refuse_lost(self, connection: sa.Connection, lease: Lease) -> None:
        if self._store is not None and lease.store.name == self._store.name:
            leases.refuse_lost(connection, [lease])
        else:
            lease.check()

    @property
    def _store(self) -> Store | None:
        """The store that has the ledger; None for a file."""
        return self._database.store


def _entry(run: Run) -> RunEntry:
    return RunEntry(run.run_id, run.carrier, run.folder, run.begun_at)
