"""Every row of arbitrary bytes is planned or rejected, or the file is refused; no other error occurs."""

import contextlib
import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchlic.errors import UsageError
from batchlic.reader import ReadOptions
from tests.reader.builders import ACCOUNT, SKU, csv_of, iccid, imei, plan_bytes
from tests.reader.test_conservation import WRITERS, rows_of
from tests.reader.test_formats import FORMATS
from tests.reader.test_rules import has_disputed_space, stripped

WHOLE = [*FORMATS.values(), *(write(rows_of(0, 9)) for write in WRITERS.values())]
NO_SPACES = dict.fromkeys(range(0x1C, 0x20), "x")
"""Control characters that are white space in Python and not in Unicode."""
FRAGMENTS = st.sampled_from(
    [
        imei(1),
        imei(2),
        iccid(1),
        "IMEI",
        "ICCID",
        ",",
        ",",
        ";",
        "\t",
        "\n",
        "\n",
        "\r\n",
        "\r",
        '"',
        '""',
        " ",
        "é",
        "\0",
        "\x1e",
        "{",
        "[",
        "x",
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid inventory of any format with bytes changed, removed or inserted."""
    content = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content)


def assert_planned_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UsageError):
        plan_bytes(Path(folder), content)  # asserts conservation


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_planned_or_refused(content: bytes) -> None:
    assert_planned_or_refused(content)


@given(damaged())
def test_damaged_inventories_are_planned_or_refused(content: bytes) -> None:
    assert_planned_or_refused(content)


@given(st.lists(FRAGMENTS, max_size=40).map("".join))
@example('IMEI,ICCID\n5" x,1\n6" x,2\n')
@example('IMEI\n"a"b\n')
def test_text_like_inventories_are_planned_or_refused(text: str) -> None:
    assert_planned_or_refused(b"IMEI,ICCID\n" + text.encode())


CELL = st.one_of(
    st.sampled_from(["", imei(1), iccid(1), " ", "a", 'say "x"', "a,b", "two\nlines", "\u00e9", "'", ";"]),
    st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), max_size=5),
)


@given(
    st.lists(
        st.lists(
            CELL.filter(lambda cell: "\0" not in cell and "\r" not in cell and not has_disputed_space(cell)),
            min_size=1,
            max_size=4,
        ),
        max_size=30,
    )
)
@example([["\n"]])  # a quoted line break is a cell, not a blank line
def test_rows_equal_those_of_a_csv_reader(rows: list[list[str]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows([["IMEI", "ICCID", "Notes"], *rows])
    content = file.getvalue().encode("utf-8", "replace")
    found = [
        row
        for row in csv.reader(io.StringIO(content.decode(), newline=""))
        if len(row) > 1 or "\n" in "".join(row) or "".join(row).translate(NO_SPACES).strip()
    ]
    with tempfile.TemporaryDirectory() as folder:
        options = ReadOptions(account=ACCOUNT, sku=SKU, allow_empty=True)
        planned = plan_bytes(Path(folder), content, options=options)
    assert planned.summary.rows_read == len(found) - 1
    short = [at for at, row in enumerate(found) if len(row) < 3 and not any(map(stripped, row[:2]))]
    assert [row for row, reason in planned.reasons.items() if reason == "short_row"] == short


@pytest.mark.slow
@pytest.mark.parametrize("note", ['"a\n""b"""', 'a 5" antenna', '"Dallas, TX"', ""])
@pytest.mark.parametrize("cut", [1, 7, 64, 1000])
def test_the_size_of_blocks_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, note: str
) -> None:
    rows = [(imei(n), note if n % 3 else "x", iccid(n), "more")[: 2 + n % 3] for n in range(60)]
    content = csv_of(rows, "IMEI,Notes,ICCID")
    whole = plan_bytes(tmp_path, content)
    monkeypatch.setattr("batchlic.reader.formats.delimited.BLOCK_BYTES", cut)
    in_blocks = plan_bytes(tmp_path, content)
    assert in_blocks.plan.equals(whole.plan)
    assert in_blocks.rejects.equals(whole.rejects)
