"""Inventories as an ERP exports them, of any size: right identifiers, and troubles of every common kind.

    python sample_data/generate.py --rows 1000000 --out fleet-1000000.csv

The same rows and seed give the same bytes, on any machine; `.gz` is compressed. The fleet of `make demo`
is `--rows 25000 --out sample_data/fleet.csv.gz`.
"""

import argparse
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import polars as pl

from batchlic.reader.luhn import check_digit

ROWS_AT_ONCE = 500_000
TROUBLED_ONE_IN = 400

TACS = (86450803, 35735110, 86169405, 35209900, 86675803, 35824005, 1470100, 35456110)
"""Type allocation codes: the first eight digits of an IMEI say which model it is; one begins with a zero."""
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
    """A way in which rows go wrong: what stands in their two identifier cells."""

    name: str
    imei: pl.Expr
    iccid: pl.Expr


def imei(index: pl.Expr) -> pl.Expr:
    """The right IMEI (String) of the device with that index; different for each index below 800 million."""
    tac = pl.lit(pl.Series(TACS, dtype=pl.Int64)).gather(index % 8) + index // 8_000_000
    body = tac * 1_000_000 + index // 8 * 640_007 % 1_000_000
    return (body * 10 + check_digit(body, 14)).cast(pl.String).str.zfill(15)


def iccid(index: pl.Expr) -> pl.Expr:
    """The right 20-digit ICCID (String) of the SIM with that index; different for each below 100 billion."""
    account = index * 62_710_561 % 100_000_000_000
    rest = 148_000 * 100_000_000_000 + account
    check = (check_digit(rest, 17) + 10 - _PREFIX_SUM) % 10
    return "89" + (rest * 10 + check).cast(pl.String).str.zfill(18)


_PREFIX_SUM = 6
"""What `89` in front of 18 digits adds to a Luhn sum, modulo ten."""

_RIGHT_IMEI, _RIGHT_ICCID = imei(INDEX), iccid(INDEX)
_WRONG_DIGIT = {str(digit): str((digit + 1) % 10) for digit in range(10)}

TROUBLES = (
    Trouble(
        "exponent",
        pl.format("{}E+14", _RIGHT_IMEI.str.slice(0, 1) + "." + _RIGHT_IMEI.str.slice(1, 5)),
        _RIGHT_ICCID,
    ),
    Trouble(
        "check digit",
        _RIGHT_IMEI.str.head(14) + _RIGHT_IMEI.str.tail(1).replace_strict(_WRONG_DIGIT),
        _RIGHT_ICCID,
    ),
    Trouble("lost check digit", _RIGHT_IMEI.str.head(14), _RIGHT_ICCID),
    Trouble("IMEISV", _RIGHT_IMEI.str.head(14) + "07", _RIGHT_ICCID),
    Trouble("both missing", pl.lit(""), pl.lit("")),
    Trouble("null words", pl.lit("N/A"), pl.lit("#N/A")),
    Trouble("letters", pl.lit("pending"), _RIGHT_ICCID),
    Trouble("cut ICCID", _RIGHT_IMEI, _RIGHT_ICCID.str.head(17)),
    Trouble(
        "mistyped ICCID",
        _RIGHT_IMEI,
        _RIGHT_ICCID.str.head(19) + _RIGHT_ICCID.str.tail(1).replace_strict(_WRONG_DIGIT),
    ),
    Trouble("phone number as ICCID", _RIGHT_IMEI, "1" + _RIGHT_ICCID.str.tail(18)),
    Trouble("repeats an earlier row", imei(INDEX - 7), iccid(INDEX - 7)),
    Trouble("IMEI of an earlier row, other SIM", imei(INDEX - 11), _RIGHT_ICCID),
    # These are written oddly and mean what they should: no reject comes of them.
    Trouble(
        "dashes",
        _RIGHT_IMEI.str.head(2)
        + "-"
        + _RIGHT_IMEI.str.slice(2, 6)
        + "-"
        + _RIGHT_IMEI.str.slice(8, 6)
        + "-"
        + _RIGHT_IMEI.str.tail(1),
        _RIGHT_ICCID,
    ),
    Trouble("formula text", '="' + _RIGHT_IMEI + '"', '="' + _RIGHT_ICCID + '"'),
    Trouble("float", _RIGHT_IMEI + ".0", _RIGHT_ICCID),
    Trouble("no-break spaces", _RIGHT_IMEI, "\u00a0" + _RIGHT_ICCID + "\u00a0"),
    Trouble("only the SIM", pl.lit(""), _RIGHT_ICCID),
)


def fleet(rows: int, seed: int) -> Iterator[pl.DataFrame]:
    """The fleet in frames of at most ROWS_AT_ONCE rows, all columns as text."""
    for start in range(0, rows, ROWS_AT_ONCE):
        numbered = pl.select(index=pl.int_range(start, min(rows, start + ROWS_AT_ONCE), dtype=pl.Int64))
        yield numbered.with_columns(dice=_dice(seed)).select(_columns())


def _dice(seed: int) -> pl.Expr:
    """A number from 0 up to a million for each row: one step of a linear congruential generator."""
    return (INDEX * 1_103_515_245 + 12_345 + seed * 2_654_435_761) % 2_147_483_647 % 1_000_000


def _columns() -> list[pl.Expr]:
    dice = pl.col("dice")
    trouble = pl.when((dice < 1_000_000 // TROUBLED_ONE_IN) & (INDEX > 11)).then(dice % len(TROUBLES))
    day = pl.date(2024, 1, 1) + pl.duration(days=dice % 900)
    return [
        pl.format("AS-{}", (INDEX + 100_001).cast(pl.String).str.zfill(8)).alias("Asset ID"),
        _one_of(SITES, dice // 7).alias("Site"),
        _one_of(MODELS, INDEX).alias("Model"),
        _troubled(trouble, _RIGHT_IMEI, [kind.imei for kind in TROUBLES]).alias("Device IMEI"),
        _troubled(trouble, _RIGHT_ICCID, [kind.iccid for kind in TROUBLES]).alias("SIM ICCID"),
        pl.lit("Verizon").alias("Carrier"),
        day.dt.strftime("%Y-%m-%d").alias("Activation date"),
        pl.format("CC-{}", 4000 + dice % 37).alias("Cost centre"),
        _one_of(STATUSES, dice // 11).alias("Status"),
        _one_of(NOTES, dice // 13).alias("Notes"),
    ]


def _one_of(words: tuple[str, ...], number: pl.Expr) -> pl.Expr:
    return pl.lit(pl.Series(words)).gather(number % len(words))


def _troubled(trouble: pl.Expr, right: pl.Expr, wrong: list[pl.Expr]) -> pl.Expr:
    return pl.coalesce(*(pl.when(trouble == at).then(cell) for at, cell in enumerate(wrong)), right)


def write(rows: int, seed: int, out: Path) -> None:
    """Write a fleet as CSV, gzip-compressed where the name ends with `.gz`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        if out.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                _write_csv(rows, seed, cast("IO[bytes]", packed))
        else:
            _write_csv(rows, seed, file)


def _write_csv(rows: int, seed: int, file: IO[bytes]) -> None:
    for number, frame in enumerate(fleet(rows, seed)):
        empty_as_null = pl.when(pl.all() != "").then(pl.all())
        file.write(frame.select(empty_as_null).write_csv(include_header=number == 0).encode())


def main() -> None:
    """Read the arguments and write the file."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--rows", type=int, default=25_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--out", type=Path, default=Path("sample_data/fleet.csv.gz"))
    chosen = arguments.parse_args()
    write(chosen.rows, chosen.seed, chosen.out)
    print(f"{chosen.out}: {chosen.rows:,} devices")


if __name__ == "__main__":
    main()
