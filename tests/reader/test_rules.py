"""The vectorized rules agree with an independent scalar oracle (python-stdnum) on mutated cells."""

import re

import polars as pl
import stdnum.imei
from hypothesis import given
from hypothesis import strategies as st
from stdnum import luhn

from batchlic.carrier.catalog import Action
from batchlic.reader import IdKind, ReadOptions, Role
from batchlic.reader.inventory import LONG, SHORT
from batchlic.reader.validation import luhn as vectorized
from batchlic.reader.validation.rules import iccid_digits, iccid_number, imei_digits, imei_number, table
from batchlic.reader.validation.validator import Validator
from tests.reader.builders import ACCOUNT, JOB, SKU, iccid, imei

IMEIS = st.integers(0, 999_999).map(imei)
ICCIDS = st.tuples(st.integers(0, 10**9 - 1), st.sampled_from([18, 19, 20])).map(lambda pair: iccid(*pair))
NOISE = st.sampled_from([*"0123456789.,-+eEFf'\"= \u00a0\u200b\uff10x/", "", "E+14", ".0", "N/A"])


@st.composite
def mutated(draw: st.DrawFn, cells: st.SearchStrategy[str]) -> str:
    """A valid cell with up to two places removed or overwritten."""
    cell = draw(cells)
    for _ in range(draw(st.integers(0, 2))):
        at, length = draw(st.integers(0, len(cell))), draw(st.integers(0, 2))
        cell = cell[:at] + draw(NOISE) + cell[at + length :]
    return cell


CELLS = st.one_of(
    st.text(max_size=24), mutated(IMEIS), mutated(ICCIDS), st.from_regex(r"[0-9]{13,21}", fullmatch=True)
)

NULL_WORDS = {"", "n/a", "#n/a", "na", "n.a.", "null", "nil", "none", "nan", "-", "--", "\u2013", "\u2014"}
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
NARROW = {ord(narrow) + 0xFEE0: narrow for narrow in "0123456789.-+"}


def stripped(cell: str) -> str | None:
    """The text that a person sees in a cell; None for an empty cell."""
    bare = INVISIBLE.sub("", cell).strip()
    if formula := re.fullmatch(r'=\s*"(.*)"', bare):
        bare = formula[1]
    if quoted := re.fullmatch("""['\u2018\u2019"]+(.*?)["']*""", bare):
        bare = quoted[1]
    bare = re.sub(r"[\s;,|]+$", "", bare.strip())
    return None if bare.lower() in NULL_WORDS else bare


def reason_by_oracle(cell: str, kind: Role) -> str | None:
    """The reason to reject a row with only this identifier; None if the identifier is valid."""
    shown = stripped(cell)
    if shown is None:
        return "missing_identifier"
    shown = shown.translate(NARROW)
    if re.fullmatch(r"[+-]?[0-9]+([.,][0-9]*)?[eE][+-]?[0-9]+|[-\u2212][0-9]+", shown):
        return "mangled_number"
    if fraction := re.fullmatch(r"([0-9]+)[.,]([0-9]+)", shown):
        whole, rest = fraction.groups()
        if (int(rest) and len(whole) >= 10 and len(rest.rstrip("0")) < 12) or (
            not int(rest) and len(whole) >= 17
        ):
            return "mangled_number"
        shown = whole if not int(rest) else shown
    digits = re.sub(r"[\s\-.\u2010-\u2015\u2212]", "", shown)
    digits = re.sub("^[Ff]{0,2}([0-9]{18,19})[Ff]{0,2}$", r"\1", digits)
    if other := of_another_kind(digits, kind):
        return other
    if not re.fullmatch("[0-9]+", digits):
        return "not_digits"
    return of_imei(digits) if kind is Role.IMEI else of_iccid(digits)


def of_another_kind(digits: str, kind: Role) -> str | None:
    """The reason for a number that is written in hexadecimal digits, or has its digits swapped."""
    if re.fullmatch("0{14,20}", digits):
        return "placeholder"
    if re.fullmatch("[0-9]{32}", digits):
        return "eid"
    is_hexadecimal = re.fullmatch("[0-9A-Fa-f]+", digits) and not re.fullmatch("[0-9]+", digits)
    if kind is Role.IMEI:
        return "meid" if is_hexadecimal and len(digits) == 14 else None
    if digits.startswith("98") and re.fullmatch("[0-9A-Fa-f]{18,20}", digits):
        return "swapped_digits"
    in_ascii = re.fullmatch("(3[0-9]){18,20}", digits)
    return "hex_number" if (is_hexadecimal and 15 <= len(digits) <= 17) or in_ascii else None


def of_imei(digits: str) -> str | None:
    if len(digits) == 16:
        return "imeisv"
    if len(digits) != 15:
        return "bad_length"
    return None if stdnum.imei.is_valid(digits) else "bad_check_digit"


def of_iccid(digits: str) -> str | None:
    if not 18 <= len(digits) <= 20:
        return "bad_length"
    if not digits.startswith("89"):
        return "bad_iccid_prefix"
    return None if luhn.is_valid(digits) else "bad_check_digit"


def reasons_by_rules(role: Role, cells: list[str]) -> list[str | None]:
    """The reason of each row of a block with only this column; None if the row is valid."""
    outcome = Validator(JOB, {})(pl.DataFrame({role: cells}, schema={role: pl.String}))
    reasons = dict(outcome.rejects.select("row", "reason").iter_rows())
    assert outcome.height == len(cells)
    assert sorted([*outcome.valid["row"], *outcome.rejects["row"]]) == list(range(len(cells)))
    return [reasons.get(row) for row in range(len(cells))]


def has_disputed_space(cell: str) -> bool:
    """Whether Python and Unicode (White_Space) disagree about a space in the cell."""
    return any(mark in cell for mark in "\x1c\x1d\x1e\x1f\x85")


BLOCKS = st.lists(CELLS.filter(lambda cell: not has_disputed_space(cell)), min_size=10, max_size=40)


@given(BLOCKS)
def test_an_imei_is_validated_as_by_the_oracle(cells: list[str]) -> None:
    assert reasons_by_rules(Role.IMEI, cells) == [reason_by_oracle(cell, Role.IMEI) for cell in cells]


@given(BLOCKS)
def test_an_iccid_is_validated_as_by_the_oracle(cells: list[str]) -> None:
    assert reasons_by_rules(Role.ICCID, cells) == [reason_by_oracle(cell, Role.ICCID) for cell in cells]


@given(st.lists(st.tuples(CELLS, CELLS), min_size=5, max_size=20), st.booleans())
def test_the_quick_proof_agrees_with_the_table(rows: list[tuple[str, str]], check: bool) -> None:  # noqa: FBT001
    options = ReadOptions(account=ACCOUNT, sku=SKU, check_digit=check)
    frame = pl.DataFrame(
        [(*row, None, None) for row in rows],
        schema=dict.fromkeys((Role.IMEI, Role.ICCID, Role.ACCOUNT, Role.SKU), pl.String),
        orient="row",
    )
    validator = Validator(options, {})
    quick = validator(frame)
    thorough, rejects = validator._check_by_table(
        validator._cleaned(
            frame.with_columns(
                pl.lit(value=False).alias(SHORT), pl.lit(value=False).alias(LONG)
            ).with_row_index("row")
        )
    )
    assert quick.rejects.select("row", "reason").equals(rejects.select("row", "reason"))
    numbers = ("row", "imei_number", "iccid_number")
    assert quick.valid.select(numbers).equals(thorough.sort("row").select(numbers))


@given(st.lists(st.from_regex("[0-9]{15}", fullmatch=True), min_size=1))
def test_luhn_sums_equal_those_of_the_oracle(numbers: list[str]) -> None:
    sums = pl.select(vectorized.luhn_sum(pl.lit(pl.Series([int(number) for number in numbers])), 15) % 10)
    assert sums.to_series().to_list() == [luhn.checksum(number) for number in numbers]


@given(st.integers(0, 10**14 - 1))
def test_a_number_with_its_check_digit_is_valid(body: int) -> None:
    digit = pl.select(vectorized.check_digit(pl.lit(body), 14)).item()
    assert luhn.is_valid(f"{body:014d}{digit}")


@given(st.lists(st.one_of(ICCIDS, st.from_regex("89[0-9]{16,18}", fullmatch=True)), min_size=1))
def test_iccids_become_integers_and_back(sims: list[str]) -> None:
    numbers = pl.select(iccid_number(pl.lit(pl.Series(sims)))).to_series()
    assert pl.select(iccid_digits(pl.lit(numbers))).to_series().to_list() == sims
    assert numbers.n_unique() == len(set(sims))


@given(st.lists(st.from_regex("[0-9]{15}", fullmatch=True), min_size=1))
def test_imeis_become_integers_and_back(numbers: list[str]) -> None:
    assert pl.select(imei_digits(imei_number(pl.lit(pl.Series(numbers))))).to_series().to_list() == numbers


@given(st.integers(0, 999_999), st.integers(0, 99))
def test_an_imeisv_becomes_the_imei_that_it_extends(number: int, version: int) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, accept_imeisv=True)
    outcome = Validator(options, {})(pl.DataFrame({Role.IMEI: [f"{imei(number)[:14]}{version:02d}"]}))
    assert outcome.valid["imei_number"].to_list() == [int(imei(number))]


def test_each_rule_has_a_reason_and_a_message() -> None:
    options = ReadOptions(action=Action.UNASSIGN, id_kind=IdKind.BOTH)
    for rule in table(options):
        assert rule.reason
        assert rule.message.meta.output_name()
