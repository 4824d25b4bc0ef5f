"""Finds rows of the same device: they are duplicates of the first one, or all of them are conflicts.

Rows that share an identifier, directly or through other rows, are one device. A device with two IMEIs, two
ICCIDs or two targets (account and SKU) is a conflict, and all its rows are rejected. Otherwise its first row
is planned, and the others are duplicates of that row.

A row has an `ordinal` (UInt32, its place in the whole input), `imei_number` and `iccid_number` (Int64, or
null), and `target` (UInt32). A verdict has the `ordinal` of a row that is not planned, the `other` ordinal
that its message names, and `conflict` (Boolean; false for a duplicate).
"""

import polars as pl

from batchlic.reader.validation.reasons import Reason
from batchlic.reader.validation.rules import format_message

IDENTIFIERS = ("imei_number", "iccid_number")
FACTS = (*IDENTIFIERS, "target")


def repeated_values(values: pl.Series) -> pl.Series:
    """The values that occur more than once. Sorting takes less memory than hashing."""
    ascending = values.drop_nulls().sort()
    return ascending.filter(ascending == ascending.shift(1)).unique()


def find(rows: pl.DataFrame) -> pl.DataFrame:
    """Verdicts, in order of `ordinal`, on rows that include all rows that share an identifier."""
    rows = rows.with_columns(other=pl.col("ordinal").first().over(FACTS))
    copies = rows.filter(pl.col("other") != pl.col("ordinal")).select("ordinal", "other")
    verdicts = _find_among_distinct(rows.filter(pl.col("other") == pl.col("ordinal")).drop("other"))
    # An exact copy of an earlier row gets the verdict of that row, so the search does not include copies.
    original_verdicts = verdicts.rename({"ordinal": "other", "other": "original_other"})
    copy_verdicts = copies.join(original_verdicts, on="other", how="left", maintain_order="left").select(
        "ordinal",
        pl.coalesce("original_other", "other").alias("other"),
        pl.col("conflict").fill_null(value=False),
    )
    return pl.concat([verdicts, copy_verdicts]).sort("ordinal")


def _find_among_distinct(rows: pl.DataFrame) -> pl.DataFrame:
    devices = rows.with_columns(device=_components(rows))
    conflict = pl.any_horizontal(pl.col(fact).drop_nulls().n_unique().over("device") > 1 for fact in FACTS)
    devices = devices.with_columns(conflict=conflict, first=pl.col("ordinal").first().over("device"))
    repeats = devices.filter(~pl.col("conflict") & (pl.col("ordinal") != pl.col("first")))
    conflicts = devices.filter("conflict")
    return pl.concat(
        [
            repeats.select("ordinal", pl.col("first").alias("other"), "conflict"),
            conflicts.select("ordinal", _counterpart().alias("other"), "conflict"),
        ]
    )


def _components(rows: pl.DataFrame) -> pl.Series:
    """Connected components of rows that share identifiers, each named by the position of its first row.

    Min-label hooking with pointer jumping (Shiloach and Vishkin 1982): each round merges every component
    with its least neighbor. So even a chain of n rows takes about log n rounds.
    """
    positions = pl.int_range(rows.height, dtype=pl.UInt32, eager=True)
    label = positions.alias("label")
    while True:
        least = [_least_label_over(identifier) for identifier in IDENTIFIERS]
        labeled = rows.select(IDENTIFIERS).with_columns(label).select("label", *least)
        hooks = labeled.group_by("label").agg(parent=pl.min_horizontal(*IDENTIFIERS, "label").min())
        hooks = hooks.filter(pl.col("parent") != pl.col("label"))
        if hooks.is_empty():
            return label
        parent = positions.scatter(hooks["label"], hooks["parent"])
        while not (grandparent := parent.gather(parent)).equals(parent):
            parent = grandparent
        label = parent.gather(label).alias("label")


def _least_label_over(identifier: str) -> pl.Expr:
    least = pl.col("label").min().over(identifier)
    return pl.when(pl.col(identifier).is_not_null()).then(least).alias(identifier)


def _counterpart() -> pl.Expr:
    """The row to compare with: a different row that shares an identifier, or else another of the device."""
    return pl.coalesce(*(_first_unlike(fact, group) for group in (*IDENTIFIERS, "device") for fact in FACTS))


def _first_unlike(fact: str, group: str) -> pl.Expr:
    """First row of the group with another value of `fact`; null if the group has only one value."""
    ordinal, value = pl.col("ordinal"), pl.col(fact)
    differs = (value != value.drop_nulls().first().over(group)).fill_null(value=False)
    leader = ordinal.filter(value.is_not_null()).first().over(group)
    follower = ordinal.filter(differs).first().over(group)
    return pl.when(pl.col(group).is_not_null()).then(pl.when(differs).then(leader).otherwise(follower))


def with_messages(verdicts: pl.DataFrame, rows: pl.DataFrame, places: list[pl.Expr]) -> pl.DataFrame:
    """The rows of verdicts with `reason` and `message`; `places` are `source` and `row` of `other`."""
    facts = rows.select("ordinal", *FACTS)
    compared = (
        verdicts.join(rows, on="ordinal", maintain_order="left")
        .join(facts, left_on="other", right_on="ordinal", suffix="_other", maintain_order="left")
        .with_columns(places)
    )
    reason = pl.when("conflict").then(pl.lit(Reason.CONFLICT.value)).otherwise(pl.lit(Reason.DUPLICATE.value))
    return compared.select(*rows.columns, reason.alias("reason"), _message().alias("message"))


def _message() -> pl.Expr:
    other_row = format_message("row {} of {}", pl.col("row"), pl.col("source"))
    names = dict(zip(FACTS, ("IMEI", "ICCID", "account or SKU"), strict=True))
    same = [
        pl.when(pl.col(fact) == pl.col(f"{fact}_other")).then(pl.lit(names[fact])) for fact in IDENTIFIERS
    ]
    unlike = [
        pl.when(pl.col(fact) != pl.col(f"{fact}_other")).then(pl.lit(f"another {names[fact]}"))
        for fact in FACTS
    ]
    differences = pl.concat_str(unlike, separator=" and ", ignore_nulls=True)
    direct = format_message(
        "same {} as {}, but {}: correct or remove one of them", pl.coalesce(same), other_row, differences
    )
    indirect = format_message("one of several rows that connect two devices; compare {}", other_row)
    duplicate = format_message("same device as {}", other_row)
    return pl.when("conflict").then(pl.coalesce(direct, indirect)).otherwise(duplicate)
