"""Characters around an identifier are removed; lost digits are never guessed."""

from pathlib import Path

import polars as pl
import pytest

from batchlic.reader import ReadOptions
from tests.reader.builders import ACCOUNT, SKU, iccid, imei, plan_bytes, plan_frame, plan_rows

IMEI, ICCID = imei(7), iccid(7)
FULL_WIDTH = str.maketrans("0123456789", "".join(chr(0xFF10 + digit) for digit in range(10)))

WRITTEN = {
    "surrounding spaces": "  {} ",
    "tab inside quotes": '"{}\t"',
    "no-break spaces": "\u00a0{}\u202f",
    "zero-width characters": "\u200b{}\u200d\ufeff",
    "direction marks": "\u202a{}\u202c",
    "formula text": '="{}"',
    "formula text, quoted": '"=""{}"""',
    "leading apostrophe": "'{}",
    "curly apostrophe": "\u2019{}",
    "quotes too many": '"""{}"""',
    "trailing .0": "{}.0",
    "trailing ,00": '"{},00"',
    "separator at the end": '"{}; "',
    "separators at the end": "'{};|",
}


@pytest.mark.parametrize("pattern", WRITTEN.values(), ids=WRITTEN)
def test_an_imei_is_read_in_any_wrapping(tmp_path: Path, pattern: str) -> None:
    assert plan_rows(tmp_path, [(pattern.format(IMEI), "")]).devices == [(IMEI, None)]


@pytest.mark.parametrize("pattern", [p for p in WRITTEN.values() if "0" not in p.removesuffix("}")], ids=str)
def test_an_iccid_is_read_in_any_wrapping(tmp_path: Path, pattern: str) -> None:
    assert plan_rows(tmp_path, [("", pattern.format(ICCID))]).devices == [(None, ICCID)]


@pytest.mark.parametrize("separator", ["-", " ", ".", "\u2013", "\u00a0"])
def test_separators_inside_identifiers_are_removed(tmp_path: Path, separator: str) -> None:
    written = separator.join([IMEI[:2], IMEI[2:8], IMEI[8:14], IMEI[14:]])
    sim = separator.join(ICCID[at : at + 5] for at in range(0, 20, 5))
    assert plan_rows(tmp_path, [(written, sim)]).devices == [(IMEI, ICCID)]


def test_full_width_digits_are_digits(tmp_path: Path) -> None:
    assert plan_rows(tmp_path, [(IMEI.translate(FULL_WIDTH), ICCID.translate(FULL_WIDTH))]).devices == [
        (IMEI, ICCID)
    ]


@pytest.mark.parametrize(("digits", "filler"), [(19, "F"), (19, "f"), (18, "FF")])
def test_filler_at_the_end_of_an_iccid_is_removed(tmp_path: Path, digits: int, filler: str) -> None:
    sim = iccid(7, digits)
    assert plan_rows(tmp_path, [("", sim + filler)]).devices == [(None, sim)]


@pytest.mark.parametrize("digits", [18, 19, 20])
def test_an_iccid_has_18_to_20_digits(tmp_path: Path, digits: int) -> None:
    rows = [("", iccid(number, digits)) for number in (0, 7, 10 ** (digits - 9) - 1)]
    assert plan_rows(tmp_path, rows).devices == [(None, sim) for _, sim in rows]


def test_an_imei_may_begin_with_zeros(tmp_path: Path) -> None:
    rows = [("001000000000009", ""), ("010000000000008", "")]
    assert plan_rows(tmp_path, rows).devices == [(number, None) for number, _ in rows]


@pytest.mark.parametrize(
    "word",
    [
        *["", "N/A", "n/a", "NULL", "null", "-", "--", "none", "None", "#N/A", "nan", " ", "\u2014"],
        *["\\N", "(null)", "[NULL]", "<null>", "<NA>"],
    ],
)
def test_null_words_are_empty_cells(tmp_path: Path, word: str) -> None:
    planned = plan_rows(tmp_path, [(word, ICCID), (word, word)])
    assert planned.devices == [(None, ICCID)]
    assert planned.reasons == {2: "missing_identifier"}


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("8.64508E+14", "mangled_number"),
        ("8.64508030109877E+14", "mangled_number"),
        ("8,64508e14", "mangled_number"),
        ("8E+14", "mangled_number"),
        (f"{IMEI[:14]}.{IMEI[14]};", "mangled_number"),
        (IMEI[:14], "bad_length"),
        (IMEI[1:], "bad_length"),
        (IMEI[:12], "bad_length"),
        (IMEI[:14] + "07", "imeisv"),
        (IMEI + "078", "bad_length"),
        (IMEI[:14] + str((int(IMEI[14]) + 1) % 10), "bad_check_digit"),
        (IMEI[:14] + "O", "not_digits"),
        ("+" + IMEI[:14], "not_digits"),
        ("-" + IMEI[:14], "mangled_number"),
        ("pending", "not_digits"),
        ("\u0661" * 15, "not_digits"),
        (f"{IMEI} / {imei(8)}", "not_digits"),
        ("0x3123456789ABC", "not_digits"),
        ("9" * 60, "bad_length"),
    ],
)
def test_a_wrong_imei_is_rejected_with_its_reason(tmp_path: Path, cell: str, reason: str) -> None:
    planned = plan_rows(tmp_path, [(f'"{cell}"', ICCID), (IMEI, "")])
    assert planned.reasons == {1: reason}
    assert cell.lstrip("-").rstrip(";") in planned.message(1)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("8.91480000012345E+18", "mangled_number"),
        (iccid(7, 19) + ".0", "mangled_number"),
        (ICCID[:17], "bad_length"),
        (ICCID + "1", "bad_length"),
        (IMEI, "bad_length"),
        ("79" + ICCID[2:], "bad_iccid_prefix"),
        (ICCID[:19] + str((int(ICCID[19]) + 1) % 10), "bad_check_digit"),
        (ICCID[:-1] + "G", "not_digits"),
        ("89+" + ICCID[3:], "not_digits"),
        ("9" * 60, "bad_length"),
    ],
)
def test_a_wrong_iccid_is_rejected_with_its_reason(tmp_path: Path, cell: str, reason: str) -> None:
    planned = plan_rows(tmp_path, [(IMEI, cell)])
    assert planned.reasons == {1: reason}
    assert cell in planned.message(1)


def test_a_row_with_two_wrong_identifiers_is_rejected_for_its_imei(tmp_path: Path) -> None:
    rows = [(IMEI, "x"), ("y", ICCID), ("8E+14", "x")]
    planned = plan_rows(tmp_path, rows)
    assert planned.reasons == {1: "not_digits", 2: "not_digits", 3: "mangled_number"}
    assert "ICCID x" in planned.message(1)


def test_an_accepted_imeisv_becomes_an_imei(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, accept_imeisv=True)
    planned = plan_rows(
        tmp_path, [(IMEI[:14] + "07", ""), (f"{IMEI[:14]}-99", ""), (IMEI[:13] + "07", "")], options
    )
    assert planned.devices == [(IMEI, None)]
    assert planned.reasons == {2: "duplicate", 3: "bad_check_digit"}


def test_check_digits_are_not_checked_if_the_job_says_so(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, check_digit=False)
    wrong = IMEI[:14] + str((int(IMEI[14]) + 5) % 10), ICCID[:19] + str((int(ICCID[19]) + 5) % 10)
    planned = plan_rows(tmp_path, [wrong], options)
    assert planned.devices == [wrong]
    assert "check digits" in planned.summary.notes[0]


def test_integer_columns_lack_only_leading_zeros(tmp_path: Path) -> None:
    planned = plan_frame(
        tmp_path, {"imei": [int(IMEI), 10_000_000_000_008, None], "iccid": [None, None, None]}
    )
    assert planned.devices == [(IMEI, None)]
    assert planned.reasons == {2: "bad_length", 3: "missing_identifier"}


def test_floats_that_lost_digits_are_rejected(tmp_path: Path) -> None:
    numbers = [float(IMEI), 2.0**53 + 2, 8.91480000012345e18, 864508030109877.5, float("nan"), float("inf")]
    planned = plan_frame(tmp_path, {"imei": numbers})
    assert planned.devices == [(IMEI, None)]
    assert planned.reasons == {
        2: "mangled_number",
        3: "mangled_number",
        4: "mangled_number",
        5: "missing_identifier",
        6: "not_digits",
    }


def test_a_32_bit_float_never_holds_an_identifier(tmp_path: Path) -> None:
    planned = plan_frame(tmp_path, {"imei": pl.Series([float(IMEI)], dtype=pl.Float32)})
    assert planned.reasons == {1: "mangled_number"}


def test_json_numbers_keep_all_digits_unless_they_have_an_exponent(tmp_path: Path) -> None:
    rows = [
        f'"imei": {IMEI}, "iccid": {ICCID}',
        '"imei": 8.64508E+14',
        '"imei": true',
        f'"imei": {imei(8)}.0',
    ]
    planned = plan_bytes(tmp_path, "".join(f"{{{row}}}\n" for row in rows).encode())
    assert planned.devices == [(IMEI, ICCID), (imei(8), None)]
    assert planned.reasons == {2: "mangled_number", 3: "not_digits"}
