"""The Luhn check digit (ISO/IEC 7812-1 annex B) over whole columns of integers."""

import polars as pl


def luhn_sum(number: pl.Expr, digits: int) -> pl.Expr:
    """Luhn sum of `number` (Int64) read as `digits` decimal digits, the last of them the check digit.

    Two digits are taken at a time: from the right, the lower counts once and the upper twice, less nine
    where doubling it carries. A number is right where the sum is divisible by ten.
    """
    total = pl.lit(0, dtype=pl.Int64)
    for position in range(0, digits, 2):
        pair = number // 10**position % 100
        upper = pair // 10
        total += pair + upper * -8 - (upper > 4).cast(pl.Int64) * 9
    return total


def check_digit(body: pl.Expr, digits: int) -> pl.Expr:
    """The digit (Int64) that makes `body`, of `digits` digits, right when it is appended."""
    return (10 - luhn_sum(body * 10, digits + 1) % 10) % 10
