"""Frames as inventories, whatever library they are of. Nothing is sent here: plans are enough."""

import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import batchlic
from batchlic.runs.folder import RunFolder
from batchlic.runs.plan_record import read_plan_record
from tests.api.builders import fleet
from tests.endtoend.program import ACCOUNT, FLEXIBLE

IMEIS = fleet(3)["imei"].to_list()


class OtherTable:
    """A table that hands no stream over, and yields its columns, as that of an older pandas."""

    def __iter__(self) -> Iterator[str]:
        return iter(["imei"])


def planned(inventory: Any, folder: Path, **options: Any) -> batchlic.Run:  # noqa: ANN401 - wrong ones, too
    target = {"account": ACCOUNT, "sku": FLEXIBLE, "sandbox": True, "run_dir": folder / "run"}
    return batchlic.plan(inventory, **{**target, **options})


def relation() -> duckdb.DuckDBPyRelation:
    rows = pa.table({"imei": IMEIS})  # noqa: F841 - DuckDB reads the variable
    return duckdb.connect().sql("SELECT imei FROM rows")


FRAMES: dict[str, Callable[[], object]] = {
    "<DataFrame>": lambda: pl.DataFrame({"imei": IMEIS}),
    "<LazyFrame>": lambda: pl.LazyFrame({"imei": ["unused", *IMEIS]}).filter(pl.col("imei") != "unused"),
    "<Table>": lambda: pa.table({"imei": IMEIS}),
    "<RecordBatchReader>": lambda: pa.table({"imei": IMEIS}).to_reader(),
    "<DuckDBPyRelation>": relation,
}


@pytest.mark.parametrize("name", FRAMES)
def test_the_rows_of_any_kind_of_frame_are_planned(name: str, tmp_path: Path) -> None:
    run = planned(FRAMES[name](), tmp_path)
    assert run.plan.select("imei").collect().to_series().sort().to_list() == sorted(IMEIS)
    assert run.plan.select("source").unique().collect().item() == name


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"imei": IMEIS}),
        pd.DataFrame({"imei": [int(imei) for imei in IMEIS]}),
        pd.DataFrame({"imei": [float(imei) for imei in IMEIS]}),
        pd.DataFrame({"imei": pd.Categorical(IMEIS)}),
        pd.DataFrame({"site": ["a", "b", "c"]}, index=pd.Index(IMEIS, name="imei")),
        pl.DataFrame({"device": [{"imei": imei} for imei in IMEIS], "tags": [["a"]] * 3}),
        pl.DataFrame({"imei": IMEIS}, schema={"imei": pl.Enum(IMEIS)}),
    ],
    ids=["text", "integers", "floats", "categories", "index", "struct", "enum"],
)
def test_identifiers_of_any_type_are_read(frame: object, tmp_path: Path) -> None:
    run = planned(frame, tmp_path)
    assert run.plan.select("imei").collect().to_series().sort().to_list() == sorted(IMEIS)


def test_a_nan_of_pandas_is_an_empty_cell(tmp_path: Path) -> None:
    run = planned(pd.DataFrame({"imei": [float(IMEIS[0]), float("nan")]}), tmp_path)
    assert run.summary.rejected == {"missing_identifier": 1}


def test_several_inventories_have_names_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text(f"imei\n{IMEIS[2]}\n")
    run = planned([fleet(1), fleet(1, first=1), file], tmp_path)
    assert [source.name for source in run.summary.sources] == ["<DataFrame>", "<DataFrame 2>", str(file)]


def test_the_same_rows_are_the_same_input_whatever_holds_them(tmp_path: Path) -> None:
    numbers = pd.DataFrame({"imei": [int(imei) for imei in IMEIS]})
    first, second = planned(fleet(3), tmp_path / "a"), planned(numbers, tmp_path / "b")
    [(one, _), (other, _)] = (read_plan_record(RunFolder(run.folder)) for run in (first, second))
    assert one.inputs == other.inputs
    assert one.plan_sha256 == other.plan_sha256


@pytest.mark.parametrize(
    ("inventory", "message"),
    [
        (pl.DataFrame({"serial": [1]}), "<DataFrame>: no known header for IMEIs or ICCIDs"),
        (pl.DataFrame(schema={"imei": pl.String}), "<DataFrame>: .* no rows"),
        (pd.DataFrame([IMEIS[:2]], columns=["imei", "imei"]), "<DataFrame>: .* Duplicate column names"),
        (pl.LazyFrame({"imei": IMEIS}).select("iccid"), '<LazyFrame>: .* unable to find column "iccid"'),
        (pl.Series("imei", IMEIS), "<Series>: its rows can't be computed or stored"),
        ([None], "not a NoneType"),
        ({"imei": IMEIS}, "not a dict"),
        ({"east.csv", "west.csv"}, "not a set"),
        (StringIO("imei"), "not a StringIO"),
        ([], "the list of inventories is empty"),
        (OtherTable(), "not a OtherTable"),
        (42, "not a int"),
    ],
    ids=[
        "identifier",
        "rows",
        "columns",
        "query",
        "series",
        "none",
        "dict",
        "set",
        "file",
        "empty",
        "table",
        "number",
    ],
)
def test_an_unusable_frame_is_refused(inventory: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(batchlic.UsageError, match=message):
        planned(inventory, tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_frame_given_twice_is_refused(tmp_path: Path) -> None:
    frame = fleet(1)
    with pytest.raises(batchlic.UsageError, match="given twice"):
        planned([frame, frame], tmp_path)


def test_a_frame_that_needs_a_missing_library_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"imei": IMEIS})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(batchlic.InventoryError, match="pyarrow"):
        planned(frame, tmp_path)


def test_a_full_disk_stops_a_frame_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise pl.exceptions.ComputeError("underlying IO error: No space left on device (os error 28)")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", fail)
    with pytest.raises(batchlic.StoppedEarly, match=r"<DataFrame>: .* the disk is full"):
        planned(fleet(3), tmp_path)
