"""A run is compared with the inventories of its command."""

import os
import threading
from pathlib import Path

import pytest

from batchlic.errors import InventoryError, UsageError
from batchlic.job import make_job
from batchlic.journal import InventoryFile
from batchlic.runs.folder import RunFolder
from batchlic.runs.identity import inputs_of, job_of, recorded_job, refuse_other_job
from tests.journal.builders import identity
from tests.reader.builders import ACCOUNT, SKU, csv_of, imei


@pytest.mark.parametrize("name", ["gone.csv", "gone/fleet.csv", "fleet.csv/gone"])
def test_an_inventory_that_is_gone_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "fleet.csv").write_bytes(csv_of([(imei(1), "")]))
    files = [str(tmp_path / "fleet.csv"), str(tmp_path / name)]
    license_table = {"account": ACCOUNT, "sku": SKU}
    content = {"name": "a", "action": "assign", "license": license_table, "inventory": {"files": files}}
    with pytest.raises(InventoryError, match=f"{name}: can't be read"):
        inputs_of(make_job(content, {}, where="job"))


@pytest.mark.parametrize("recorded", [{}, {"notify": None}, {"notify": {"to": ["ops"], "on": ["failure"]}}])
def test_a_change_of_notify_makes_no_other_job_and_old_journals_lack_it(
    tmp_path: Path, recorded: dict[str, object]
) -> None:
    (tmp_path / "fleet.csv").write_bytes(csv_of([(imei(1), "")]))
    content = {"name": "a", "action": "assign", "inventory": {"files": [str(tmp_path / "fleet.csv")]}}
    job = make_job({**content, "notify": {}}, {}, where="job")
    old = job.model_dump(mode="json")
    del old["notify"]
    run = identity(job=old | recorded, inputs=inputs_of(job))
    refuse_other_job(RunFolder(tmp_path), job, run)
    refuse_other_job(RunFolder(tmp_path), job.model_copy(update={"notify": None}), run)
    assert (job_of(run).notify is None) == (not recorded.get("notify"))
    with pytest.raises(UsageError, match="license"):
        refuse_other_job(
            RunFolder(tmp_path), make_job({**content, "license": {"sku": SKU}}, {}, where="j"), run
        )


def test_a_folder_without_a_readable_run_has_no_recorded_job(tmp_path: Path) -> None:
    assert recorded_job(RunFolder(tmp_path / "gone")) is None
    (tmp_path / "journal.db").write_text("nonsense")
    assert recorded_job(RunFolder(tmp_path)) is None


def test_a_pipe_is_not_opened_again_after_it_was_read(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "fleet.csv")
    content = {"name": "a", "action": "assign", "inventory": {"files": [str(pipe)]}}
    job = make_job(content, {}, where="job")
    found: list[list[InventoryFile]] = []
    thread = threading.Thread(target=lambda: found.append(inputs_of(job)), daemon=True)
    thread.start()
    thread.join(20)
    assert found == [[InventoryFile(name=str(pipe))]]
