"""The ledger: what batchlic knows of devices across runs, as a durable record of what each run was told.

A word is what became of a run's request for a device: assigned, unassigned, or in doubt. A run has one word a
device, said anew as a whole whenever more becomes known; the newest run's word counts. What a run says again
as it said it before keeps its number: only what has changed is news to others.

Words are kept by the column, a parquet file of about WORDS_AT_ONCE devices in each row of the database: a row
for each device would take a minute to write and to read where this takes a second.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import polars as pl
import sqlalchemy as sa
from polars._typing import PolarsDataType
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.schema import CreateIndex, CreateTable

from batchlic.atomic import explain_disk_errors
from batchlic.database import explain_database_errors, sqlite
from batchlic.chunker.exclusion import LicenseState

RECORDS_PER_FRAME = 100_000
PATIENCE = 300
"""Seconds that a run waits for another one to have told."""

STATES = pl.Enum([state.name.lower() for state in LicenseState])
IDENTIFIERS = ("imei_number", "iccid_number")
RECORD_COLUMNS: dict[str, PolarsDataType] = {
    **dict.fromkeys(IDENTIFIERS, pl.Int64),
    "state": STATES,
    "action": pl.String,
    "status": pl.String,
    "x_request_id": pl.String,
    "request_id": pl.String,
    "at": pl.Datetime("us", "UTC"),
}
"""The columns of words: identifiers as the reader's numbers (null where not known), what is known, of which
request (null where imported), and when the last request for the device left. Where `state` is null, the run
takes back that it has unassigned: what others said before counts again, which is news."""

SCOPE = ("account_name", "sku_number")

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.String, nullable=False, unique=True),
    sa.Column("carrier", sa.String, nullable=False, comment="base URL, or `sandbox`"),
    sa.Column("folder", sa.String, comment="where its journal is; null for what was imported"),
    sa.Column("begun_at", sa.BigInteger, nullable=False, comment="microseconds since 1970, UTC"),
    sa.Column("is_open", sa.Boolean, nullable=False, comment="may have done more than it has told"),
    sa.Column("planned_after", sa.Integer, nullable=False, comment="id of the newest words by then"),
)

records = sa.Table(
    "records",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False, index=True),
    sa.Column("part", sa.Integer, comment="which of the run's frames it was told in; null in old ledgers"),
    sa.Column("account_name", sa.String, nullable=False),
    sa.Column("sku_number", sa.String, nullable=False),
    sa.Column("devices", sa.Integer, nullable=False),
    sa.Column("unpaired", sa.Integer, nullable=False, comment="devices known by one identifier only"),
    sa.Column("content", sa.LargeBinary, nullable=False, comment="parquet, columns WORDS"),
    sa.Column(
        "completed_by", sa.Integer, comment="the run that told both identifiers; null where its own did"
    ),
    sqlite_autoincrement=True,  # a later word has a higher number, even where others have gone
)


class Entry(NamedTuple):
    """A run as the ledger knows it; `begun_at` in microseconds since 1970, UTC."""

    run_id: str
    carrier: str
    folder: str | None
    begun_at: int


@dataclass(frozen=True, slots=True)
class RunRecords:
    """Words of one run about devices of one account and SKU."""

    entry: Entry
    account_name: str
    sku_number: str
    records: pl.DataFrame


class Ledger:
    """A ledger; several processes may use it at once.

    Whatever reads or writes raises StoppedEarly where the disk does not do its part, and RunFolderError where
    the database is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Open the ledger at `path`; where there is none, make one, for its owner only (mode 0600)."""
        self.path = path
        with explain_disk_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._engine = sqlite(path, patience=PATIENCE)
        with self._transaction() as connection:
            for table in metadata.sorted_tables:  # two processes may make it at once
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    connection.execute(CreateIndex(index, if_not_exists=True))
            is_old = bool(_lacking(connection))
        if is_old:
            with self._transaction() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # others may be at it, too
                for name in _lacking(connection):
                    connection.exec_driver_sql(f"ALTER TABLE records ADD COLUMN {name} INTEGER")

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    # -- what runs write --------------------------------------------------------------------------------

    def register(self, entry: Entry, *, planned_after: int | None = None) -> None:
        """Enter a run that is about to send, or that goes on; until `leave` it may do more than it tells.

        A new one says after which words it was planned (`last_number`); it is the newest, whatever the clock
        says.
        """
        begun_at: sa.ColumnElement[int] = sa.literal(entry.begun_at)
        if planned_after is not None:
            latest = sa.select(sa.func.coalesce(sa.func.max(runs.c.begun_at), 0)).scalar_subquery()
            begun_at = sa.func.max(begun_at, latest + 1)
        insertion = insert(runs).values(
            {**entry._asdict(), "begun_at": begun_at, "is_open": True, "planned_after": planned_after or 0}
        )
        renewed = {"folder", "is_open"} | ({"begun_at"} if planned_after is not None else set())
        with self._transaction() as connection:
            connection.execute(
                insertion.on_conflict_do_update(
                    index_elements=[runs.c.run_id], set_={name: insertion.excluded[name] for name in renewed}
                )
            )

    def close_run(self, run_id: str) -> bool:
        """Note that a run has told all that it did; False where there is no such run."""
        with self._transaction() as connection:
            left = connection.execute(runs.update().where(runs.c.run_id == run_id).values(is_open=False))
            return left.rowcount > 0

    def record(
        self, run_id: str, frames: Iterable[pl.DataFrame], pairs: Callable[[], Iterable[pl.DataFrame]] = tuple
    ) -> int:
        """Put what a run says now in the place of what it said before; all or nothing.

        `frames` have SCOPE and the columns WORDS; a device told of again is in the same one as before. A word
        that gives only one identifier of a device is about both of them where another run's word knows the
        other, or one of `pairs` (columns IDENTIFIERS), which are asked for where such a word is known.
        Returns how many words there are.
        """
        entry, number = self._entry(run_id)
        said = [
            _Packed.of(some, part, account, sku)
            for part, frame in enumerate(frames)
            for (account, sku), some in frame.partition_by(SCOPE, as_dict=True).items()
        ]
        others = sa.select(records.c.content).join_from(records, runs)
        others = others.where(runs.c.carrier == entry.carrier, records.c.run != number)
        with self._transaction() as connection:
            ours = runs.update().where(runs.c.id == number)
            connection.execute(ours.values(is_open=True))  # first: from here on we are alone
            if any(one.unpaired for one in said):
                newest_first = others.where(records.c.unpaired < records.c.devices).order_by(
                    runs.c.begun_at.desc(), records.c.id.desc()
                )
                partners = _partners(said, map(_identifiers, connection.scalars(newest_first)))
                said = [one.paired(partners) for one in said]
            lonely = connection.execute(
                others.add_columns(*_PACKED, records.c.id, records.c.run).where(records.c.unpaired > 0)
            ).all()
            if lonely:
                known = chain((_identifiers(one.content) for one in said), pairs())
                alone = [(row.id, row.run, _Packed(*row[1:-2])) for row in lonely]
                self._complete(connection, alone, known, teller=number)
            rows = list(_numbered(connection, number, said))
            ours_before = sa.select(records.c.id, records.c.completed_by).where(records.c.run == number)
            completed_by = {row.id: row.completed_by for row in connection.execute(ours_before)}
            connection.execute(records.delete().where(records.c.run == number))
            for one, its_number in rows:
                row = {"id": its_number, "run": number, **one._asdict()}
                connection.execute(records.insert(), row | {"completed_by": completed_by.get(its_number)})
        return sum(one.devices for one in said)

    def _complete(
        self,
        connection: sa.Connection,
        lonely: Sequence[tuple[int, int, _Packed]],
        pairs: Iterable[pl.DataFrame],
        *,
        teller: int,
    ) -> None:
        """Give words the identifiers that they lack and `pairs` know.

        That is news to whoever knew such a device by the other identifier only, though not to the teller.
        """
        partners = _partners([packed for _, _, packed in lonely], pairs)
        for number, run, packed in lonely:
            paired = packed.paired(partners)
            if paired.unpaired == packed.unpaired:
                continue
            said, is_whole = paired.records(), ~pl.any_horizontal(pl.col(IDENTIFIERS).is_null())
            is_completed = said.select(is_whole).to_series() & ~packed.records().select(is_whole).to_series()
            connection.execute(records.delete().where(records.c.id == number))
            for some, whole in (
                (said.filter(~is_completed), {"id": number}),
                (said.filter(is_completed), {}),
            ):
                if not some.is_empty():
                    row = _Packed.of(some, *paired.place)._asdict() | {"run": run} | whole
                    connection.execute(records.insert(), row | {"completed_by": None if whole else teller})

    # -- what is read -----------------------------------------------------------------------------------

    def open_entries(self, carrier: str) -> list[Entry]:
        """The runs against a carrier that may have done more than they have told."""
        query = sa.select(*_ENTRY).where(
            runs.c.carrier == carrier, runs.c.is_open, runs.c.folder.is_not(None)
        )
        with self._reading() as connection:
            return [Entry(*row) for row in connection.execute(query.order_by(runs.c.begun_at))]

    def has_run(self, run_id: str) -> bool:
        """Whether a run has told what it did itself, rather than by an import."""
        query = sa.select(runs.c.id).where(runs.c.run_id == run_id, runs.c.folder.is_not(None))
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def planned_after(self, run_id: str) -> int:
        """The number of the newest words when a run was planned; 0 where that is not known."""
        query = sa.select(runs.c.planned_after).where(runs.c.run_id == run_id)
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def scopes(self) -> list[tuple[str, str, str]]:
        """Carrier, account and SKU of all words, in order."""
        columns = (runs.c.carrier, records.c.account_name, records.c.sku_number)
        query = sa.select(*columns).join_from(records, runs).distinct().order_by(*columns)
        with self._reading() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def told(
        self,
        carrier: str,
        targets: Sequence[tuple[str, str]],
        columns: Sequence[str] = tuple(RECORD_COLUMNS),
        *,
        newest_first: bool = False,
        after: int = 0,
        to: str | None = None,
    ) -> Iterator[RunRecords]:
        """What runs against a carrier have told of some accounts and SKUs, the earliest run first.

        With `after`, only what was told after the words of that number; `to` is the run that asks for news:
        what it has made known itself is none.
        """
        order = (runs.c.begun_at, runs.c.id)
        query = (
            sa.select(*_ENTRY, records.c.account_name, records.c.sku_number, records.c.content)
            .join_from(records, runs)
            .where(runs.c.carrier == carrier, records.c.id > after)
            .where(sa.tuple_(records.c.account_name, records.c.sku_number).in_(targets))
            .order_by(*(column.desc() if newest_first else column for column in order), records.c.id)
        )
        if to is not None:
            asker = sa.select(runs.c.id).where(runs.c.run_id == to).scalar_subquery()
            query = query.where(records.c.completed_by.is_distinct_from(asker))
        with self._reading() as connection:
            for row in connection.execute(query).yield_per(1):
                *entry, account, sku, content = row
                frame = pl.read_parquet(io.BytesIO(content), columns=list(columns))
                yield RunRecords(Entry(*entry), account, sku, frame)

    @property
    def last_number(self) -> int:
        """The number of the newest words, 0 where there are none; what is told later has a higher one."""
        with self._reading() as connection:
            return int(connection.execute(sa.select(sa.func.max(records.c.id))).scalar() or 0)

    def latest(self, carrier: str, account: str, sku: str) -> pl.DataFrame:
        """The newest word about each device of an account and SKU: columns WORDS, and `run_id`.

        Where a SIM has moved to another device, each identifier is shown with its newest word.
        """
        frames = [
            told.records.drop_nulls("state").with_columns(pl.lit(told.entry.run_id).alias("run_id"))
            for told in self.told(carrier, [(account, sku)], newest_first=True)
        ]
        everything = pl.concat(frames)
        newest = [pl.when(pl.col(key).is_first_distinct()).then(key).alias(key) for key in IDENTIFIERS]
        return everything.with_columns(newest).filter(~pl.all_horizontal(pl.col(IDENTIFIERS).is_null()))

    # -- how --------------------------------------------------------------------------------------------

    def _entry(self, run_id: str) -> tuple[Entry, int]:
        query = sa.select(*_ENTRY, runs.c.id).where(runs.c.run_id == run_id)
        with self._reading() as connection:
            *entry, number = connection.execute(query).one()
            return Entry(*entry), number

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._explained(), self._engine.connect() as connection:
            yield connection

    def _explained(self) -> AbstractContextManager[None]:
        return explain_database_errors(f"the ledger {self.path}")


_ENTRY = [runs.c[name] for name in Entry._fields]


def _lacking(connection: sa.Connection) -> list[str]:
    """The columns of words that a ledger of an older version has not."""
    present = {column["name"] for column in sa.inspect(connection).get_columns("records")}
    return [name for name in ("part", "completed_by") if name not in present]


class _Packed(NamedTuple):
    """Words of one account and SKU as a row of the database keeps them."""

    part: int | None
    account_name: str
    sku_number: str
    devices: int
    unpaired: int
    content: bytes

    @classmethod
    def of(cls, said: pl.DataFrame, part: int | None, account: str, sku: str) -> _Packed:
        """Pack words (columns WORDS)."""
        content = io.BytesIO()
        said.select(*RECORD_COLUMNS).write_parquet(content, compression="zstd", compression_level=1)
        unpaired = said.height - said.select(IDENTIFIERS).drop_nulls().height
        return cls(part, account, sku, said.height, unpaired, content.getvalue())

    @property
    def place(self) -> tuple[int | None, str, str]:
        """Where among the run's words they stand."""
        return self[:3]

    def records(self) -> pl.DataFrame:
        """The words (columns WORDS)."""
        return pl.read_parquet(io.BytesIO(self.content))

    def paired(self, partners: pl.DataFrame) -> _Packed:
        """The words with the identifiers that they lack and `partners` know."""
        if not self.unpaired or partners.is_empty():
            return self
        said = self.records()
        for known, missing in (IDENTIFIERS, IDENTIFIERS[::-1]):
            of_known = partners.unique(known, keep="first", maintain_order=True)
            said = said.join(
                of_known.rename({missing: "partner"}), on=known, how="left", maintain_order="left"
            )
            said = said.with_columns(pl.coalesce(missing, "partner").alias(missing)).drop("partner")
        return _Packed.of(said, *self.place)


_PACKED = [records.c[name] for name in _Packed._fields]


_SAME = (*IDENTIFIERS, "state", "at")
"""What makes a word the same as one before: nothing was sent since, and no more is known."""


def _numbered(
    connection: sa.Connection, run: int, said: Sequence[_Packed]
) -> Iterator[tuple[_Packed, int | None]]:
    """What a run says, and its words taken back, in rows with the number that they had; None where new."""
    places = [records.c[name] for name in _Packed._fields[:3]]
    before = defaultdict[tuple[int | None, str, str], list[int]](list)
    query = sa.select(records.c.id, *places).where(records.c.run == run)
    for number, part, account, sku in connection.execute(query):
        before[part, account, sku].append(number)
    for one in said:
        yield from _renumbered(connection, one, before.pop(one.place, []))
    for (part, *scope), numbers in before.items():
        # What an older version told, it may have told in any frame.
        anywhere = [one for one in said if part is None and [*one.place[1:]] == scope]
        nothing = _Packed.of(pl.DataFrame(schema=RECORD_COLUMNS), part, *scope)
        yield from _renumbered(connection, nothing, numbers, elsewhere=anywhere)


def _renumbered(
    connection: sa.Connection, said: _Packed, numbers: Sequence[int], elsewhere: Sequence[_Packed] = ()
) -> Iterator[tuple[_Packed, int | None]]:
    if not numbers:
        yield said, None
        return
    query = sa.select(records.c.id, records.c.content).where(records.c.id.in_(numbers)).order_by(records.c.id)
    before = pl.concat(
        pl.read_parquet(io.BytesIO(content), columns=list(_SAME)).with_columns(pl.lit(number).alias("number"))
        for number, content in connection.execute(query)
    )
    again = said.records().join(
        before.unique(_SAME), on=_SAME, how="left", nulls_equal=True, maintain_order="left"
    )
    is_taken_back = pl.col("state").is_null()
    known = pl.concat([again.select(IDENTIFIERS), *(_identifiers(one.content) for one in elsewhere)])
    taken_back = (
        before.filter(is_taken_back | (pl.col("state") == LicenseState.UNASSIGNED.name.lower()))
        .join(known, on=IDENTIFIERS, how="anti", nulls_equal=True)
        .with_columns(pl.when(is_taken_back).then("number"), state=pl.lit(None, STATES))
    )
    whole = pl.concat([again, taken_back], how="diagonal")
    for (number,), some in whole.partition_by("number", as_dict=True, maintain_order=True).items():
        yield (said if some.height == said.devices == whole.height else _Packed.of(some, *said.place)), number


def _identifiers(content: bytes) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(content), columns=list(IDENTIFIERS))


def _partners(lonely: Iterable[_Packed], pairs: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Those of `pairs` that tell the other identifier of a lonely word, in their order."""
    alone = pl.concat(_identifiers(packed.content) for packed in lonely if packed.unpaired)
    known = {
        key: alone.filter(pl.col(other).is_null())[key].drop_nulls().sort()
        for key, other in (IDENTIFIERS, IDENTIFIERS[::-1])
    }
    found = [
        whole.filter(
            _among(whole["imei_number"], known["imei_number"])
            | _among(whole["iccid_number"], known["iccid_number"])
        )
        for frame in pairs
        if not (whole := frame.drop_nulls()).is_empty()
    ]
    return pl.concat(found) if found else pl.DataFrame(schema=dict.fromkeys(IDENTIFIERS, pl.Int64))


def _among(values: pl.Series, ascending: pl.Series) -> pl.Series:
    """Whether each value is among those, by binary search: they are many, and asked for again and again."""
    if ascending.is_empty():
        return pl.zeros(len(values), dtype=pl.Boolean, eager=True)
    places = ascending.search_sorted(values).clip(0, len(ascending) - 1)
    return ascending.gather(places) == values


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a ledger knows of the devices at one carrier, as the reader asks for it (reader.known.Known).

    `last_number` is that of the newest words when the memory was made.
    """

    ledger: Ledger
    carrier: str
    last_number: int
    to_sku: str | None = None

    def records(self, targets: Sequence[tuple[str, str]], identifier: str) -> Iterator[pl.DataFrame]:
        """All words about devices of some accounts and SKUs, the earliest first."""
        ranks = {target: rank for rank, target in enumerate(targets)}
        for told in self.ledger.told(self.carrier, targets, (identifier, "state")):
            rank = pl.lit(ranks[told.account_name, told.sku_number], pl.UInt32)
            state = pl.col("state").to_physical().cast(pl.UInt8) + LicenseState.UNASSIGNED
            yield told.records.drop_nulls([identifier, "state"]).select(
                rank.alias("rank"), identifier, state.alias("state")
            )
