"""The ledger: what batchlic knows of devices across runs, as a durable record of what each run was told.

A word is what became of a run's request for a device: assigned, unassigned, or in doubt. A run has one word a
device, said anew as a whole whenever more becomes known; the newest run's word counts. Words are kept by the
column, a parquet file of about WORDS_AT_ONCE devices in each row of the database: a row for each device would
take a minute to write and to read where this takes a second.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl
import sqlalchemy as sa
from polars._typing import PolarsDataType

from batchlic.journal.database import explained, sqlite
from batchlic.reader.known import State

WORDS_AT_ONCE = 100_000

STATES = pl.Enum([state.name.lower() for state in State])
IDENTIFIERS = ("imei_number", "iccid_number")
WORDS: dict[str, PolarsDataType] = {
    **dict.fromkeys(IDENTIFIERS, pl.Int64),
    "state": STATES,
    "action": pl.String,
    "status": pl.String,
    "x_request_id": pl.String,
    "request_id": pl.String,
    "at": pl.Datetime("us", "UTC"),
}
"""The columns of words: identifiers as the reader's numbers (null where not known), what is known, of which
request (null where imported), and when the last request for the device left."""

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
)

words = sa.Table(
    "words",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.ForeignKey("runs.id"), nullable=False, index=True),
    sa.Column("account_name", sa.String, nullable=False),
    sa.Column("sku_number", sa.String, nullable=False),
    sa.Column("devices", sa.Integer, nullable=False),
    sa.Column("unpaired", sa.Integer, nullable=False, comment="devices known by one identifier only"),
    sa.Column("content", sa.LargeBinary, nullable=False, comment="parquet, columns WORDS"),
    sqlite_autoincrement=True,  # a later word has a higher number, even where others have gone
)


class Entry(NamedTuple):
    """A run as the ledger knows it; `begun_at` in microseconds since 1970, UTC."""

    run_id: str
    carrier: str
    folder: str | None
    begun_at: int


@dataclass(frozen=True, slots=True)
class Told:
    """Words of one run about devices of one account and SKU."""

    entry: Entry
    account_name: str
    sku_number: str
    words: pl.DataFrame


class Ledger:
    """A ledger; several processes may use it at once.

    Whatever reads or writes raises StoppedEarly where the disk does not do its part, and RunFolderError where
    the database is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Open the ledger at `path`; where there is none, make one, for its owner only (mode 0600)."""
        self.path = path
        with self._explained():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._engine = sqlite(path)
            metadata.create_all(self._engine)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    # -- what runs write --------------------------------------------------------------------------------

    def enter(self, entry: Entry) -> None:
        """Enter a run that is about to send, or that goes on; until `leave` it may do more than it tells."""
        with self._transaction() as connection:
            connection.execute(runs.insert().prefix_with("OR IGNORE"), [{**entry._asdict(), "is_open": True}])
            connection.execute(runs.update().where(runs.c.run_id == entry.run_id).values(is_open=True))

    def leave(self, run_id: str) -> bool:
        """Note that a run has told all that it did; False where there is no such run."""
        with self._transaction() as connection:
            left = connection.execute(runs.update().where(runs.c.run_id == run_id).values(is_open=False))
            return left.rowcount > 0

    def tell(self, run_id: str, frames: Iterable[pl.DataFrame]) -> int:
        """Put what a run says now in the place of what it said before; all or nothing.

        `frames` have SCOPE and the columns WORDS. A word that gives only one identifier of a device is about
        both of them where another run's word knows the other. Returns how many words there are.
        """
        entry, number = self._entry(run_id)
        told = 0
        with self._transaction() as connection:
            connection.execute(words.delete().where(words.c.run == number))
            for frame in frames:
                for (account, sku), some in frame.partition_by(SCOPE, as_dict=True).items():
                    said = self._completed(some.select(*WORDS), entry, account, sku)
                    self._complete_others(connection, said, entry, account, sku)
                    row = {"run": number, "account_name": account, "sku_number": sku}
                    connection.execute(words.insert(), [row | _stored(said)])
                    told += said.height
        return told

    def _completed(self, said: pl.DataFrame, entry: Entry, account: str, sku: str) -> pl.DataFrame:
        """The words of a run with the identifiers that it lacks and other runs know, the newest first."""
        if _unpaired(said):
            for told in self.told(entry.carrier, [(account, sku)], IDENTIFIERS, newest_first=True):
                if told.entry.run_id != entry.run_id:
                    said = _paired(said, told.words)
        return said

    def _complete_others(
        self, connection: sa.Connection, said: pl.DataFrame, entry: Entry, account: str, sku: str
    ) -> None:
        """Give other runs' words the identifiers that they lack and this one's know."""
        if _unpaired(said) == said.height:
            return
        query = (
            sa.select(words.c.id, words.c.content)
            .join_from(words, runs)
            .where(runs.c.carrier == entry.carrier, runs.c.run_id != entry.run_id, words.c.unpaired > 0)
            .where(words.c.account_name == account, words.c.sku_number == sku)
        )
        for number, content in connection.execute(query).all():
            paired = _paired(pl.read_parquet(io.BytesIO(content)), said)
            connection.execute(words.update().where(words.c.id == number).values(**_stored(paired)))

    # -- what is read -----------------------------------------------------------------------------------

    def open_entries(self, carrier: str) -> list[Entry]:
        """The runs against a carrier that may have done more than they have told."""
        query = sa.select(*_ENTRY).where(runs.c.carrier == carrier, runs.c.is_open).order_by(runs.c.begun_at)
        with self._reading() as connection:
            return [Entry(*row) for row in connection.execute(query)]

    def knows(self, run_id: str) -> bool:
        """Whether a run has told what it did itself, rather than by an import."""
        query = sa.select(runs.c.id).where(runs.c.run_id == run_id, runs.c.folder.is_not(None))
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def began_after(self, run_id: str) -> set[str]:
        """The runs against the same carrier that began later than this one."""
        entry, number = self._entry(run_id)
        order = sa.tuple_(runs.c.begun_at, runs.c.id) > sa.tuple_(
            sa.literal(entry.begun_at), sa.literal(number)
        )
        query = sa.select(runs.c.run_id).where(runs.c.carrier == entry.carrier, order)
        with self._reading() as connection:
            return set(connection.execute(query).scalars())

    def scopes(self) -> list[tuple[str, str, str]]:
        """Carrier, account and SKU of all words, in order."""
        columns = (runs.c.carrier, words.c.account_name, words.c.sku_number)
        query = sa.select(*columns).join_from(words, runs).distinct().order_by(*columns)
        with self._reading() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def told(
        self,
        carrier: str,
        targets: Sequence[tuple[str, str]],
        columns: Sequence[str] = tuple(WORDS),
        *,
        newest_first: bool = False,
        after: int = 0,
    ) -> Iterator[Told]:
        """What runs against a carrier have told of some accounts and SKUs, the earliest run first.

        With `after`, only what was told after the words of that number.
        """
        order = (runs.c.begun_at, runs.c.id)
        query = (
            sa.select(*_ENTRY, words.c.account_name, words.c.sku_number, words.c.content)
            .join_from(words, runs)
            .where(runs.c.carrier == carrier, words.c.id > after)
            .where(sa.tuple_(words.c.account_name, words.c.sku_number).in_(targets))
            .order_by(*(column.desc() if newest_first else column for column in order), words.c.id)
        )
        with self._reading() as connection:
            for row in connection.execute(query).yield_per(1):
                *entry, account, sku, content = row
                frame = pl.read_parquet(io.BytesIO(content), columns=list(columns))
                yield Told(Entry(*entry), account, sku, frame)

    @property
    def last_number(self) -> int:
        """The number of the newest words, 0 where there are none; what is told later has a higher one."""
        with self._reading() as connection:
            return int(connection.execute(sa.select(sa.func.max(words.c.id))).scalar() or 0)

    def truth(self, carrier: str, account: str, sku: str) -> pl.DataFrame:
        """The newest word about each device of an account and SKU: columns WORDS, and `run_id`.

        Where a SIM has moved to another device, each identifier is shown with its newest word.
        """
        frames = [
            told.words.with_columns(pl.lit(told.entry.run_id).alias("run_id"))
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
        return explained(f"the ledger {self.path}")


_ENTRY = [runs.c[name] for name in Entry._fields]


def _stored(said: pl.DataFrame) -> dict[str, object]:
    """Words as a row of the database keeps them."""
    content = io.BytesIO()
    said.write_parquet(content, compression="zstd", compression_level=1)
    return {"devices": said.height, "unpaired": _unpaired(said), "content": content.getvalue()}


def _unpaired(said: pl.DataFrame) -> int:
    """How many words give only one identifier."""
    return said.height - said.select(IDENTIFIERS).drop_nulls().height


def _paired(said: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Words with the identifiers that they lack and `others` know."""
    pairs = others.select(IDENTIFIERS).drop_nulls()
    for known, missing in (IDENTIFIERS, IDENTIFIERS[::-1]):
        partners = pairs.unique(known).rename({missing: "partner"})
        said = said.join(partners, on=known, how="left", maintain_order="left")
        said = said.with_columns(pl.coalesce(missing, "partner").alias(missing)).drop("partner")
    return said


@dataclass(frozen=True, slots=True)
class Memory:
    """What a ledger knows of the devices at one carrier, as the reader asks for it (reader.known.Known).

    `last_number` is that of the newest words when the memory was made.
    """

    ledger: Ledger
    carrier: str
    resendable_skus: Collection[str]
    last_number: int

    def resendable(self, sku_number: str) -> bool:
        """Whether devices in doubt may be sent again under this SKU."""
        return sku_number in self.resendable_skus

    def words(self, targets: Sequence[tuple[str, str]], identifier: str) -> Iterator[pl.DataFrame]:
        """All words about devices of some accounts and SKUs, the earliest first."""
        ranks = {target: rank for rank, target in enumerate(targets)}
        for told in self.ledger.told(self.carrier, targets, (identifier, "state")):
            rank = pl.lit(ranks[told.account_name, told.sku_number], pl.UInt32)
            state = pl.col("state").to_physical().cast(pl.UInt8) + State.UNASSIGNED
            yield told.words.drop_nulls(identifier).select(
                rank.alias("rank"), identifier, state.alias("state")
            )
