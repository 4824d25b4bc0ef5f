"""The Luhn check digit (ISO/IEC 7812-1 annex B) over whole columns of integers."""

from itertools import product

import polars as pl

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""The part of every second digit from the right in the sum: twice the digit, less 9 if that exceeds 9."""

_SUM_OF_FOUR = pl.lit(
    pl.Series(
        [_DOUBLED[a] + b + _DOUBLED[c] + d for a, b, c, d in product(range(10), repeat=4)], dtype=pl.UInt8
    )
)
"""The Luhn sums of 0000 to 9999, to look up four digits at a time."""


def luhn_sum(number: pl.Expr, digits: int) -> pl.Expr:
    """Luhn sum (UInt8) of `number` (Int64) read as `digits` decimal digits, the last of them the check digit.

    The check digit is right if the sum is divisible by ten. Leading zeros add nothing.
    """
    total = pl.lit(0, dtype=pl.UInt8)
    for position in range(0, digits, 8):
        eight = (number // 10**position % 10**8).cast(pl.UInt32)
        total += _SUM_OF_FOUR.gather(eight % 10**4) + _SUM_OF_FOUR.gather(eight // 10**4)
    return total


def check_digit(body: pl.Expr, digits: int) -> pl.Expr:
    """The check digit (UInt8) to append to `body`, which has `digits` digits."""
    return (10 - luhn_sum(body * 10, digits + 1) % 10) % 10
