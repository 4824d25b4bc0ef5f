"""All inventories together as one fleet: its devices as integers, and its rejects, in bounded memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import polars as pl
from polars._typing import PolarsDataType

from batchlic.errors import InventoryError
from batchlic.reader import duplicates, rules
from batchlic.reader.formats import open_inventory
from batchlic.reader.known import HELD, Fate, Known, fate
from batchlic.reader.options import ReadOptions, Source
from batchlic.reader.reading import read
from batchlic.reader.spool import Spool
from batchlic.reader.validation import CELLS, ODD, REJECTS, ROW, TARGETS, Validated

DEVICES: dict[str, PolarsDataType] = {
    "ordinal": pl.UInt32,
    "imei_number": pl.Int64,
    "iccid_number": pl.Int64,
    "pair": pl.UInt32,
}
"""A sound row: `ordinal` counts the rows of all inventories from 0, `pair` tells its account and SKU."""

NUMBERS_BYTES = 400 << 20
TEXTS_BYTES = 64 << 20
"""How much of the devices, and of each kind of text beside them, stays in memory."""
MAX_ROWS = 2**32 - 1
"""Ordinals are UInt32."""
PART_ROWS = 2_000_000
MAX_PARTS = 12
"""What needs sorting is sorted in parts, by ranges of its key: of PART_ROWS, or more if they got too many."""
SAMPLED_ROWS = 100_000
"""Keys by which the ranges are chosen."""
SLICE_ROWS = 50_000
"""Sorted devices passed on at once."""
TOLD_ROWS = 200_000
"""Duplicates and conflicts put into words at once."""

KEY = pl.coalesce(pl.col("imei_number") + -(2**63), "iccid_number")
"""Sorts by IMEI, and rows without one after all others by ICCID; equal only where those are equal."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One account and SKU that devices are planned for."""

    account_name: str
    sku_number: str


class Fleet:
    """What the inventories hold, in input order; what memory should not hold lies in the folder `scratch`."""

    def __init__(self, options: ReadOptions, scratch: Path) -> None:
        self._options = options
        self.sources: list[Source] = []
        self.notes = [] if options.check_digit else ["check digits were not checked, as the job says"]
        self.rejected: Counter[str] = Counter()
        self.rows_read = 0
        self._pairs: dict[tuple[str | None, str | None], int] = {}
        self._of_pair: Counter[int] = Counter()
        self._devices = Spool(scratch / "devices", DEVICES, NUMBERS_BYTES)
        self._odd = Spool(scratch / "odd", _NUMBERED | ODD, TEXTS_BYTES)
        self._unfit = Spool(scratch / "unfit", _REJECTED, TEXTS_BYTES)
        self._duplicates = Spool(scratch / "twins", _REJECTED, TEXTS_BYTES)
        self._fates: pl.Series | None = None
        self.held: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Read one more inventory to its end. Raises InventoryError."""
        start = self.rows_read
        with open_inventory(name, self._options) as inventory:
            for validated in read(inventory, self._options):
                if self.rows_read + validated.height > MAX_ROWS:
                    raise InventoryError(f"{name}: goes beyond {MAX_ROWS:,} rows: plan in several runs")
                self._take(validated, name, before=self.rows_read - start)
        self.sources.append(Source(name, self.rows_read - start))
        self.notes.extend(inventory.notes)
        if self.rows_read == start:
            self.notes.append(f"{name}: there are no rows in it")

    def _take(self, validated: Validated, name: str, *, before: int) -> None:
        ordinal = (pl.col(ROW) + self.rows_read).cast(pl.UInt32).alias("ordinal")
        place = [pl.lit(name).alias("source"), (pl.col(ROW) + before + 1).cast(pl.UInt32).alias("row")]
        self._devices.append(
            validated.sound.select(ordinal, *duplicates.IDS, self._interned(validated.sound))
        )
        self._odd.append(validated.odd.select(ordinal, *CELLS))
        self._unfit.append(validated.rejects.select(ordinal, *place, *CELLS, "reason", "message"))
        self.rejected.update(validated.rejects["reason"].to_list())
        self.rows_read += validated.height

    def _interned(self, sound: pl.DataFrame) -> pl.Series:
        """Account and SKU of each row as one number."""
        distinct = sound.group_by(TARGETS, maintain_order=True).agg(rows=pl.len())
        codes = [self._pairs.setdefault((row[0], row[1]), len(self._pairs)) for row in distinct.iter_rows()]
        self._of_pair.update(dict(zip(codes, distinct["rows"], strict=True)))
        if len(codes) == 1:
            return pl.repeat(codes[0], sound.height, dtype=pl.UInt32, eager=True).alias("pair")
        coded = distinct.with_columns(pl.Series("pair", codes, dtype=pl.UInt32))
        return sound.join(coded, on=TARGETS, how="left", nulls_equal=True, maintain_order="left")["pair"]

    def reject_duplicates(self) -> None:
        """Turn duplicates and conflicts into rejects; once, after the last `add`."""
        rows = self._sharing_identifiers()
        if rows.is_empty():
            return
        verdicts = duplicates.find(rows)
        self._drop(verdicts.join(rows, on="ordinal"))
        for some in verdicts.iter_slices(TOLD_ROWS):
            told = duplicates.told(some, rows, self._places("other"))
            told = told.select("ordinal", *self._plain_cells(), "reason", "message")
            for odd in self._odd.frames():
                stood = odd.join(told, on="ordinal", how="semi")
                told = told.update(stood, on="ordinal", include_nulls=True)
            told = told.with_columns(self._places("ordinal"))
            self._duplicates.append(told.select(*_REJECTED))
            self.rejected.update(told["reason"].to_list())

    def _sharing_identifiers(self) -> pl.DataFrame:
        """The rows that share an identifier with another row, in input order."""
        shared = [
            pl.concat(duplicates.repeated(self._select(part, key)[key]) for part in self._parts(pl.col(key)))
            for key in duplicates.IDS
        ]
        if not any(map(len, shared)):
            return pl.DataFrame()
        either = zip(duplicates.IDS, shared, strict=True)
        sharing = pl.any_horizontal(pl.col(key).is_in(values.implode()) for key, values in either)
        return self._select(sharing, *DEVICES).with_columns(target=self._rank())

    def _drop(self, rows: pl.DataFrame) -> None:
        self._decide(rows["ordinal"], Fate.REJECTED)
        self._of_pair.subtract(dict(rows["pair"].value_counts().iter_rows()))

    def _decide(self, ordinals: pl.Series, fates: pl.Series | Fate) -> None:
        if self._fates is None:
            self._fates = pl.repeat(Fate.SENT, self.rows_read, dtype=pl.UInt8, eager=True)
        self._fates = self._fates.scatter(ordinals, fates)

    def hold(self, known: Known) -> None:
        """Keep out of the batches what has its license, or must not be asked for again; once, at the end."""
        planned = list(self.targets())
        wanted = [replace(target, sku_number=known.to_sku or target.sku_number) for target in planned]
        said = self._said(known, wanted)
        said_of_left = (
            self._said(known, planned) if known.to_sku else pl.zeros(len(said), dtype=pl.UInt8, eager=True)
        )
        for frame in self._devices.frames():
            rows = frame.select(
                "ordinal",
                "pair",
                state=said.gather(frame["ordinal"]),
                left=said_of_left.gather(frame["ordinal"]),
            )
            if self._fates is not None:
                rows = rows.filter(self._fates.gather(rows["ordinal"]) == Fate.SENT)
            fates = rows.with_columns(fate=fate(pl.col("state"), pl.col("left")))
            held = fates.filter(pl.col("fate") != Fate.SENT)
            self._decide(held["ordinal"], held["fate"])
            self._of_pair.subtract(dict(held["pair"].value_counts().iter_rows()))
            self.held.update({HELD[Fate(row[0])]: row[1] for row in held["fate"].value_counts().iter_rows()})

    def _said(self, known: Known, of: Sequence[Target]) -> pl.Series:
        """What is known of each row by both its identifiers: a State by ordinal, 0 where there is none.

        `of` are the accounts and SKUs to ask for in the place of the rows' own, in their order.
        """
        targets = [(target.account_name, target.sku_number) for target in of]
        states = pl.DataFrame([self._said_by(known, targets, key) for key in duplicates.IDS])
        return states.max_horizontal()

    def _said_by(self, known: Known, targets: Sequence[tuple[str, str]], key: str) -> pl.Series:
        """What is known of each row by one of its identifiers.

        By membership in sets, a set for each state: that takes a tenth of what a join does.
        """
        among_targets = pl.col("rank").cast(pl.Int128) * 2**64 + pl.col(key)
        value = (pl.col(key) if len(targets) < 2 else among_targets).alias("value")
        said = pl.zeros(self.rows_read, dtype=pl.UInt8, eager=True).alias(key)
        for part in self._parts(pl.col(key)):
            records = [frame.filter(part).select(value, "state") for frame in known.records(targets, key)]
            if not any(frame.height for frame in records):
                continue
            theirs = _latest(pl.concat(records))
            ours = self._select(part, "ordinal", key, self._rank().alias("rank")).select("ordinal", value)
            for (state,), some in theirs.partition_by("state", as_dict=True).items():
                told = ours["ordinal"].filter(ours["value"].is_in(some["value"].implode()))
                said = said.scatter(told, state)
        return said

    def targets(self) -> dict[Target, int]:
        """How many devices are planned for each account and SKU that was seen, in the order of the plan."""
        devices: Counter[Target] = Counter()
        for pair, number in self._pairs.items():
            devices[self._target(pair)] += self._of_pair[number]
        return {target: devices[target] for target in sorted(devices)}

    def devices(self, *fates: Fate) -> Iterator[pl.DataFrame]:
        """The rows with one of these fates, in the order of the plan.

        Columns DEVICES, `source`, `row`, `rank`: the place of its target, and `held`: the status of a row
        that is in no batch.
        """
        rank = self._rank()
        order = KEY if len(self.targets()) < 2 else rank.cast(pl.Int128) * 2**64 + KEY
        for part in self._parts(order):
            rows = self._select(part, *DEVICES, order.alias("order"))
            decided = pl.lit(Fate.SENT) if self._fates is None else self._fates.gather(rows["ordinal"])
            rows = rows.with_columns(fate=decided).filter(pl.col("fate").is_in(fates))
            held = pl.col("fate").replace_strict(HELD, default=None, return_dtype=pl.String)
            for some in rows.sort("order").drop("order").iter_slices(SLICE_ROWS):
                yield some.with_columns(*self._places("ordinal"), rank.alias("rank"), held.alias("held"))

    def rejects(self) -> pl.LazyFrame:
        """The rows not to plan, in input order, with their reasons and their cells as they stood."""
        merged = self._unfit.lazy().merge_sorted(self._duplicates.lazy(), key="ordinal")
        return merged.select(
            "source",
            pl.col("row").cast(pl.UInt64),
            "reason",
            "message",
            "imei",
            "iccid",
            account_name="account",
            sku_number="sku",
        )

    def _parts(self, key: pl.Expr) -> list[pl.Expr]:
        """Predicates that part the devices with a key into ranges of it, ascending."""
        count = min(MAX_PARTS, ceil(self._devices.height / PART_ROWS))
        if count <= 1:
            return [key.is_not_null()]
        step = ceil(self._devices.height / SAMPLED_ROWS)
        keys = pl.concat(frame.gather_every(step).select(key).to_series() for frame in self._devices.frames())
        sample = keys.drop_nulls().sort()
        if sample.is_empty():
            return [key.is_not_null()]
        bounds = sample.gather([len(sample) * at // count for at in range(1, count)]).unique().to_list()
        return [
            (key >= low if low is not None else key.is_not_null())
            & (key < high if high is not None else True)
            for low, high in zip([None, *bounds], [*bounds, None], strict=True)
        ]

    def _select(self, rows: pl.Expr, *columns: str | pl.Expr) -> pl.DataFrame:
        return pl.concat(frame.filter(rows).select(columns) for frame in self._devices.frames())

    def _target(self, pair: tuple[str | None, str | None]) -> Target:
        account, sku = pair[0] or self._options.account, pair[1] or self._options.sku
        if account is None or sku is None:
            raise AssertionError("the rules let through a row without account or SKU")
        return Target(account, sku)

    def _rank(self) -> pl.Expr:
        """The place of a row's target among all targets, sorted.

        Two pairs have one target where a cell says what the job says anyway.
        """
        targets = [self._target(pair) for pair in self._pairs]
        ranks = {target: rank for rank, target in enumerate(sorted(set(targets)))}
        of_pairs = pl.Series([ranks[target] for target in targets], dtype=pl.UInt32)
        return pl.lit(of_pairs).gather(pl.col("pair"))

    def _places(self, ordinal: str) -> list[pl.Expr]:
        """Source and 1-based row of an ordinal."""
        rows = pl.Series([0, *(source.rows for source in self.sources)], dtype=pl.Int64)
        starts = pl.lit(rows.cum_sum().head(-1))
        at = starts.search_sorted(pl.col(ordinal).cast(pl.Int64), side="right") - 1
        names = pl.lit(pl.Series([source.name for source in self.sources]))
        row = (pl.col(ordinal) - starts.gather(at) + 1).cast(pl.UInt32)
        return [names.gather(at).alias("source"), row.alias("row")]

    def _plain_cells(self) -> list[pl.Expr]:
        """The cells of rows that had nothing to clean."""
        cells = [pl.lit(pl.Series([pair[at] for pair in self._pairs], dtype=pl.String)) for at in (0, 1)]
        return [
            rules.imei_digits(pl.col("imei_number")).alias("imei"),
            rules.iccid_digits(pl.col("iccid_number")).alias("iccid"),
            *(cell.gather(pl.col("pair")).alias(role) for cell, role in zip(cells, TARGETS, strict=True)),
        ]


def _latest(records: pl.DataFrame) -> pl.DataFrame:
    """The last word about each value."""
    if records["value"].n_unique() == records.height:
        return records
    is_repeated = records["value"].is_in(duplicates.repeated(records["value"]).implode())
    return pl.concat([records.filter(~is_repeated), records.filter(is_repeated).unique("value", keep="last")])


_NUMBERED: dict[str, PolarsDataType] = {"ordinal": pl.UInt32}
_REJECTED: dict[str, PolarsDataType] = {**_NUMBERED, "source": pl.String, **REJECTS}
