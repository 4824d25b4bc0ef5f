"""A run is compared with the inventories of its command."""

from pathlib import Path

import pytest

from batchlic.errors import InventoryError
from batchlic.job import make_job
from batchlic.runs.identity import inputs_of
from tests.reader.builders import ACCOUNT, SKU, csv_of, imei


@pytest.mark.parametrize("name", ["gone.csv", "gone/fleet.csv", "fleet.csv/gone"])
def test_an_inventory_that_is_gone_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "fleet.csv").write_bytes(csv_of([(imei(1), "")]))
    files = [str(tmp_path / "fleet.csv"), str(tmp_path / name)]
    license_table = {"account": ACCOUNT, "sku": SKU}
    content = {"name": "a", "action": "assign", "license": license_table, "inventory": {"files": files}}
    with pytest.raises(InventoryError, match=f"{name}: can't be read"):
        inputs_of(make_job(content, {}, where="job"))
