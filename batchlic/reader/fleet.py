"""All inventories together as one fleet: its devices as integers, its rejects, and who repeats whom."""

from collections import Counter
from dataclasses import dataclass, field

import polars as pl

from batchlic.errors import InventoryError
from batchlic.reader import rules, twins
from batchlic.reader.formats import open_inventory
from batchlic.reader.judging import CELLS, ROW, TARGETS
from batchlic.reader.options import ReadOptions, Source
from batchlic.reader.reading import Stretch, read
from batchlic.reader.rules import Reason


@dataclass
class Fleet:
    """What was read, row by row in input order.

    A row's `ordinal` (UInt32) counts all rows of all sources from 0. `devices`: `ordinal`, `imei_number`,
    `iccid_number` (Int64), `pair` (UInt32, an index into `pairs`: account and SKU as the row has them).
    """

    options: ReadOptions
    sources: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    pairs: dict[tuple[str | None, str | None], int] = field(default_factory=dict)
    _devices: list[pl.DataFrame] = field(default_factory=list)
    _odd: list[pl.DataFrame] = field(default_factory=list)
    _rejects: list[pl.DataFrame] = field(default_factory=list)

    @property
    def rows_read(self) -> int:
        """Data rows of all sources."""
        return sum(source.rows for source in self.sources)

    def add(self, name: str) -> None:
        """Read one more inventory to its end. Raises InventoryError."""
        inventory = open_inventory(name, self.options)
        start, rows = self.rows_read, 0
        for stretch in read(len(self.sources), inventory, self.options):
            self._take(stretch, start + rows)
            rows += stretch.judged.height
        if not rows:
            raise InventoryError(f"{name}: the file has a header and no rows")
        self.sources.append(Source(name, rows))
        self.notes.extend(inventory.notes)

    def _take(self, stretch: Stretch, start: int) -> None:
        ordinal = (pl.col(ROW) + start).alias("ordinal")
        judged = stretch.judged
        ids = judged.sound.select(ordinal, "imei_number", "iccid_number", self._interned(judged.sound))
        self._devices.append(ids)
        self._odd.append(judged.odd.select(ordinal, *CELLS))
        self._rejects.append(judged.rejects.select(ordinal, "reason", "message", *CELLS))
        self.rejected.update(judged.rejects["reason"].to_list())

    def _interned(self, sound: pl.DataFrame) -> pl.Series:
        distinct = sound.select(TARGETS).unique(maintain_order=True)
        codes = [self.pairs.setdefault(pair, len(self.pairs)) for pair in distinct.iter_rows()]
        if len(codes) == 1:
            return pl.repeat(codes[0], sound.height, dtype=pl.UInt32, eager=True).alias("pair")
        coded = distinct.with_columns(pl.Series("pair", codes, dtype=pl.UInt32))
        return sound.join(coded, on=TARGETS, how="left", nulls_equal=True, maintain_order="left")["pair"]

    def sort_out_twins(self) -> None:
        """Move duplicates and conflicts from the devices to the rejects; done once, after the last `add`."""
        devices = self._rechunked()
        suspects = twins.suspects(devices.with_columns(target=self._targets(devices["pair"])))
        verdicts = twins.find(suspects.rename({"ordinal": "at"})) if len(suspects) else None
        if verdicts is None or verdicts.is_empty():
            return
        self._devices = [devices.filter(~pl.col("ordinal").is_in(verdicts["at"].implode()))]
        facts = suspects.select("ordinal", "imei_number", "iccid_number", "target", "pair")
        told = (
            verdicts.join(facts, left_on="at", right_on="ordinal", maintain_order="left")
            .join(
                facts.drop("pair"),
                left_on="other",
                right_on="ordinal",
                suffix="_other",
                maintain_order="left",
            )
            .with_columns(self._places("other"))
            .select(pl.col("at").alias("ordinal"), *_told(), *self._plain_cells())
        )
        odd = pl.concat(self._odd).join(told.select("ordinal"), on="ordinal", how="semi")
        self._rejects.append(told.update(odd, on="ordinal", how="left", include_nulls=True).select(_REJECTS))
        self.rejected.update(told["reason"].to_list())

    def devices(self) -> pl.DataFrame:
        """The rows to plan: `source`, `row`, `imei`, `iccid`, `account_name`, `sku_number`, in plan order."""
        pairs = pl.DataFrame(
            [
                (at, account or self.options.account, sku or self.options.sku)
                for (account, sku), at in self.pairs.items()
            ],
            schema={"pair": pl.UInt32, "account_name": pl.String, "sku_number": pl.String},
            orient="row",
        )
        return (
            self._rechunked()
            .join(pairs, on="pair")
            .sort("account_name", "sku_number", "imei_number", "iccid_number", nulls_last=True)
            .with_columns(self._places("ordinal"))
            .select(
                "source",
                "row",
                rules.imei_digits(pl.col("imei_number")).alias("imei"),
                rules.iccid_digits(pl.col("iccid_number")).alias("iccid"),
                "account_name",
                "sku_number",
            )
        )

    def rejects(self) -> pl.DataFrame:
        """The rows not to plan, in input order, with their cells as they stood."""
        return (
            pl.concat(self._rejects)
            .sort("ordinal")
            .with_columns(self._places("ordinal"))
            .select(
                "source",
                "row",
                "reason",
                "message",
                "imei",
                "iccid",
                account_name="account",
                sku_number="sku",
            )
        )

    def _rechunked(self) -> pl.DataFrame:
        return pl.concat(self._devices, rechunk=True)

    def _targets(self, pairs: pl.Series) -> pl.Series:
        """Account and SKU as one number: pairs differ where a cell says what the job says anyway."""
        resolved = [(account or self.options.account, sku or self.options.sku) for account, sku in self.pairs]
        number: dict[tuple[str | None, str | None], int] = {}
        targets = [number.setdefault(target, len(number)) for target in resolved]
        return pl.Series(targets, dtype=pl.UInt32).gather(pairs)

    def _places(self, ordinal: str) -> list[pl.Expr]:
        """Source and 1-based row of an ordinal."""
        starts = pl.Series([0, *(source.rows for source in self.sources)]).cum_sum()[:-1]
        names = pl.Series([source.name for source in self.sources])
        at = pl.lit(starts).search_sorted(pl.col(ordinal), side="right") - 1
        return [
            pl.lit(names).gather(at).alias("source"),
            (pl.col(ordinal) - pl.lit(starts).gather(at) + 1).cast(pl.UInt32).alias("row"),
        ]

    def _plain_cells(self) -> list[pl.Expr]:
        accounts, skus = (
            pl.lit(pl.Series([pair[at] for pair in self.pairs], dtype=pl.String)) for at in (0, 1)
        )
        return [
            rules.imei_digits(pl.col("imei_number")).alias("imei"),
            rules.iccid_digits(pl.col("iccid_number")).alias("iccid"),
            accounts.gather(pl.col("pair")).alias("account"),
            skus.gather(pl.col("pair")).alias("sku"),
        ]


_REJECTS = ["ordinal", "reason", "message", *CELLS]


def _told() -> list[pl.Expr]:
    """Reason and message of a row that repeats or contradicts `other`."""
    where = rules.say("row {} of {}", pl.col("row"), pl.col("source"))
    same, unlike = [], []
    for fact, name in {"imei_number": "IMEI", "iccid_number": "ICCID", "target": "account or SKU"}.items():
        this, other = pl.col(fact), pl.col(f"{fact}_other")
        same.append(pl.when(this == other).then(pl.lit(name)))
        unlike.append(pl.when(this != other).then(pl.lit(f"another {name}")))
    shared = pl.coalesce(*same[:2])
    conflict = (
        pl.when(shared.is_null())
        .then(rules.say("belongs to a device whose rows contradict each other; one of them is {}", where))
        .otherwise(
            rules.say(
                "same {} as {}, but {}: correct or remove one of them",
                shared,
                where,
                pl.concat_str(unlike, separator=" and ", ignore_nulls=True),
            )
        )
    )
    duplicate = rules.say("same device as {}, which is planned", where)
    return [
        pl.when("conflict")
        .then(pl.lit(Reason.CONFLICT.value))
        .otherwise(pl.lit(Reason.DUPLICATE.value))
        .alias("reason"),
        pl.when("conflict").then(conflict).otherwise(duplicate).alias("message"),
    ]
