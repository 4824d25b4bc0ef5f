"""The sample inventories are planned or refused as their README says."""

import gzip
import re
from pathlib import Path

import pytest

from batchlic.errors import InventoryError
from batchlic.reader import ReadOptions
from sample_data.generate import write
from tests.reader.builders import ACCOUNT, SKU, plan_files

SAMPLES = Path(__file__).parents[2] / "sample_data"
OUTCOMES = dict(
    re.findall(r"^\| `([\w.]+)` \| .* \| (.+) \|$", (SAMPLES / "README.md").read_text(), re.MULTILINE)
)


def test_the_readme_lists_every_sample() -> None:
    assert set(OUTCOMES) == {path.name for path in (SAMPLES / "troubles").glob("[!._]*")}


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if "refused" not in outcome])
def test_a_sample_is_planned_as_the_readme_says(tmp_path: Path, name: str) -> None:
    counts = {name: int(count) for count, name in re.findall(r"(\d+) `?(\w+)", OUTCOMES[name])}
    planned = plan_files(tmp_path, str(SAMPLES / "troubles" / name))
    assert {"planned": planned.summary.planned, **planned.summary.rejected} == counts


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if "refused" in outcome])
def test_a_sample_is_refused_as_the_readme_says(tmp_path: Path, name: str) -> None:
    path = SAMPLES / "troubles" / name
    with pytest.raises(InventoryError):
        plan_files(tmp_path, str(path))
    if column := re.search("--column (imei)=(\\w+)", OUTCOMES[name]):
        options = ReadOptions(account=ACCOUNT, sku=SKU, columns={column[1]: column[2]})
        assert plan_files(tmp_path, str(path), options=options).summary.planned == 1


def test_an_imeisv_is_planned_where_the_readme_says_so(tmp_path: Path) -> None:
    options = ReadOptions(account=ACCOUNT, sku=SKU, accept_imeisv=True)
    assert plan_files(tmp_path, str(SAMPLES / "troubles/imeisv.csv"), options=options).summary.planned == 2


def test_a_column_is_suggested_by_its_content(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="column 2 looks like IMEIs: --column imei=2"):
        plan_files(tmp_path, str(SAMPLES / "troubles/no_identifier_column.csv"))


def test_the_error_for_an_unclosed_quote_shows_where_it_opens(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="near 'A-161,"):
        plan_files(tmp_path, str(SAMPLES / "troubles/unclosed_quote.csv"))


@pytest.mark.slow
def test_the_generator_makes_the_fleet_of_the_demo(tmp_path: Path) -> None:
    write(25_000, 1, tmp_path / "fleet.csv.gz")
    made, shipped = tmp_path / "fleet.csv.gz", SAMPLES / "fleet.csv.gz"
    assert gzip.decompress(made.read_bytes()) == gzip.decompress(shipped.read_bytes())


def test_another_seed_makes_a_fleet_of_the_same_size(tmp_path: Path) -> None:
    write(3_000, 2, tmp_path / "fleet.csv")
    planned = plan_files(tmp_path, str(tmp_path / "fleet.csv"))
    assert planned.summary.rows_read == 3_000
    assert 2_950 < planned.summary.planned < 3_000
