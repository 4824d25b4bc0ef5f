"""Rows that are the same device: which of them is planned, which repeat it, which contradict each other.

Rows that share an identifier, directly or through others, are one device. It contradicts itself where it
has two IMEIs, two ICCIDs or two targets (account and SKU); then every row of it is a conflict. Otherwise
its first row is planned and the others are duplicates of that one.
"""

import polars as pl

IDS = ("imei_number", "iccid_number")
FACTS = (*IDS, "target")


def suspects(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows whose identifiers occur in other rows too."""
    return rows.filter(_shares(rows, IDS[0]) | _shares(rows, IDS[1]))


def find(rows: pl.DataFrame) -> pl.DataFrame:
    """Verdicts on rows: `at` (UInt32, ascending), `imei_number`, `iccid_number` (Int64), `target` (UInt32).

    Only those not to plan: `at`, `other` (the first of the duplicates, or a row that contradicts this one)
    and `conflict` (Boolean: or else a duplicate), in order of `at`.
    """
    devices = rows.with_columns(device=_components(rows))
    conflict = pl.any_horizontal(pl.col(fact).drop_nulls().n_unique().over("device") > 1 for fact in FACTS)
    devices = devices.with_columns(conflict=conflict, first=pl.col("at").first().over("device"))
    repeats = devices.filter(~pl.col("conflict") & (pl.col("at") != pl.col("first")))
    verdicts = [
        repeats.select("at", pl.col("first").alias("other"), "conflict"),
        devices.filter("conflict").select("at", _counterpart().alias("other"), "conflict"),
    ]
    return pl.concat(verdicts).sort("at")


def _shares(rows: pl.DataFrame, identifier: str) -> pl.Series:
    """Whether a row's identifier occurs in another row too; sorting takes less memory than hashing."""
    known = rows[identifier].drop_nulls().sort()
    twice = known.filter(known == known.shift(1)).unique()
    return rows.select(pl.col(identifier).is_in(twice.implode()).fill_null(value=False)).to_series()


def _components(rows: pl.DataFrame) -> pl.Series:
    """Connected components of rows that share identifiers, each named by its first row.

    Min-label hooking with pointer jumping (Shiloach and Vishkin 1982): a round merges every component
    with its least neighbour, so that even a chain of n rows takes about log n rounds.
    """
    label = pl.int_range(rows.height, dtype=pl.UInt32, eager=True).alias("label")
    while True:
        neighbours = (
            rows.select(IDS)
            .with_columns(label)
            .with_columns(
                pl.when(pl.col(identifier).is_not_null())
                .then(pl.col("label").min().over(identifier))
                .alias(f"by_{identifier}")
                for identifier in IDS
            )
        )
        hooks = (
            neighbours.group_by("label")
            .agg(
                pl.min_horizontal("label", *(f"by_{identifier}" for identifier in IDS)).min().alias("parent")
            )
            .filter(pl.col("parent") != pl.col("label"))
        )
        if hooks.is_empty():
            return label
        parent = pl.int_range(rows.height, dtype=pl.UInt32, eager=True).scatter(
            hooks["label"], hooks["parent"]
        )
        while not (grandparent := parent.gather(parent)).equals(parent):
            parent = grandparent
        label = parent.gather(label).alias("label")


def _counterpart() -> pl.Expr:
    """The row to compare with: one that shares an identifier and differs, or else one of the same device."""
    return pl.coalesce(*(_unlike(fact, group) for group in (*IDS, "device") for fact in FACTS))


def _unlike(fact: str, group: str) -> pl.Expr:
    """First row of the group with another value of `fact`; null where the group has but one value."""
    at, value = pl.col("at"), pl.col(fact)
    differs = (value != value.drop_nulls().first().over(group)).fill_null(value=False)
    leader = at.filter(value.is_not_null()).first().over(group)
    follower = at.filter(differs).first().over(group)
    return pl.when(pl.col(group).is_not_null()).then(pl.when(differs).then(leader).otherwise(follower))
