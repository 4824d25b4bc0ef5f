"""Removes characters that people and spreadsheets put around an identifier. It never guesses lost digits."""

import polars as pl

NULL_WORDS = (
    "",
    "n/a",
    "#n/a",
    "na",
    "n.a.",
    "null",
    "nil",
    "none",
    "nan",
    "\\n",
    "(null)",
    "[null]",
    "<null>",
    "<na>",
    "-",
    "--",
    "\u2013",
    "\u2014",
)
"""Cells that count as empty, in lower case: as people, spreadsheets, databases and pandas write them."""

_INVISIBLE = "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
_PADDING = r"^\x00+|\x00+$"
"""NUL bytes fill up the cells of fixed width that some programs export."""
_FULL_WIDTH = {chr(ord(narrow) + 0xFEE0): narrow for narrow in "0123456789.-+"}
_SEPARATORS = r"[\s\-.\u2010-\u2015\u2212]"


def text(cell: pl.Expr) -> pl.Expr:
    """A cell (String) without quotes, invisible characters, surrounding space, and separators of lists at its
    end; null for NULL_WORDS."""
    bare = (
        cell.str.replace_all(_INVISIBLE, "")
        .str.replace_all(_PADDING, "")
        .str.strip_chars()
        .str.replace(r'^=\s*"(.*)"$', "$1")
        .str.replace(r"""^['\u2018\u2019"]+(.*?)["']*$""", "$1")
        .str.strip_chars()
        .str.replace(r"[\s;,|]+$", "")
    )
    return pl.when(~bare.str.to_lowercase().is_in(NULL_WORDS)).then(bare)


def digits(cell: pl.Expr) -> pl.Expr:
    """The `text` of an identifier with ASCII digits, without trailing `.0`, separators and filler `F`."""
    return (
        cell.str.replace_many(_FULL_WIDTH)
        .str.replace(r"^([0-9]+)[.,]0+$", "$1")
        .str.replace_all(_SEPARATORS, "")
        .str.replace(r"^[Ff]{0,2}([0-9]{18,19})[Ff]{0,2}$", "$1")
    )


def is_mangled(cell: pl.Expr) -> pl.Expr:
    """Whether the `text` of an identifier is a number that lost digits.

    Such a number has an exponent, a fraction or a sign, or a spreadsheet wrote it and it is above 2**53.
    """
    exponent = r"^[+-]?[0-9]+([.,][0-9]*)?[eE][+-]?[0-9]+$"
    fraction = r"^[0-9]{10,}[.,][0-9]{0,10}[1-9]0*$"  # more digits are those of a second identifier
    too_large = r"^[0-9]{17,}[.,]0+$"
    negative = r"^[-\u2212][0-9]+$"
    number = f"{exponent}|{fraction}|{too_large}|{negative}"
    return cell.str.replace_many(_FULL_WIDTH).str.contains(number)
