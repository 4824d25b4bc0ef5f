"""The accounts and SKUs that device rows are planned for."""

from collections import Counter
from dataclasses import dataclass

import polars as pl

from batchlic.reader.options import ReadOptions
from batchlic.reader.roles import TARGETS


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One account and SKU that devices are planned for."""

    account_name: str
    sku_number: str


class TargetTable:
    """Numbers the pairs of account and SKU cells, and counts the rows to plan for each target.

    A null cell stands for the job's default. Two pairs have the same target if a cell repeats that default.
    """

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._codes: dict[tuple[str | None, str | None], int] = {}
        self._row_counts: Counter[int] = Counter()

    def encode(self, rows: pl.DataFrame) -> pl.Series:
        """The number (UInt32, `target_code`) of each row's pair of cells. Counts the rows as planned."""
        distinct = rows.group_by(TARGETS, maintain_order=True).agg(rows=pl.len())
        codes = [self._codes.setdefault((row[0], row[1]), len(self._codes)) for row in distinct.iter_rows()]
        self._row_counts.update(dict(zip(codes, distinct["rows"], strict=True)))
        if len(codes) == 1:
            return pl.repeat(codes[0], rows.height, dtype=pl.UInt32, eager=True).alias("target_code")
        coded = distinct.with_columns(pl.Series("target_code", codes, dtype=pl.UInt32))
        joined = rows.join(coded, on=TARGETS, how="left", nulls_equal=True, maintain_order="left")
        return joined["target_code"]

    def subtract(self, codes: pl.Series) -> None:
        """No longer count rows with these `target_code`s as planned."""
        self._row_counts.subtract(dict(codes.value_counts().iter_rows()))

    def row_counts(self) -> dict[Target, int]:
        """The number of rows to plan for each target that occurs, in the order of the plan."""
        counts: Counter[Target] = Counter()
        for target, code in zip(self._targets(), self._codes.values(), strict=True):
            counts[target] += self._row_counts[code]
        return {target: counts[target] for target in sorted(counts)}

    def rank(self) -> pl.Expr:
        """The place (UInt32) of a row's target among all targets in the order of the plan."""
        targets = self._targets()
        ranks = {target: rank for rank, target in enumerate(sorted(set(targets)))}
        ranks_by_code = pl.Series([ranks[target] for target in targets], dtype=pl.UInt32)
        return pl.lit(ranks_by_code).gather(pl.col("target_code"))

    def cells(self) -> list[pl.Expr]:
        """The account and SKU cells (String, columns TARGETS) of a row by its `target_code`."""
        return [
            pl.lit(pl.Series([cells[position] for cells in self._codes], dtype=pl.String))
            .gather(pl.col("target_code"))
            .alias(role)
            for position, role in enumerate(TARGETS)
        ]

    def _targets(self) -> list[Target]:
        """The target of each pair of cells, in the order of their numbers."""
        return [self._target(account, sku) for account, sku in self._codes]

    def _target(self, account_cell: str | None, sku_cell: str | None) -> Target:
        account, sku = account_cell or self._options.account, sku_cell or self._options.sku
        if account is None or sku is None:
            raise AssertionError("the rules let through a row without account or SKU")
        return Target(account, sku)
