"""The identifiers that the cells of a rejected row may stand for, even if they are damaged.

A sync must not take the license of a device that the inventory names in a row that can't be read. So each
cell stands for more identifiers than it shows, rather than for fewer: separators, letters in the place of
digits, a wrong or lost check digit, lost leading zeros, swapped pairs of digits, hexadecimal numbers, and the
digits that a spreadsheet has rounded away do not matter.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

IMEI_LENGTH = 15
ICCID_REST = 18
"""Digits of an ICCID after `89`, at most."""
SHORTEST = 12
"""Fewer digits are no identifier, unless an exponent shows how many are lost."""
ROUNDED_TO = 15
"""A spreadsheet and a float keep so many digits of a number (DBL_DIG of C)."""
SINGLE_ROUNDED_TO = 6
"""A float of 32 bits keeps so many digits (FLT_DIG of C)."""
SINGLE_SHOWN = 9
"""A float of 32 bits is written with at most so many digits."""

_SEPARATORS = r"[\s\-./_\u2010-\u2015\u2212]"
_LOOK_ALIKES = {"O": "0", "o": "0", "I": "1", "l": "1", "S": "5", "B": "8"}
_OVERFLOW_OF_20 = 5 * 2**64


class Intervals(NamedTuple):
    """Ascending, disjoint intervals of integers: the first and the last one (Int64) of each."""

    lows: pl.Series
    highs: pl.Series

    def contain(self, values: pl.Series) -> pl.Series:
        """Whether each value (Int64, no nulls) is in an interval (Boolean)."""
        if self.lows.is_empty():
            return pl.zeros(len(values), dtype=pl.Boolean, eager=True)
        places = self.lows.search_sorted(values, side="right").cast(pl.Int64) - 1
        highs = self.highs.gather(places.clip(0))
        return (places >= 0) & (values <= highs)


class PossibleIdentifiers(NamedTuple):
    """The IMEIs as integers, and the ICCIDs as `iccid_key`."""

    imeis: Intervals
    iccids: Intervals


def possible_identifiers(cells: Iterator[pl.DataFrame]) -> PossibleIdentifiers:
    """All identifiers that cells (String) may stand for, whatever their columns."""
    imeis, iccids = [_NO_INTERVALS], [_NO_INTERVALS]
    for frame in cells:
        texts = pl.concat([frame[name] for name in frame.columns]).drop_nulls().unique()
        if texts.is_empty():
            continue
        digits = _digit_strings(texts)
        rounded = _rounded(texts)
        imeis += [_imeis(digits), _rounded_imeis(rounded)]
        iccids += [_iccids(digits), _rounded_iccids(rounded)]
    return PossibleIdentifiers(_joined(imeis), _joined(iccids))


def iccid_key(number: pl.Expr) -> pl.Expr:
    """An `iccid_number` as the digits after `89`, filled up with zeros on the right to ICCID_REST digits."""
    has_20, has_19 = number < 0, number >= 10**18
    return (
        pl.when(has_20)
        .then(number - (89 * 10**18 - _OVERFLOW_OF_20))
        .when(has_19)
        .then((number - 89 * 10**17) * 10)
        .otherwise((number - 89 * 10**16) * 100)
    )


# -- digits ---------------------------------------------------------------------------------------------


def _digit_strings(texts: pl.Series) -> pl.Series:
    """The strings of digits that the texts may stand for."""
    text = pl.col("text")
    plain = texts.to_frame("text").select(text.str.normalize("NFKC"))
    bare = text.str.replace_all(_SEPARATORS, "")
    look_alikes = bare.str.replace_many(_LOOK_ALIKES)
    swapped = bare.str.replace_all("([0-9A-Fa-f])([0-9A-Fa-f])", "$2$1")
    ascii_digits = bare.str.extract("^((?:3[0-9]){14,20})$").str.replace_all("3([0-9])", "$1")
    found = plain.select(
        pl.concat_list(
            text.str.extract_all("[0-9]+"),
            bare.str.extract_all("[0-9]+"),
            look_alikes.str.extract_all("[0-9]+"),
            swapped.str.extract_all("[0-9]+"),
            text.str.replace_all("[^0-9]", ""),
            look_alikes.str.replace_all("[^0-9]", ""),
            ascii_digits,
        )
    ).to_series()
    strings = pl.concat([found.explode(), _of_hexadecimal(plain.select(bare).to_series())])
    return strings.filter(strings.str.len_bytes() >= SHORTEST).unique().alias("digits")


def _of_hexadecimal(texts: pl.Series) -> pl.Series:
    """The decimal digits of hexadecimal numbers."""
    found = texts.str.extract("^(?:0[xX])?([0-9A-Fa-f]*[A-Fa-f][0-9A-Fa-f]*|[0-9]{12,17})$").drop_nulls()
    found = found.filter(found.str.len_bytes().is_between(SHORTEST, 17))
    return pl.Series([str(int(text, 16)) for text in found], dtype=pl.String)


def _imeis(digits: pl.Series) -> pl.DataFrame:
    """The IMEIs (columns `low`, `high`) of which all digits but the last one are those of a string."""
    text, length = pl.col("digits"), pl.col("digits").str.len_bytes()
    rows = digits.to_frame().filter(length <= IMEI_LENGTH + 2)
    body = text.str.head(IMEI_LENGTH - 1).cast(pl.Int64)
    without_zeros = text.cast(pl.Int64) // 10
    is_short = length < IMEI_LENGTH
    return pl.concat(
        [
            rows.filter(length >= IMEI_LENGTH - 1).select(low=body * 10, high=body * 10 + 9),
            rows.filter(is_short).select(low=without_zeros * 10, high=without_zeros * 10 + 9),
        ]
    )


def _iccids(digits: pl.Series) -> pl.DataFrame:
    """The keys of the ICCIDs (columns `low`, `high`) that begin with a string, except for its last digit."""
    text, length = pl.col("digits"), pl.col("digits").str.len_bytes()
    kept = pl.when(length >= 18).then(pl.min_horizontal(length - 1, 19)).otherwise(length)
    is_iccid = text.str.starts_with("89") & (length >= ROUNDED_TO)
    rest = digits.to_frame().filter(is_iccid).select(rest=text.str.head(kept).str.tail(-2))
    return _beginning_with(rest, below=0)


def _beginning_with(rows: pl.DataFrame, *, below: int) -> pl.DataFrame:
    """The keys (columns `low`, `high`) that begin with `rest`, or with a number that is less by `below`."""
    rest = pl.col("rest").str.head(ICCID_REST)
    unit = _power_of_ten(ICCID_REST - _length_of(rest))
    begin = rest.str.replace("^$", "0").cast(pl.Int64)
    low, high = (begin - below) * unit, (begin + 1) * unit - 1
    is_all = rest.str.len_bytes() == 0
    return rows.select(
        low=pl.when(is_all).then(0).otherwise(low),
        high=pl.when(is_all).then(10**ICCID_REST - 1).otherwise(high),
    )


# -- rounded numbers ------------------------------------------------------------------------------------


def _rounded(texts: pl.Series) -> pl.DataFrame:
    """The numbers that lost digits: `digits` are those that are left, of `length` digits."""
    text = pl.col("text")
    bare = texts.to_frame("text").select(text.str.normalize("NFKC").str.replace_all(r"[\s'\"=]", ""))
    exponent = bare.select(
        text.str.extract_groups(r"^[+]?(?<whole>[0-9]+)(?:[.,](?<part>[0-9]*))?[eE][+]?(?<power>[0-9]{1,2})$")
    ).unnest("text")
    whole, part = pl.col("whole"), pl.col("part").fill_null("")
    shown = whole + part.str.strip_chars_end("0")
    is_single = shown.str.len_bytes() <= SINGLE_SHOWN
    of_exponents = exponent.drop_nulls("whole").select(
        digits=_first_digits(shown, pl.when(is_single).then(SINGLE_ROUNDED_TO).otherwise(ROUNDED_TO)),
        length=whole.str.len_bytes().cast(pl.Int64) + pl.col("power").cast(pl.Int64),
    )
    digits = text.str.extract(r"^([0-9]{15,20})(?:[.,][0-9]*)?$")
    has_lost = text.str.contains(r"[.,]") | (digits.str.ends_with("000"))
    of_digits = bare.filter(has_lost).select(
        digits=_first_digits(digits, pl.lit(ROUNDED_TO)), length=_length_of(digits)
    )
    return pl.concat([of_exponents, of_digits.drop_nulls()])


def _first_digits(digits: pl.Expr, number: pl.Expr) -> pl.Expr:
    """So many digits of a number, rounded: the others are those of the float that stands for it."""
    first, following = digits.str.head(number), digits.str.slice(number, 1)
    rounded_up = (first.cast(pl.Int64) + 1).cast(pl.String)
    return pl.when(following >= "5").then(rounded_up).otherwise(first)


def _length_of(digits: pl.Expr) -> pl.Expr:
    return digits.str.len_bytes().cast(pl.Int64)


def _power_of_ten(exponent: pl.Expr) -> pl.Expr:
    return pl.lit(10, pl.Int64).pow(exponent)


def _rounded_imeis(rounded: pl.DataFrame) -> pl.DataFrame:
    left = _length_of(pl.col("digits"))
    rows = rounded.filter(pl.col("length").is_between(IMEI_LENGTH - 2, IMEI_LENGTH), left <= pl.col("length"))
    unit, value = _power_of_ten(pl.col("length") - left), pl.col("digits").cast(pl.Int64)
    return rows.select(low=(value - 1) * unit, high=(value + 1) * unit - 1)


def _rounded_iccids(rounded: pl.DataFrame) -> pl.DataFrame:
    digits = pl.col("digits")
    may_be = digits.str.starts_with("89") | digits.is_in(["8", "9"])
    rows = rounded.filter(pl.col("length").is_between(18, 20), may_be)
    return _beginning_with(rows.select(rest=digits.str.tail(-2)), below=1)  # it may be rounded up


# -- intervals ------------------------------------------------------------------------------------------

_NO_INTERVALS = pl.DataFrame(schema={"low": pl.Int64, "high": pl.Int64})


def _joined(intervals: Sequence[pl.DataFrame]) -> Intervals:
    """The intervals (columns `low`, `high`) in ascending order, overlapping ones as one."""
    rows = pl.concat([rows.select(pl.col("low", "high").cast(pl.Int64)) for rows in intervals])
    rows = rows.drop_nulls().unique().sort("low")
    reach = pl.col("high").cum_max()
    begins = (pl.col("low") > reach.shift(1)).fill_null(value=True)
    joined = rows.with_columns(begins.cum_sum().alias("group")).group_by("group", maintain_order=True)
    merged = joined.agg(pl.col("low").first(), pl.col("high").max())
    return Intervals(merged["low"], merged["high"])
