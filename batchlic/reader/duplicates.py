"""Rows that are the same device: which of them is planned, which repeat it, which contradict each other.

Rows that share an identifier, directly or through others, are one device. It contradicts itself where it
has two IMEIs, two ICCIDs or two targets (account and SKU); then every row of it is a conflict. Otherwise
its first row is planned and the others are duplicates of that one.

A row is told by `ordinal` (UInt32, its place in the whole input), `imei_number` and `iccid_number` (Int64, or
null), `target` (UInt32). A verdict is an `ordinal` that is not to be planned, the `other` ordinal that its
message names, and `conflict` (Boolean; or else it is a duplicate).
"""

import polars as pl

from batchlic.reader.rules import Reason, say

IDS = ("imei_number", "iccid_number")
FACTS = (*IDS, "target")


def repeated(values: pl.Series) -> pl.Series:
    """The values that occur more than once; by sorting, which takes less memory than hashing."""
    known = values.drop_nulls().sort()
    return known.filter(known == known.shift(1)).unique()


def find(rows: pl.DataFrame) -> pl.DataFrame:
    """Verdicts on rows in order of `ordinal`, all rows that share an identifier among them."""
    first = pl.col("ordinal").first().over(FACTS)
    rows = rows.with_columns(other=first)
    repeats = rows.filter(pl.col("other") != pl.col("ordinal")).select("ordinal", "other")
    verdicts = _find_among_unlike(rows.filter(pl.col("other") == pl.col("ordinal")).drop("other"))
    # A row that is exactly like an earlier one shares its fate, and need not burden the search.
    fates = repeats.join(
        verdicts.rename({"ordinal": "other", "other": "its_other"}),
        on="other",
        how="left",
        maintain_order="left",
    ).select(
        "ordinal", pl.coalesce("its_other", "other").alias("other"), pl.col("conflict").fill_null(value=False)
    )
    return pl.concat([verdicts, fates]).sort("ordinal")


def _find_among_unlike(rows: pl.DataFrame) -> pl.DataFrame:
    devices = rows.with_columns(device=_components(rows))
    conflict = pl.any_horizontal(pl.col(fact).drop_nulls().n_unique().over("device") > 1 for fact in FACTS)
    devices = devices.with_columns(conflict=conflict, first=pl.col("ordinal").first().over("device"))
    repeats = devices.filter(~pl.col("conflict") & (pl.col("ordinal") != pl.col("first")))
    clashes = devices.filter("conflict")
    return pl.concat(
        [
            repeats.select("ordinal", pl.col("first").alias("other"), "conflict"),
            clashes.select("ordinal", _counterpart().alias("other"), "conflict"),
        ]
    )


def _components(rows: pl.DataFrame) -> pl.Series:
    """Connected components of rows that share identifiers, each named by the place of its first row.

    Min-label hooking with pointer jumping (Shiloach and Vishkin 1982): a round merges every component
    with its least neighbour, so that even a chain of n rows takes about log n rounds.
    """
    places = pl.int_range(rows.height, dtype=pl.UInt32, eager=True)
    label = places.alias("label")
    while True:
        least = rows.select(IDS).with_columns(label).select("label", *(_least_over(key) for key in IDS))
        hooks = least.group_by("label").agg(parent=pl.min_horizontal(*IDS, "label").min())
        hooks = hooks.filter(pl.col("parent") != pl.col("label"))
        if hooks.is_empty():
            return label
        parent = places.scatter(hooks["label"], hooks["parent"])
        while not (grandparent := parent.gather(parent)).equals(parent):
            parent = grandparent
        label = parent.gather(label).alias("label")


def _least_over(identifier: str) -> pl.Expr:
    known = pl.col(identifier).is_not_null()
    return pl.when(known).then(pl.col("label").min().over(identifier)).alias(identifier)


def _counterpart() -> pl.Expr:
    """The row to compare with: one that shares an identifier and differs, or else one of the same device."""
    return pl.coalesce(*(_unlike(fact, group) for group in (*IDS, "device") for fact in FACTS))


def _unlike(fact: str, group: str) -> pl.Expr:
    """First row of the group with another value of `fact`; null where the group has but one value."""
    ordinal, value = pl.col("ordinal"), pl.col(fact)
    differs = (value != value.drop_nulls().first().over(group)).fill_null(value=False)
    leader = ordinal.filter(value.is_not_null()).first().over(group)
    follower = ordinal.filter(differs).first().over(group)
    return pl.when(pl.col(group).is_not_null()).then(pl.when(differs).then(leader).otherwise(follower))


def told(verdicts: pl.DataFrame, rows: pl.DataFrame, places: list[pl.Expr]) -> pl.DataFrame:
    """The rows of verdicts with `reason` and `message`; `places` make `source` and `row` of `other`."""
    facts = rows.select("ordinal", *FACTS)
    compared = (
        verdicts.join(rows, on="ordinal", maintain_order="left")
        .join(facts, left_on="other", right_on="ordinal", suffix="_other", maintain_order="left")
        .with_columns(places)
    )
    reason = pl.when("conflict").then(pl.lit(Reason.CONFLICT.value)).otherwise(pl.lit(Reason.DUPLICATE.value))
    return compared.select(*rows.columns, reason.alias("reason"), _message().alias("message"))


def _message() -> pl.Expr:
    where = say("row {} of {}", pl.col("row"), pl.col("source"))
    names = dict(zip(FACTS, ("IMEI", "ICCID", "account or SKU"), strict=True))
    same = [pl.when(pl.col(f) == pl.col(f"{f}_other")).then(pl.lit(names[f])) for f in IDS]
    unlike = [pl.when(pl.col(f) != pl.col(f"{f}_other")).then(pl.lit(f"another {names[f]}")) for f in FACTS]
    differences = pl.concat_str(unlike, separator=" and ", ignore_nulls=True)
    direct = say(
        "same {} as {}, but {}: correct or remove one of them", pl.coalesce(same), where, differences
    )
    indirect = say("one of several rows that tie two devices together; compare {}", where)
    duplicate = say("same device as {}", where)
    return pl.when("conflict").then(pl.coalesce(direct, indirect)).otherwise(duplicate)
