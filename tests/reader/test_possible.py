"""A rejected cell stands for all identifiers that it may have been."""

import polars as pl
import pytest

from batchlic.reader.formats.typed import as_text
from batchlic.reader.validation.possible import iccid_key, possible_identifiers
from batchlic.reader.validation.rules import iccid_number, imei_number

IMEI, OTHER_IMEI = "864508030123450", "864508031123459"
ICCID, ICCID_19, ICCID_18 = "89148000000512400014", "8914800000051240001", "891480000005124000"
OTHER_ICCID = "89148000000512500012"


def may_be(cell: str | None, identifier: str) -> bool:
    """Whether a cell may stand for an IMEI (15 digits) or an ICCID."""
    found = possible_identifiers(iter([pl.DataFrame({"imei": [cell]}, schema={"imei": pl.String})]))
    digits = pl.lit(identifier)
    if len(identifier) == 15:
        return bool(found.imeis.contain(pl.select(imei_number(digits)).to_series())[0])
    return bool(found.iccids.contain(pl.select(iccid_key(iccid_number(digits))).to_series())[0])


@pytest.mark.parametrize(
    "cell",
    [
        IMEI,
        IMEI[:-1],
        f"{IMEI[:-1]}9",
        f"{IMEI}1",
        "86-450803-012345-0",
        "864508O3O12345O",
        f"old: {IMEI}; new: none",
        f"{IMEI}/{ICCID}",
        f"{IMEI}.0",
        "8.6450803E+14",
        "8,64508E14",
        "86450803012345\uff10",
        f"{int(IMEI):x}",
    ],
)
def test_a_damaged_cell_stands_for_its_imei_and_no_other(cell: str) -> None:
    assert may_be(cell, IMEI)
    assert not may_be(cell, OTHER_IMEI) or "E" in cell


@pytest.mark.parametrize(
    "cell",
    [
        ICCID,
        ICCID_19,
        f"{ICCID_19}7",
        f"{ICCID}F",
        "8914 8000 0005 1240 0014",
        "8.91480000005124E+19",
        "8.91480000005124e19",
        "89148000000512400000",
        "89148000000512400000.0",
        "98410800005021040041",
        "".join(f"3{digit}" for digit in ICCID),
        f"{int(ICCID):X}",
        f"ICCID={ICCID}",
    ],
)
def test_a_damaged_cell_stands_for_its_iccid_and_no_other(cell: str) -> None:
    assert may_be(cell, ICCID)
    assert not may_be(cell, OTHER_ICCID)


@pytest.mark.parametrize("cell", ["8.9148E+19", "8.91E+19", "9E+19", "8.91480000005E+19"])
def test_a_rounded_number_stands_for_all_that_round_to_it(cell: str) -> None:
    assert may_be(cell, ICCID)
    assert may_be(cell, OTHER_ICCID)
    assert not may_be(cell, "89860000000512500012") or cell == "9E+19"


@pytest.mark.parametrize(
    ("cell", "identifier"),
    [
        ("8.995139522513489e+18", "8995139522513489179"),
        ("8.957093308842748e+19", "89570933088427481312"),
        ("8995139522513488896.0", "8995139522513489179"),
        ("8.9421054e+18", "8942105296771395013"),
        ("3.5058526e+14", "350585253127673"),
    ],
)
def test_all_digits_of_a_float_do_not_hide_an_identifier(cell: str, identifier: str) -> None:
    assert float(identifier) == pytest.approx(float(cell), rel=2**-23)
    assert may_be(cell, identifier)


@pytest.mark.parametrize("identifier", ["8995139522513489179", "89570933088427481312", "865652592326922"])
@pytest.mark.parametrize("dtype", [pl.Float32(), pl.Float64()])
def test_a_float_of_a_frame_stands_for_the_identifier_that_it_was(
    identifier: str, dtype: pl.DataType
) -> None:
    floats = pl.Series("cell", [float(identifier)], dtype=dtype).to_frame()
    assert may_be(floats.select(as_text(pl.col("cell"), dtype)).item(), identifier)


@pytest.mark.parametrize("cell", [None, "", "n/a", "total: 1200", "123456789", "0000123456-00001", "#REF!"])
def test_a_cell_without_an_identifier_stands_for_none(cell: str | None) -> None:
    assert not any(may_be(cell, identifier) for identifier in (IMEI, ICCID, ICCID_19, ICCID_18))


@pytest.mark.parametrize("cell", ["35824005111111", "3.5824005111111E+13", "35824005111111.0"])
def test_a_lost_leading_zero_does_not_hide_an_imei(cell: str) -> None:
    assert may_be(cell, "035824005111111")


def test_lengths_of_an_iccid_stand_for_each_other() -> None:
    assert may_be(ICCID_19, ICCID_18)
    assert may_be(ICCID_18, ICCID)
    assert may_be(ICCID, ICCID_19)


@pytest.mark.parametrize("iccid", [ICCID, ICCID_19, ICCID_18])
def test_an_iccid_of_any_length_may_have_a_wrong_check_digit(iccid: str) -> None:
    assert may_be(f"{iccid[:-1]}9", iccid)
