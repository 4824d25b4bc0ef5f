"""Generates inventories of any size, like those of an ERP: valid identifiers, and rows with common errors.

    python sample_data/generate.py --rows 1000000 --out fleet-1000000.csv

The same number of rows and the same seed give the same bytes on every machine. A name that ends with `.gz`
is compressed. The fleet of `make demo` is `--rows 25000 --out sample_data/fleet.csv.gz`.
"""

import argparse
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import polars as pl

from batchlic.reader.validation.luhn import check_digit

ROWS_AT_ONCE = 500_000
TROUBLED_ONE_IN = 400

TACS = (86450803, 35735110, 86169405, 35209900, 86675803, 35824005, 1470100, 35456110)
"""Type allocation codes: the first eight digits of an IMEI identify the model. One begins with a zero."""
SITES = (
    "Dallas, TX",
    "Tulsa, OK",
    "Reno, NV",
    "Plant 4",
    "Depot North",
    "Yard 12",
    "Warehouse B",
    "Boise, ID",
)
MODELS = ("TRK-200", "TRK-210", "GW-5000", "GW-5500", "MTR-1", "MTR-2", "CAM-X1", "POS-7")
STATUSES = ("In service", "In service", "In service", "In service", "Spare", "In repair")
NOTES = ("", "", "", "", "", "", "", 'external 5" antenna', "replaced, see ticket", "customer owned")

INDEX = pl.col("index")


@dataclass(frozen=True, slots=True)
class Trouble:
    """A kind of wrong row: the contents of its two identifier cells."""

    name: str
    imei: pl.Expr
    iccid: pl.Expr


def imei(index: pl.Expr) -> pl.Expr:
    """The valid IMEI (String) of the device with this index; unique for each index below 800 million."""
    tac = pl.lit(pl.Series(TACS, dtype=pl.Int64)).gather(index % 8) + index // 8_000_000
    body = tac * 1_000_000 + index // 8 * 640_007 % 1_000_000
    return (body * 10 + check_digit(body, 14)).cast(pl.String).str.zfill(15)


def iccid(index: pl.Expr) -> pl.Expr:
    """The valid ICCID (String, 20 digits) of the SIM with this index; unique below index 100 billion."""
    account = index * 62_710_561 % 100_000_000_000
    rest = 148_000 * 100_000_000_000 + account
    check = (check_digit(rest, 17) + 10 - _PREFIX_SUM) % 10
    return "89" + (rest * 10 + check).cast(pl.String).str.zfill(18)


_PREFIX_SUM = 6
"""The contribution of the prefix `89` of a 20-digit number to the Luhn sum, modulo ten."""

_VALID_IMEI, _VALID_ICCID = imei(INDEX), iccid(INDEX)
_WRONG_DIGIT = {str(digit): str((digit + 1) % 10) for digit in range(10)}

TROUBLES = (
    Trouble(
        "exponent",
        pl.format("{}E+14", _VALID_IMEI.str.slice(0, 1) + "." + _VALID_IMEI.str.slice(1, 5)),
        _VALID_ICCID,
    ),
    Trouble(
        "check digit",
        _VALID_IMEI.str.head(14) + _VALID_IMEI.str.tail(1).replace_strict(_WRONG_DIGIT),
        _VALID_ICCID,
    ),
    Trouble("lost check digit", _VALID_IMEI.str.head(14), _VALID_ICCID),
    Trouble("IMEISV", _VALID_IMEI.str.head(14) + "07", _VALID_ICCID),
    Trouble("both missing", pl.lit(""), pl.lit("")),
    Trouble("null words", pl.lit("N/A"), pl.lit("#N/A")),
    Trouble("letters", pl.lit("pending"), _VALID_ICCID),
    Trouble("cut ICCID", _VALID_IMEI, _VALID_ICCID.str.head(17)),
    Trouble(
        "mistyped ICCID",
        _VALID_IMEI,
        _VALID_ICCID.str.head(19) + _VALID_ICCID.str.tail(1).replace_strict(_WRONG_DIGIT),
    ),
    Trouble("phone number as ICCID", _VALID_IMEI, "1" + _VALID_ICCID.str.tail(18)),
    Trouble("repeats an earlier row", imei(INDEX - 7), iccid(INDEX - 7)),
    Trouble("IMEI of an earlier row, other SIM", imei(INDEX - 11), _VALID_ICCID),
    # Unusual spellings of valid identifiers: these rows are not rejected.
    Trouble(
        "dashes",
        _VALID_IMEI.str.head(2)
        + "-"
        + _VALID_IMEI.str.slice(2, 6)
        + "-"
        + _VALID_IMEI.str.slice(8, 6)
        + "-"
        + _VALID_IMEI.str.tail(1),
        _VALID_ICCID,
    ),
    Trouble("formula text", '="' + _VALID_IMEI + '"', '="' + _VALID_ICCID + '"'),
    Trouble("float", _VALID_IMEI + ".0", _VALID_ICCID),
    Trouble("no-break spaces", _VALID_IMEI, "\u00a0" + _VALID_ICCID + "\u00a0"),
    Trouble("only the SIM", pl.lit(""), _VALID_ICCID),
)


def fleet(rows: int, seed: int) -> Iterator[pl.DataFrame]:
    """Yield the fleet in frames of at most ROWS_AT_ONCE rows; all columns are String."""
    for start in range(0, rows, ROWS_AT_ONCE):
        numbered = pl.select(index=pl.int_range(start, min(rows, start + ROWS_AT_ONCE), dtype=pl.Int64))
        yield numbered.with_columns(random=_random(seed)).select(_columns())


def _random(seed: int) -> pl.Expr:
    """A pseudorandom number below one million for each row: one step of a linear congruential generator."""
    return (INDEX * 1_103_515_245 + 12_345 + seed * 2_654_435_761) % 2_147_483_647 % 1_000_000


def _columns() -> list[pl.Expr]:
    random = pl.col("random")
    trouble = pl.when((random < 1_000_000 // TROUBLED_ONE_IN) & (INDEX > 11)).then(random % len(TROUBLES))
    day = pl.date(2024, 1, 1) + pl.duration(days=random % 900)
    return [
        pl.format("AS-{}", (INDEX + 100_001).cast(pl.String).str.zfill(8)).alias("Asset ID"),
        _one_of(SITES, random // 7).alias("Site"),
        _one_of(MODELS, INDEX).alias("Model"),
        _with_troubles(trouble, _VALID_IMEI, [kind.imei for kind in TROUBLES]).alias("Device IMEI"),
        _with_troubles(trouble, _VALID_ICCID, [kind.iccid for kind in TROUBLES]).alias("SIM ICCID"),
        pl.lit("Verizon").alias("Carrier"),
        day.dt.strftime("%Y-%m-%d").alias("Activation date"),
        pl.format("CC-{}", 4000 + random % 37).alias("Cost center"),
        _one_of(STATUSES, random // 11).alias("Status"),
        _one_of(NOTES, random // 13).alias("Notes"),
    ]


def _one_of(texts: tuple[str, ...], number: pl.Expr) -> pl.Expr:
    return pl.lit(pl.Series(texts)).gather(number % len(texts))


def _with_troubles(trouble: pl.Expr, valid: pl.Expr, wrong: list[pl.Expr]) -> pl.Expr:
    return pl.coalesce(*(pl.when(trouble == number).then(cell) for number, cell in enumerate(wrong)), valid)


def write(rows: int, seed: int, out: Path) -> None:
    """Write a fleet as CSV, compressed with gzip if the name of `out` ends with `.gz`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        if out.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as compressed:
                _write_csv(rows, seed, cast("IO[bytes]", compressed))
        else:
            _write_csv(rows, seed, file)


def _write_csv(rows: int, seed: int, file: IO[bytes]) -> None:
    for number, frame in enumerate(fleet(rows, seed)):
        empty_as_null = pl.when(pl.all() != "").then(pl.all())
        file.write(frame.select(empty_as_null).write_csv(include_header=number == 0).encode())


def main() -> None:
    """Parse the arguments and write the file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--rows", type=int, default=25_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--out", type=Path, default=Path("sample_data/fleet.csv.gz"))
    chosen = arguments.parse_args()
    write(chosen.rows, chosen.seed, chosen.out)
    print(f"{chosen.out}: {chosen.rows:,} devices")


if __name__ == "__main__":
    main()
