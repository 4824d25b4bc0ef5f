"""Kept columns: the cells of each row, as text, whatever the format is, and whatever becomes of the row."""

import csv
import io
import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from batchlic.chunker import write_plan
from batchlic.errors import InventoryError, UsageError
from batchlic.reader import kept_cells, spool
from batchlic.reader.options import kept_columns
from tests.reader.builders import JOB, Planned, csv_of, imei, plan_bytes, plan_files

Cells = list[tuple[str | None, ...]]


def keeping(*columns: str, **options: Any) -> Any:  # noqa: ANN401
    return replace(JOB, keep=kept_columns(columns), **options)


def cells(folder: Path, planned: Planned) -> Cells:
    """The kept cells of the planned rows, in the order of the input."""
    kept = pl.read_parquet(folder / "kept.parquet")
    assert set(kept.dtypes) == {pl.String()}
    return planned.plan.hstack(kept).sort("source", "row").select(kept.columns).rows()


def kept(folder: Path, content: bytes, *columns: str) -> Cells:
    return cells(folder, plan_bytes(folder, content, options=keeping(*columns)))


TYPED = {
    "site": ["007", "", None],
    "long": [1234567890123456789, None, 5],
    "share": [2.5, 3.0, None],
    "active": [True, False, None],
    "day": [date(2026, 11, 29), None, None],
    "seen": [datetime(2026, 11, 29, 8, 30), datetime(2026, 11, 29, 8, 30, 0, 500_000), None],  # noqa: DTZ001
    "at": [time(8, 30), None, None],
    "price": [Decimal("12.50"), Decimal("12.00"), None],
}
TEXTS: Cells = [
    ("007", "1234567890123456789", "2.5", "true", "2026-11-29", "2026-11-29 08:30:00", "08:30:00", "12.50"),
    (None, None, "3", "false", None, "2026-11-29 08:30:00.500", None, "12.00"),
    (None, "5", None, None, None, None, None, None),
]


def test_typed_cells_are_kept_as_text(tmp_path: Path) -> None:
    table = pl.DataFrame({"imei": [imei(number) for number in range(3)], **TYPED})
    stored, stream = io.BytesIO(), io.BytesIO()
    table.write_parquet(stored)
    table.write_ipc_stream(stream)
    for content in (stored, stream):
        assert kept(tmp_path, content.getvalue(), *TYPED) == TEXTS


def test_bytes_are_kept_as_text_in_the_encodings_of_text_files(tmp_path: Path) -> None:
    sites = ["Köln".encode(), "Köln".encode("cp1252"), b"\x81", None]
    table = pl.DataFrame({"imei": [imei(number) for number in range(4)], "site": sites})
    stored = io.BytesIO()
    table.write_parquet(stored)
    assert kept(tmp_path, stored.getvalue(), "site") == [("Köln",), ("Köln",), ("\x81",), (None,)]


def test_threads_that_read_at_once_join_the_new_rows_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polars maps frames of rejects in several threads."""
    rows = spool.Spool(tmp_path, {"site": pl.String()}, 1000)
    rows.append(pl.DataFrame({"site": ["a", "b"]}))
    other = threading.Thread(target=lambda: rows.gathered(pl.Series([1])))
    concat = pl.concat

    def slow_concat(*frames: Any, **options: Any) -> Any:  # noqa: ANN401
        monkeypatch.undo()
        other.start()
        other.join(0.1)  # it waits for this thread, or joins the rows, too
        return concat(*frames, **options)

    monkeypatch.setattr(pl, "concat", slow_concat)
    assert rows.gathered(pl.Series([0])).rows() == [("a",)]
    other.join()
    assert [frame.height for frame in rows.frames()] == [2]


def test_cells_of_a_workbook_are_kept_as_text_and_dates_as_dates(tmp_path: Path) -> None:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet()
        day, seen = (book.add_format({"num_format": form}) for form in ("dd.mm.yy", "dd.mm.yy hh:mm"))
        sheet.write_row(0, 0, ["IMEI", "Site", "n", "active", "day", "seen"])
        for row in (1, 2):
            sheet.write_number(row, 0, int(imei(row)), day)  # a date by its format, and still an IMEI
        sheet.write_row(1, 1, ["007", 1.5, True])
        sheet.write_datetime(1, 4, datetime(2026, 11, 29), day)  # noqa: DTZ001
        sheet.write_datetime(1, 5, datetime(2026, 11, 29, 8, 30), seen)  # noqa: DTZ001
        sheet.merge_range(1, 1, 2, 1, "Plant 4")
    columns = ("site", "n", "active", "day", "seen")
    assert kept(tmp_path, file.getvalue(), *columns) == [
        ("Plant 4", "1.5", "true", "2026-11-29", "2026-11-29 08:30:00"),
        ("Plant 4", None, None, None, None),
    ]


def test_values_of_json_are_kept_as_they_are_written(tmp_path: Path) -> None:
    lines = [
        f'{{"imei": "{imei(0)}", "site": "007", "n": 12345678901234567890123, "x": 1.50, "ok": true}}',
        f'{{"imei": "{imei(1)}", "n": null, "place": {{"city": "Köln"}}, "tags": ["ä", 1.50, {{"b": 1E5}}]}}',
    ]
    columns = ("site", "n", "x", "ok", "place.city", "tags")
    assert kept(tmp_path, "\n".join(lines).encode(), *columns) == [
        ("007", "12345678901234567890123", "1.50", "true", None, None),
        (None, None, None, None, "Köln", '["ä", 1.50, {"b": 1E5}]'),
    ]
    around = json.dumps({"customer": "ACME", "devices": [{"imei": imei(0)}, {"imei": imei(1)}]})
    assert kept(tmp_path, around.encode(), "customer") == [("ACME",), ("ACME",)]


@pytest.mark.parametrize("header", ["Site Name,IMEI", "\ufeffSITE_name,IMEI", '" site  name ",IMEI'])
def test_a_column_to_keep_is_found_as_other_columns_are(tmp_path: Path, header: str) -> None:
    content = csv_of([[" 007 ", imei(0)], ['"a, ""b""\nc"', imei(1)], ["", imei(2)]], header)
    for column in ("site name", "site=1", "site=Site-Name"):
        assert kept(tmp_path, content, column) == [(" 007 ",), ('a, "b"\nc',), (None,)]


def test_a_table_without_header_has_columns_by_position(tmp_path: Path) -> None:
    content = csv_of([["b", imei(1)], ["c", imei(2)]], f"a,{imei(0)}")
    assert kept(tmp_path, content, "site=1", "2") == [("a", imei(0)), ("b", imei(1)), ("c", imei(2))]


def test_a_column_that_some_inventories_lack_is_null_there(tmp_path: Path) -> None:
    (tmp_path / "site=north").mkdir()
    names = [tmp_path / "one.csv", tmp_path / "other.csv", tmp_path / "site=north" / "third.csv"]
    names[0].write_bytes(csv_of([[imei(0), "a"]], "imei,site"))
    names[1].write_bytes(csv_of([[imei(1), "b"]], "imei,town"))
    names[2].write_bytes(csv_of([[imei(2), "c"]], "imei,town"))
    planned = plan_files(tmp_path, *map(str, names), options=keeping("Site", "first=1"))
    assert cells(tmp_path, planned) == [("a", imei(0)), (None, imei(1)), ("north", imei(2))]
    assert [note for note in planned.summary.notes if "to keep" in note] == [
        f"{names[1]}: there is no column 'Site' to keep: its rows have null as Site"
    ]


def test_a_column_that_no_inventory_has_is_an_error_with_the_columns(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--keep Stie.*mean 'Site'\? The columns are 1 'IMEI', 2 'Site'"):
        kept(tmp_path, csv_of([[imei(0), "a"]], "IMEI,Site"), "Stie")
    with pytest.raises(InventoryError, match=r"two columns are called 'SITE'.*--keep SITE=2"):
        kept(tmp_path, csv_of([[imei(0), "a", "b"]], "IMEI,Site,site"), "SITE")
    assert not (tmp_path / "plan.parquet").exists()
    empty = keeping("town", allow_empty=True)
    assert plan_bytes(tmp_path, b"IMEI,Site\n", options=empty).summary.kept == ("town",)


@pytest.mark.parametrize("given", ["", " ", "=site", "site=", "-site", "@x", "a\x1bb", "a\nb", "x" * 101])
def test_a_name_that_a_spreadsheet_or_terminal_may_run_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=HEADER|give another one"):
        kept_columns([given])


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two columns"):
        kept_columns(["site", "SITE=town"])


def test_cells_that_may_be_shifted_are_null(tmp_path: Path) -> None:
    content = csv_of([[imei(0), "a", "b"], [imei(1), "Tulsa", " OK", "b"], [imei(2), "c"]], "IMEI,Site,x")
    planned = plan_bytes(tmp_path, content, options=keeping("site"))
    assert cells(tmp_path, planned) == [("a",), (None,), ("c",)]
    assert any("1 row with more cells than the header" in note for note in planned.summary.notes)


def test_rejects_keep_the_cells_of_their_own_rows(tmp_path: Path) -> None:
    rows = [[imei(0), "a"], ["123", "b"], ["IMEI", "Site"], [imei(0), "c"], [imei(1), "d"], ["", "e"]]
    planned = plan_bytes(tmp_path, csv_of(rows, "IMEI,Site"), options=keeping("site"))
    found = planned.rejects.select("row", "reason", "site").rows()
    assert found == [(2, "bad_length", "b"), (3, "duplicate", "c"), (5, "missing_identifier", "e")]
    assert cells(tmp_path, planned) == [("a",), ("d",)]


def test_devices_without_a_license_left_keep_their_cells_as_rejects(tmp_path: Path) -> None:
    inventory = tmp_path / "fleet.csv"
    inventory.write_bytes(csv_of([[imei(number), f"{number}"] for number in (3, 1, 2, 0)], "IMEI,Site"))
    options = keeping("site")
    write_plan([str(inventory)], options, batch_size=2, folder=tmp_path, fit=lambda _: [1])
    rejects = pl.read_parquet(tmp_path / "rejects.parquet")
    assert rejects.select("imei", "site").rows() == [(imei(number), f"{number}") for number in (1, 2, 3)]
    assert pl.read_parquet(tmp_path / "kept.parquet").rows() == [("0",)]


def test_devices_of_a_canary_keep_their_own_cells(tmp_path: Path) -> None:
    inventory = tmp_path / "fleet.csv"
    inventory.write_bytes(csv_of([[imei(number), f"{number}"] for number in range(9)], "IMEI,Site"))
    options = keeping("site")
    write_plan([str(inventory)], options, batch_size=2, folder=tmp_path, canary=lambda _: 3)
    plan = pl.read_parquet(tmp_path / "plan.parquet")
    assert plan["phase"].to_list() == [1] * 3 + [2] * 6
    sites = plan.hstack(pl.read_parquet(tmp_path / "kept.parquet")).select("imei", "site")
    assert dict(sites.iter_rows()) == {imei(number): f"{number}" for number in range(9)}


def test_what_is_kept_changes_no_plan(tmp_path: Path) -> None:
    content = csv_of([[imei(number), f"{number}"] for number in (3, 1, 2, 1)], "IMEI,Site")
    plan_bytes(tmp_path, content, options=keeping("site", "again=IMEI"))
    plan, file = ((tmp_path / name).read_bytes() for name in ("plan.parquet", "kept.parquet"))
    plan_bytes(tmp_path, content, options=keeping("site", "again=IMEI"))
    assert (tmp_path / "kept.parquet").read_bytes() == file
    plan_bytes(tmp_path, content)
    assert (tmp_path / "plan.parquet").read_bytes() == plan
    assert not (tmp_path / "kept.parquet").exists()


ODD = st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\x1e")
TEXT = st.text(ODD, max_size=9)
ROWS = st.lists(st.tuples(st.integers(0, 12), TEXT, TEXT), min_size=1, max_size=60)


@settings(max_examples=max(1, settings().max_examples // 2))
@given(ROWS, st.sampled_from(["csv", "json", "xlsx"]))
def test_each_row_keeps_its_own_cells_whatever_the_order_is(
    rows: Sequence[tuple[int, str, str]], form: str
) -> None:
    def text(cell: str) -> str:
        return cell if form != "xlsx" else "".join(filter(str.isprintable, cell))

    table = [(imei(number) if number else "bad", text(site), text(town)) for number, site, town in rows]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as small:
        small.setattr(spool, "FRAME_BYTES", 300)  # several frames, some of them in files
        small.setattr(kept_cells, "MEMORY_BYTES", 1000)
        small.setattr(kept_cells, "SLICE_ROWS", 7)
        small.setattr(kept_cells, "CHUNK_BYTES", 400)
        folder = Path(name)
        with_keep = plan_bytes(folder, written(table, form), options=keeping("site", "x=town"))
        found: dict[int, tuple[str | None, ...]] = {
            row: tuple(values)
            for rows_of_file in (
                with_keep.plan.hstack(pl.read_parquet(folder / "kept.parquet")),
                with_keep.rejects,
            )
            for row, *values in rows_of_file.select("row", "site", "x").iter_rows()
        }
        expected = {row: (site or None, town or None) for row, (_, site, town) in enumerate(table, 1)}
        assert found == expected


def written(table: Sequence[tuple[str, ...]], form: str) -> bytes:
    headers = ("IMEI", "Site", "Town")
    if form == "json":
        rows: list[Mapping[str, str]] = [dict(zip(headers, row, strict=True)) for row in table]
        return json.dumps(rows).encode()
    if form == "xlsx":
        file = io.BytesIO()
        with xlsxwriter.Workbook(file, {"strings_to_formulas": False, "strings_to_urls": False}) as book:
            sheet = book.add_worksheet()
            for at, row in enumerate([headers, *table]):
                sheet.write_row(at, 0, row)
        return file.getvalue()
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([headers, *table])
    return text.getvalue().encode()
