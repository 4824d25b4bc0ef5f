"""Arguments as jobs: job files, Job objects, and what is refused before anything is read."""

from pathlib import Path
from typing import Any

import pytest

import batchlic
from batchlic.api.inventories import Inventories
from batchlic.api.jobs import loaded_job
from batchlic.job import make_job
from tests.api.builders import fleet
from tests.endtoend.program import ACCOUNT, FLEXIBLE

CONTENT: dict[str, Any] = {
    "name": "nightly",
    "action": "assign",
    "inventory": {"files": ["fleet.csv"], "min_rows": 2},
    "license": {"sku": FLEXIBLE},
    "limits": {"max_rejects": 5, "batch_size": 10},
}


def test_arguments_replace_the_values_of_a_job() -> None:
    job = make_job(CONTENT, {}, where="test")
    found = loaded_job(
        job, "hourly", Inventories.of(fleet(1)), {"batch_size": 7, "account": ACCOUNT, "sku": None}
    )
    assert (found.name, found.inventory.files, found.inventory.min_rows) == ("hourly", ["<DataFrame>"], 2)
    assert (found.limits.batch_size, found.limits.max_rejects) == (7, 5)
    assert (found.license.account, found.license.sku) == (ACCOUNT, FLEXIBLE)


def test_a_job_without_arguments_is_the_same_job() -> None:
    job = make_job(CONTENT | {"action": "sync"}, {}, where="test")
    assert loaded_job(job, None, Inventories([], {}), {"consent_lifetime": None}) == job


def test_a_job_file_is_planned_by_its_path(tmp_path: Path) -> None:
    fleet(3).write_csv(tmp_path / "fleet.csv")
    job = tmp_path / "nightly.toml"
    job.write_text(f'action = "unassign"\ninventory.files = ["fleet.csv"]\nlicense.sku = "{FLEXIBLE}"\n')
    run = batchlic.plan(job, account=ACCOUNT, run_dir=tmp_path / "run", sandbox=True)
    assert (run.summary.job, run.summary.action, run.summary.planned) == ("nightly", "unassign", 3)


def test_no_inventories_do_not_stand_for_those_of_a_job_file(tmp_path: Path) -> None:
    job = tmp_path / "nightly.toml"
    job.write_text(f'action = "assign"\ninventory.files = ["fleet.csv"]\nlicense.sku = "{FLEXIBLE}"\n')
    with pytest.raises(batchlic.UsageError, match="the list of inventories is empty"):
        batchlic.run(job, inventory=[], sandbox=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"acount": ACCOUNT}, "there is no option 'acount'"),
        ({"batch_size": 1000}, "limits.batch_size: 1000 is too large: give at most 100"),
        ({"sku": "SIMSec"}, "unknown SKU SIMSec; did you mean SIMSec-IoT"),
        ({"profile": "east", "settings": batchlic.Settings()}, "give settings or profile, not both"),
        ({"sandbox": None}, "sandbox: .* not a NoneType"),
    ],
    ids=["option", "value", "sku", "login", "sandbox"],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(batchlic.UsageError, match=message):
        batchlic.assign(fleet(1), **arguments)
